"""Loads: tasks for a worker that belong to no request, but load a flow and describe it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from p2pflows.errors import NoWorker, WorkerLost
from p2pflows.protocol.worker_frames import Failure, Outcome, TaskResult, TaskSpec
from p2pflowsd.clock import Clock
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.points import Point, Points
from p2pflowsd.running.task_specs import target_of

LOAD_TIMEOUT_S = 30.0

OnLoaded = Callable[[Outcome], None]
"""Called with the description of a flow, or why it cannot be loaded."""


@dataclass(slots=True)
class _Load:
    flow: Served
    on_loaded: OnLoaded
    until: float
    worker: str


class Loads:
    """The open loads of one daemon."""

    def __init__(self, *, user: str, boot: int, points: Points, clock: Clock) -> None:
        self._user = user
        self._boot = boot
        self._points = points
        self._clock = clock
        self._open: dict[str, _Load] = {}
        self._count = 0

    @property
    def task_ids(self) -> Collection[str]:
        """The ids of the open loads."""
        return self._open.keys()

    def start(self, flow: Served, on_loaded: OnLoaded) -> None:
        """Let a worker of a flow's point load it."""
        worker = self._find_worker(flow.dispatch_point)
        if worker is None:
            on_loaded(
                Failure(
                    NoWorker(
                        f"No worker serves the dispatch point {flow.dispatch_point!r}.",
                        f"Start one: p2pflows worker --dispatch-point {flow.dispatch_point}",
                    )
                )
            )
            return
        self._count += 1
        task_id = f"load-{self._boot}-{self._count}"
        self._open[task_id] = _Load(flow, on_loaded, self._clock.elapsed() + LOAD_TIMEOUT_S, worker)
        self._send(task_id, flow, worker)

    def _find_worker(self, point: str) -> str | None:
        workers = self._points.get(point).workers.items()
        return next((name for name, worker in workers if worker.is_greeted and worker.lost_at is None), None)

    def _send(self, task_id: str, flow: Served, worker: str) -> None:
        self._points.get(flow.dispatch_point).workers[worker].outbox.tasks.append(
            TaskSpec(
                id=task_id,
                op="load",
                lane=task_id,
                endpoint=flow.endpoint,
                revision=flow.revision,
                target=target_of(flow),
                sender=self._user,
                conversation="",
                message="",
                expires=self._clock.now() + int(LOAD_TIMEOUT_S * 1000),
                data=b"{}",
            )
        )

    def take_result(self, point: Point, result: TaskResult) -> bool:
        """End a load with its result, and return whether it is one of a load of this point."""
        load = self._open.get(result.task)
        if load is None or load.flow.dispatch_point != point.name:
            return False
        del self._open[result.task]
        load.on_loaded(result.outcome)
        return True

    def tick(self) -> None:
        """Give the loads of workers that are gone to others, and end those whose time is up."""
        for task_id, load in list(self._open.items()):
            if load.until <= self._clock.elapsed():
                del self._open[task_id]
                load.on_loaded(
                    Failure(
                        WorkerLost(
                            f"{load.flow.target!r} was not loaded within {LOAD_TIMEOUT_S:.0f} seconds.",
                            "Its file must not wait or work when it is imported: let its functions do so.",
                        )
                    )
                )
            elif load.worker not in self._points.get(load.flow.dispatch_point).workers:
                other = self._find_worker(load.flow.dispatch_point)
                if other is not None:
                    load.worker = other
                    self._send(task_id, load.flow, other)
