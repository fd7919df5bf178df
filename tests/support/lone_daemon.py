"""A daemon without sockets, and a peer that seals whatever a test wants it to say."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from simulation.timeline import Timeline, TimelineClock

from p2pflows.contacts import Contacts
from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind, Envelope
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import Message
from p2pflows.settings.limits import Limits
from p2pflows.settings.retention import DEFAULT_RETENTION, Retention
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.node import Node, Request
from p2pflowsd.running.catalog import Served
from p2pflowsd.sending import presence

HOUR_MS = 3_600_000
BODIES_IN_BUNDLE = 256
_COUNT_EVERY = 100
"""How many instructions of SQLite's virtual machine lie between two calls of a progress handler."""


@dataclass(slots=True)
class Packet:
    """Something that arrives; frames of workers come over the socket of this machine."""

    topic: str
    payload: bytes
    retain: bool = False
    is_local: bool = True


class RecordedLink:
    """A broker link that keeps what was published, as far as a broker would take it."""

    max_packet = 1_048_576
    max_bundle = 1_048_576
    broker = "the broker"
    connected = True
    is_stream = False

    def __init__(self) -> None:
        self.sent: dict[str, list[bytes]] = defaultdict(list)
        self.bytes_published = 0
        self.too_large = 0

    def why_not(self, topic: str) -> str:
        """Return nothing, as nothing is refused."""
        del topic
        return ""

    def keeps_order(self, topic: str) -> bool:
        """Return what the test says."""
        del topic
        return self.is_stream

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Keep it; return False if it is larger than a packet."""
        del qos, retain
        if len(topic) + len(payload) >= self.max_packet:
            self.too_large += 1
            return False
        self.sent[topic].append(payload)
        self.bytes_published += len(payload)
        return True

    def flush(self) -> None:
        """Do nothing, as nothing waits."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Do nothing."""

    def ack(self, delivery: Packet) -> None:
        """Do nothing."""


@dataclass(slots=True)
class Cost:
    """What a daemon did.

    Attributes:
        steps: how many instructions of SQLite's virtual machine it ran, in hundreds rounded down.
        changes: how many rows of the journal it changed.
        published: how many bytes it published.
    """

    steps: int = 0
    changes: int = 0
    published: int = 0


class LoneDaemon:
    """A node on a real journal, with a virtual clock; a test decides what arrives and when time passes."""

    def __init__(self, folder: Path, limits: Limits | None = None, retention: Retention = DEFAULT_RETENTION) -> None:
        self.limits, self.retention = limits or Limits(), retention
        self.random = Random(7)  # noqa: S311 - a test, no secrets
        self.timeline = Timeline()
        self.clock = TimelineClock(self.timeline)
        self.identity = Identity(self.random.randbytes(32))
        self.user = self.identity.user_id
        self.link = RecordedLink()
        self.contacts = Contacts(folder / "contacts.yaml")
        self.folder = folder
        self._path = folder / "journal.sqlite3"
        self.start()

    def start(self) -> None:
        """Start on what the journal holds."""
        self.journal = Journal(self._path, self.user, NoFaults())
        self.node = Node(
            identity=self.identity, journal=self.journal, contacts=self.contacts, link=self.link, clock=self.clock,
            entropy=self.random.randbytes, faults=NoFaults(), limits=self.limits, retention=self.retention,
        )  # fmt: skip

    def restart(self) -> None:
        """Lose everything that is only in memory."""
        self.journal.close()
        self.start()

    def serve_human(self, endpoint: str = "User", allow: str = "contacts") -> None:
        """Serve a human."""
        self.do(lambda: self.node.catalog.put(Served(endpoint=endpoint, kind="human", target="", allow=allow)))

    def do(self, run: Callable[[], Any]) -> Any:
        """Do something inside a batch; return its result or error."""
        results: list[Any] = []
        self.node.process_batch([], [Request(run, results.append)])
        return results[0]

    def receive(self, endpoint: str, *bundles: bytes) -> Cost:
        """Let bundles arrive in one batch; return what the batch cost."""
        with self.measured() as cost:
            self.node.process_batch([Packet(topics.inbox(self.user, endpoint), bundle) for bundle in bundles])
        return cost

    def sleep(self, seconds: float) -> list[Cost]:
        """Let time pass, then run batches until the node says that no work is left; return what each cost."""
        self.timeline.sleep(seconds)
        costs: list[Cost] = []
        while not costs or self.has_work:
            with self.measured() as cost:
                self.node.process_batch([])
            costs.append(cost)
            assert len(costs) < 2_000, "the node never comes to rest"
        return costs

    @property
    def has_work(self) -> bool:
        """Whether the node wants another batch at once."""
        return self.node.next_wake() <= self.clock.elapsed()

    @contextmanager
    def measured(self) -> Iterator[Cost]:
        """Measure what the daemon does inside."""
        cost = Cost()
        database = self.journal._db
        changes, published = database.total_changes, self.link.bytes_published

        def count() -> int:
            cost.steps += _COUNT_EVERY
            return 0

        database.set_progress_handler(count, _COUNT_EVERY)
        yield cost
        database.set_progress_handler(None, 0)
        cost.changes = database.total_changes - changes
        cost.published = self.link.bytes_published - published


class Peer:
    """Somebody with a key and no daemon.

    Args:
        daemon: the daemon that receives what this peer sends.
        seed: determines the key.
        name: the petname under which the daemon's owner knows this peer; None for a stranger.
    """

    def __init__(self, daemon: LoneDaemon, seed: int, name: str | None = None) -> None:
        self._daemon = daemon
        self.identity = Identity(bytes([seed]) * 32)
        self._envelope = Envelope(self.identity)
        self.user = self.identity.user_id
        if name is not None:
            daemon.contacts.add(name, self.user)

    def message(self, endpoint: str = "User", **fields: Any) -> bytes:
        """Return the body of a post, with some fields changed."""
        now = self._daemon.clock.now()
        message_id = self._daemon.random.randbytes(16).hex()
        return Message.model_validate(
            {
                "id": message_id,
                "type": "post",
                "from": self.user,
                "to": self._daemon.user,
                "endpoint": endpoint,
                "conversation": message_id,
                "created": now,
                "expires": now + HOUR_MS,
                "data": {"text": "hello"},
                **fields,
            }
        ).to_bytes()

    def notice(self, **lines: Any) -> bytes:
        """Return the body of a notice, in which a list may have any length."""
        return json.dumps({"to": self._daemon.user, **lines}, separators=(",", ":")).encode()

    def bundle(self, *bodies: bytes, kind: BundleKind = BundleKind.MESSAGES) -> bytes:
        """Return bodies under one signature."""
        return self._envelope.seal(kind, self._daemon.user, bodies, self._daemon.random.randbytes(24))

    def send(self, *bodies: bytes, endpoint: str = "User") -> Cost:
        """Send messages in as many bundles as a daemon would use; return what the batch that receives them cost."""
        starts = range(0, len(bodies), BODIES_IN_BUNDLE)
        return self._daemon.receive(endpoint, *(self.bundle(*bodies[n : n + BODIES_IN_BUNDLE]) for n in starts))

    def notify(self, **lines: Any) -> Cost:
        """Send a notice, numbered only if `boot` and `n` are given; return what the batch that receives it cost."""
        return self._daemon.receive(topics.NOTICE, self.bundle(self.notice(**lines), kind=BundleKind.NOTICE))

    def show(self, *, boot: int, online: bool, connection: int = 0) -> None:
        """Publish this peer's status; connections are not numbered if none is given."""
        topic = topics.status(self.user)
        fact = {"boot": boot, "online": online, **({"n": connection} if connection else {})}
        status = presence.seal(self.identity, topic, fact)
        self._daemon.node.process_batch([Packet(topic, status)])

    def received(self, endpoint: str) -> list[dict[str, Any]]:
        """Return the bodies of everything that the daemon has published for an endpoint of this peer."""
        return [
            json.loads(body)
            for bundle in self._daemon.link.sent[topics.inbox(self.user, endpoint)]
            for body in self.opened(bundle)
        ]

    def opened(self, bundle: bytes) -> Sequence[bytes]:
        """Return the bodies in a bundle for this peer."""
        return self._envelope.open(bundle).bodies

    def received_lines(self, name: str) -> list[Any]:
        """Return all lines of one list in the notices that the daemon has published for this peer."""
        return [line for notice in self.received(topics.NOTICE) for line in notice.get(name, [])]
