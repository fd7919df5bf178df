"""Dispatch points: the queue and the workers of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from p2pflows.protocol.channel import Channel
from p2pflows.protocol.worker_frames import Overdue
from p2pflowsd.running.paces import Paces
from p2pflowsd.running.scheduler import Scheduler
from p2pflowsd.running.worker_outbox import WorkerOutbox


@dataclass(slots=True)
class Worker:
    """A worker of one point, by what it last reported.

    Attributes:
        channel: seals its frames.
        queue: what stands for its dispatch point in topics.
        token: the token that lets it work; "" if it runs on this machine, and connects without one.
        last_heard: when its last frame came, in the clock's elapsed seconds.
        last_number: the number of that frame.
        is_greeted: whether it has reported what it holds since this daemon started.
        lost_at: when it counts as lost unless it sends a frame, after its link broke.
        keys: how many keys of model servers it has; None from a release that does not say.
        parked: tasks that wait for others and hold no slot: the death of their worker does not count against them.
        leased: the rows of the tasks that are leased to it.
        strays: tasks that it holds though nothing waits for them, and since when: the frame that cancelled them may be
            lost.
        overdue: cancelled tasks that still occupy a slot, and since when it reports them.
        is_being_replaced: whether its process was ended, as nothing else could free its slots.
    """

    channel: Channel
    queue: str
    token: str
    last_heard: float
    last_number: int = 0
    is_greeted: bool = False
    lost_at: float | None = None
    host: str = ""
    pid: int = 0
    slots: int = 0
    keys: int | None = None
    parked: set[str] = field(default_factory=set)
    leased: set[int] = field(default_factory=set)
    strays: dict[str, float] = field(default_factory=dict)
    overdue: dict[Overdue, float] = field(default_factory=dict)
    is_being_replaced: bool = False
    outbox: WorkerOutbox = field(default_factory=WorkerOutbox)


@dataclass(slots=True)
class Point:
    """A dispatch point."""

    name: str
    scheduler: Scheduler
    workers: dict[str, Worker] = field(default_factory=dict)

    @property
    def parked(self) -> int:
        """How many runs wait for answers in its workers; each adds a slot to them."""
        return sum(len(worker.parked) for worker in self.workers.values())

    @property
    def overdue(self) -> list[Overdue]:
        """The cancelled tasks that still occupy slots."""
        return [task for worker in self.workers.values() for task in worker.overdue]


class Points:
    """The dispatch points of one daemon."""

    def __init__(self) -> None:
        self._points: dict[str, Point] = {}
        self.paces = Paces()

    def __iter__(self) -> Iterator[Point]:
        return iter(self._points.values())

    def get(self, name: str) -> Point:
        """The point with a name, created if it is new."""
        point = self._points.get(name)
        if point is None:
            point = self._points[name] = Point(name, Scheduler(self.paces.windows))
        return point

    def has_workers(self, name: str) -> bool:
        """Whether any worker serves a point."""
        return name in self._points and self._points[name].scheduler.slots > 0

    def has_greeted(self, name: str) -> bool:
        """Whether a worker of a point has said what it holds, and its link is up."""
        workers = self._points[name].workers.values() if name in self._points else ()
        return any(worker.is_greeted and worker.lost_at is None for worker in workers)

    def workers_with(self, token: str) -> int:
        """How many workers are connected with a token."""
        return sum(worker.token == token for point in self for worker in point.workers.values())

    def status(self) -> list[dict[str, Any]]:
        """Workers, slots and queue of each point that has any."""
        return [
            _shown(point)
            for _, point in sorted(self._points.items())
            if point.scheduler.workers or point.scheduler.queued
        ]


def _shown(point: Point) -> dict[str, Any]:
    scheduler = point.scheduler
    waiting = point.parked + scheduler.suspended
    overdue = [{"endpoint": task.endpoint, "expires": task.expires} for task in point.overdue]
    keys = [worker.keys for worker in point.workers.values()]
    return {
        "dispatch_point": point.name,
        "workers": scheduler.workers,
        "slots": scheduler.slots - point.parked,
        "free": scheduler.free,
        "queued": scheduler.queued - waiting,
        **({} if None in keys else {"keys": sum(each or 0 for each in keys)}),
        **({"waiting": waiting, "suspended": scheduler.suspended} if waiting else {}),
        **({"overdue": overdue} if overdue else {}),
    }
