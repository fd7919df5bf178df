"""One MQTT 5 connection on the asyncio loop; the only module that imports paho.

Rules:
- Only the blocking connect runs in a thread; paho's hooks for external event loops do the rest.
- Every connection has a new paho client, so paho never resends: callers keep what must not be lost.
- The messages that one read of the socket brings are passed on as one list.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.socket_options import acknowledge_at_once, send_in_one_piece

_KEEPALIVE_S = 20
_PUBACK_TIMEOUT_S = 10.0
"""How long a broker may be silent while messages that it has received wait for its acknowledgement."""
_BLOCKED_TIMEOUT_S = 20.0
"""How long a broker may acknowledge nothing, while its window is full, even if it sends something else."""
_HEARTBEAT_TIMEOUT_FACTOR = 1.5
"""After this many keepalive times without a byte from the broker, the connection is dead. A ping goes out after one."""
_ANSWER_TIMEOUT_S = 5.0
"""How long a broker may take for each of TCP connect, CONNACK and SUBACK."""
_DRAIN_TIMEOUT_S = 1.0
MAX_WINDOW = 1000
"""Most unacknowledged PUBLISH packets, in each direction."""
MAX_PACKET_BYTES = 1_048_576
_MAX_SUBSCRIBE_BYTES = 65_536
"""So that a broker can answer each SUBSCRIBE in time, however many filters there are."""
_SUBSCRIBE_BYTES = 16
"""Bytes of a SUBSCRIBE beside its filters, rounded up."""
_FILTER_BYTES = 3
"""Bytes of a SUBSCRIBE for each filter beside its text: a length and its options."""
_PUBLISH_OVERHEAD_BYTES = 16
"""Bytes of a PUBLISH packet besides topic and payload, rounded up."""
_MAX_READS = 200
"""How often the socket is read before the loop may do something else."""

# Reason codes (MQTT 5.0, section 2.4).
_REFUSED = 0x80
"""This and all above are errors."""
_UNSUPPORTED_VERSION = 0x84
_BAD_CREDENTIALS = 0x86
_NOT_AUTHORIZED = 0x87
_TAKEN_OVER = 0x8E


@dataclass(slots=True)
class Arrived(Delivery):
    """A delivery, with what it takes to acknowledge it on the connection that brought it."""

    mid: int
    connection: Connection

    @property
    def needs_ack(self) -> bool:
        """Whether the broker waits for an acknowledgement."""
        return self.mid != 0


class BrokerRefused(PermissionError):
    """The broker answered, and does not let us work. The text is a sentence for the user."""


class NoAnswer(ConnectionError):
    """The broker accepted the TCP connection and sent no MQTT answer."""


class _Client(Client):
    """A paho client that closes a unix socket on which nobody listens, and does not wait for ever for one."""

    def _create_unix_socket_connection(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.settimeout(_ANSWER_TIMEOUT_S)
            sock.connect(self._host)
        except BaseException:
            sock.close()
            raise
        return sock


class Connection:
    """A paho client from CONNECT until its socket closes, driven by this thread's event loop.

    Args:
        url: the broker.
        client_id: names us to the broker.
        session_seconds: how long the broker keeps our session after the connection; 0 for not at all.
        clean: whether the broker drops what it has kept of an earlier session.
        will: what the broker publishes when we vanish.
        after_read: called after each read of the socket, with this connection.
        window: how many packets may wait for their acknowledgement at once.

    Attributes:
        ended: set once the connection is lost or closed.
        reason: why it ended, in words for the user.
        fault: what a callback of ours raised, if that ended it.
        malformed: whether the broker sent what paho cannot parse.
        taken_over: whether the broker ended it because another client has our client id.
        session_present: whether the broker still had our session.
        max_packet: the largest packet in bytes that the broker takes.
        round_trip: seconds from the last PUBLISH to its PUBACK.
        refused: the topic filters that the broker refuses.
    """

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        *,
        session_seconds: int,
        clean: bool,
        will: Will | None,
        after_read: Callable[[Connection], None],
        window: int = MAX_WINDOW,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._url = url
        self._clean = clean
        self._session_seconds = session_seconds
        self._after_read = after_read
        self._client = _Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
            transport="tcp" if url.socket is None else "unix",
        )
        # paho's own window is fixed before CONNACK, and scanned in full at every PUBACK: _send_waiting has ours.
        self._client.max_inflight_messages = 0
        self._client.connect_timeout = _ANSWER_TIMEOUT_S
        self._client.username = url.username
        self._client.password = url.password
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        self._window = window
        self._waiting: deque[tuple[str, bytes, int, bool]] = deque()
        self._sent: dict[int, tuple[str, int, float]] = {}
        """Topic and size of each message without PUBACK, and when it was sent, by packet id; the oldest one first."""
        self._last_puback_at = 0.0
        self._taken: list[int] = []
        self._subscribed = False
        self._unanswered_subscribes: dict[int, tuple[Sequence[str], float]] = {}
        self._last_suback_at = 0.0
        self._arrived: list[Delivery] = []
        self._refused_filters: list[tuple[str, str]] = []
        self._refused_messages: list[tuple[str, str]] = []
        self._refusal = ""
        self._connack_or_end = asyncio.Event()
        self._accepted = False
        self._last_read_at = self._loop.time()
        self._disconnecting = False
        self._closing_socket: socket.socket | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.ended = asyncio.Event()
        self.reason = ""
        self.fault: Exception | None = None
        self.malformed = False
        self.taken_over = False
        self.session_present = False
        self.max_packet = MAX_PACKET_BYTES
        self.round_trip: float | None = None
        self.refused: set[str] = set()

    @property
    def granted(self) -> bool:
        """Whether we have subscribed, and every filter was granted."""
        return self._subscribed and not self._unanswered_subscribes and not self.refused

    async def open(self) -> None:
        """Connect, and wait for CONNACK.

        Raises:
            BrokerRefused: the broker refuses us, or lacks what we need.
            NoAnswer: the broker accepted the TCP connection and sent no CONNACK.
            OSError: the broker cannot be reached.
        """
        if self._url.tls:
            try:
                self._client.tls_set(ca_certs=self._url.ca_file)
            except OSError as error:
                raise BrokerRefused(
                    f"The CA file {self._url.ca_file} cannot be used ({describe(error)}); correct the broker setting."
                ) from error
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.SessionExpiryInterval = self._session_seconds
        properties.ReceiveMaximum = MAX_WINDOW
        try:
            # If we are cancelled here, nobody refers to the client once the thread is done, and its socket closes.
            await asyncio.to_thread(
                self._client.connect,
                self._url.host if self._url.socket is None else self._url.socket,
                self._url.port,
                keepalive=_KEEPALIVE_S,
                clean_start=self._clean,
                properties=properties,
            )
        except UnicodeError as error:
            raise OSError(f"{self._url.host!r} is not a host name") from error
        self._attach()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._connack_or_end.wait()
        except TimeoutError:
            raise NoAnswer(f"no answer to CONNECT within {_ANSWER_TIMEOUT_S:.0f} seconds") from None
        if self._refusal:
            raise BrokerRefused(self._refusal)
        if not self._accepted:
            raise NoAnswer("closed without an answer to CONNECT")

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Send a message now, or as soon as the broker's window allows; False when the connection has ended."""
        if self.ended.is_set():
            return False
        self._waiting.append((topic, payload, qos, retain))
        self._drained.clear()
        self._send_waiting()
        return True

    def ack(self, mid: int) -> None:
        """Send the PUBACK of a delivery; `mid` is its packet id, 0 for one of QoS 0."""
        if mid and not self.ended.is_set():
            self._client.ack(mid, 1)

    def subscribe(self, filters: Sequence[str]) -> None:
        """Send as many SUBSCRIBEs as are needed; their SUBACKs show in `granted` and `refused`."""
        self._subscribed = True
        options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=0)
        for part in _in_packets(filters, min(_MAX_SUBSCRIBE_BYTES, self.max_packet)):
            if self.ended.is_set():
                return
            _, mid = self._client.subscribe([(name, options) for name in part])
            if mid is not None:
                self._unanswered_subscribes[mid] = (part, self._loop.time())

    def take_arrived(self) -> list[Delivery]:
        """Return what arrived since the last call."""
        taken, self._arrived = self._arrived, []
        return taken

    def take_refused_filters(self) -> list[tuple[str, str]]:
        """Return the filters that were refused since the last call, each with the reason."""
        taken, self._refused_filters = self._refused_filters, []
        return taken

    def take_refused_messages(self) -> list[tuple[str, str]]:
        """Return the topics of messages that were refused since the last call, each with the reason."""
        taken, self._refused_messages = self._refused_messages, []
        return taken

    def take_taken(self) -> list[int]:
        """Return the sizes of the packets that the broker has acknowledged since the last call."""
        taken, self._taken = self._taken, []
        return taken

    @property
    def is_writable(self) -> bool:
        """Whether nothing waits for the socket, or for the broker's window."""
        return not self._waiting and not self._client.want_write()

    @property
    def unacknowledged(self) -> list[int]:
        """The sizes of the packets that wait for their acknowledgement."""
        return [size for _, size, _ in self._sent.values()]

    def tick(self) -> None:
        """Send a ping when it is due, and end the connection when the broker has been silent too long."""
        if self.ended.is_set():
            return
        is_written = not self._client.want_write()
        self._client.loop_misc()  # may queue a ping
        now, keepalive = self._loop.time(), self._client.keepalive
        is_waiting = is_written and not self._drained.is_set()
        if keepalive and now - self._last_read_at > _HEARTBEAT_TIMEOUT_FACTOR * keepalive:
            self.end("the broker has stopped answering")
        elif is_waiting and now - self._last_read_at > _PUBACK_TIMEOUT_S:
            self.end("the broker does not acknowledge what we publish")
        elif is_written and self._is_blocked(now):
            self.end("the broker acknowledges nothing any more of what we publish")
        elif any(
            now - max(at, self._last_suback_at) > _ANSWER_TIMEOUT_S for _, at in self._unanswered_subscribes.values()
        ):
            self.end("the broker does not answer SUBSCRIBE")

    def end(self, reason: str) -> None:
        """Mark the connection as ended; the first reason counts."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()
            self._connack_or_end.set()

    @property
    def closed_by_us(self) -> bool:
        """Whether we have ended it."""
        return self._disconnecting or self.fault is not None

    async def close(self) -> None:
        """Send DISCONNECT once the broker has acknowledged what was published, or after a time limit."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT_S / 2):
                await first_set(self._drained, self.ended)
        if self.ended.is_set():
            return
        self._disconnecting = True
        self._client.disconnect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT_S / 2):
                await self.ended.wait()
        if self._closing_socket is None:
            return
        # Read to the end: a socket closed with unread bytes is reset, and the reset can overtake our DISCONNECT.
        with self._closing_socket as sock, contextlib.suppress(OSError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                while await self._loop.sock_recv(sock, 65_536):
                    pass

    def abort(self) -> None:
        """Close the socket, if it is still open, without DISCONNECT."""
        self.end("closed")
        sock = self._client.socket()
        self._client.on_socket_close = None
        self._client.on_socket_unregister_write = None
        if isinstance(sock, socket.socket) and sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()

    def _attach(self) -> None:
        """Connect paho to the event loop. From here on, no other thread uses the client."""
        client, sock = self._client, self._client.socket()
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_socket_close = self._on_socket_close
        client.on_socket_register_write = self._on_want_write
        client.on_socket_unregister_write = self._on_no_write
        if not isinstance(sock, socket.socket):
            self.end("closed while connecting")
            return
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            send_in_one_piece(sock)
        self._loop.add_reader(sock, self._on_readable, sock)
        if client.want_write():
            self._on_want_write(client, None, sock)

    def _on_readable(self, sock: socket.socket) -> None:
        try:
            self._read(sock)
            self._after_read(self)
        except Exception as error:  # noqa: BLE001 - kept for run() to raise: the event loop would only log it
            self.fault = error
            self.end("an error in p2pflows")

    def _read(self, sock: socket.socket) -> None:
        self._last_read_at = self._loop.time()
        for _ in range(_MAX_READS):
            if self._client.loop_read() == MQTTErrorCode.MQTT_ERR_PROTOCOL:
                self.malformed = self._accepted
            if self.ended.is_set() or not _has_more(sock):
                break
        else:
            # TLS may have decrypted bytes already, for which the socket does not become readable again.
            if isinstance(sock, ssl.SSLSocket):
                self._loop.call_soon(self._on_readable, sock)
        if not self.ended.is_set():
            acknowledge_at_once(sock)
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._sent) < self._window:
            topic, payload, qos, retain = self._waiting.popleft()
            info = self._client.publish(topic, payload, qos=qos, retain=retain)
            if qos and info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._sent[info.mid] = (topic, packet_size(topic, payload), self._loop.time())
        if not (self._waiting or self._sent):
            self._drained.set()

    def flush(self) -> None:
        """Write what was published, as far as the socket takes it."""
        sock = self._client.socket()
        if self.ended.is_set() or not isinstance(sock, socket.socket):
            return
        self._client.loop_write()
        if self._client.want_write() and not self.ended.is_set():
            self._loop.add_writer(sock, self.flush)

    def _on_connect(
        self,
        _client: Client,
        _data: Any,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.value >= _REFUSED:
            self._refusal = _refusal(self._url, reason)
        elif getattr(properties, "MaximumQoS", 2) == 0:
            self._refusal = f"The broker {self._url} does not support QoS 1; use one that acknowledges messages."
        else:
            self._accepted = True
            self.session_present = flags.session_present
            self._window = min(self._window, getattr(properties, "ReceiveMaximum", MAX_WINDOW))
            self.max_packet = min(MAX_PACKET_BYTES, getattr(properties, "MaximumPacketSize", MAX_PACKET_BYTES))
        self._connack_or_end.set()

    def _on_disconnect(
        self,
        _client: Client,
        _data: Any,
        flags: DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self.taken_over = reason.value == _TAKEN_OVER
            self.end(f"the broker ended the connection ({reason.getName().lower()})")
        else:
            self.end("closed" if self._disconnecting else "the connection was lost")

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # not a topic of ours; passed on all the same, as acknowledgements must keep their order
        mid = message.mid if message.qos else 0
        self._arrived.append(Arrived(topic, bytes(message.payload), message.retain, mid, self))

    def _is_blocked(self, now: float) -> bool:
        """Whether nothing more can be sent, because acknowledgements that a whole window waits for were lost."""
        if not 0 < self._window <= len(self._sent):
            return False
        _, _, oldest = next(iter(self._sent.values()))
        return now - max(oldest, self._last_puback_at) > _BLOCKED_TIMEOUT_S

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        topic, size, at = self._sent.pop(mid, ("", 0, 0.0))
        self._last_puback_at = self._loop.time()
        self.round_trip = self._last_puback_at - at
        self._taken.append(size)
        if reason.value >= _REFUSED:
            self._refused_messages.append((topic, reason.getName().lower()))

    def _on_subscribe(
        self, _client: Client, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        filters, _ = self._unanswered_subscribes.pop(mid, ((), 0.0))
        self._last_suback_at = self._loop.time()  # with 100,000 filters, the last answer takes many seconds
        for name, reason in zip(filters, reasons, strict=False):
            if reason.value >= _REFUSED:
                self.refused.add(name)
                self._refused_filters.append((name, reason.getName().lower()))
            else:
                self.refused.discard(name)

    def _on_socket_close(self, _client: Client, _data: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        if self._disconnecting:
            self._closing_socket = socket.socket(fileno=os.dup(sock.fileno()))
            self._closing_socket.setblocking(False)

    def _on_want_write(self, _client: Client, _data: Any, _sock: Any) -> None:
        # Without add_writer, all that one pass of the loop publishes is written together, with no poll before it.
        self._loop.call_soon(self.flush)

    def _on_no_write(self, _client: Client, _data: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)


def _in_packets(filters: Sequence[str], max_bytes: int) -> Iterator[list[str]]:
    """Split topic filters into lists that each fit into a SUBSCRIBE of so many bytes."""
    part: list[str] = []
    size = _SUBSCRIBE_BYTES
    for name in filters:
        more = len(name.encode()) + _FILTER_BYTES
        if part and size + more > max_bytes:
            yield part
            part, size = [], _SUBSCRIBE_BYTES
        part.append(name)
        size += more
    if part:
        yield part


async def first_set(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()


def _has_more(sock: socket.socket) -> bool:
    if isinstance(sock, ssl.SSLSocket) and sock.pending():
        return True
    (waiting,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0\0\0\0"))
    return bool(waiting)


def packet_size(topic: str, payload: bytes) -> int:
    """Return the bytes of a PUBLISH packet, rounded up."""
    return len(topic) + len(payload) + _PUBLISH_OVERHEAD_BYTES


def describe(error: OSError) -> str:
    """Return what the operating system says of an error, without its number."""
    return (error.strerror or str(error) or type(error).__name__).lower()


def _refusal(url: BrokerUrl, reason: ReasonCode) -> str:
    name = reason.getName().lower()
    if reason.value == _UNSUPPORTED_VERSION:
        return f"The broker {url} does not speak MQTT 5; use one that does, such as mosquitto 2."
    if reason.value in (_BAD_CREDENTIALS, _NOT_AUTHORIZED):
        return f"The broker {url} refuses us ({name}); check the user name and password in the broker setting."
    return f"The broker {url} refuses us ({name}); ask its operator."
