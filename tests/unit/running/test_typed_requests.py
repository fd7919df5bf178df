"""Requests with typed texts, on their way through a daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "endpoint": {"type": "integer"}}}
TYPED: dict[str, Any] = {"data": {"n": 5, "text": 5}, "typed": {"n": "5", "text": "5"}}
READ = {"n": 5, "text": "5"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, with a function and a class that want numbers."""
    desk = Desk(tmp_path)
    desk.serves("function", "b", kind="python", schema=SCHEMA)
    desk.serves("own", schema=SCHEMA)
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact, who calls from a shell."""
    return Neighbour(desk, 8, "alice")


def test_a_worker_gets_what_the_schema_says(desk: Desk, alice: Neighbour) -> None:
    """At once, and for an instance."""
    hand = Hand(desk, "b", "w1")
    alice.sends("function", **TYPED)
    ((_, data),) = hand.takes()
    assert data == READ
    alice.sends("own", **TYPED)
    ((_, order),) = hand.takes()
    assert order["data"] == READ


def test_a_typed_text_survives_a_restart(desk: Desk, alice: Neighbour) -> None:
    """A request that waits in the journal for a worker means the same when it is read from there."""
    alice.sends("function", **TYPED)
    desk.restart()
    desk.passes(5.0)  # a worker that had the task before the restart may still say so
    assert [data for _, data in Hand(desk, "b", "w2").takes()] == [READ]


def test_a_human_gets_the_text_that_was_typed(desk: Desk, alice: Neighbour) -> None:
    """`text=42` is a question like any other."""
    desk.serves("User", "", kind="human")
    alice.sends("User", {"text": 42}, typed={"text": "42"})
    (prompt,) = desk.journal.prompts.open_of(alice.user, 10)
    assert prompt.text == "42"


def test_the_request_for_a_mount_has_no_typed_texts(desk: Desk, alice: Neighbour) -> None:
    """`typed` changes the input of a flow, and nothing that the daemon itself reads."""
    hand = Hand(desk, "b", "w1")
    alice.sends("_instances", {"op": "mount", "endpoint": "own"}, typed={"endpoint": "other", "op": "list"})
    ((task, _),) = hand.takes()
    assert (task["op"], task["endpoint"]) == ("mount", "own")
