"""A daemon may die at any named point of its code: nothing accepted is lost, and nothing takes effect twice."""

from __future__ import annotations

import os
import re
import socket
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from simulation import history
from simulation.checker import check
from simulation.history import Fact
from simulation.machine import POINTS, Machine
from simulation.world import ECHO, HUMAN, World

import p2pflowsd
from p2pflows import identity
from p2pflows.client import Client
from p2pflows.contacts import Contacts
from p2pflows.errors import DaemonNotRunning
from p2pflows.home import Home
from p2pflows.message import Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.served import HUMAN_SCHEMA, Catalog, Served

SEED = 4
OCCURRENCES = 12
"""How many passages of each point are tried at most, from the first to the last."""


def little_life(world: World) -> Counter[str]:
    """Ann sends bob one of everything, and whoever dies is started again; gives how often each point was passed."""
    ann, bob = world.machines
    before = {machine.name: machine.faults.passed.copy() for machine in world.machines}
    slow: list[Any] = []

    def prompts() -> list[str]:
        return [prompt for prompt, kind in bob.open_prompts() if kind == "call"]

    steps: dict[float, Callable[[], Any]] = {
        0.0: lambda: ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 600),
        0.1: lambda: [ann.send(Type.CALL, bob, ECHO, {"number": number}, 600) for number in range(3)],
        0.2: lambda: ann.send(Type.POST, bob, ECHO, {"number": 3}, 600),
        0.5: lambda: [bob.answer(prompt, "yes") for prompt in prompts()],
        0.6: lambda: slow.append(ann.send(Type.CALL, bob, ECHO, {"number": 4, "seconds": 1.0}, 600)),
        0.8: lambda: ann.ask(lambda node: node.cancel(slow[0].result)) if slow and slow[0].told else None,
        0.9: lambda: bob.send(Type.CALL, ann, ECHO, {"number": 5}, 600),
    }
    for moment, step in steps.items():
        world.timeline.after(moment, step)
    for _ in range(25):
        world.run(0.1)
        for machine in world.machines:
            machine.start()
    return Counter(
        {
            f"{machine.name} {point}": count - before[machine.name][point]
            for machine in world.machines
            for point, count in machine.faults.passed.items()
        }
    )


def promises_broken(world: World) -> list[str]:
    """What is wrong at the end of a little life in which one daemon died once."""
    wrong = [*world.settle(), *check(world.facts)]
    for fact in world.facts:
        sent = [other for other in world.facts if other.kind == "sent" and other.id == fact.id]
        if fact.kind == "told" and sent[-1].about["state"] not in ("done", "cancelled"):
            wrong.append(f"{fact.id} was accepted, and ended as {sent[-1].about['state']}")
    return wrong


@pytest.fixture(scope="module")
def passages() -> Counter[str]:
    """How often each point is passed in a life without faults."""
    with World(SEED) as world:
        world.run(0.5)
        counts = little_life(world)
        assert promises_broken(world) == []
    return counts


def test_all_points_are_known(passages: Counter[str]) -> None:
    """The points that tests crash at are those in the code, and one little life passes all of them."""
    source = "".join(path.read_text() for path in Path(next(iter(p2pflowsd.__path__))).rglob("*.py"))
    assert set(re.findall(r'reach\("([^"]+)"\)', source)) == set(POINTS)
    assert {name.split()[1] for name in passages} == set(POINTS)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", ["ann", "bob"])
def test_simulated_crash(who: str, point: str, passages: Counter[str]) -> None:
    """Wherever a daemon dies, after its restart everything ends as it would have, once."""
    count = passages[f"{who} {point}"]
    assert count > 0
    for passage in sorted({1 + number * (count - 1) // (OCCURRENCES - 1) for number in range(OCCURRENCES)}):
        with World(SEED) as world:
            world.run(0.5)
            machine: Machine = next(machine for machine in world.machines if machine.name == who)
            machine.faults.arm(point, passage)
            little_life(world)
            assert machine.kills == 1, f"passage {passage} of {count} was not reached"
            assert promises_broken(world) == [], f"passage {passage} of {count}"


# The same with real processes, a real broker and real files.

MOMENTS = dict.fromkeys(POINTS, 1) | {
    "node.received": 8,
    "journal.before_commit": 7,
    "journal.after_commit": 6,
    "node.spoken": 8,
    "outbox.after_publish": 2,
    "dispatch.after_publish": 3,
}
"""At which passage a real daemon dies: beyond those of its start, among those of traffic."""
FLOW = "def echo(number: int) -> dict:\n    return {'echo': {'number': number}}\n"
PATIENCE = 20.0


@dataclass
class Person:
    """Somebody with a home and a real daemon."""

    name: str
    home: Home
    broker: str
    process: subprocess.Popen[bytes] | None = None
    facts: list[Fact] = field(default_factory=list)
    user: str = ""

    def prepare(self, flow: Path) -> None:
        """Make the key, and a journal that serves and that writes its history."""
        self.user = identity.create(self.home.key).user_id
        journal = Journal(self.home.journal, self.user, NoFaults())
        with journal.transaction():
            journal.set_meta("human", HUMAN)
            catalog = Catalog(journal)
            catalog.put(Served(endpoint=HUMAN, kind="human", schema=HUMAN_SCHEMA))
            catalog.put(
                Served(
                    endpoint=ECHO, kind="python", target=f"{flow}:echo", cwd=str(flow.parent), dispatch_point="default"
                )
            )
        journal.close()
        history.install(self.home.journal)

    def start(self, crash_at: str = "") -> None:
        """Start the daemon, to die at a point if one is named."""
        environment = {
            **os.environ,
            "P2PFLOWS_HOME": str(self.home.path),
            "P2PFLOWS_BROKER": self.broker,
            "P2PFLOWS_CRASH_AT": crash_at,
        }
        with (self.home.path / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "p2pflowsd"], env=environment, stdout=log, stderr=log
            )

    def wait_until_up(self) -> None:
        """Wait until the daemon answers."""
        within(PATIENCE, lambda: self.attempt("id"))

    def attempt(self, method: str, **params: Any) -> Any:
        """Ask the daemon; None if it does not run or dies over it."""
        try:
            with Client(self.home.path) as client:
                return client.request(method, **params)
        except (DaemonNotRunning, ConnectionError):
            return None

    def accept(self, method: str, to: str, endpoint: str, **data: Any) -> str | None:
        """Send something; gives its id if the daemon said that it is accepted."""
        told = self.attempt(method, address=f"{to}/{endpoint}", data=data, timeout=600)
        if told is None:
            return None
        self.facts.append(Fact(0, self.user, "told", told["id"]))
        return str(told["id"])

    def end(self) -> None:
        """Stop the daemon."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(PATIENCE)

    def is_settled(self) -> bool:
        """Whether all that was sent and all that has come has its end."""
        db = sqlite3.connect(f"file:{self.home.journal}?mode=ro", uri=True)
        sent = db.execute("SELECT count(*) FROM outgoing WHERE state IN ('pending', 'stored')").fetchone()
        come = db.execute("SELECT count(*) FROM incoming WHERE state IN ('blocked', 'ready')").fetchone()
        db.close()
        return (sent, come) == ((0,), (0,))

    def history(self) -> list[Fact]:
        """All that the journal has recorded, and all that clients were told."""
        db = sqlite3.connect(self.home.journal)
        facts, _ = history.read(db, self.user)
        db.close()
        return [*self.facts, *facts]


def within(seconds: float, attempt: Callable[[], Any]) -> Any:
    """The first result that is not false, asked for again and again."""
    end = time.monotonic() + seconds
    while not (result := attempt()):
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)
    return result


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Person, Person]]:
    """Two people who know each other, on a broker that belongs to the first one's daemon."""
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        broker = f"embedded:{trial.getsockname()[1]}"
    flow = tmp_path / "flows.py"
    flow.write_text(FLOW)
    people = [Person(name, Home(tmp_path / name), broker) for name in ("ann", "bob")]
    for person in people:
        person.prepare(flow)
    for one, other in (people, people[::-1]):
        Contacts(one.home.contacts).add(other.name, other.user)
    with ExitStack() as ends:
        for person in people:
            ends.callback(person.end)
            person.start()
            person.wait_until_up()
        yield people[0], people[1]


def test_real_crash(pair: tuple[Person, Person]) -> None:
    """Real daemons that die at each point in turn, in the middle of traffic, lose nothing and do nothing twice."""
    ann, bob = pair
    number = 0
    with ThreadPoolExecutor(1) as background:
        for point, passage in MOMENTS.items():
            bob.end()
            bob.start(f"{point}:{passage}")
            died: Future[int] = background.submit(bob.process.wait, PATIENCE)  # type: ignore[union-attr]
            while not died.done():
                number += 1
                ann.accept("submit", "bob", ECHO, number=number)
                ann.accept("send", "bob", ECHO, number=number)
                bob.accept("submit", "ann", ECHO, number=number)
                bob.accept("send", "ann", ECHO, number=number)
                time.sleep(0.05)
            assert died.result() == 137, f"at {point}"
            bob.start()
            bob.wait_until_up()
            within(PATIENCE, lambda: ann.is_settled() and bob.is_settled())
    facts = ann.history() + bob.history()
    assert check(facts) == []
    states = Counter(fact.about["state"] for fact in facts if fact.kind == "sent")
    assert states["expired"] + states["failed"] == 0
    assert states["done"] >= len([fact for fact in facts if fact.kind == "told"]) > len(MOMENTS)
