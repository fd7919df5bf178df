"""One lasting MQTT 5 link: it connects again whenever its connection breaks, and never resends anything by itself."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Sequence

from p2pflows.backoff import Backoff
from p2pflows.errors import P2pflowsError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.mqtt_connection import (
    MAX_PACKET_BYTES,
    MAX_WINDOW,
    Arrived,
    BrokerRefused,
    Connection,
    NoAnswer,
    describe,
    packet_size,
)
from p2pflows.links.packet_limit import STABLE_AFTER_S, PacketLimit

_CONNECT_TIMEOUT_S = 3.0
"""How long a broker may be out of reach before the user hears of it."""
_BACKOFF = Backoff(initial_s=0.1, max_s=5.0, jitter=(0.5, 1.0))
_REFUSED_DELAY_S = 5.0
"""How soon to try again what a person has to correct first: a refusal, a wrong setting."""
_STABLE_AFTER_S = 1.0
"""After a connection that lived longer, the next attempt is made at once, and the back-off starts over."""
_TICK_S = 1.0
_SESSION_EXPIRY_S = 3600
"""How long a broker queues for a daemon that is away; its neighbours send again whatever it has not confirmed."""
_REFUSAL_LASTS_S = 600.0
"""How long a refused message says something about a topic: as long as the longest wait until it is sent again.

It outlives a connection, because mosquitto 2.0 cuts the connection at every refusal.
"""
_MAX_REFUSALS = 100
"""How many topics are remembered on which the broker has refused messages."""


class MqttLink:
    """An MQTT connection that is made again whenever it breaks.

    Args:
        broker: returns the address for one connection attempt; may raise P2pflowsError or OSError.
        client_id: names this link to the broker; two links with one id disconnect each other.
        persistent: whether the broker keeps our subscriptions and messages while we are away.
        subscriptions: returns the topic filters; called at each connect.
        will: returns the last will; called at each connect.
        on_deliveries: called with what one read of the socket brought, in order. What a stored session brings may
            come before `on_up`.
        on_up: called once every filter is granted and `publish` works; its argument is whether the broker still had
            our session.
        on_down: called with the reason when a connection that was up is gone.
        on_problem: called once for each problem, with a sentence for the user: what is wrong, and what to do.
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
        self._connection: Connection | None = None
        self._up = False
        self._closing = asyncio.Event()
        self._drop_session = False
        self._reported: set[str] = set()
        self._reported_publishes: set[str] = set()
        self._refusals: dict[str, tuple[float, str]] = {}
        """What the broker said to messages on some topics, the latest of them."""
        self._problem = ""
        self._limit = PacketLimit(MAX_PACKET_BYTES)
        self._url: BrokerUrl | None = None
        self.max_packet = MAX_PACKET_BYTES
        self.round_trip: float | None = None

    @property
    def connected(self) -> bool:
        """Whether `publish` works now."""
        return self._up and self._connection is not None and not self._connection.ended.is_set()

    def why_not(self, topic: str) -> str:
        """Return why messages on a topic do not reach the broker, in sentences for the user; empty if unknown."""
        if not self.connected:
            return self._problem
        at, sentence = self._refusals.get(topic, (0.0, ""))
        return sentence if asyncio.get_running_loop().time() - at < _REFUSAL_LASTS_S else ""

    @property
    def max_bundle(self) -> int:
        """How many bytes of messages one packet should join, besides `max_packet`."""
        return self._limit.max_bundle

    @property
    def found_limit(self) -> bool:
        """Whether `max_packet` was found out by losses, because the broker does not announce it."""
        return self._limit.is_found

    @property
    def broker(self) -> str:
        """The broker of the last connection, without the password."""
        return "" if self._url is None else str(self._url)

    async def run(self) -> None:
        """Connect, serve and reconnect, until cancelled (the broker then sends the will) or closed (it does not)."""
        loop = asyncio.get_running_loop()
        failures = 0
        failing_since = loop.time()
        while not self._closing.is_set():
            min_delay = 0.0
            will = self._will()
            url: BrokerUrl | None = None
            try:
                url = await self._broker()
                connection = await self._open(url, will)
            except BrokerRefused as error:
                self._report(str(error))
                min_delay = _REFUSED_DELAY_S
            except P2pflowsError as error:
                self._report(f"{error.message} {error.hint}".strip())
                min_delay = _REFUSED_DELAY_S
            except OSError as error:
                self._problem = _unreachable(url, error)
                if loop.time() - failing_since > _CONNECT_TIMEOUT_S:
                    self._report(self._problem)
            else:
                began = loop.time()
                await self._serve(connection)
                failing_since = loop.time()
                if failing_since - began > _STABLE_AFTER_S:
                    failures = 0
                if connection.taken_over:
                    self._report(f"Another program uses our client id on the broker {url}; stop one of the two.")
                    min_delay = _REFUSED_DELAY_S
            delay = _BACKOFF.delay_s(failures - 1, random.random()) if failures else 0.0  # noqa: S311 - no secret
            await self._pause(max(min_delay, delay))
            failures += 1

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send a message without waiting. QoS 0 is for what is repeated until the other side answers.

        Returns:
            False when nothing was sent: there is no connection, or the message is larger than the broker takes.
            True does not promise that the message arrives: the connection may break first.
        """
        if self._connection is None or not self.connected:
            return False
        if packet_size(topic, payload) > self.max_packet:
            self._report_publish(
                topic,
                f"A message on {topic} is larger than the {self.max_packet} bytes that the broker takes; "
                "ask its operator for a larger maximum packet size.",
            )
            return False
        return self._connection.publish(topic, payload, qos=qos, retain=retain)

    @property
    def is_writable(self) -> bool:
        """Whether what is published now is written at once, as nothing waits for the socket or the broker's window."""
        return self._connection is not None and self._connection.is_writable

    def flush(self) -> None:
        """Write what was published to the socket now, not at the loop's next pass."""
        if self._connection is not None:
            self._connection.flush()

    def ack(self, delivery: Delivery) -> None:
        """Acknowledge a delivery, once; call it in arrival order. If the delivery's connection is gone, do nothing."""
        if isinstance(delivery, Arrived) and delivery.connection is self._connection:
            delivery.connection.ack(delivery.mid)
            delivery.mid = 0

    def subscribe(self, filters: Sequence[str]) -> None:
        """Add topic filters to the live connection; later connections call `subscriptions` again."""
        if self._connection is not None and filters:
            self._connection.subscribe(filters)

    async def close(self) -> None:
        """Disconnect once the broker has acknowledged what was published, without the will; `run` then returns."""
        self._closing.set()
        if self._connection is not None:
            await self._connection.close()

    async def _open(self, url: BrokerUrl, will: Will | None) -> Connection:
        if self._url != url:
            self._url, self._limit = url, PacketLimit(MAX_PACKET_BYTES)
        connection = Connection(
            url,
            self._client_id,
            session_seconds=_SESSION_EXPIRY_S if self._persistent else 0,
            clean=not self._persistent or self._drop_session,
            will=will,
            after_read=self._after_read,
            window=1 if self._limit.is_careful else MAX_WINDOW,
        )
        try:
            await connection.open()
        except BaseException:
            connection.abort()
            raise
        return connection

    async def _serve(self, connection: Connection) -> None:
        """Use one connection, from its CONNACK to its end."""
        loop = asyncio.get_running_loop()
        try:
            self.max_packet = min(connection.max_packet, self._limit.max_packet)
            connection.subscribe(self._subscriptions())
            self._connection = connection
            self._after_read(connection)
            if self._closing.is_set():
                await connection.close()
            subscribed_at = loop.time()
            while not connection.ended.is_set():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_TICK_S):
                        await connection.ended.wait()
                connection.tick()
                if loop.time() - subscribed_at > STABLE_AFTER_S and not connection.ended.is_set():
                    self._limit.on_stable()
                if connection.refused and not self._up and loop.time() - subscribed_at > _REFUSED_DELAY_S:
                    # The broker's operator may grant the filters meanwhile. Until then we stay connected and not up.
                    subscribed_at = loop.time()
                    connection.subscribe(sorted(connection.refused))
        finally:
            connection.abort()
            self._connection = None
            was_up, self._up = self._up, False
        if connection.fault is not None:
            raise connection.fault
        # The broker would redeliver a message that paho cannot parse for ever: drop the session that holds it.
        self._drop_session = connection.malformed and self._persistent
        if connection.reason:
            self._problem = f"The broker link is down: {connection.reason}."
        if not (connection.closed_by_us or connection.taken_over):
            self._note_loss(connection)
        if was_up:
            self._on_down(connection.reason)

    def _note_loss(self, connection: Connection) -> None:
        """Find out whether the broker hangs up on packets of some size, and send none of that size any more."""
        self._note_taken(connection)
        found = self._limit.on_lost(connection.unacknowledged)
        if found is not None:
            self.max_packet = min(self.max_packet, self._limit.max_packet)
            self._report_publish(
                "",
                f"The broker {self.broker} hangs up when it is sent a message of {found:,} bytes. No message of that "
                "size is sent any more; ask its operator for a larger maximum packet size.",
            )

    def _note_taken(self, connection: Connection) -> None:
        for size in connection.take_taken():
            self._limit.on_taken(size)

    def _after_read(self, connection: Connection) -> None:
        if connection is not self._connection:
            return  # not subscribed yet; what came early waits in the connection
        for name, reason in connection.take_refused_filters():
            self._report(
                f"The broker refuses us the topic {name} ({reason}); ask its operator to let us subscribe to it."
            )
        for topic, reason in connection.take_refused_messages():
            self._report_publish(
                topic,
                f"The broker refuses our messages on {topic} ({reason}); ask its operator to let us publish there.",
            )
        self._note_taken(connection)
        if connection.round_trip is not None:
            self.round_trip = connection.round_trip
        if connection.granted and not self._up and not connection.ended.is_set():
            self._up = True
            self._reported.clear()
            self._problem = ""
            self._on_up(connection.session_present)
        arrived = connection.take_arrived()
        if arrived:
            self._on_deliveries(arrived)

    def _report(self, sentence: str) -> None:
        self._problem = sentence
        if sentence not in self._reported:
            self._reported.add(sentence)
            self._on_problem(sentence)

    def _report_publish(self, topic: str, sentence: str) -> None:
        """Report a refused message once, however often the link is up again meanwhile."""
        self._refusals.pop(topic, None)
        self._refusals[topic] = asyncio.get_running_loop().time(), sentence
        if len(self._refusals) > _MAX_REFUSALS:
            del self._refusals[next(iter(self._refusals))]
        if sentence not in self._reported_publishes:
            self._reported_publishes.add(sentence)
            self._on_problem(sentence)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()


def _unreachable(url: BrokerUrl | None, error: OSError) -> str:
    if url is None:
        return f"The broker cannot be reached ({describe(error)}); we keep trying."
    if isinstance(error, NoAnswer):
        return f"The broker {url} does not answer; check the user name and password, and that it speaks MQTT 5."
    return f"The broker {url} cannot be reached ({describe(error)}); we keep trying. Check the broker setting."
