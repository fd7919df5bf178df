"""Loads: which worker a load is given to, and what becomes of it when that worker is gone."""

from __future__ import annotations

import pytest

from p2pflows.errors import WorkerLost
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.worker_frames import Failure, Outcome, Success, TaskResult
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.loads import LOAD_TIMEOUT_S, Loads
from p2pflowsd.running.points import Point, Points, Worker


class StoppedClock:
    """Time moves only when a test moves it."""

    seconds = 0.0

    def now(self) -> int:
        """The wall time, in milliseconds."""
        return int(self.seconds * 1000)

    def elapsed(self) -> float:
        """The seconds since the start."""
        return self.seconds


def worker(*, is_greeted: bool = False) -> Worker:
    """A worker on this machine."""
    return Worker(Channel(bytes(32)), "a", "", 0.0, is_greeted=is_greeted)


@pytest.fixture
def clock() -> StoppedClock:
    """A clock at zero."""
    return StoppedClock()


@pytest.fixture
def points() -> Points:
    """Points without workers."""
    return Points()


@pytest.fixture
def point(points: Points) -> Point:
    """Point a, with one worker."""
    point = points.get("a")
    point.workers["first"] = worker(is_greeted=True)
    return point


@pytest.fixture
def outcomes() -> list[Outcome]:
    """How loads ended."""
    return []


@pytest.fixture
def loads(points: Points, point: Point, clock: StoppedClock, outcomes: list[Outcome]) -> Loads:
    """One load, given to the first worker."""
    loads = Loads(user="b" * 64, boot=1, points=points, clock=clock)
    loads.start(Served(endpoint="echo", kind="exec", target="cat", cwd="/", dispatch_point=point.name), outcomes.append)
    assert len(point.workers["first"].outbox.tasks) == 1
    return loads


def test_a_load_outlives_its_worker(loads: Loads, point: Point, outcomes: list[Outcome]) -> None:
    """A load whose worker is gone is given to the next worker that is ready."""
    del point.workers["first"]
    point.workers["greeting"] = worker()
    loads.tick()
    assert not point.workers["greeting"].outbox.tasks
    point.workers["second"] = worker(is_greeted=True)
    loads.tick()
    loads.tick()
    (task,) = point.workers["second"].outbox.tasks
    assert loads.take_result(point, TaskResult(task.id, None, b"{}"))
    assert outcomes == [Success({})]
    assert not loads.task_ids


def test_a_load_ends_in_time(loads: Loads, clock: StoppedClock, outcomes: list[Outcome]) -> None:
    """A load that no worker ends is an error after a while."""
    clock.seconds = LOAD_TIMEOUT_S - 1
    loads.tick()
    assert not outcomes
    clock.seconds = LOAD_TIMEOUT_S
    loads.tick()
    (outcome,) = outcomes
    assert isinstance(outcome, Failure)
    assert isinstance(outcome.error, WorkerLost)
    assert not loads.task_ids
