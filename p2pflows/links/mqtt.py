"""One lasting MQTT 5 connection on the asyncio loop; the only module that knows paho.

Rules:
- No threads but for the blocking connect: paho's hooks for outside event loops do the rest.
- Every attempt uses a fresh paho client, so paho never resends: the callers own what must not be lost.
- What one read of the socket brings is handed on as one list.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import random
import socket
import ssl
import struct
import termios
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from p2pflows.backoff import Backoff
from p2pflows.errors import P2pflowsError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.protocol import topics

_KEEPALIVE_S = 20
_HEARTBEAT_TIMEOUT_FACTOR = 1.5
"""A link on which nothing was heard for this many keepalive times is dead (a ping goes out after one)."""
_ANSWER_TIMEOUT_S = 5.0
"""How long a broker may take for each of TCP connect, CONNACK and SUBACK."""
_CONNECT_TIMEOUT_S = 3.0
"""How long a broker may be out of reach before the user hears of it."""
_BACKOFF = Backoff(initial_s=0.1, max_s=5.0, jitter=(0.5, 1.0))
_REFUSED_DELAY_S = 5.0
"""How soon to ask again what somebody has to mend first: a refusal, a wrong setting."""
_STABLE_AFTER_S = 1.0
"""After a link that lived longer, the next attempt is made at once and the back-off starts over."""
_SESSION_EXPIRY_S = 30 * 24 * 3600
_WINDOW = 1000
"""Most unacknowledged PUBLISH packets, each way."""
_MAX_PACKET_BYTES = 1_048_576
_PUBLISH_OVERHEAD_BYTES = 16
"""Bytes of a PUBLISH packet besides topic and payload, rounded up."""
_READS = 200
"""Most reads before the loop may do something else."""
_RIGHTS = "the rights in broker-config/README.md"
_PROBE_TOPIC = f"{topics.PREFIX}/probe"

_REFUSED = 0x80
_UNSUPPORTED_VERSION = 0x84
_BAD_CREDENTIALS = 0x86
_NOT_AUTHORIZED = 0x87
_TAKEN_OVER = 0x8E


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes for us when we vanish without a goodbye."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True)
class Delivery:
    """A message that arrived; it is delivered again after a reconnect unless `MqttLink.ack` got it."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True)
class _Arrived(Delivery):
    """A delivery, and what it takes to acknowledge it on the connection that brought it."""

    mid: int
    connection: _Connection


class BrokerRefused(PermissionError):
    """The broker answered, and does not let us work; the text is one sentence for a person."""


class NoAnswer(ConnectionError):
    """The broker took the connection and gave no MQTT answer."""


class MqttLink:
    """A connection that is made again whenever it breaks.

    Args:
        broker: gives the address for one connection attempt; it may raise P2pflowsError or OSError.
        client_id: names us to the broker; two links with one id throw each other out.
        persistent: whether the broker keeps our subscriptions and messages while we are away.
        subscriptions: gives the topic filters, asked at each connect.
        will: gives the last will, asked at each connect.
        on_deliveries: takes what one read brought, in order; a stored session's may come before `on_up`.
        on_up: every filter is granted and `publish` works; takes whether the broker still had our session.
        on_down: after an `on_up`, the connection is gone; takes the reason.
        on_problem: takes a sentence for the user: what is wrong and what to do; once for each problem.
    """

    def __init__(
        self,
        *,
        broker: Callable[[], Awaitable[BrokerUrl]],
        client_id: str,
        persistent: bool,
        subscriptions: Callable[[], list[str]],
        will: Callable[[], Will | None],
        on_deliveries: Callable[[list[Delivery]], None],
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._persistent = persistent
        self._subscriptions = subscriptions
        self._will = will
        self._on_deliveries = on_deliveries
        self._on_up = on_up
        self._on_down = on_down
        self._on_problem = on_problem
        self._connection: _Connection | None = None
        self._up = False
        self._closing = asyncio.Event()
        self._drop_session = False
        self._told: set[str] = set()
        self._told_publish: set[tuple[str, str]] = set()
        self.max_packet = _MAX_PACKET_BYTES
        self.round_trip: float | None = None

    @property
    def connected(self) -> bool:
        """Whether `publish` works now."""
        return self._up and self._connection is not None and not self._connection.ended.is_set()

    async def run(self) -> None:
        """Connect, serve, and reconnect until cancelled (the will is then sent) or closed (it is not)."""
        loop = asyncio.get_running_loop()
        failures = 0
        failing_since = loop.time()
        while not self._closing.is_set():
            least = 0.0
            will = self._will()
            url: BrokerUrl | None = None
            try:
                url = await self._broker()
                connection = await self._open(url, will)
            except BrokerRefused as error:
                self._tell(str(error))
                least = _REFUSED_DELAY_S
            except P2pflowsError as error:
                self._tell(f"{error.message} {error.hint}".strip())
                least = _REFUSED_DELAY_S
            except OSError as error:
                if loop.time() - failing_since > _CONNECT_TIMEOUT_S:
                    self._tell(_unreachable(url, error))
            else:
                began = loop.time()
                await self._serve(connection)
                failing_since = loop.time()
                if failing_since - began > _STABLE_AFTER_S:
                    failures = 0
                if connection.taken_over:
                    self._tell(f"Another program uses our client id on the broker {url}; stop one of the two.")
                    least = _REFUSED_DELAY_S
            delay = _BACKOFF.delay_s(failures - 1, random.random()) if failures else 0.0  # noqa: S311 - guards nothing
            await self._pause(max(least, delay))
            failures += 1

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send and return at once; QoS 0 is for what is repeated anyway until somebody answers it.

        Returns:
            False when it was not sent: there is no connection, or it is larger than the broker takes.
            True does not promise that it arrives: the connection may break first.
        """
        if self._connection is None or not self.connected:
            return False
        if len(topic) + len(payload) + _PUBLISH_OVERHEAD_BYTES > self.max_packet:
            self._tell_publish(topic, f"larger than the {self.max_packet} bytes it takes")
            return False
        return self._connection.publish(topic, payload, qos=qos, retain=retain)

    def flush(self) -> None:
        """Hand what was published to the socket now, not at the loop's next pass."""
        if self._connection is not None:
            self._connection.flush()

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge in arrival order; nothing happens when that delivery's connection is gone."""
        if isinstance(delivery, _Arrived) and delivery.connection is self._connection:
            delivery.connection.ack(delivery.mid)

    def subscribe(self, filters: Sequence[str]) -> None:
        """Add topic filters to the live connection; later connections ask `subscriptions` again."""
        if self._connection is not None and filters:
            self._connection.subscribe(filters)

    async def close(self) -> None:
        """Say goodbye once the broker has what was published; the will is not sent, and `run` returns."""
        self._closing.set()
        if self._connection is not None:
            await self._connection.close()

    async def _open(self, url: BrokerUrl, will: Will | None) -> _Connection:
        connection = _Connection(
            url,
            self._client_id,
            session_seconds=_SESSION_EXPIRY_S if self._persistent else 0,
            clean=not self._persistent or self._drop_session,
            will=will,
            after_read=self._after_read,
        )
        try:
            await connection.open()
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _serve(self, connection: _Connection) -> None:
        """One connection's life, from the greeting to its end."""
        loop = asyncio.get_running_loop()
        try:
            self.max_packet = connection.max_packet
            connection.subscribe(self._subscriptions())
            self._connection = connection
            self._after_read(connection)
            if self._closing.is_set():
                await connection.close()
            asked = loop.time()
            while not connection.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await connection.ended.wait()
                connection.tick()
                if connection.refused and not self._up and loop.time() - asked > _REFUSED_DELAY_S:
                    # An operator may grant it meanwhile; until then we stay connected and not up.
                    asked = loop.time()
                    connection.subscribe(sorted(connection.refused))
        finally:
            connection.abort()
            self._connection = None
            was_up, self._up = self._up, False
        if connection.fault is not None:
            raise connection.fault
        # A message that paho cannot parse would come again for ever: give up the session that holds it.
        self._drop_session = connection.malformed and self._persistent
        if was_up:
            self._on_down(connection.reason)

    def _after_read(self, connection: _Connection) -> None:
        if connection is not self._connection:
            return  # not subscribed yet; what came early waits in the connection
        for name, reason in connection.take_refused_filters():
            self._tell(f"The broker refuses us the topic {name} ({reason}); ask its operator for {_RIGHTS}.")
        for topic, reason in connection.take_refused_messages():
            self._tell_publish(topic, reason)
        if connection.round_trip is not None:
            self.round_trip = connection.round_trip
        if connection.granted and not self._up and not connection.ended.is_set():
            self._up = True
            self._told.clear()
            self._on_up(connection.session_present)
        arrived = connection.take_arrived()
        if arrived:
            self._on_deliveries(arrived)

    def _tell(self, sentence: str) -> None:
        if sentence not in self._told:
            self._told.add(sentence)
            self._on_problem(sentence)

    def _tell_publish(self, topic: str, reason: str) -> None:
        if (topic, reason) not in self._told_publish:
            self._told_publish.add((topic, reason))
            self._on_problem(f"The broker refuses our messages on {topic} ({reason}); ask its operator for {_RIGHTS}.")

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


async def probe(url: BrokerUrl, timeout: float) -> float:  # noqa: ASYNC109 - the limit is part of the question
    """Connect and subscribe, each answered by the heart of a broker; gives the seconds SUBACK took.

    It is done for ever, so it must leave nothing behind: iotcore keeps about 10 KB for every message that a
    short connection publishes, and a little for every client id.

    Raises:
        PermissionError: the broker refuses us.
        TimeoutError: it did not answer in time.
        OSError: there is no broker, or it closed the connection.
    """
    loop = asyncio.get_running_loop()
    granted = asyncio.Event()

    def after_read(connection: _Connection) -> None:
        if connection.granted:
            granted.set()

    connection = _Connection(
        url, f"probe-{os.getpid()}", session_seconds=0, clean=True, will=None, after_read=after_read
    )
    try:
        async with asyncio.timeout(timeout):
            await connection.open()
            asked = loop.time()
            connection.subscribe([_PROBE_TOPIC])
            await _first(granted, connection.ended)
        if not granted.is_set():
            raise NoAnswer(connection.reason)
        took = loop.time() - asked
        await connection.close()
    finally:
        connection.abort()
    return took


class _Connection:
    """A paho client from CONNECT until its socket closes, driven by this thread's event loop."""

    def __init__(
        self,
        url: BrokerUrl,
        client_id: str,
        *,
        session_seconds: int,
        clean: bool,
        will: Will | None,
        after_read: Callable[[_Connection], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._url = url
        self._clean = clean
        self._session_seconds = session_seconds
        self._after_read = after_read
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5,
            manual_ack=True,
        )
        # paho's own window is fixed before CONNACK and searched whole at every PUBACK; ours: _send_waiting.
        self._client.max_inflight_messages = 0
        self._client.connect_timeout = _ANSWER_TIMEOUT_S
        self._client.username = url.username
        self._client.password = url.password
        if will is not None:
            self._client.will_set(will.topic, will.payload, qos=1, retain=will.retain)
        self._window = _WINDOW
        self._waiting: deque[tuple[str, bytes, int, bool]] = deque()
        self._sent: dict[int, tuple[str, float]] = {}
        self._subscribed = False
        self._asked: dict[int, tuple[Sequence[str], float]] = {}
        self._arrived: list[Delivery] = []
        self._refused_filters: list[tuple[str, str]] = []
        self._refused_messages: list[tuple[str, str]] = []
        self._refusal = ""
        self._greeted = asyncio.Event()
        self._accepted = False
        self._heard = self._loop.time()
        self._leaving = False
        self._parting: socket.socket | None = None
        self._drained = asyncio.Event()
        self._drained.set()
        self.ended = asyncio.Event()
        self.reason = ""
        self.fault: Exception | None = None
        self.malformed = False
        self.taken_over = False
        self.session_present = False
        self.max_packet = _MAX_PACKET_BYTES
        self.round_trip: float | None = None
        self.refused: set[str] = set()

    @property
    def granted(self) -> bool:
        """Whether we have subscribed, and every filter was granted."""
        return self._subscribed and not self._asked and not self.refused

    async def open(self) -> None:
        """Connect and wait for the broker's greeting.

        Raises:
            BrokerRefused: it does not want us, or cannot do what we need.
            NoAnswer: it took the connection and said nothing that makes sense.
            OSError: it cannot be reached.
        """
        if self._url.tls:
            try:
                self._client.tls_set(ca_certs=self._url.ca_file)
            except OSError as error:
                name = self._url.ca_file
                raise BrokerRefused(
                    f"The CA file {name} cannot be used ({_plain(error)}); mend the broker setting."
                ) from error
        wanted = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        wanted.SessionExpiryInterval = self._session_seconds
        wanted.ReceiveMaximum = _WINDOW
        try:
            # If we are cancelled here, the thread's client is dropped when it is done, and closes its socket.
            await asyncio.to_thread(
                self._client.connect,
                self._url.host,
                self._url.port,
                keepalive=_KEEPALIVE_S,
                clean_start=self._clean,
                properties=wanted,
            )
        except UnicodeError as error:
            raise OSError(f"{self._url.host!r} is no host name") from error
        self._attach()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await self._greeted.wait()
        except TimeoutError:
            raise NoAnswer(f"no answer to CONNECT within {_ANSWER_TIMEOUT_S:.0f} seconds") from None
        if self._refusal:
            raise BrokerRefused(self._refusal)
        if not self._accepted:
            raise NoAnswer("closed without an answer to CONNECT")

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> bool:
        """Send now, or as soon as the broker's window allows."""
        if self.ended.is_set():
            return False
        self._waiting.append((topic, payload, qos, retain))
        self._drained.clear()
        self._send_waiting()
        return True

    def ack(self, mid: int) -> None:
        """Send the PUBACK of a delivery."""
        if mid and not self.ended.is_set():
            self._client.ack(mid, 1)

    def subscribe(self, filters: Sequence[str]) -> None:
        """Send one SUBSCRIBE; the answer is seen in `granted` and `refused`."""
        self._subscribed = True
        if filters and not self.ended.is_set():
            options = SubscribeOptions(qos=1, retainAsPublished=True, retainHandling=0)
            _, mid = self._client.subscribe([(name, options) for name in filters])
            if mid is not None:
                self._asked[mid] = (filters, self._loop.time())

    def take_arrived(self) -> list[Delivery]:
        """What arrived since the last call."""
        taken, self._arrived = self._arrived, []
        return taken

    def take_refused_filters(self) -> list[tuple[str, str]]:
        """Filters and reasons of refusal since the last call."""
        taken, self._refused_filters = self._refused_filters, []
        return taken

    def take_refused_messages(self) -> list[tuple[str, str]]:
        """Topics and reasons of refusal since the last call."""
        taken, self._refused_messages = self._refused_messages, []
        return taken

    def tick(self) -> None:
        """Ping when it is time, and end a connection that has fallen silent."""
        if self.ended.is_set():
            return
        self._client.loop_misc()
        now, keepalive = self._loop.time(), self._client.keepalive
        if keepalive and now - self._heard > _HEARTBEAT_TIMEOUT_FACTOR * keepalive:
            self.end("the broker has fallen silent")
        elif any(now - at > _ANSWER_TIMEOUT_S for _, at in self._asked.values()):
            self.end("the broker does not answer SUBSCRIBE")

    def end(self, reason: str) -> None:
        """Count the connection as lost."""
        if not self.ended.is_set():
            self.reason = reason
            self.ended.set()
            self._greeted.set()

    async def close(self) -> None:
        """Disconnect once the broker has acknowledged what was published; bounded."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT_S / 2):
                await _first(self._drained, self.ended)
        if self.ended.is_set():
            return
        self._leaving = True
        self._client.disconnect()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_ANSWER_TIMEOUT_S / 2):
                await self.ended.wait()
        if self._parting is None:
            return
        # A socket closed with unread messages in it is reset, and the reset can overtake our DISCONNECT.
        with self._parting as sock, contextlib.suppress(OSError):
            async with asyncio.timeout(1.0):
                while await self._loop.sock_recv(sock, 65_536):
                    pass

    def abort(self) -> None:
        """Close the socket, if it still is open, without a word."""
        self.end("closed")
        sock = self._client.socket()
        self._client.on_socket_close = None
        self._client.on_socket_unregister_write = None
        if isinstance(sock, socket.socket) and sock.fileno() >= 0:
            self._loop.remove_reader(sock)
            self._loop.remove_writer(sock)
            sock.close()

    def _attach(self) -> None:
        """Take over from the connecting thread: from here on paho works on the event loop only."""
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
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(sock, self._on_readable, sock)
        if client.want_write():
            self._on_want_write(client, None, sock)

    def _on_readable(self, sock: socket.socket) -> None:
        try:
            self._read(sock)
            self._after_read(self)
        except Exception as error:  # noqa: BLE001 - kept for run() to raise: the event loop would only log it
            self.fault = error
            self.end("a fault on our side")

    def _read(self, sock: socket.socket) -> None:
        self._heard = self._loop.time()
        for _ in range(_READS):
            if self._client.loop_read() == MQTTErrorCode.MQTT_ERR_PROTOCOL:
                self.malformed = self._accepted
            if self.ended.is_set() or not _has_more(sock):
                break
        else:
            # Bytes that TLS has already decrypted do not make the socket readable again.
            if isinstance(sock, ssl.SSLSocket):
                self._loop.call_soon(self._on_readable, sock)
        if not self.ended.is_set():
            _ask_for_quick_acks(sock)
            self._send_waiting()

    def _send_waiting(self) -> None:
        while self._waiting and len(self._sent) < self._window:
            topic, payload, qos, retain = self._waiting.popleft()
            info = self._client.publish(topic, payload, qos=qos, retain=retain)
            if qos and info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS:
                self._sent[info.mid] = (topic, self._loop.time())
        if not (self._waiting or self._sent):
            self._drained.set()

    def flush(self) -> None:
        """Write what waits, as far as the socket takes it."""
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
            self._refusal = f"The broker {self._url} has no QoS 1; use one that acknowledges messages."
        else:
            self._accepted = True
            self.session_present = flags.session_present
            self._window = min(_WINDOW, getattr(properties, "ReceiveMaximum", _WINDOW))
            self.max_packet = min(_MAX_PACKET_BYTES, getattr(properties, "MaximumPacketSize", _MAX_PACKET_BYTES))
        self._greeted.set()

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
            self.end("closed" if self._leaving else "the connection was lost")

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = ""  # no topic of ours; it is handed on all the same, for the acks must keep their order
        mid = message.mid if message.qos else 0
        self._arrived.append(_Arrived(topic, bytes(message.payload), message.retain, mid, self))

    def _on_publish(
        self, _client: Client, _data: Any, mid: int, reason: ReasonCode, _properties: Properties | None
    ) -> None:
        topic, at = self._sent.pop(mid, ("", 0.0))
        self.round_trip = self._loop.time() - at
        if reason.value >= _REFUSED:
            self._refused_messages.append((topic, reason.getName().lower()))

    def _on_subscribe(
        self, _client: Client, _data: Any, mid: int, reasons: list[ReasonCode], _properties: Properties | None
    ) -> None:
        filters, _ = self._asked.pop(mid, ((), 0.0))
        for name, reason in zip(filters, reasons, strict=False):
            if reason.value >= _REFUSED:
                self.refused.add(name)
                self._refused_filters.append((name, reason.getName().lower()))
            else:
                self.refused.discard(name)

    def _on_socket_close(self, _client: Client, _data: Any, sock: Any) -> None:
        self._loop.remove_reader(sock)
        self._loop.remove_writer(sock)
        if self._leaving:
            self._parting = socket.socket(fileno=os.dup(sock.fileno()))
            self._parting.setblocking(False)

    def _on_want_write(self, _client: Client, _data: Any, _sock: Any) -> None:
        # Not add_writer yet: what one pass of the loop publishes then leaves together, with no poll between.
        self._loop.call_soon(self.flush)

    def _on_no_write(self, _client: Client, _data: Any, sock: Any) -> None:
        self._loop.remove_writer(sock)


async def _first(*events: asyncio.Event) -> None:
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


def _ask_for_quick_acks(sock: socket.socket) -> None:
    # Linux forgets this wish after a while; without it the peer's Nagle and our delayed ACK cost 40 ms.
    if hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _plain(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()


def _unreachable(url: BrokerUrl | None, error: OSError) -> str:
    if url is None:
        return f"The broker cannot be reached ({_plain(error)}); it is tried again."
    if isinstance(error, NoAnswer):
        return f"The broker {url} gives no answer; check user name and password, and that it speaks MQTT 5."
    return f"The broker {url} cannot be reached ({_plain(error)}); it is tried again, check the broker setting."


def _refusal(url: BrokerUrl, reason: ReasonCode) -> str:
    name = reason.getName().lower()
    if reason.value == _UNSUPPORTED_VERSION:
        return f"The broker {url} does not speak MQTT 5; use one that does, such as mosquitto 2."
    if reason.value in (_BAD_CREDENTIALS, _NOT_AUTHORIZED):
        return f"The broker {url} refuses us ({name}); check user name and password in the broker setting."
    return f"The broker {url} refuses us ({name}); ask its operator."
