"""A broker without sockets: sessions, QoS 1, retained messages and wills, and every fault that we saw in real brokers.

A message takes some time to reach the broker, and some more to reach each subscriber. Every connection keeps the order,
unless packet faults are set. A cut loses the packets that are under way; a persistent session delivers again what was
not acknowledged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random

from simulation.timeline import Timeline

LATENCY_S = 0.002
MAX_DELAY_S = 4.0
"""The most seconds by which a delayed packet is late."""
MAX_DETECTION_S = 2.0
"""The most seconds that the broker needs to detect that a client is gone."""


@dataclass(slots=True)
class PacketFaults:
    """How likely each kind of fault is for a packet between the broker and a subscriber."""

    drop: float = 0.0
    repeat: float = 0.0
    delay: float = 0.0
    reorder: float = 0.0


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes when a client disappears without a DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(slots=True, eq=False)
class Packet:
    """A PUBLISH on its way to one subscriber; the object itself serves as the packet id."""

    topic: str
    payload: bytes
    retain: bool
    connection: Connection | None = None
    is_local: bool = True
    """Workers of the simulation need no token."""


@dataclass(slots=True, eq=False)
class Session:
    """The state of one client id at the broker."""

    persistent: bool
    filters: dict[str, None] = field(default_factory=dict)
    queue: list[Packet] = field(default_factory=list)
    connection: Connection | None = None


@dataclass(slots=True, eq=False)
class Connection:
    """A TCP connection of a client.

    Attributes:
        open: whether the client can still use it.
        delivers: whether packets that the client has sent still arrive.
        last_uplink: when the last packet to the broker arrives; the next one does not arrive earlier.
        last_downlink: when the last packet to the client arrives; the next one does not arrive earlier.
    """

    link: SimulatedLink
    session: Session
    will: Will | None
    open: bool = True
    delivers: bool = True
    last_uplink: float = 0.0
    last_downlink: float = 0.0


class SimulatedBroker:
    """A broker behind an unreliable network: its sessions and retained messages."""

    def __init__(self, timeline: Timeline, random: Random) -> None:
        self.timeline = timeline
        self.random = random
        self.packet_faults = PacketFaults()
        self.retained: dict[str, bytes] = {}
        self._sessions: dict[str, Session] = {}

    def connect(
        self, link: SimulatedLink, *, persistent: bool, filters: Sequence[str], will: Will | None
    ) -> tuple[Connection, bool]:
        """Connect a client; return its connection, and whether its session was still there."""
        session = self._sessions.get(link.client_id)
        if session is not None and session.connection is not None:
            self.disconnect(session.connection)
        present = persistent and session is not None and session.persistent
        if session is None or not present:
            session = self._sessions[link.client_id] = Session(persistent)
        session.connection = Connection(link, session, will)
        for packet in session.queue:
            self._transmit(session.connection, packet)
        self.subscribe(session.connection, filters)
        return session.connection, present

    def subscribe(self, connection: Connection, filters: Sequence[str]) -> None:
        """Add topic filters, and deliver the retained messages that match."""
        connection.session.filters.update(dict.fromkeys(filters))
        for topic, payload in self.retained.items():
            if any(matches(pattern, topic) for pattern in filters):
                self._deliver(connection.session, Packet(topic, payload, retain=True))

    def route(self, topic: str, payload: bytes, *, retain: bool) -> None:
        """Deliver a published message to its subscribers."""
        if retain:
            self.retained[topic] = payload
        for session in list(self._sessions.values()):
            if any(matches(pattern, topic) for pattern in session.filters):
                if self.random.random() < self.packet_faults.drop:
                    continue
                times = 2 if self.random.random() < self.packet_faults.repeat else 1
                for _ in range(times):
                    self._deliver(session, Packet(topic, payload, retain=retain))

    def acknowledge(self, packet: Packet) -> None:
        """Remove a packet that its subscriber has acknowledged."""
        connection = packet.connection
        if connection is not None and packet in connection.session.queue:
            connection.session.queue.remove(packet)

    def disconnect(self, connection: Connection) -> None:
        """End a connection, and publish its will."""
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
        """Lose everything, as a broker without a disk does when it restarts; no will is published."""
        sessions, self._sessions = self._sessions, {}
        self.retained.clear()
        for session in sessions.values():
            if session.connection is not None:
                session.connection.delivers = False
                session.connection.link.lost()

    def _deliver(self, session: Session, packet: Packet) -> None:
        session.queue.append(packet)
        if session.connection is not None:
            self._transmit(session.connection, packet)

    def _transmit(self, connection: Connection, packet: Packet) -> None:
        packet.connection = connection
        arrival = self.timeline.elapsed + LATENCY_S * (0.5 + self.random.random())
        chance = self.random.random()
        if chance < self.packet_faults.reorder:
            arrival += MAX_DELAY_S * self.random.random()
        else:
            if chance < self.packet_faults.reorder + self.packet_faults.delay:
                arrival += MAX_DELAY_S * self.random.random()
            arrival = connection.last_downlink = max(arrival, connection.last_downlink)
        self.timeline.at(arrival, lambda: connection.link.arrived(connection, packet))


class SimulatedLink:
    """The link of one client, in place of the real `MqttLink`; it connects again whenever the connection is lost.

    Args:
        client_id: the name of the session.
        persistent: whether the session outlives the connection.
        subscriptions: returns the topic filters; called at every connect.
        will: returns the will; called at every connect.
        on_arrival: called with each packet.
        on_up: called when the link is up.
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
        self._blocked_until = 0.0
        broker.timeline.after(LATENCY_S, self._connect)

    max_packet = 1_048_576
    max_bundle = 1_048_576
    broker = "the broker"

    @property
    def connected(self) -> bool:
        """Whether a message can be published now."""
        return self._connection is not None and self._connection.open

    def why_not(self, topic: str) -> str:
        """Return nothing, as nothing is refused."""
        del topic
        return ""

    def keeps_order(self, topic: str) -> bool:
        """Return False, as a broker may lose a message and deliver the next."""
        del topic
        return False

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send a message; return False if the link is down."""
        del qos
        connection = self._connection
        if connection is None or not connection.open:
            return False
        self._write(connection, lambda: self._broker.route(topic, payload, retain=retain))
        return True

    def flush(self) -> None:
        """Do nothing, as `publish` sends at once."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Receive these topics too, for as long as this connection lasts."""
        connection = self._connection
        if connection is not None and connection.open:
            self._write(connection, lambda: self._broker.subscribe(connection, topics))

    def ack(self, packet: Packet) -> None:
        """Acknowledge a packet, unless its connection has ended."""
        connection = self._connection
        if connection is not None and connection is packet.connection:
            self._write(connection, lambda: self._broker.acknowledge(packet))

    def arrived(self, connection: Connection, packet: Packet) -> None:
        """Receive a packet, unless its connection has ended."""
        if connection is self._connection and connection.open:
            self._on_arrival(packet)

    def cut(self, seconds: float = 0.1) -> None:
        """Break the connection, and make no new one for some seconds."""
        self._blocked_until = self._broker.timeline.elapsed + seconds
        connection = self._connection
        if connection is not None and connection.open:
            connection.delivers = False
            self._broker.timeline.after(
                MAX_DETECTION_S * self._broker.random.random(), lambda: self._broker.disconnect(connection)
            )
            self.lost()
        self._broker.timeline.at(self._blocked_until, self._connect)

    def lost(self) -> None:
        """Forget the connection, and make a new one soon."""
        if self._connection is not None:
            self._connection.open = False
            self._connection = None
        self._broker.timeline.after(0.1, self._connect)

    def kill(self) -> None:
        """End as if the process were killed; the kernel may still send what the process has written."""
        self._running = False
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.open = False
            connection.delivers = self._broker.random.random() < 0.5
            self._broker.timeline.after(
                MAX_DETECTION_S * self._broker.random.random(), lambda: self._broker.disconnect(connection)
            )

    def _connect(self) -> None:
        if not self._running or self._connection is not None:
            return
        if self._broker.timeline.elapsed < self._blocked_until:
            self._broker.timeline.at(self._blocked_until, self._connect)
            return
        self._connection, _present = self._broker.connect(
            self, persistent=self._persistent, filters=self._subscriptions(), will=self._will()
        )
        self._on_up()

    def _write(self, connection: Connection, step: Callable[[], None]) -> None:
        """Do something at the broker after everything that was sent before has arrived."""
        connection.last_uplink = max(
            connection.last_uplink, self._broker.timeline.elapsed + LATENCY_S * (0.5 + self._broker.random.random())
        )
        self._broker.timeline.at(connection.last_uplink, lambda: step() if connection.delivers else None)


def matches(pattern: str, topic: str) -> bool:
    """Return whether a topic filter, with `+` as its only wildcard, matches a topic."""
    wanted, given = pattern.split("/"), topic.split("/")
    return len(wanted) == len(given) and all(one in ("+", other) for one, other in zip(wanted, given, strict=True))
