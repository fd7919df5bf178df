"""The disk may fail at any operation: what was accepted is kept, what was refused has no effect, and all goes on."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping
from typing import Any

import pytest
from simulation import disk as disks
from simulation import flows
from simulation.checker import check
from simulation.disk import Disk, Failure
from simulation.machine import ClientRequest, Machine
from simulation.world import ECHO, HUMAN, World

from p2pflows.errors import JournalFailed
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd import journal

STRIDE = 1 if os.environ.get("P2PFLOWS_SLOW_TESTS") else 13
"""Every how many-th operation fails."""
READ_STRIDE = STRIDE if STRIDE == 1 else 4 * STRIDE
"""The same where nothing is held in memory, so that there are many more of them."""
ROUNDS = 200 if os.environ.get("P2PFLOWS_SLOW_TESTS") else 30
FOR_LONG = 1_000_000
PAUSE_S = 0.1
RECOVERY_S = 2.5
LIFETIME_S = 900.0
FAILURES = {
    "input/output error": disks.INPUT_OUTPUT_ERROR,
    "full": disks.FULL,
    "read-only": disks.READ_ONLY,
    "unreadable": disks.UNREADABLE,
}


class Traffic:
    """What people send to each other, round after round; every message has a number of its own."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._sent: dict[int, tuple[Machine, ClientRequest]] = {}

    def round(self, one: Machine, other: Machine) -> None:
        """Let somebody send somebody a message of every kind, and a human answer."""
        self._send(Type.CALL, one, other, HUMAN)
        for endpoint in (ECHO, flows.COUNTER, flows.HUB, flows.RUIN, "nowhere"):
            self._send(Type.CALL, one, other, endpoint)
        self._send(Type.POST, one, other, ECHO, padding="x" * 20_000)
        one.send(Type.CALL, other, topics.INSTANCES, {"op": "mount", "endpoint": flows.COUNTER}, LIFETIME_S)
        slow = self._send(Type.CALL, one, other, ECHO, seconds=5.0)
        self._world.run(PAUSE_S)
        if isinstance(slow.result, str):
            one.ask(lambda node: node.messages.cancel(str(slow.result)))
        for prompt, kind in other.open_prompts():
            if kind == Type.CALL:
                other.answer(prompt, "yes")
        self._world.run(PAUSE_S)

    def refused(self) -> set[int]:
        """Return the numbers of the messages that a daemon has refused for its disk."""
        return {number for number, (_, sent) in self._sent.items() if isinstance(sent.result, JournalFailed)}

    def accepted(self) -> set[int]:
        """Return the numbers of the messages that a daemon has accepted."""
        return {number for number, (_, sent) in self._sent.items() if isinstance(sent.result, str)}

    def _send(self, kind: Type, one: Machine, other: Machine, endpoint: str, **data: Any) -> ClientRequest:
        number = len(self._sent) + 1
        request = one.send(kind, other, endpoint, {"text": "?", "number": number, **data}, LIFETIME_S)
        self._sent[number] = one, request
        return request


@pytest.mark.parametrize("count", [1, FOR_LONG], ids=["once", "for long"])
@pytest.mark.parametrize("failure", FAILURES.values(), ids=list(FAILURES))
def test_any_operation_fails(failure: Mapping[str, int], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk fails at the first operation, in another round of traffic at the next one, up to the last of a round."""
    disk = Disk(checkpoint_pages=100)
    disk.install(monkeypatch)
    stride = READ_STRIDE if "read" in failure else STRIDE
    if "read" in failure:  # hold nothing in memory
        monkeypatch.setattr(journal, "_PRAGMAS", (*journal._PRAGMAS, "cache_size = 1"))
    with World(seed=5, people=2) as world:
        world.run(0.5)
        traffic = Traffic(world)
        ann, bob = world.machines
        for number in itertools.count():
            victim = ann if number % 4 < 2 else bob
            armed = Failure(failure, 1 + number * stride, count, within=f"{world.folder}/{victim.name}/")
            disk.fail(armed)
            traffic.round(*((ann, bob) if number % 2 else (bob, ann)))
            disk.work_again()
            world.run(RECOVERY_S)
            if armed.seen < armed.first:
                break
        assert disk.failed >= number > 3
        check_outcome(world, traffic)


def test_room_for_some_commits_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """On nearly full disks small commits succeed and large ones fail, with messages of every kind under way."""
    Disk().install(monkeypatch)
    with World(seed=6, people=2) as world:
        world.run(0.5)
        traffic = Traffic(world)
        ann, bob = world.machines
        for number in range(ROUNDS):
            for machine in world.machines:
                machine.fill_disk(world.random.randrange(12))
            traffic.round(*((ann, bob) if number % 2 else (bob, ann)))
            world.run(world.random.choice((0.1, RECOVERY_S)))
        check_outcome(world, traffic)


def check_outcome(world: World, traffic: Traffic) -> None:
    """Check that everything accepted ends as it must, and that nothing refused was kept."""
    assert world.settle() == []
    assert check(world.facts) == []
    kept = [fact.about["data"] or {} for fact in world.facts if fact.kind == "accepted"]
    numbers = {data.get("number") for data in kept}
    assert traffic.accepted() <= numbers
    assert traffic.refused()
    assert not traffic.refused() & numbers
