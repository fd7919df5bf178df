"""Flows that an earlier release served: what they may call is asked of a worker, and shown to the owner."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour

from p2pflowsd.running.declarations import RETRY_S


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves the class `own` at the dispatch point `b`, and does not know what it declares."""
    desk = Desk(tmp_path)
    desk.serves("own", subflows=None)
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact."""
    return Neighbour(desk, 1, "alice")


def loaded(hand: Hand, **description: Any) -> None:
    """Take the task that loads the flow, and end it."""
    ((task, _),) = hand.takes()
    assert task["op"] == "load"
    blob = json.dumps({"schema": {}, "description": "", **description}).encode()
    hand.says((blob,), results=[{"task": task["task"], "error": None}])


def ask(desk: Desk, hand: Hand, alice: Neighbour, user: str, endpoint: str) -> str:
    """Run the flow for alice, and let its run call a flow; returns what the worker hears: an error, or `recorded`."""
    alice.sends("own", {})
    ((task, _),) = hand.takes()
    what = {"op": "call", "k": 0, "mark": "m", "user": user, "endpoint": endpoint, "data": {}}
    hand.says(held=[task["task"]], asks=[{"task": task["task"], **what}])
    desk.passes(1)
    answer = [each for each in hand.is_told() if each["task"] == task["task"]][-1]
    return str(answer["error"]["kind"]) if "error" in answer else "recorded"


def test_a_flow_of_an_earlier_release_is_checked_before_it_runs(desk: Desk, alice: Neighbour) -> None:
    """A worker says what the flow declares before it gets a run; that is logged and shown, and is all it may call."""
    waiting = alice.sends("own", {})
    hand = Hand(desk, "b", "w")
    desk.passes(1)
    loaded(hand, subflows={"far": {"user_id": "alice", "flow_endpoint": "far"}})
    ((task, order),) = hand.takes()
    assert task["message"] == waiting
    hand.answers(task, order, {})
    flow = desk.node.catalog.get("own")
    assert flow is not None
    assert flow.as_json(desk.node.name_of, desk.user)["may_call"] == ["alice/far"]
    (entry,) = [entry for entry in desk.journal.log.newest(10) if entry.what == "declared"]
    assert entry.detail == "It was served by an earlier release. It may call alice/far."
    assert ask(desk, hand, alice, alice.user, "far") == "recorded"
    desk.restart()
    assert desk.node.catalog.undeclared() == []


def test_a_lying_worker_cannot_declare_more_later(desk: Desk, alice: Neighbour) -> None:
    """What a run calls is held against what the owner was shown, not against what its worker says at a mount."""
    desk.serves("secret", allow="me")
    desk.serves("own", subflows={})
    hand = Hand(desk, "b", "w")
    request = alice.mounts("own")
    ((task, order),) = hand.takes()
    part = {"user": desk.user, "endpoint": "secret", "instance": None, "shared": True}
    hand.answers(task, order, {}, mounted={"subflows": {"secret": part}})
    assert alice.hears_error(request) == "not_allowed"
    assert ask(desk, hand, alice, desk.user, "secret") == "not_allowed"


def test_a_flow_that_cannot_be_checked_calls_nothing(desk: Desk, alice: Neighbour) -> None:
    """If no worker says what a flow declares, its runs go on, but call nothing, and the owner reads why."""
    hand = Hand(desk, "b", "w")
    loaded(hand)
    assert ask(desk, hand, alice, alice.user, "far") == "not_allowed"
    (entry,) = [entry for entry in desk.journal.log.newest(10) if entry.what == "undeclared"]
    assert "its worker is of an earlier release" in entry.detail
    hand.says()
    desk.passes(RETRY_S + 1)
    hand.says()
    assert "load" in [task["op"] for task, _ in hand.takes()]
