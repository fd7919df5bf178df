"""What becomes of the subflows of an instance that is deleted or reset, and of one that is not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Neighbour

from p2pflows.protocol import topics
from p2pflows.protocol.run_result import Subflow
from p2pflowsd.journal.rows import InstanceRow
from p2pflowsd.running import instances

TREE, PART, SHARED = "1" * 32, "2" * 32, "3" * 32


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, which serves a class."""
    desk = Desk(tmp_path)
    desk.serves("tree")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact, who serves the subflows."""
    return Neighbour(desk, 8, "alice")


@pytest.fixture
def tree(desk: Desk, alice: Neighbour) -> InstanceRow:
    """An instance with a state, with a subflow that was mounted for it alone, and one that others use, too."""
    parts = {"own": Subflow(alice.user, "part", PART), "shared": Subflow(alice.user, "part", SHARED, shared=True)}
    subflows = json.dumps({key: part.as_json() for key, part in parts.items()})
    row = InstanceRow(TREE, "tree", alice.user, 1, "{}", subflows, None, '{"n": 1}', None, 1, 1)
    desk.do(lambda: desk.journal.instances.add(row))
    return row


@pytest.mark.parametrize("recursive", [True, False])
@pytest.mark.parametrize("op", ["delete", "reset"])
def test_subflows_go_with_their_instance_if_that_is_wanted(
    desk: Desk, alice: Neighbour, tree: InstanceRow, op: str, recursive: bool
) -> None:
    """Only those that were mounted for it alone, and only if whoever changes it says so."""
    changes = desk.node.changes
    desk.do(
        lambda: (
            changes.delete(TREE, recursive=recursive) if op == "delete" else changes.reset(tree, recursive=recursive)
        )
    )
    told = [each["data"] for each in alice.gets(topics.INSTANCES)]
    assert told == ([{"op": op, "instance": PART, "recursive": True}] if recursive else [])
    left = desk.journal.instances.get(TREE)
    assert (left is None) is (op == "delete")
    assert left is None or left.state is None


def test_what_is_not_there_is_not_deleted(desk: Desk, alice: Neighbour, tree: InstanceRow) -> None:
    """A request that waits for it goes on waiting, and other instances stay."""
    assert desk.do(lambda: desk.node.changes.delete("f" * 32, recursive=True)) is None
    assert desk.journal.instances.get(TREE) == tree
    assert alice.gets(topics.INSTANCES) == []


def test_the_conversation_that_was_idle_for_longest_makes_room(
    desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While there is room, none goes."""
    monkeypatch.setattr(instances, "MAX_PER_CLIENT", 3)
    flow = desk.node.catalog.get("tree")
    assert flow is not None
    request = alice.sends("tree", {})
    row = desk.journal.incoming.find(alice.user, request)
    assert row is not None
    for number in (2, 1):
        name = f"{number}" * 32
        made = InstanceRow(name, "tree", alice.user, 0, "{}", "{}", None, "{}", None, number, number)
        desk.do(lambda made=made: desk.journal.instances.add(made))  # type: ignore[misc]
    left = []
    for _ in range(2):
        assert desk.do(lambda: desk.node.changes.ensure_quota(row, flow)) is None
        left.append(sorted(each.id[:1] for each in desk.journal.instances.of("tree", alice.user)))
        more = InstanceRow("9" * 32, "tree", alice.user, 0, "{}", "{}", None, "{}", None, 9, 9)
        if len(left) == 1:
            desk.do(lambda more=more: desk.journal.instances.add(more))  # type: ignore[misc]
    assert left == [["1", "2"], ["2", "9"]]
