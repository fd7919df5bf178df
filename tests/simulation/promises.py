"""What simulated daemons promise to others, marked among the events of the disk below their journals."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from simulation import machine as machines
from simulation.broker import Packet, SimulatedLink
from simulation.disk import Disk
from simulation.history import Fact
from simulation.machine import Machine
from simulation.worker import POINT
from simulation.world import World

from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import BundleKind, Envelope, Refused
from p2pflows.protocol.message import ANSWERS, Message
from p2pflows.protocol.notice import Notice
from p2pflows.protocol.worker_frames import DaemonFrame
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.task import row_id_of
from p2pflowsd.running.worker_tokens import point_key
from p2pflowsd.sending.presence import open_signed

_REMEMBERED = (
    " UNION ALL SELECT 1 FROM remembered JOIN senders ON senders.n = remembered.sender"
    " WHERE senders.user = ?1 AND lower(hex(remembered.id)) = ?2"
)
_RECEIVED = "SELECT 1 FROM incoming WHERE peer = ?1 AND id = ?2"
_STORED = _RECEIVED + _REMEMBERED
_ENDED = _RECEIVED + " AND state IN ('done', 'failed', 'expired')" + _REMEMBERED
_RUN = _RECEIVED + " AND state NOT IN ('blocked', 'held', 'ready')" + _REMEMBERED
_ACCEPTED = "SELECT 1 FROM outgoing WHERE id = ?"
_SETTLED = _ACCEPTED + " AND state NOT IN ('pending', 'stored')"
_CLOSED = "SELECT 1 FROM prompts WHERE id = ? AND state != 'open'"
_STARTED = "SELECT 1 FROM meta WHERE key = 'boot' AND CAST(value AS INTEGER) >= ?"


@dataclass(frozen=True, slots=True)
class Promise:
    """Something that a daemon has said, and that its journal must show from then on.

    Attributes:
        who: the name of the machine.
        what: what it said, in words.
        row: a query that finds a row in the journal, as long as the promise is kept.
        values: the values of the query.
    """

    who: str
    what: str
    row: str
    values: tuple[Any, ...]

    def is_kept(self, db: sqlite3.Connection) -> bool:
        """Return whether a journal has what was promised."""
        return db.execute(self.row, self.values).fetchone() is not None


class Promises(list[Fact]):
    """The history of a world, which marks on a disk what its daemons promise to peers, clients, workers and the broker.

    Args:
        disk: the disk of all machines.
        patch: lets the machines use links that tell what leaves a daemon.
        seed: of the world.
    """

    def __init__(self, disk: Disk, patch: pytest.MonkeyPatch, seed: int) -> None:
        super().__init__()
        self._disk = disk
        self._requests_of_answers: dict[str, str] = {}
        promises = self

        class WatchedLink(SimulatedLink):
            """A link that tells what it publishes and acknowledges."""

            def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
                """Send a message."""
                sent = super().publish(topic, payload, qos=qos, retain=retain)
                if sent:
                    promises.published(self.client_id, topic, payload)
                return sent

            def ack(self, packet: Packet) -> None:
                """Acknowledge a packet."""
                promises.acknowledged(self.client_id, packet)
                super().ack(packet)

        patch.setattr(machines, "SimulatedLink", WatchedLink)
        self.world = World(seed, people=2, facts=self)
        self._by_client = {f"daemon-{machine.name}": machine for machine in self.world.machines}
        self._by_user = {machine.user: machine for machine in self.world.machines}

    def append(self, fact: Fact) -> None:
        """Add a fact to the history."""
        super().append(fact)
        who = self._by_user[fact.node].name
        if fact.kind == "confirmed":
            self._mark(who, "an id was returned to a client", _ACCEPTED, fact.id)
        if fact.kind == "answered" and fact.about["counts"]:
            self._mark(who, "a human's answer was accepted", _CLOSED, fact.id)

    def published(self, client_id: str, topic: str, payload: bytes) -> None:
        """Note what a daemon has published."""
        machine = self._by_client[client_id]
        match topics.parse(topic):
            case topics.InboxTopic(user, endpoint):
                opened = Envelope(self._by_user[user].identity).open(payload)
                if endpoint == topics.NOTICE:
                    self._receipts(machine, user, Notice.from_bodies(opened.bodies))
                    return
                for body in opened.bodies:
                    self._sent(machine, Message.from_bytes(body))
            case topics.PresenceTopic(user, "status"):
                fact = open_signed(user, topic, payload)
                assert fact is not None
                self._mark(machine.name, "a status was published", _STARTED, fact["boot"])
            case topics.DispatchTopic():
                channel = Channel(point_key(machine.identity, POINT))
                for task in DaemonFrame.read(*channel.open(topic, payload)).done:
                    self._forgotten(machine, row_id_of(task))
            case _:
                pass

    def acknowledged(self, client_id: str, packet: Packet) -> None:
        """Note that a daemon has acknowledged a packet to the broker; what it has refused is not promised."""
        machine = self._by_client[client_id]
        match topics.parse(packet.topic):
            case topics.InboxTopic(_, endpoint) if endpoint not in (topics.NOTICE, topics.REPLY):
                try:
                    opened = Envelope(machine.identity).open(packet.payload)
                except Refused:
                    return
                assert opened.kind is BundleKind.MESSAGES
                assert machine.node is not None
                for message in map(Message.from_bytes, opened.bodies):
                    if machine.node.journal.incoming.knows(message.sender, message.id):
                        self._mark(machine.name, "a PUBACK was sent", _STORED, message.sender, message.id)
            case _:
                pass

    def _forgotten(self, machine: Machine, row_id: int) -> None:
        """Note that a worker may forget a task; one that waits again, or whose result came too late, has not ended."""
        assert machine.node is not None
        row = machine.node.journal.incoming.get(row_id)
        if row is not None and row.state != IncomingState.READY:
            self._mark(machine.name, "a worker may forget a result", _RUN, row.peer, row.id)

    def _receipts(self, machine: Machine, peer: str, notice: Notice) -> None:
        for message_id in (*notice.received, *notice.held, *notice.waiting):
            request = self._requests_of_answers.get(message_id)
            if request is None:
                self._mark(machine.name, "a receipt was published", _STORED, peer, message_id)
            else:
                self._mark(machine.name, "a receipt of an answer was published", _SETTLED, request)

    def _sent(self, machine: Machine, message: Message) -> None:
        if message.type in ANSWERS:
            assert message.in_reply_to is not None
            self._requests_of_answers[message.id] = message.in_reply_to
            values = message.recipient, message.in_reply_to
            self._mark(machine.name, "an answer was published", _ENDED, *values)
        else:
            self._mark(machine.name, "a request was published", _ACCEPTED, message.id)

    def _mark(self, who: str, what: str, row: str, *values: Any) -> None:
        self._disk.mark(Promise(who, what, row, values))


def broken(promises: Sequence[Promise], db: sqlite3.Connection) -> list[Promise]:
    """Return the promises that a journal does not keep."""
    return [promise for promise in promises if not promise.is_kept(db)]
