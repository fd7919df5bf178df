"""One person's daemon in the simulation: the real `Node` on a real journal, in a process that can die at any point."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

from simulation import history
from simulation.broker import Packet, SimulatedBroker, SimulatedLink, Will
from simulation.history import Fact
from simulation.timeline import Timeline, TimelineClock

from p2pflows.contacts import Contacts
from p2pflows.errors import JournalFailed, P2pflowsError
from p2pflows.protocol import topics
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import Type
from p2pflowsd.app import DISK_RETRY_S
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.node import Node, Request
from p2pflowsd.running.catalog import Served

MAX_PAGES = 2**30 - 1
"""The largest number of pages that SQLite allows in a file."""
SKEW_MS = 2_000
"""How far a machine's wall clock is off at most."""
POINTS = (
    "node.received", "journal.before_commit", "journal.after_commit", "node.published", "outbox.before_publish",
    "outbox.after_publish", "outbox.before_notice", "dispatch.before_publish", "dispatch.after_publish",
    "runs.recorded", "runs.ended", "instances.kept",
)  # fmt: skip
"""All crash points of a daemon; a test compares them with those that a life passes."""
PUMP = 0.001
"""Seconds in which what arrives is gathered into one turn."""


class Killed(BaseException):
    """The process ends here, as by kill -9; nothing in the daemon may catch it."""


class KillAt:
    """Counts every crash point as it is passed, and kills the process at one passage when armed."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self._point = ""
        self._left = 0

    def arm(self, point: str, count: int) -> None:
        """Kill at the count-th passage of a point from now on; any point if it is empty."""
        self._point, self._left = point, count

    def disarm(self) -> None:
        """Let the process live."""
        self._left = 0

    @property
    def armed(self) -> bool:
        """Whether a kill is still to come."""
        return self._left > 0

    def reach(self, point: str) -> None:
        """The code is at this point now."""
        self.passed[point] += 1
        if self._left > 0 and self._point in ("", point):
            self._left -= 1
            if self._left == 0:
                raise Killed(point)


class Asked:
    """Something a client asked of the daemon: its result once it was told, forever None if the daemon died first."""

    def __init__(self) -> None:
        self.told = False
        self.result: Any = None

    def tell(self, result: Any) -> None:
        """The daemon answered."""
        self.told = True
        self.result = result


class Machine:
    """A person with a daemon.

    Args:
        folder: holds the home; on a memory disk if there is one.
        name: petname of the person, for others and for logs.
        facts: the history that clients add to as well.
    """

    def __init__(
        self,
        *,
        timeline: Timeline,
        broker: SimulatedBroker,
        folder: Path,
        name: str,
        random: Random,
        facts: list[Fact],
    ) -> None:
        self.name = name
        self.identity = Identity(random.randbytes(32))
        self.user = self.identity.user_id
        self.clock = TimelineClock(timeline, random.randrange(-SKEW_MS, SKEW_MS))
        self.faults = KillAt()
        self.contacts = Contacts(folder / name / "contacts.yaml")
        self.node: Node | None = None
        self.link: SimulatedLink | None = None
        self.at_death: Callable[[], None] = _nothing
        self.kills = 0
        self.serves: list[Served] = []
        """Put into the catalog at the first start."""
        self._timeline = timeline
        self._broker = broker
        self._random = random
        self._facts = facts
        self._path = folder / name / "journal.sqlite3"
        self._path.parent.mkdir(parents=True)
        Journal(self._path, self.user, NoFaults()).close()
        history.install(self._path)
        self._reader = sqlite3.connect(self._path)
        self._read_to = 0
        self._deliveries: list[Packet] = []
        self._requests: list[Request] = []
        self._pump_at: float | None = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self.node is not None

    def start(self) -> None:
        """Start the process on whatever its file holds."""
        if self.node is not None:
            return
        journal = Journal(self._path, self.user, self.faults)
        self.link = SimulatedLink(
            self._broker, f"daemon-{self.name}", persistent=True, subscriptions=self._subscriptions, will=self._will,
            on_arrival=self._arrived, on_up=self._up,
        )  # fmt: skip
        try:
            self.node = Node(
                identity=self.identity, journal=journal, contacts=self.contacts, link=self.link, clock=self.clock,
                entropy=self._random.randbytes, faults=self.faults,
            )  # fmt: skip
            with journal.transaction():
                for flow in self.serves:
                    if self.node.catalog.get(flow.endpoint) is None:
                        self.node.catalog.put(flow)
        except Killed:
            self._end(journal)
            return
        self._pump_soon()

    def kill(self) -> None:
        """End the process between two turns."""
        if self.node is not None:
            self._end(self.node.journal)

    def fill_disk(self, pages: int) -> None:
        """Leave space for only so many more pages in the journal, until it is opened again; SQLite enforces it."""
        if self.node is not None:
            database = self.node.journal._db
            (used,) = database.execute("PRAGMA page_count").fetchone()
            database.execute(f"PRAGMA max_page_count = {used + pages}")

    def free_disk(self) -> None:
        """Remove the limit of `fill_disk`."""
        if self.node is not None:
            self.node.journal._db.execute(f"PRAGMA max_page_count = {MAX_PAGES}")

    def cut(self, seconds: float) -> None:
        """Break the link to the broker for some time."""
        if self.link is not None:
            self.link.cut(seconds)

    def close(self) -> None:
        """End the process, and look at its file no more."""
        self.kill()
        self._reader.close()

    def back_up(self, copy: Path) -> None:
        """Copy the journal."""
        target = sqlite3.connect(copy)
        self._reader.backup(target)
        target.close()

    def restore(self, copy: Path) -> None:
        """Put an old copy in place of the journal, and start on it."""
        self.kill()
        self._reader.close()
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()
        shutil.copy(copy, self._path)
        self._facts.append(Fact(self.clock.now(), self.user, "restored", ""))
        self._reader = sqlite3.connect(self._path)
        self._read_to = self._reader.execute("SELECT coalesce(max(n), 0) FROM history").fetchone()[0]
        self.start()

    # What clients ask.

    def ask(self, run: Callable[[Node], Any]) -> Asked:
        """Ask for something inside the next turn."""
        asked = Asked()
        if self.node is not None:
            node = self.node
            self._requests.append(Request(lambda: run(node), asked.tell))
            self._pump_soon()
        return asked

    def send(
        self,
        kind: Type,
        to: Machine,
        endpoint: str,
        data: dict[str, Any],
        seconds: float,
        *,
        instance: str | None = None,
        conversation: str | None = None,
    ) -> Asked:
        """Send a call or a post; the history keeps what the client is told of it."""
        asked = Asked()
        if self.node is not None:
            node = self.node

            def accept() -> str:
                message_id = node.messages.send(
                    kind, to.user, endpoint, data, life_ms=int(seconds * 1000), instance=instance,
                    conversation=conversation,
                )  # fmt: skip
                node.waiters.expect(message_id, lambda state, answer: self._heard(message_id, state, answer))
                return message_id

            def tell(result: Any) -> None:
                asked.tell(result)
                if not isinstance(result, P2pflowsError):
                    self._facts.append(Fact(self.clock.now(), self.user, "confirmed", result))

            self._requests.append(Request(accept, tell))
            self._pump_soon()
        return asked

    def answer(self, prompt: str, text: str) -> Asked:
        """Answer a prompt; the history keeps whether the human was told that the answer counts."""
        asked = Asked()
        if self.node is not None:
            node = self.node

            def tell(result: Any) -> None:
                asked.tell(result)
                counts = not isinstance(result, P2pflowsError)
                self._facts.append(
                    Fact(self.clock.now(), self.user, "answered", prompt, {"text": text, "counts": counts})
                )

            self._requests.append(Request(lambda: node.inbox.answer(prompt, text), tell))
            self._pump_soon()
        return asked

    def open_prompts(self) -> list[tuple[str, str]]:
        """Id and type of each prompt that waits for the human."""
        return list(self._reader.execute("SELECT id, type FROM prompts WHERE state = 'open' ORDER BY n"))

    def live(self) -> list[str]:
        """Ids of requests of this person, or of their flows, that have no end yet; not of what their daemon tells."""
        found = self._reader.execute(
            "SELECT id FROM outgoing WHERE state IN ('pending', 'stored') AND type IN ('call', 'post')"
            " AND NOT (type = 'post' AND endpoint = '_instances') ORDER BY n"
        )
        return [row[0] for row in found]

    def mounted(self, to: Machine) -> list[tuple[str, str]]:
        """Endpoint and id of each instance that this person has asked somebody for and got, as far as they know."""
        found = self._reader.execute(
            "SELECT CAST(answer AS TEXT) FROM outgoing WHERE endpoint = '_instances' AND type = 'call' AND peer = ?"
            " AND state = 'done' AND origin IS NULL ORDER BY n",
            (to.user,),
        )
        told = [json.loads(answer) for (answer,) in found]
        return [(each["endpoint"], each["instance"]) for each in told if "kind" in each]

    def conversations(self) -> list[str]:
        """Ids of the instances that conversations with this person's flows have, and nobody has asked for."""
        found = self._reader.execute(
            "SELECT id FROM instances WHERE own = 0 AND endpoint NOT IN (SELECT endpoint FROM served"
            " WHERE json_extract(record, '$.singleton')) ORDER BY created, id"
        )
        return [row[0] for row in found]

    def dead_letters(self) -> list[str]:
        """Ids of requests whose workers died at every attempt."""
        return [row[0] for row in self._reader.execute("SELECT id FROM incoming WHERE state = 'dead' ORDER BY n")]

    def state_of(self, message_id: str) -> str | None:
        """How a message of this person stands."""
        row = self._reader.execute("SELECT state FROM outgoing WHERE id = ?", (message_id,)).fetchone()
        return row[0] if row else None

    def rows(self, table: str) -> int:
        """How many rows a table of the journal has."""
        return int(self._reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a test's table

    def dispatch_status(self) -> dict[str, Any]:
        """How the dispatch point stands: workers, slots, and what is queued."""
        points = self.node.points.status() if self.node is not None else []
        return points[0] if points else {"workers": 0, "slots": 0, "free": 0, "queued": 0}

    def work(self) -> float:
        """How many seconds all that waits for workers, or has yet to come here, takes at least."""
        total = "SELECT total(json_extract(CAST(body AS TEXT), '$.data.seconds'))"
        tables = ("incoming WHERE state IN ('blocked', 'ready')", "outgoing WHERE state = 'pending'")
        return float(sum(self._reader.execute(f"{total} FROM {table}").fetchone()[0] for table in tables))

    def unsettled(self) -> list[str]:
        """What still waits for this daemon or for others, but not for a human, in words; runs may wait for humans."""
        return self._left("state = 'pending'", "state IN ('blocked', 'ready') AND instance IS NULL")

    def unanswered(self) -> list[str]:
        """What has no end although every human has answered, in words."""
        return self._left(
            "state IN ('pending', 'stored')",
            "state IN ('blocked', 'ready', 'kept') OR state = 'asked' AND type = 'call'",
        )

    def _left(self, sent: str, come: str) -> list[str]:
        found = self._reader.execute(
            f"SELECT type, id FROM outgoing WHERE {sent} UNION ALL SELECT state, id FROM incoming WHERE {come}"  # noqa: S608 - a test's words
        )
        return [f"{self.name} {what} {message_id}" for what, message_id in found]

    def collect(self) -> None:
        """Move what the journal has committed into the history, with the time of this machine."""
        facts, self._read_to = history.read(self._reader, self.user, self._read_to)
        now = self.clock.now()
        self._facts += [Fact(now, fact.node, fact.kind, fact.id, fact.about) for fact in facts]

    # The process.

    def _pump_soon(self) -> None:
        self._pump_within(PUMP * (0.2 + self._random.random()))

    def _pump_within(self, seconds: float) -> None:
        moment = self._timeline.elapsed + seconds
        if self._pump_at is None or moment < self._pump_at:
            self._pump_at = moment
            self._timeline.at(moment, lambda: self._pump(moment))

    def _pump(self, moment: float) -> None:
        if self._pump_at != moment or self.node is None or self.link is None:
            return
        self._pump_at = None
        deliveries, self._deliveries = self._deliveries, []
        requests, self._requests = self._requests, []
        try:
            self.node.process_batch(deliveries, requests)
        except Killed:
            self._end(self.node.journal)
            return
        except JournalError as error:
            self._disk_failed(error, requests)
            return
        self.collect()
        self._pump_within(max(0.0, self.node.next_wake() - self._timeline.elapsed))

    def _disk_failed(self, error: JournalError, requests: Sequence[Request]) -> None:
        """Refuse what clients asked, and reopen the journal later; until then the dead node stays within reach."""
        node = self.node
        assert node is not None
        for request in requests:
            request.done(JournalFailed(str(error)))
        self._pump_within(DISK_RETRY_S / 4)
        self._timeline.at(self._timeline.elapsed + DISK_RETRY_S, lambda: self._reopen(node))

    def _reopen(self, node: Node) -> None:
        if self.node is node:
            self._end(node.journal)
            self.start()

    def _end(self, journal: Journal) -> None:
        """Leave the file as kill -9 leaves it: what was committed, and nothing else."""
        self.kills += 1
        self.faults.disarm()
        journal.close()
        self.collect()
        if self.link is not None:
            self.link.kill()
        self.node = self.link = self._pump_at = None
        self._deliveries, self._requests = [], []
        at_death, self.at_death = self.at_death, _nothing
        at_death()

    def _heard(self, message_id: str, state: str, answer: bytes | None) -> None:
        about = {"state": str(state), "answer": json.loads(answer) if answer is not None else None}
        self._facts.append(Fact(self.clock.now(), self.user, "reported", message_id, about))

    def _arrived(self, packet: Packet) -> None:
        self._deliveries.append(packet)
        self._pump_soon()

    def _subscriptions(self) -> list[str]:
        return self.node.subscriptions() if self.node is not None else []

    def _will(self) -> Will | None:
        if self.node is None:
            return None
        return Will(topics.status(self.user), self.node.presence.mine(online=False), retain=True)

    def _up(self) -> None:
        if self.node is not None:
            with contextlib.suppress(JournalError):
                self.node.link_up()
            self._pump_soon()


def _nothing() -> None:
    """What happens beside a death, mostly."""
