"""Leases: which request waits at which dispatch point, which worker runs it, and what that worker is due.

Leases live in memory. After a restart of the daemon, tasks that waited before it are held back for a moment, so that
workers which outlived it can report what they hold (docs/PROTOCOL.md, Dispatch).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

from p2pflows.protocol.asks import AskAnswer, AskStatus
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.worker_frames import TaskSpec
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.scheduler import MAX_WINDOW, Scheduler

GRACE_PERIOD_S = 2.0
"""For a worker to come back after its link broke, or after a restart of the daemon."""
LOST_FRAME_TIMEOUT_S = 6.0
"""After which a lease that its worker does not report never reached it."""
_MAX_DIGITS = 19


@dataclass(slots=True)
class Lease:
    """A task that a worker has, and the number of the frame that brought it."""

    worker: str
    frame: int
    at: float


@dataclass(slots=True)
class Worker:
    """A worker of one point: what it last reported, and what its next frame carries."""

    heard: float
    counter: int = 0
    greeted: bool = False
    leaves: float | None = None
    host: str = ""
    pid: int = 0
    finished: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    parked: Collection[str] = ()
    """Tasks that wait for others and hold no slot: the death of their worker does not count against them."""
    unknown: dict[str, float] = field(default_factory=dict)
    """Tasks that it holds though nothing waits for them, and since when: the frame that cancelled them may be lost."""
    recorded: list[AskAnswer] = field(default_factory=list)
    answers: list[AskAnswer] = field(default_factory=list)
    tasks: list[TaskSpec] = field(default_factory=list)


@dataclass(slots=True)
class Point:
    """A dispatch point: its key, its queue and its workers."""

    name: str
    channel: Channel
    scheduler: Scheduler = field(default_factory=Scheduler)
    workers: dict[str, Worker] = field(default_factory=dict)


def point_key(identity: Identity, point: str) -> bytes:
    """The symmetric key that a user's daemon shares with the workers of one dispatch point."""
    return identity.derive(f"dispatch point {point}")


class Leases:
    """The tasks of all dispatch points of one daemon."""

    def __init__(self, *, identity: Identity, journal: Journal, clock: Clock) -> None:
        self._identity = identity
        self._journal = journal
        self._clock = clock
        self.points: dict[str, Point] = {}
        self.rows: dict[int, tuple[IncomingRow, Served]] = {}
        self.leases: dict[int, Lease] = {}
        self._fresh: dict[int, dict[str, Any]] = {}
        self._told_waiting: set[int] = set()
        self._has_recorded = False
        self._frozen_until = 0.0

    def add(self, row: IncomingRow, flow: Served, data: dict[str, Any] | None = None) -> bool:
        """Queue a request for a worker.

        Args:
            row: the request.
            flow: what runs it.
            data: its data, if at hand; if no worker takes it at once, it is read again from the journal.

        Returns:
            False if its dispatch point has no worker now.
        """
        point = self.point(flow.dispatch_point)
        self.rows[row.row_id] = (row, flow)
        if data is not None:
            self._fresh[row.row_id] = data
        # The next run of an instance needs the state that this one leaves, so one is under way at a time.
        point.scheduler.add(row.row_id, lane_of(row, flow), MAX_WINDOW if row.instance is None else 1)
        if point.scheduler.slots == 0:
            self._told_waiting.add(row.row_id)
            return False
        return True

    def restore(self, rows: Iterable[tuple[IncomingRow, Served]]) -> None:
        """Queue what waited before a restart, and hold it back until workers had time to report what they hold."""
        for row, flow in rows:
            self.add(row, flow)
            self._frozen_until = self._clock.elapsed() + GRACE_PERIOD_S

    def drop(self, row_id: int) -> None:
        """Cancel a queued or leased task that needs no result any more."""
        if row_id not in self.rows:
            return
        lease = self.leases.get(row_id)
        row, flow = self.rows[row_id]
        self.forget(row_id)
        worker = self.point(flow.dispatch_point).workers.get(lease.worker) if lease is not None else None
        if worker is not None:
            worker.cancelled.append(task_id(row))

    def forget(self, row_id: int) -> None:
        """Take a task out of its queue without a word to its worker."""
        self.leases.pop(row_id, None)
        _, flow = self.rows.pop(row_id)
        self._told_waiting.discard(row_id)
        self.point(flow.dispatch_point).scheduler.done(row_id)

    def endpoint_of(self, row_id: int) -> str | None:
        """The endpoint whose flow runs a queued or leased request."""
        return self.rows[row_id][1].endpoint if row_id in self.rows else None

    def is_waiting(self, row_id: int) -> bool:
        """Whether a request is queued at a point that had no worker when it came."""
        return row_id in self._told_waiting

    def has_workers(self, point: str) -> bool:
        """Whether any worker serves a dispatch point."""
        return point in self.points and self.points[point].scheduler.slots > 0

    def status(self) -> list[dict[str, Any]]:
        """Workers, slots and queue of each point."""
        return [
            {
                "dispatch_point": name,
                "workers": point.scheduler.workers,
                "slots": point.scheduler.slots,
                "free": point.scheduler.free,
                "queued": point.scheduler.queued,
            }
            for name, point in sorted(self.points.items())
            if point.scheduler.workers or point.scheduler.queued
        ]

    def answer_ask(self, row_id: int, call_index: int, status: AskStatus, *, after_commit: bool) -> None:
        """Answer an ask of the worker that runs a task.

        Args:
            row_id: the task.
            call_index: the index of the ask in its run.
            status: its result, or where it stands.
            after_commit: hold the answer back until this batch is committed.
        """
        lease = self.leases.get(row_id)
        if lease is None:
            return  # the next worker to run it gets the records with the task
        row, flow = self.rows[row_id]
        worker = self.point(flow.dispatch_point).workers[lease.worker]
        answer = AskAnswer(task_id(row), call_index, status)
        if after_commit:
            worker.recorded.append(answer)
            self._has_recorded = True
        else:
            worker.answers.append(answer)

    @property
    def has_recorded(self) -> bool:
        """Whether a task waits for the commit to go on."""
        return self._has_recorded

    def committed(self) -> None:
        """Let frames carry what waited for the commit."""
        self._has_recorded = False
        for point in self.points.values():
            for worker in point.workers.values():
                worker.acknowledged += worker.finished
                worker.answers += worker.recorded
                worker.finished, worker.recorded = [], []

    @property
    def frozen(self) -> bool:
        """Whether tasks are held back after a restart."""
        return self._clock.elapsed() < self._frozen_until

    def take_fresh(self) -> dict[int, dict[str, Any]]:
        """The data of requests that were added in this batch, by row."""
        fresh, self._fresh = self._fresh, {}
        return fresh

    def point(self, name: str) -> Point:
        """A dispatch point, made if it is new."""
        point = self.points.get(name)
        if point is None:
            point = self.points[name] = Point(name, self.channel(name))
        return point

    def channel(self, point_name: str) -> Channel:
        """The sealed channel of a point, which need not exist: whoever lacks its key leaves nothing behind."""
        known = self.points.get(point_name)
        return known.channel if known is not None else Channel(point_key(self._identity, point_name))

    def lease(self, row_id: int, worker: str, frame: int) -> bool:
        """Lease a task to a worker; return whether its sender was told that it waits for one."""
        self.leases[row_id] = Lease(worker, frame, self._clock.elapsed())
        told = row_id in self._told_waiting
        self._told_waiting.discard(row_id)
        return told

    def find(self, task: str) -> tuple[IncomingRow, Served] | None:
        """The queued or leased request that a task id names."""
        known = self.rows.get(row_id_of(task))
        return known if known is not None and task_id(known[0]) == task else None

    def leased(self, point: Point, worker: str, task: str) -> IncomingRow | None:
        """The request that a worker runs as a task; None if it does not run it, or no longer."""
        known = self.find(task)
        return known[0] if known is not None and self.holds(point, worker, known[0].row_id) else None

    def holds(self, point: Point, worker: str, row_id: int) -> bool:
        """Whether a request is leased to a worker of this point; those of other points may have the same name."""
        lease = self.leases.get(row_id)
        return lease is not None and lease.worker == worker and row_id in point.scheduler

    def requeue(self, point: Point, tasks: list[int], *, unsent: bool = False) -> None:
        """Queue leased tasks again that did not reach their worker.

        Args:
            point: their dispatch point.
            tasks: which.
            unsent: they were not even sent; nothing was lost.
        """
        for row_id in point.scheduler.requeue(tasks, unsent=unsent):
            del self.leases[row_id]

    def reconcile(self, point: Point, name: str, seen: int, held: Collection[str], loads: Iterable[str]) -> None:
        """Compare what is leased to a worker with what it reports to hold.

        Args:
            point: its dispatch point.
            name: the worker.
            seen: the number of the last frame that it has.
            held: the tasks that it holds.
            loads: tasks that load a flow, and so have no request.
        """
        elapsed = self._clock.elapsed()
        waiting = [row_id for row_id in map(self._waiting_row_id, held) if row_id in point.scheduler]
        for row_id in point.scheduler.adopt(name, waiting):
            self.leases[row_id] = Lease(name, 0, elapsed)
        lost = []
        for row_id, lease in self.leases.items():
            if not self.holds(point, name, row_id):
                continue
            if task_id(self.rows[row_id][0]) in held:
                point.scheduler.confirm(row_id)
            elif lease.frame <= seen or elapsed - lease.at > LOST_FRAME_TIMEOUT_S:
                lost.append(row_id)
        self.requeue(point, lost)
        worker = point.workers[name]
        if not worker.greeted:
            mine = {task_id(self.rows[row_id][0]) for row_id in self.leases if self.holds(point, name, row_id)}
            worker.cancelled += [task for task in held if task not in mine and task not in worker.finished]
        worker.cancelled += self._still_held(worker, held, set(loads))

    def remove_worker(self, point: Point, name: str, *, graceful: bool) -> list[IncomingRow]:
        """Forget a worker that is gone; its tasks wait again.

        Args:
            point: its dispatch point.
            name: the worker.
            graceful: it said goodbye, so its tasks are not counted as attempts.

        Returns:
            The requests that it may have been running, with one attempt more.
        """
        parked = point.workers.pop(name).parked
        for row_id in [row_id for row_id in self.leases if self.holds(point, name, row_id)]:
            del self.leases[row_id]
        attempted = []
        for row_id in point.scheduler.worker_lost(name):
            row, flow = self.rows[row_id]
            if graceful or task_id(row) in parked:
                continue
            row = row._replace(attempts=self._journal.incoming.count_attempt(row_id))
            self.rows[row_id] = (row, flow)
            attempted.append(row)
        return attempted

    def _still_held(self, worker: Worker, held: Collection[str], loads: set[str]) -> list[str]:
        """Tasks that a worker goes on holding although nothing waits for them: they are cancelled once more."""
        elapsed = self._clock.elapsed()
        unknown = [task for task in held if task not in loads and self.find(task) is None]
        worker.unknown = {task: worker.unknown.get(task, elapsed) for task in unknown}
        late = [task for task, since in worker.unknown.items() if elapsed - since > GRACE_PERIOD_S]
        worker.unknown |= dict.fromkeys(late, elapsed)
        return [task for task in late if task not in worker.finished]

    def _waiting_row_id(self, task: str) -> int:
        """The row of a task that no worker has, else -1."""
        known = self.find(task)
        return known[0].row_id if known is not None and known[0].row_id not in self.leases else -1


def lane_of(row: IncomingRow, flow: Served) -> str:
    """What runs in order: the runs of one instance, or one sender's requests to a flow without instances."""
    if flow.parallel and not flow.first:
        return task_id(row)
    return f"{flow.endpoint}/{row.instance or row.peer}"


def task_id(row: IncomingRow) -> str:
    """The id under which workers know a request."""
    return f"{row.row_id}-{row.id}"


def row_id_of(task: str) -> int:
    """The row that a task id names, else -1."""
    head = task.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) <= _MAX_DIGITS else -1
