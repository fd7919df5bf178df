"""A daemon may die at any named point of its code: nothing accepted is lost, and nothing takes effect twice."""

from __future__ import annotations

import contextlib
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
from support.network import MOSQUITTO, Network
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
OCCURRENCES = 12 if os.environ.get("P2PFLOWS_SLOW_TESTS") else 4
"""How many passages of each point are tried at most, from the first to the last."""


def little_life(world: World) -> Counter[str]:
    """Ann sends bob one of everything, and whoever dies is started again; gives how often each point was passed.

    Composites of both run meanwhile, over both daemons, and one that can never be mounted.
    """
    ann, bob = world.machines
    before = {machine.name: machine.faults.passed.copy() for machine in world.machines}
    slow: list[Any] = []

    steps: dict[float, Callable[[], Any]] = {
        0.0: lambda: ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 600),
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
        0.8: lambda: ann.ask(lambda node: node.messages.cancel(slow[0].result)) if slow and slow[0].told else None,
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
    """All humans answer all that they are asked."""
    for machine in world.machines:
        for prompt, kind in machine.open_prompts():
            if kind == "call":
                machine.answer(prompt, "yes")


def promises_broken(world: World) -> list[str]:
    """What is wrong at the end of a little life in which one daemon died once."""
    wrong = [*world.settle(), *check(world.facts)]
    endpoints = {fact.id: fact.about["endpoint"] for fact in world.facts if fact.kind == "accepted"}
    ends = {fact.id: fact.about["state"] for fact in world.facts if fact.kind == "outgoing_moved"}
    for fact in world.facts:
        wanted = ("failed",) if endpoints.get(fact.id) == flows.RUIN else ("done", "cancelled")
        if fact.kind == "confirmed" and ends[fact.id] not in wanted:
            wrong.append(f"{fact.id} was accepted, and ended as {ends[fact.id]}")
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
    "node.published": 8,
    "outbox.after_publish": 2,
    "dispatch.after_publish": 3,
    "runs.recorded": 5,
    "runs.ended": 3,
    "instances.kept": 3,
}
"""At which passage a real daemon dies: beyond those of its start, among those of traffic."""
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
TIMEOUT_S = 20.0


class Teller:
    """A real person whose journal keeps a history, and who remembers what their daemon said is accepted."""

    def __init__(self, person: Person) -> None:
        self.person = person
        self.told: list[Fact] = []
        self._path = person.home / "journal.sqlite3"
        flow = person.write_file("flows.py", FLOWS)
        place: dict[str, Any] = {"cwd": str(flow.parent), "dispatch_point": "default"}
        journal = Journal(self._path, person.user_id, NoFaults())
        with journal.transaction():
            catalog = Catalog(journal)
            catalog.put(Served(endpoint=ECHO, kind="python", target=f"{flow}:echo", **place))
            catalog.put(Served(endpoint=RELAY, kind="class", target=f"{flow}:Relay", **place))
        journal.close()
        history.install(self._path)

    def send(self, to: Teller, number: int) -> None:
        """Send calls and a post; while the daemon is dead or dying, nothing is promised."""
        with contextlib.suppress(DaemonNotRunning):
            for method, endpoint in (("submit", ECHO), ("send", ECHO), ("submit", RELAY)):
                address = f"{to.person.name}/{endpoint}"
                told = self.person.request(method, address=address, data={"number": number}, timeout=600)
                self.told.append(Fact(0, self.person.user_id, "confirmed", told["id"]))

    def is_settled(self) -> bool:
        """Whether all that was sent and all that has come has its end."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            sent = db.execute("SELECT count(*) FROM outgoing WHERE state IN ('pending', 'stored')").fetchone()
            come = db.execute("SELECT count(*) FROM incoming WHERE state IN ('blocked', 'ready', 'kept')").fetchone()
        return (sent, come) == ((0,), (0,))

    def history(self) -> list[Fact]:
        """All that the journal has recorded, and all that was said."""
        with contextlib.closing(sqlite3.connect(self._path)) as db:
            recorded, _ = history.read(db, self.person.user_id)
        return [*self.told, *recorded]


@pytest.fixture
def tellers() -> Iterator[tuple[Teller, Teller]]:
    """Ann and bob, who know each other; the broker belongs to ann's daemon, which lives."""
    network = Network("mosquitto" if MOSQUITTO else "iotcore")
    try:
        people = [network.person(name) for name in ("ann", "bob")]
        ann, bob = (Teller(person) for person in people)
        for one, other in (people, people[::-1]):
            Contacts(one.home / "contacts.yaml").add(other.name, other.user_id)
            one.start()
        yield ann, bob
    finally:
        network.close()


def test_real_crash(tellers: tuple[Teller, Teller]) -> None:
    """Real daemons that die at each point in turn, in the middle of traffic, lose nothing and do nothing twice."""
    ann, bob = tellers
    number = 0
    bob.person.stop()
    for point, passage in MOMENTS.items():
        bob.person.environment["P2PFLOWS_CRASH_AT"] = f"{point}:{passage}"
        dying = bob.person.start(wait=False).daemon
        assert dying is not None
        deadline = time.monotonic() + TIMEOUT_S
        while dying.poll() is None and time.monotonic() < deadline:
            number += 1
            ann.send(bob, number)
            bob.send(ann, number)
            time.sleep(0.05)
        assert dying.poll() == 137, f"at {point}"
    del bob.person.environment["P2PFLOWS_CRASH_AT"]
    bob.person.ready()
    wait_until(lambda: ann.is_settled() and bob.is_settled(), TIMEOUT_S)
    facts = ann.history() + bob.history()
    assert check(facts) == []
    ends = Counter(fact.about["state"] for fact in facts if fact.kind == "outgoing_moved")
    assert ends["expired"] + ends["failed"] == 0
    assert ends["done"] >= len(ann.told + bob.told) > len(MOMENTS)
