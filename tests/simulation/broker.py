"""A broker without sockets: sessions, QoS 1, retained messages, wills; and every fault that a real one has shown us.

What a client publishes reaches the broker some time later, and its subscribers some time after that, each connection
in order, unless the weather says otherwise. A cut loses what is under way; a kept session delivers again what was not
acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from simulation.timeline import Timeline

LATENCY = 0.002
LONG_DELAY = 4.0
"""Seconds that a delayed packet is late at most."""
NOTICED = 2.0
"""Seconds until the broker at the latest notices that a client is gone."""


@dataclass(slots=True)
class Weather:
    """How likely each packet is to meet a fault between the broker and its reader."""

    drop: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when a client goes without a word."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True, eq=False)
class Packet:
    """One PUBLISH on its way to one reader; it is its own packet id."""

    topic: str
    payload: bytes
    retain: bool
    connection: Connection | None = None


@dataclass(slots=True, eq=False)
class Session:
    """What the broker keeps for one client id."""

    persistent: bool
    filters: dict[str, None] = field(default_factory=dict)
    queue: list[Packet] = field(default_factory=list)
    connection: Connection | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """One TCP connection of a client.

    Attributes:
        open: whether the client can still use it.
        drains: whether what the client has written still arrives.
        up: when the last packet to the broker arrives; the next one is not earlier.
        down: when the last packet to the client arrives.
    """

    link: SimulatedLink
    session: Session
    will: Will | None
    open: bool = True
    drains: bool = True
    up: float = 0.0
    down: float = 0.0


class SimulatedBroker:
    """All sessions and retained messages; a real broker behind a network in which anything may happen."""

    def __init__(self, timeline: Timeline, random: Random) -> None:
        self.timeline = timeline
        self.random = random
        self.weather = Weather()
        self.retained: dict[str, bytes] = {}
        self._sessions: dict[str, Session] = {}

    def connect(
        self, link: SimulatedLink, *, persistent: bool, filters: Sequence[str], will: Will | None
    ) -> tuple[Connection, bool]:
        """Take a client in; gives its connection, and whether its session was kept."""
        session = self._sessions.get(link.client_id)
        if session is not None and session.connection is not None:
            self.gone(session.connection)
        present = persistent and session is not None and session.persistent
        if session is None or not present:
            session = self._sessions[link.client_id] = Session(persistent)
        session.connection = Connection(link, session, will)
        for packet in session.queue:
            self._carry(session.connection, packet)
        self.subscribe(session.connection, filters)
        return session.connection, present

    def subscribe(self, connection: Connection, filters: Sequence[str]) -> None:
        """Add topic filters, and hand over what is retained under them."""
        connection.session.filters.update(dict.fromkeys(filters))
        for topic, payload in self.retained.items():
            if any(matches(pattern, topic) for pattern in filters):
                self._hand_over(connection.session, Packet(topic, payload, retain=True))

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Pass a published message on to whom it concerns."""
        if retain:
            self.retained[topic] = payload
        for session in list(self._sessions.values()):
            if any(matches(pattern, topic) for pattern in session.filters):
                if self.random.random() < self.weather.drop:
                    continue
                times = 2 if self.random.random() < self.weather.repeat else 1
                for _ in range(times):
                    self._hand_over(session, Packet(topic, payload, retain=retain))

    def acked(self, packet: Packet) -> None:
        """The reader has it for good."""
        connection = packet.connection
        if connection is not None and packet in connection.session.queue:
            connection.session.queue.remove(packet)

    def gone(self, connection: Connection) -> None:
        """Notice that a connection is no more."""
        connection.open = False
        session = connection.session
        if session.connection is not connection:
            return
        session.connection = None
        if not session.persistent:
            self._sessions = {name: other for name, other in self._sessions.items() if other is not session}
        if connection.will is not None:
            self.route(connection.will.topic, connection.will.payload, retain=connection.will.retain)

    def forget(self) -> None:
        """Lose everything, as a broker without a disk does when it restarts; no will is heard."""
        sessions, self._sessions = self._sessions, {}
        self.retained.clear()
        for session in sessions.values():
            if session.connection is not None:
                session.connection.drains = False
                session.connection.link.lost()

    def _hand_over(self, session: Session, packet: Packet) -> None:
        session.queue.append(packet)
        if session.connection is not None:
            self._carry(session.connection, packet)

    def _carry(self, connection: Connection, packet: Packet) -> None:
        packet.connection = connection
        arrival = self.timeline.elapsed + LATENCY * (0.5 + self.random.random())
        fate = self.random.random()
        if fate < self.weather.reorder:
            arrival += LONG_DELAY * self.random.random()
        else:
            if fate < self.weather.reorder + self.weather.delay:
                arrival += LONG_DELAY * self.random.random()
            arrival = connection.down = max(arrival, connection.down)
        self.timeline.at(arrival, lambda: connection.link.arrived(connection, packet))


class SimulatedLink:
    """One client's link, as `p2pflows.links.mqtt.MqttLink` is to real code: it connects again whenever it is lost.

    Args:
        client_id: the session's name.
        persistent: whether the session outlives the connection.
        subscriptions: asked at every connect.
        will: asked at every connect.
        on_arrival: told of each packet.
        on_up: told that the link is up.
    """

    def __init__(
        self,
        broker: SimulatedBroker,
        client_id: str,
        *,
        persistent: bool,
        subscriptions: Callable[[], Sequence[str]],
        will: Callable[[], Will | None],
        on_arrival: Callable[[Packet], None],
        on_up: Callable[[], None],
    ) -> None:
        self.client_id = client_id
        self._broker = broker
        self._persistent = persistent
        self._subscriptions = subscriptions
        self._will = will
        self._on_arrival = on_arrival
        self._on_up = on_up
        self._connection: Connection | None = None
        self._running = True
        self._held_off = 0.0
        broker.timeline.after(LATENCY, self._connect)

    max_packet = 1_048_576

    @property
    def connected(self) -> bool:
        """Whether a publish can leave now."""
        return self._connection is not None and self._connection.open

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send; False when not connected."""
        del qos
        connection = self._connection
        if connection is None or not connection.open:
            return False
        self._write(connection, lambda: self._broker.route(topic, payload, retain=retain))
        return True

    def flush(self) -> None:
        """What was published is under way already."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics too, for as long as this connection lasts."""
        connection = self._connection
        if connection is not None and connection.open:
            self._write(connection, lambda: self._broker.subscribe(connection, topics))

    def ack(self, packet: Packet) -> None:
        """Acknowledge a packet, unless its connection is gone."""
        connection = self._connection
        if connection is not None and connection is packet.connection:
            self._write(connection, lambda: self._broker.acked(packet))

    def arrived(self, connection: Connection, packet: Packet) -> None:
        """A packet has come through a connection."""
        if connection is self._connection and connection.open:
            self._on_arrival(packet)

    def cut(self, seconds: float = 0.1) -> None:
        """Break the connection; no new one for so many seconds."""
        self._held_off = self._broker.timeline.elapsed + seconds
        connection = self._connection
        if connection is not None and connection.open:
            connection.drains = False
            self._broker.timeline.after(NOTICED * self._broker.random.random(), lambda: self._broker.gone(connection))
            self.lost()
        self._broker.timeline.at(self._held_off, self._connect)

    def lost(self) -> None:
        """The connection is no more: make a new one soon."""
        if self._connection is not None:
            self._connection.open = False
            self._connection = None
        self._broker.timeline.after(0.1, self._connect)

    def die(self) -> None:
        """The process is gone; the kernel may still send what it had written."""
        self._running = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.open = False
            connection.drains = self._broker.random.random() < 0.5
            self._broker.timeline.after(NOTICED * self._broker.random.random(), lambda: self._broker.gone(connection))

    def _connect(self) -> None:
        if not self._running or self._connection is not None:
            return
        if self._broker.timeline.elapsed < self._held_off:
            self._broker.timeline.at(self._held_off, self._connect)
            return
        self._connection, _present = self._broker.connect(
            self, persistent=self._persistent, filters=self._subscriptions(), will=self._will()
        )
        self._on_up()

    def _write(self, connection: Connection, step: Callable[[], None]) -> None:
        """Let something happen at the broker once what was written before has arrived."""
        connection.up = max(
            connection.up, self._broker.timeline.elapsed + LATENCY * (0.5 + self._broker.random.random())
        )
        self._broker.timeline.at(connection.up, lambda: step() if connection.drains else None)


def matches(pattern: str, topic: str) -> bool:
    """Whether a topic filter (with `+` only) covers a topic."""
    wanted, given = pattern.split("/"), topic.split("/")
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))
