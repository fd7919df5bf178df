"""Frames to workers: when they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Hand, Neighbour


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves a function at the dispatch point `b`."""
    desk = Desk(tmp_path)
    desk.serves("function", kind="python", parallel=True)
    yield desk
    desk.journal.close()


def confirmed(worker: Hand) -> list[str]:
    """The tasks whose results the daemon has confirmed to a worker."""
    return [task for frame in worker.frames() for task in frame["done"]]


def test_a_call_that_is_withdrawn_has_spent_what_it_has(desk: Desk) -> None:
    """Else a neighbour could read each answer as it streams, withdraw the call in time, and never reach a limit."""
    worker, alice = Hand(desk, "b", "w"), Neighbour(desk, 1, "alice")
    call = alice.sends("function", {})
    ((task, _),) = worker.takes()
    alice.sends("function", {}, type="cancel", cause=call)
    error = {"kind": "cancelled_task", "message": "It was cancelled."}
    entry = {"task": task["task"], "error": error, "spent": [["tiny", 7, 3, 0]]}
    for told in (entry, entry, {**entry, "task": "77-" + "0" * 32}):  # each counts once, and only of a call that was
        worker.says((b"null",), results=[told])
    (row,) = desk.node.spending.since(1)
    assert (row.endpoint, row.caller, row.model, row.calls) == ("function", alice.user, "tiny", 1)
    assert (row.tokens_in, row.tokens_out) == (7, 3)
    desk.passes(1)
    assert task["task"] in confirmed(worker)


def test_only_its_sender_withdraws_a_call(desk: Desk) -> None:
    """A worker that says so of a call that goes on does not end it; an error of the flow does."""
    worker, alice = Hand(desk, "b", "w"), Neighbour(desk, 1, "alice")
    calls = [alice.sends("function", {}) for _ in range(2)]
    tasks = {task["message"]: task for task, _ in worker.takes()}
    for call, kind in zip(calls, ("cancelled_task", "flow_failed"), strict=True):
        error = {"kind": kind, "message": "It is over."}
        worker.says((b"null",), results=[{"task": tasks[call]["task"], "error": error}])
    assert alice.hears(calls[0]) == []
    assert alice.hears_error(calls[1]) == "flow_failed"


def test_a_draining_worker_gets_its_confirmations_at_once(desk: Desk) -> None:
    """A confirmation waits for a frame with something else, unless its worker waits for it to end."""
    worker = Hand(desk, "b", "w")
    alice = Neighbour(desk, 1, "alice")
    alice.sends("function", {})
    alice.sends("function", {})
    (first, _), (second, _) = worker.takes()
    worker.ends(first, {})
    assert confirmed(worker) == []
    worker.says((b"{}",), results=[{"task": second["task"], "error": None}], draining=True)
    assert confirmed(worker) == [first["task"], second["task"]]
