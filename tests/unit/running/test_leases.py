"""Which worker holds which task: what a daemon makes of what its workers report, lose and repeat."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour

from p2pflows.protocol import topics
from p2pflowsd.journal.rows import SpendingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running import leases
from p2pflowsd.running.leases import GRACE_PERIOD_S, LOST_FRAME_TIMEOUT_S
from p2pflowsd.running.points import Worker
from p2pflowsd.running.task import row_id_of

STRAY = "77-" + "0" * 32
"""The id of a task that no request waits for."""


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves a function of which several tasks may run at once, one of which one, and a class."""
    desk = Desk(tmp_path)
    desk.serves("f", kind="python", parallel=True)
    desk.serves("lane", kind="python")
    yield desk
    desk.journal.close()


@pytest.fixture
def ann(desk: Desk) -> Neighbour:
    """A contact who calls, and serves what the class calls."""
    ann = Neighbour(desk, 8, "ann")
    desk.serves("own", subflows={"far": {"user_id": ann.user, "flow_endpoint": "far"}})
    return ann


def worker_of(desk: Desk, name: str = "w", point: str = "b") -> Worker:
    """What the daemon knows of a worker."""
    return desk.node.points.get(point).workers[name]


def cancelled(hand: Hand) -> list[str]:
    """The ids of tasks that the frames to a worker have cancelled, so far."""
    return [task for frame in hand.frames() for task in frame["cancel"]]


def noticed(ann: Neighbour, what: str, request: str) -> int:
    """How many lines of a kind somebody has got about a request."""
    return sum(notice.get(what, []).count(request) for notice in ann.gets_notices())


def state_of(desk: Desk, ann: Neighbour, request: str) -> str:
    """The state of a request."""
    row = desk.journal.incoming.find(ann.user, request)
    assert row is not None
    return row.state


def step(task: str, index: int) -> dict[str, Any]:
    """What a run asks to be recorded."""
    return {"task": task, "k": index, "op": "step", "mark": "m", "value": 7}


# Who waits.


def test_only_who_waits_for_a_worker_is_told_so(desk: Desk, ann: Neighbour) -> None:
    """And hears once that it was taken; a request that queues behind another one was confirmed when it came."""
    first = ann.sends("lane", {})
    assert (noticed(ann, "waiting", first), noticed(ann, "received", first)) == (1, 0)
    hand = Hand(desk, "b", "w")
    assert noticed(ann, "received", first) == 1
    second = ann.sends("lane", {})
    ((task, _),) = hand.takes()
    hand.ends(task, {})
    ((task, _),) = hand.takes()
    assert task["message"] == second
    desk.passes(1.0)
    assert (noticed(ann, "waiting", second), noticed(ann, "received", second)) == (0, 1)


def test_who_holds_what_after_a_restart_is_known_before_anything_is_leased(desk: Desk, ann: Neighbour) -> None:
    """So that a request which arrives meanwhile waits for that moment, too."""
    Hand(desk, "b", "w")
    desk.restart()
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    assert len(hand.takes()) == 1
    desk.restart()
    hand = Hand(desk, "b", "x")
    assert hand.takes() == []
    desk.passes(GRACE_PERIOD_S)
    hand.says()
    assert len(hand.takes()) == 1


def test_a_flow_that_is_served_no_more_takes_its_requests_with_it_and_no_others(desk: Desk, ann: Neighbour) -> None:
    """Those that are queued, those for new instances of it, and those that wait for their turn."""
    desk.serves("other")
    gone = [ann.sends("own", {}), ann.mounts("own")]
    conversation = ann.sends("other", {})
    stays = [ann.sends("f", {}), conversation, ann.sends("other", {}, conversation=conversation)]
    desk.do(lambda: desk.node.serving.delete("own"))
    desk.passes(0.1)
    assert [ann.hears_error(request) for request in gone] == ["not_served"] * 2
    assert [state_of(desk, ann, request) for request in stays] == [IncomingState.READY] * 3


# Suspended runs.


def suspended_run(desk: Desk, ann: Neighbour) -> tuple[Hand, str, str]:
    """A worker, a task that it has put aside as it waits for ann's answer, and the id of ann's call."""
    hand = Hand(desk, "b", "w")
    ann.sends("own", {})
    ((task, _),) = hand.takes()
    call = {"k": 0, "op": "call", "user": ann.user, "endpoint": "far", "data": {}, "mark": "m"}
    hand.says(held=[task["task"]], seen=9, asks=[{"task": task["task"], **call}])
    hand.says(held=None, seen=99, suspended=[[task["task"], [0]]])
    assert desk.node.points.get("b").scheduler.suspended == 1
    return hand, task["task"], ann.gets("far")[0]["id"]


def test_a_suspended_run_waits_after_a_restart_too(desk: Desk, ann: Neighbour) -> None:
    """It goes to a worker when its answer is there."""
    _, task, call = suspended_run(desk, ann)
    desk.restart()
    hand = Hand(desk, "b", "x")
    desk.passes(GRACE_PERIOD_S + 1)
    hand.says()
    assert hand.takes() == []
    ann.sends(topics.REPLY, {"n": 1}, type="reply", cause=call, epoch=0, seq=0)
    assert [each["task"] for each, _ in hand.takes()] == [task]


def test_a_worker_that_reports_a_suspended_run_does_not_get_it_back(desk: Desk, ann: Neighbour) -> None:
    """An old report may come late; what it says is not held any more."""
    hand, task, _ = suspended_run(desk, ann)
    hand.says(held=[task], seen=99)
    assert worker_of(desk).leased == set()
    assert desk.node.points.get("b").scheduler.suspended == 1


# What a worker holds.


def test_a_worker_does_not_take_a_task_that_another_one_has(desk: Desk, ann: Neighbour) -> None:
    """Whatever it reports to hold."""
    one = Hand(desk, "b", "w")
    request = ann.sends("f", {})
    ((task, _),) = one.takes()
    Hand(desk, "b", "x").says(held=[task["task"]])
    assert worker_of(desk, "w").leased == {row_id_of(task["task"])}
    assert worker_of(desk, "x").leased == set()
    one.ends(task, {"n": 1})
    assert ann.hears(request) == [{"n": 1}]


def test_a_worker_of_another_point_with_the_same_name_holds_nothing(desk: Desk, ann: Neighbour) -> None:
    """What it says of a task of this point is recorded for nobody."""
    hand, other = Hand(desk, "b", "w"), Hand(desk, "c", "w")
    ann.sends("own", {})
    ((task, _),) = hand.takes()
    hand.says(held=[task["task"]])
    other.says(held=[task["task"]], asks=[step(task["task"], 3)])
    assert desk.journal.records.get(row_id_of(task["task"]), 3) is None
    hand.says(held=[task["task"]], asks=[step(task["task"], 3)])
    assert desk.journal.records.get(row_id_of(task["task"]), 3) is not None


def test_the_next_task_of_a_lane_leaves_once_the_one_before_has_arrived(desk: Desk, ann: Neighbour) -> None:
    """A frame that says only what has come is enough; else a worker could run the second without the first."""
    hand = Hand(desk, "b", "w")
    for _ in range(2):
        ann.sends("lane", {})
    ((task, _),) = hand.takes()
    hand.says(held=None, received=[STRAY])
    assert hand.takes() == []
    hand.says(held=None, received=[task["task"]])
    assert len(hand.takes()) == 1


def test_a_task_whose_frame_was_lost_is_sent_again(desk: Desk, ann: Neighbour) -> None:
    """Also if the worker does not say which frames it has seen, after a while."""
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    ((task, _),) = hand.takes()
    hand.says(held=[], seen=0)
    assert hand.takes() == []
    desk.passes(LOST_FRAME_TIMEOUT_S + 0.5)
    hand.says(held=[], seen=0)
    assert [again["task"] for again, _ in hand.takes()] == [task["task"]]


def test_a_task_in_the_second_of_two_frames_is_not_lost_with_the_first(desk: Desk, ann: Neighbour) -> None:
    """Both were leased together, but only one has arrived."""
    for _ in range(2):
        ann.sends("f", {"text": "x" * 300_000})
    hand = Hand(desk, "b", "w")
    (first, _), _ = hand.takes()
    lease = desk.node.dispatch._leases._leases[row_id_of(first["task"])]
    hand.says(held=[first["task"]], seen=lease.frame)
    assert hand.takes() == []
    assert len(worker_of(desk).leased) == 2


# What nothing waits for.


def test_a_worker_that_outlived_a_restart_is_told_at_once_what_is_not_wanted(desk: Desk, ann: Neighbour) -> None:
    """Not what it holds by right, and not what it brings the result of."""
    hand = Hand(desk, "b", "w")
    for _ in range(2):
        ann.sends("f", {})
    (kept, _), (ended, _) = hand.takes()
    desk.restart()
    result = {"task": ended["task"], "error": None}
    hand.says((b"{}",), held=[kept["task"], ended["task"], STRAY], results=[result])
    assert cancelled(hand) == [STRAY]
    assert worker_of(desk).leased == {row_id_of(kept["task"])}


def test_a_stray_task_is_cancelled_again_after_a_while(desk: Desk, ann: Neighbour) -> None:
    """The frame that cancelled it may be under way; a load has no request, and a result that is there is enough."""
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    ((task, _),) = hand.takes()
    for seconds, expected in ((0.0, []), (GRACE_PERIOD_S - 0.5, []), (1.0, [STRAY]), (GRACE_PERIOD_S - 0.5, [STRAY])):
        desk.passes(seconds)
        hand.says(held=[STRAY, task["task"]])
        assert cancelled(hand) == expected
    desk.passes(1.0)
    hand.says((b"{}",), held=[STRAY, task["task"]], results=[{"task": STRAY, "error": None}])
    assert cancelled(hand) == [STRAY]


def test_a_load_that_takes_long_is_not_cancelled(desk: Desk) -> None:
    """It describes a flow, for which no request waits."""
    desk.serves("old", "d", subflows=None)
    hand = Hand(desk, "d", "w")
    desk.passes(1.0)
    ((task, _),) = hand.takes()
    assert task["op"] == "load"
    for _ in range(3):
        hand.says(held=[task["task"]])
        desk.passes(GRACE_PERIOD_S)
    assert cancelled(hand) == []


def test_few_cancelled_tasks_are_remembered(desk: Desk, ann: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the latest of them have spent is counted when their workers say so; the first are forgotten."""
    monkeypatch.setattr(leases, "MAX_CANCELLED", 2)
    hand = Hand(desk, "b", "w")
    requests = [ann.sends("f", {}) for _ in range(3)]
    tasks = [task["task"] for task, _ in hand.takes()]
    for request in requests:
        ann.sends("f", {}, type="cancel", cause=request)
    error = {"kind": "cancelled_task", "message": ""}
    for number, task in enumerate(tasks):
        result = {"task": task, "error": error, "spent": [["m", 10**number, 0, 0]]}
        hand.says((json.dumps(None).encode(),), results=[result])
    spent: list[SpendingRow] = desk.do(lambda: desk.journal.spending.since(0))
    assert sum(row.tokens_in for row in spent) == 110


# Attempts.


def test_the_death_of_its_worker_does_not_count_against_a_run_that_waits(desk: Desk, ann: Neighbour) -> None:
    """It holds no slot, so it did not kill its worker; one that runs may have."""
    hand = Hand(desk, "b", "w")
    ann.sends("own", {"waits": True})
    ann.sends("f", {})
    tasks = {task["endpoint"]: task["task"] for task, _ in hand.takes()}
    hand.says(held=list(tasks.values()), parked=[tasks["own"]], seen=9)
    hand.says(bye=True)
    desk.passes(GRACE_PERIOD_S + 1)
    attempts = {task["endpoint"]: task["attempt"] for task, _ in Hand(desk, "b", "x").takes()}
    assert attempts == {"own": 1, "f": 2}
