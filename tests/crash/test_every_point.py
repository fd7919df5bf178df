"""A daemon may be killed at any crash point: no accepted message is lost, and none takes effect twice."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation import flows, history
from simulation.checker import check
from simulation.history import Fact
from simulation.machine import POINTS, Machine
from simulation.world import ECHO, HUMAN, World
from support.network import Network
from support.people import Person
from support.processes import wait_until

import p2pflowsd
from p2pflows.contacts import Contacts
from p2pflows.errors import DaemonNotRunning
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.running.catalog import Catalog, Served

SEED = 4
OCCURRENCES = 12 if os.environ.get("P2PFLOWS_SLOW_TESTS") else 3
"""At how many passages of each point the daemon is killed at most, from the first to the last."""


def one_of_everything(world: World) -> Counter[str]:
    """Let Ann send Bob one message of every kind, and start every daemon again that is killed.

    Meanwhile composites run across both daemons, and somebody calls one that cannot be mounted.

    Returns:
        How often each daemon passed each crash point, by "name point".
    """
    ann, bob = world.machines
    before = {machine.name: machine.faults.passed.copy() for machine in world.machines}
    slow: list[Any] = []

    steps: dict[float, Callable[[], Any]] = {
        0.0: lambda: ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 600),
        0.02: lambda: [
            ann.ask_humans([bob], HUMAN, "drop it?", 600),
            bob.ask_humans([ann, bob], HUMAN, "keep it?", 600),
        ],
        0.05: lambda: [ann.send(Type.CALL, bob, flow, {"human": True}, 600) for flow in (flows.GUIDE, flows.PAIR)],
        0.07: lambda: ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.TOWER}, 600),
        0.1: lambda: [ann.send(Type.CALL, bob, ECHO, {"number": number}, 600) for number in range(3)],
        0.2: lambda: ann.send(Type.POST, bob, ECHO, {"number": 3}, 600),
        0.3: lambda: [bob.send(Type.CALL, ann, flow, {"number": 7}, 600) for flow in (flows.HUB, flows.RUIN)],
        0.5: lambda: answer(world),
        0.55: lambda: [
            ann.send(Type.CALL, bob, endpoint, {"number": 6}, 600, instance=instance)
            for endpoint, instance in ann.mounted(bob)
        ],
        0.6: lambda: slow.append(ann.send(Type.CALL, bob, ECHO, {"number": 4, "seconds": 1.0}, 600)),
        0.8: lambda: ann.ask(lambda node: node.messages.cancel(slow[0].result)) if slow and slow[0].done else None,
        0.9: lambda: bob.send(Type.CALL, ann, ECHO, {"number": 5}, 600),
        1.2: lambda: answer(world),
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


def answer(world: World) -> None:
    """Let all humans answer all their prompts."""
    for machine in world.machines:
        for prompt, kind in machine.open_prompts():
            if kind == "call":
                machine.answer(prompt, "yes")


def violations(world: World) -> list[str]:
    """Describe what is wrong after `one_of_everything`, in which one daemon was killed once."""
    found = [*world.settle(), *check(world.facts)]
    for machine in world.machines:
        found += [
            f"question {question} ended as {state}: {result}"
            for question, state, result in machine.questions()
            if state != "answered" or json.loads(result)["value"] is not True
        ]
    endpoints = {fact.id: fact.about["endpoint"] for fact in world.facts if fact.kind == "accepted"}
    ends = {fact.id: fact.about["state"] for fact in world.facts if fact.kind == "outgoing_moved"}
    for fact in world.facts:
        wanted = ("failed",) if endpoints.get(fact.id) == flows.RUIN else ("done", "cancelled")
        if fact.kind == "confirmed" and ends[fact.id] not in wanted:
            found.append(f"{fact.id} was accepted, and ended as {ends[fact.id]}")
    return found


@pytest.fixture(scope="module")
def passages() -> Counter[str]:
    """How often each point is passed if no daemon is killed."""
    with World(SEED) as world:
        world.run(0.5)
        counts = one_of_everything(world)
        assert violations(world) == []
    return counts


def test_all_points_are_known(passages: Counter[str]) -> None:
    """The tests know all crash points in the code, and `one_of_everything` passes each of them."""
    source = "".join(path.read_text() for path in Path(next(iter(p2pflowsd.__path__))).rglob("*.py"))
    assert set(re.findall(r'reach\("([^"]+)"\)', source)) == set(POINTS)
    assert {name.split()[1] for name in passages} == set(POINTS)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", ["ann", "bob"])
def test_simulated_crash(who: str, point: str, passages: Counter[str]) -> None:
    """Wherever a daemon is killed, everything ends once after its restart, as it would have ended without that."""
    count = passages[f"{who} {point}"]
    assert count > 0
    for passage in sorted({1 + number * (count - 1) // (OCCURRENCES - 1) for number in range(OCCURRENCES)}):
        with World(SEED) as world:
            world.run(0.5)
            machine: Machine = next(machine for machine in world.machines if machine.name == who)
            machine.faults.arm(point, passage)
            one_of_everything(world)
            assert machine.kills == 1, f"passage {passage} of {count} was not reached"
            assert violations(world) == [], f"passage {passage} of {count}"


# The same with real processes, a real broker and real files.

PASSAGES = dict.fromkeys(POINTS, 1) | {
    "node.received": 8,
    "journal.before_commit": 7,
    "journal.after_commit": 6,
    "node.published": 8,
    "outbox.after_publish": 2,
    "dispatch.after_publish": 3,
    "runs.recorded": 5,
    "runs.ended": 3,
    "instances.saved": 3,
}
"""At which passage a real daemon is killed: after those of its start, among those of the traffic."""
RELAY = "relay"
FLOWS = """
import os
import random
from p2pflows import CompositeFlow

def echo(number: int) -> dict:
    return {"echo": {"number": number}}

class Relay(CompositeFlow):
    default_config = {
        "name": "Relay",
        "description": "Asks another.",
        "subflows_config": {"echo": {"flow_endpoint": "echo"}},
    }

    def run(self, input_message):
        self.flow_state["seen"] = [*self.flow_state.get("seen", []), input_message.message_id]
        drawn = self.step(lambda: random.randrange(2**32))
        return {**self.subflows["echo"].call(input_message.data), "drawn": drawn}
"""
TIMEOUT_S = 60.0
YES_OR_NO = {"type": "boolean"}


class RealPerson:
    """A real person whose journal records a history, and who notes which messages their daemon has accepted."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.confirmed: list[Fact] = []
        self.asked: set[str] = set()
        self._path = person.home / "journal.sqlite3"
        flow = person.write_file("flows.py", FLOWS)
        where: dict[str, Any] = {"cwd": str(flow.parent), "dispatch_point": "default"}
        journal = Journal(self._path, person.user_id, NoFaults())
        with journal.transaction():
            catalog = Catalog(journal)
            catalog.put(Served(endpoint=ECHO, kind="python", target=f"{flow}:echo", **where))
            catalog.put(Served(endpoint=RELAY, kind="class", target=f"{flow}:Relay", **where))
        journal.close()
        history.install(self._path)

    def send(self, to: RealPerson, number: int) -> None:
        """Send calls and a post; messages that a dead daemon does not accept are not noted."""
        with contextlib.suppress(DaemonNotRunning):
            for method, endpoint in (("submit", ECHO), ("send", ECHO), ("submit", RELAY)):
                address = f"{to.person.name}/{endpoint}"
                accepted = self.person.request(method, address=address, data={"number": number}, timeout=600)
                self.confirmed.append(Fact(0, self.person.user_id, "confirmed", accepted["id"]))
            asked = self.person.request("ask", who=[to.person.name], text="Drop it?", schema=YES_OR_NO)
            self.confirmed.append(Fact(0, self.person.user_id, "confirmed", asked["id"]))
            self.asked.add(asked["id"])

    def answer(self) -> None:
        """Answer all questions with yes; a dead daemon is asked again later."""
        with contextlib.suppress(DaemonNotRunning):
            for prompt in self.person.prompts():
                self.person.request("answer", id=prompt["id"], text="yes")

    def answered(self) -> dict[str, bool]:
        """Return whether each question that was asked has a signed yes, by its id."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            found = db.execute("SELECT id, state, result FROM questions")
            return {name: state == "answered" and json.loads(result)["value"] is True for name, state, result in found}

    def is_settled(self) -> bool:
        """Return whether everything that was sent or received has ended."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            sent = db.execute("SELECT count(*) FROM outgoing WHERE state IN ('pending', 'stored')").fetchone()
            come = db.execute("SELECT count(*) FROM incoming WHERE state IN ('blocked', 'ready', 'kept')").fetchone()
        return (sent, come) == ((0,), (0,))

    def history(self) -> list[Fact]:
        """Return the facts of the journal, and the accepted messages."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            recorded, _ = history.read(db, self.person.user_id)
        return [*self.confirmed, *recorded]


@pytest.fixture
def real_people() -> Iterator[tuple[RealPerson, RealPerson]]:
    """Ann and Bob, who are contacts of each other; Ann's daemon runs the broker, and is not killed."""
    network = Network()
    try:
        people = [network.person(name) for name in ("ann", "bob")]
        ann, bob = (RealPerson(person) for person in people)
        for one, other in (people, people[::-1]):
            Contacts(one.home / "contacts.yaml").add(other.name, other.user_id)
            one.start()
        yield ann, bob
    finally:
        network.close()


def test_real_crash(real_people: tuple[RealPerson, RealPerson]) -> None:
    """A real daemon that is killed at each point in turn, during traffic, loses nothing and does nothing twice."""
    ann, bob = real_people
    number = 0
    bob.person.stop()
    for point, passage in PASSAGES.items():
        bob.person.environment["P2PFLOWS_CRASH_AT"] = f"{point}:{passage}"
        doomed = bob.person.start(wait=False).daemon
        assert doomed is not None
        deadline = time.monotonic() + TIMEOUT_S
        while doomed.poll() is None and time.monotonic() < deadline:
            number += 1
            ann.send(bob, number)
            bob.send(ann, number)
            ann.answer()
            bob.answer()
            time.sleep(0.25)
        assert doomed.poll() == 137, f"at {point}"
    del bob.person.environment["P2PFLOWS_CRASH_AT"]
    bob.person.ready()

    def is_settled() -> bool:
        ann.answer()
        bob.answer()
        return ann.is_settled() and bob.is_settled()

    wait_until(is_settled, TIMEOUT_S)
    for person in (ann, bob):
        assert person.asked <= person.answered().keys()
        assert all(person.answered().values())
    facts = ann.history() + bob.history()
    assert check(facts) == []
    ends = Counter(fact.about["state"] for fact in facts if fact.kind == "outgoing_moved")
    assert ends["expired"] + ends["failed"] == 0
    assert ends["done"] >= len(ann.confirmed + bob.confirmed) > len(PASSAGES)
