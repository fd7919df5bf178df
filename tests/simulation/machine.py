"""The machine of one person: the real `Node` on a real journal, in a simulated process that can be killed anywhere."""

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
from support.usage import counted_usage, summed_usage

from p2pflows.contacts import Contacts
from p2pflows.errors import JournalFailed, P2pflowsError
from p2pflows.protocol import topics
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import Type
from p2pflows.settings.limits import Limits
from p2pflowsd.app import DISK_RETRY_S
from p2pflowsd.asking.question import Need, Wish
from p2pflowsd.asking.questions import Answerer
from p2pflowsd.faults import NoFaults
from p2pflowsd.human.inbox import Typed
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.journal.bodies import Kind, read_either
from p2pflowsd.node import Node, Request
from p2pflowsd.running.catalog import Served

MAX_PAGES = 2**30 - 1
"""The largest number of pages that SQLite allows in a file."""
SKEW_MS = 2_000
"""The most milliseconds by which the wall clock of a machine is wrong."""
POINTS = (
    "node.received", "journal.before_commit", "journal.after_commit", "node.published", "outbox.before_publish",
    "outbox.after_publish", "outbox.before_notice", "dispatch.before_publish", "dispatch.after_publish",
    "runs.recorded", "runs.ended", "instances.saved", "questions.asked", "questions.ended",
)  # fmt: skip
"""All crash points of a daemon; a test checks that a simulation passes each of them."""
MAX_BATCH_DELAY_S = 0.001
"""The most seconds for which arrivals are collected into one batch."""


class Killed(BaseException):
    """The process is killed here, as by kill -9; nothing in the daemon may catch this."""


class KillAt:
    """Counts how often each crash point is passed, and kills the process at one passage when armed."""

    def __init__(self) -> None:
        self.passed: Counter[str] = Counter()
        self._point = ""
        self._left = 0

    def arm(self, point: str, count: int) -> None:
        """Kill the process at the count-th passage of a point from now on; an empty name stands for any point."""
        self._point, self._left = point, count

    def disarm(self) -> None:
        """Do not kill the process."""
        self._left = 0

    @property
    def armed(self) -> bool:
        """Whether the process will be killed."""
        return self._left > 0

    def reach(self, point: str) -> None:
        """Count a passage, and kill the process if this is the one."""
        self.passed[point] += 1
        if self._left > 0 and self._point in ("", point):
            self._left -= 1
            if self._left == 0:
                raise Killed(point)


class ClientRequest:
    """A request of a client to its daemon.

    Attributes:
        done: whether the daemon has answered; it never does if it is killed first.
        result: the answer, or the error.
    """

    def __init__(self) -> None:
        self.done = False
        self.result: Any = None

    def finish(self, result: Any) -> None:
        """Store the answer of the daemon."""
        self.done = True
        self.result = result


class Machine:
    """A person with a daemon.

    Args:
        timeline: the virtual time.
        broker: the broker of all machines.
        folder: where the folder of this person is created.
        name: the name of the person, for the contacts of the others.
        random: makes the key and all random bytes.
        facts: the history, to which this machine adds facts.

    Attributes:
        faults: kills the process at a crash point.
        on_death: called once when the process ends.
        kills: how often the process has ended.
        serves: what is served from the first start on.
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
        self.on_death: Callable[[], None] = _nothing
        self.kills = 0
        self.serves: list[Served] = []
        self.limits = Limits()
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
        """Whether the process runs."""
        return self.node is not None

    def start(self) -> None:
        """Start the process on the journal as it is; does nothing if the process runs.

        A journal that cannot be opened now is tried again later.
        """
        if self.node is not None:
            return
        try:
            journal = Journal(self._path, self.user, self.faults)
        except JournalError:
            self._timeline.at(self._timeline.elapsed + DISK_RETRY_S, self.start)
            return
        self.link = SimulatedLink(
            self._broker, f"daemon-{self.name}", persistent=True, subscriptions=self._subscriptions, will=self._will,
            on_arrival=self._arrived, on_up=self._up,
        )  # fmt: skip
        try:
            self.node = Node(
                identity=self.identity, journal=journal, contacts=self.contacts, link=self.link, clock=self.clock,
                entropy=self._random.randbytes, faults=self.faults, limits=self.limits,
            )  # fmt: skip
            with journal.transaction():
                for flow in self.serves:
                    if self.node.catalog.get(flow.endpoint) is None:
                        self.node.catalog.put(flow)
        except Killed:
            self._end_process(journal)
            return
        except JournalError:
            self._end_process(journal)
            self._timeline.at(self._timeline.elapsed + DISK_RETRY_S, self.start)
            return
        self._pump_soon()

    def kill(self) -> None:
        """End the process between two batches."""
        if self.node is not None:
            self._end_process(self.node.journal)

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
        """End the process, and close its journal."""
        self.kill()
        self._reader.close()

    def back_up(self, copy: Path) -> None:
        """Copy the journal."""
        target = sqlite3.connect(copy)
        self._reader.backup(target)
        target.close()

    def restore(self, copy: Path) -> None:
        """Replace the journal by an old copy, and start the process on it."""
        self.kill()
        self._reader.close()
        for path in self._path.parent.glob(f"{self._path.name}*"):
            path.unlink()
        shutil.copy(copy, self._path)
        self._facts.append(Fact(self.clock.now(), self.user, "restored", ""))
        self._reader = sqlite3.connect(self._path)
        self._read_to = self._reader.execute("SELECT coalesce(max(n), 0) FROM history").fetchone()[0]
        self.start()

    # Requests of clients.

    def ask(self, run: Callable[[Node], Any]) -> ClientRequest:
        """Run something inside the next batch."""
        request = ClientRequest()
        if self.node is not None:
            node = self.node
            self._requests.append(Request(lambda: run(node), request.finish))
            self._pump_soon()
        return request

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
    ) -> ClientRequest:
        """Send a call or a post; what the daemon reports to the client is added to the history."""
        request = ClientRequest()
        if self.node is not None:
            node = self.node

            def accept() -> str:
                message_id = node.messages.send(
                    kind, to.user, endpoint, data, life_ms=int(seconds * 1000), instance=instance,
                    conversation=conversation,
                )  # fmt: skip
                node.waiters.expect(message_id, lambda state, answer: self._add_report(message_id, state, answer))
                return message_id

            def finish(result: Any) -> None:
                request.finish(result)
                if not isinstance(result, P2pflowsError):
                    self._facts.append(Fact(self.clock.now(), self.user, "confirmed", result))

            self._requests.append(Request(accept, finish))
            self._pump_soon()
        return request

    def decline(self, prompt: str, kind: str) -> ClientRequest:
        """Decline a question, or put a note away."""
        if kind == Type.POST:
            return self.ask(lambda node: node.inbox.dismiss([prompt]))
        return self.ask(lambda node: node.inbox.decline(prompt, "no"))

    def ask_humans(self, machines: Sequence[Machine], endpoint: str, text: str, seconds: float) -> ClientRequest:
        """Ask humans for a yes or no; with several, all have to say yes."""
        wish = Wish(form={"answer_schema": {"type": "boolean"}}, life_ms=int(seconds * 1000), need=Need.UNANIMOUS)
        people = [Answerer(machine.user, endpoint) for machine in machines]
        return self.ask(lambda node: node.questions.ask(text, people, wish))

    def questions(self) -> list[tuple[str, str, str]]:
        """Return id, state and result of each question that this person has asked."""
        return list(self._reader.execute("SELECT id, state, coalesce(result, '') FROM questions ORDER BY n"))

    def answer(self, prompt: str, text: str) -> ClientRequest:
        """Answer a prompt; whether the daemon accepts the answer is added to the history."""
        request = ClientRequest()
        if self.node is not None:
            node = self.node

            def finish(result: Any) -> None:
                request.finish(result)
                counts = not isinstance(result, P2pflowsError)
                self._facts.append(
                    Fact(self.clock.now(), self.user, "answered", prompt, {"text": text, "counts": counts})
                )

            self._requests.append(Request(lambda: node.inbox.answer(prompt, Typed(text)), finish))
            self._pump_soon()
        return request

    def open_prompts(self) -> list[tuple[str, str]]:
        """Return id and type of each prompt that waits for the human."""
        return list(self._reader.execute("SELECT id, type FROM prompts WHERE state = 'open' ORDER BY n"))

    def open_requests(self) -> list[str]:
        """Return the ids of the open requests of this person and of their flows, without those of the daemon itself."""
        found = self._reader.execute(
            "SELECT id FROM outgoing WHERE state IN ('pending', 'stored') AND type IN ('call', 'post')"
            " AND NOT (type = 'post' AND endpoint = '_instances') ORDER BY n"
        )
        return [row[0] for row in found]

    def mounted(self, to: Machine) -> list[tuple[str, str]]:
        """Return endpoint and id of each instance that somebody else has mounted for this person."""
        answer = read_either("answer", "large_answer", "outgoing", Kind.ANSWER)
        found = self._reader.execute(
            f"SELECT CAST({answer} AS TEXT) FROM outgoing WHERE endpoint = '_instances' AND type = 'call' AND peer = ?"  # noqa: S608 - an expression of the journal's
            " AND state = 'done' AND origin IS NULL ORDER BY n",
            (to.user,),
        )
        replies = [json.loads(answer) for (answer,) in found]
        return [(reply["endpoint"], reply["instance"]) for reply in replies if "kind" in reply]

    def conversations(self) -> list[str]:
        """Return the ids of the instances of this person that belong to conversations."""
        found = self._reader.execute(
            "SELECT id FROM instances WHERE own = 0 AND endpoint NOT IN (SELECT endpoint FROM served"
            " WHERE json_extract(record, '$.singleton')) ORDER BY created, id"
        )
        return [row[0] for row in found]

    def dead_letters(self) -> list[str]:
        """Return the ids of requests whose workers died at every attempt."""
        return [row[0] for row in self._reader.execute("SELECT id FROM incoming WHERE state = 'dead' ORDER BY n")]

    def state_of(self, message_id: str) -> str | None:
        """Return the state of a message that this person sent."""
        row = self._reader.execute("SELECT state FROM outgoing WHERE id = ?", (message_id,)).fetchone()
        return row[0] if row else None

    def rows(self, table: str) -> int:
        """Return how many rows a table of the journal has."""
        return int(self._reader.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a test's table

    def dispatch_status(self) -> dict[str, Any]:
        """Return the status of the dispatch point: workers, slots, and queued tasks."""
        points = self.node.points.status() if self.node is not None else []
        return points[0] if points else {"workers": 0, "slots": 0, "free": 0, "queued": 0}

    def min_work_s(self) -> float:
        """Return how many seconds the requests that wait for workers, here or on their way, take at least."""
        tables = (
            ("incoming", "state IN ('blocked', 'ready')", Kind.REQUEST),
            ("outgoing", "state = 'pending'", Kind.MESSAGE),
        )
        total = 0.0
        for table, condition, kind in tables:
            body = read_either("body", "large", table, kind)
            seconds = f"json_extract(CAST({body} AS TEXT), '$.data.seconds')"
            statement = f"SELECT total({seconds}) FROM {table} WHERE {condition}"  # noqa: S608 - a test's tables
            total += self._reader.execute(statement).fetchone()[0]
        return total

    def unsettled(self) -> list[str]:
        """Describe what waits for this daemon or for others; without runs, which may wait for humans."""
        return self._describe("state = 'pending'", "state IN ('blocked', 'ready') AND instance IS NULL")

    def unanswered(self) -> list[str]:
        """Describe what has not ended although every human has answered."""
        return self._describe(
            "state IN ('pending', 'stored')",
            "state IN ('blocked', 'ready', 'kept') OR state = 'asked' AND type = 'call'",
        )

    def wrong_counts(self) -> list[str]:
        """Describe for which peers the journal does not count what it holds."""
        if self.node is None:
            return []
        counted, summed = counted_usage(self.node.journal), summed_usage(self.node.journal)
        return [
            f"{self.name} counts {counted.get(peer)} of {peer[:8]}, and has {summed.get(peer)}"
            for peer in sorted(counted.keys() | summed.keys())
            if counted.get(peer) != summed.get(peer)
        ]

    def _describe(self, outgoing: str, incoming: str) -> list[str]:
        found = self._reader.execute(
            f"SELECT type, id FROM outgoing WHERE {outgoing} UNION ALL SELECT state, id FROM incoming WHERE {incoming}"  # noqa: S608 - a test's conditions
        )
        return [f"{self.name} {what} {message_id}" for what, message_id in found]

    def collect_facts(self) -> None:
        """Move the facts that the journal has committed into the history, with the time of this machine."""
        facts, self._read_to = history.read(self._reader, self.user, self._read_to)
        now = self.clock.now()
        self._facts += [Fact(now, fact.node, fact.kind, fact.id, fact.about) for fact in facts]

    # The process.

    def _pump_soon(self) -> None:
        self._pump_after(MAX_BATCH_DELAY_S * (0.2 + self._random.random()))

    def _pump_after(self, seconds: float) -> None:
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
            self._end_process(self.node.journal)
            return
        except JournalError as error:
            self._disk_failed(error, requests)
            return
        self.collect_facts()
        self._pump_after(max(0.0, self.node.next_wake() - self._timeline.elapsed))

    def _disk_failed(self, error: JournalError, requests: Sequence[Request]) -> None:
        """Refuse what clients asked, and reopen the journal later; until then the dead node stays within reach."""
        node = self.node
        assert node is not None
        for request in requests:
            request.done(JournalFailed(str(error)))
        self._pump_after(DISK_RETRY_S / 4)
        self._timeline.at(self._timeline.elapsed + DISK_RETRY_S, lambda: self._reopen(node))

    def _reopen(self, node: Node) -> None:
        if self.node is node:
            self._end_process(node.journal)
            self.start()

    def _end_process(self, journal: Journal) -> None:
        """End the process as by kill -9: the file has only what was committed."""
        self.kills += 1
        self.faults.disarm()
        journal.close()
        self.collect_facts()
        if self.link is not None:
            self.link.kill()
        self.node = self.link = self._pump_at = None
        self._deliveries, self._requests = [], []
        on_death, self.on_death = self.on_death, _nothing
        on_death()

    def _add_report(self, message_id: str, state: str, answer: bytes | None) -> None:
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
        return Will(topics.status(self.user), self.node.presence.will(), retain=True)

    def _up(self) -> None:
        if self.node is not None:
            with contextlib.suppress(JournalError):
                self.node.link_up()
            self._pump_soon()


def _nothing() -> None:
    """Do nothing."""
