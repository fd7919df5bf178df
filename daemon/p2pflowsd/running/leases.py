"""Leases: which task waits, and which worker holds it.

Leases live in memory. After a restart of the daemon, tasks that waited before it are held back for a moment, so that
workers which outlived it can report what they hold (docs/PROTOCOL.md, section 15).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from p2pflows.protocol.asks import AskAnswer, AskStatus
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.running.points import Point, Points, Worker
from p2pflowsd.running.task import Task, TaskData, row_id_of

GRACE_PERIOD_S = 2.0
"""How long a worker may take to come back after its link broke, or after a restart of the daemon."""
MAX_CANCELLED = 1_000
"""How many cancelled tasks are remembered, whose workers may still say what they have spent."""
LOST_FRAME_TIMEOUT_S = 6.0
"""After which a task that its worker does not report never reached it."""


@dataclass(slots=True)
class Lease:
    """Which worker holds a task, the number of the frame that brought it, and since when in elapsed seconds."""

    worker: str
    frame: int
    since: float
    has_reported: bool = False


class Leases:
    """The tasks of one daemon, by the row ids of their requests."""

    def __init__(self, *, user: str, points: Points, journal: Journal, clock: Clock) -> None:
        self._user = user
        self._points = points
        self._journal = journal
        self._clock = clock
        self._tasks: dict[int, Task] = {}
        self._leases: dict[int, Lease] = {}
        self._suspended: set[int] = set()
        self._data: dict[int, TaskData] = {}
        self._reported_waiting: set[int] = set()
        self._cancelled: dict[str, IncomingRow] = {}
        """The requests of tasks that were cancelled at a worker, by task."""
        self._needs_commit = False
        self._held_back_until = 0.0

    def __getitem__(self, row_id: int) -> Task:
        return self._tasks[row_id]

    def add(self, task: Task, data: TaskData | None = None) -> bool:
        """Queue a task.

        Args:
            task: the task.
            data: what it runs on, if at hand; if no worker takes it at once, it is read from the journal again.

        Returns:
            Whether its dispatch point has a worker.
        """
        row_id = task.row.row_id
        scheduler = self._points.get(task.point).scheduler
        self._tasks[row_id] = task
        if data is not None:
            self._data[row_id] = data
        scheduler.add(
            row_id, task.lane, task.window, task.caller(self._user), task.flow.endpoint, task.groups(self._user)
        )
        if scheduler.usable == 0:
            self._reported_waiting.add(row_id)
            return False
        return True

    def restore(self, tasks: Iterable[Task], suspended: Collection[int]) -> None:
        """Queue tasks that waited before a restart, and hold them back until workers had time to report theirs.

        Args:
            tasks: the tasks.
            suspended: the rows of those that wait for an answer.
        """
        for task in tasks:
            self.add(task)
            if task.row.row_id in suspended:
                self._points.get(task.point).scheduler.suspend(task.row.row_id)
                self._suspended.add(task.row.row_id)
            self._held_back_until = self._clock.elapsed() + GRACE_PERIOD_S

    def drop(self, row_id: int) -> None:
        """Cancel a task that needs no result any more, if there is one for a request."""
        task, lease = self._tasks.get(row_id), self._leases.get(row_id)
        if task is None:
            return
        self.forget(row_id)
        worker = self._points.get(task.point).workers.get(lease.worker) if lease is not None else None
        if worker is not None:
            worker.outbox.cancelled.append(task.id)
            self._cancelled[task.id] = task.row
            if len(self._cancelled) > MAX_CANCELLED:
                del self._cancelled[next(iter(self._cancelled))]

    def take_cancelled(self, task_id: str) -> IncomingRow | None:
        """Return the request of a cancelled task, once."""
        return self._cancelled.pop(task_id, None)

    def forget(self, row_id: int) -> None:
        """Remove a task without cancelling it at its worker."""
        task = self._tasks.pop(row_id)
        self._end_lease(task, row_id)
        self._suspended.discard(row_id)
        self._reported_waiting.discard(row_id)
        self._points.get(task.point).scheduler.done(row_id)

    def endpoint_of(self, row_id: int) -> str | None:
        """The endpoint whose flow runs a request; None if it is no task."""
        return self._tasks[row_id].flow.endpoint if row_id in self._tasks else None

    def rows_of(self, endpoint: str) -> list[int]:
        """The rows of the tasks that a flow runs, in the order in which they came."""
        return [row_id for row_id, task in self._tasks.items() if task.flow.endpoint == endpoint]

    def is_waiting(self, row_id: int) -> bool:
        """Whether a request is queued at a point that had no worker when it came."""
        return row_id in self._reported_waiting

    def is_suspended(self, row_id: int) -> bool:
        """Whether a task waits for an answer, and no worker holds it."""
        return row_id in self._suspended

    def suspend(self, row_id: int) -> None:
        """Let a leased task, whose run has ended only because it waits for an answer, wait without a worker."""
        for requeued in self._points.get(self._tasks[row_id].point).scheduler.suspend(row_id):
            self._end_lease(self._tasks[requeued], requeued)
        self._suspended.add(row_id)

    def resume(self, row_id: int) -> None:
        """Let a suspended task run again."""
        self._suspended.discard(row_id)
        self._points.get(self._tasks[row_id].point).scheduler.resume(row_id)

    def answer_ask(self, row_id: int, call_index: int, status: AskStatus) -> None:
        """Answer an ask of the worker that runs a task, once this batch is committed.

        A run must not learn what a crash could undo: it would go on from what the next run cannot know.

        Args:
            row_id: the row of its request.
            call_index: the index of the ask in its run.
            status: its result, or where it stands.
        """
        lease = self._leases.get(row_id)
        if lease is None:
            return  # the next worker to run it gets the records with the task
        task = self._tasks[row_id]
        outbox = self._points.get(task.point).workers[lease.worker].outbox
        outbox.recorded.append(AskAnswer(task.id, call_index, status))
        self._needs_commit = True

    @property
    def needs_commit(self) -> bool:
        """Whether a running task waits for the commit."""
        return self._needs_commit

    def wait_for_commit(self) -> None:
        """Let this batch be committed, as a task waits for it."""
        self._needs_commit = True

    def release_committed(self) -> None:
        """Let frames carry what waited for the commit."""
        self._needs_commit = False
        for point in self._points:
            for worker in point.workers.values():
                worker.outbox.release_committed()

    @property
    def are_held_back(self) -> bool:
        """Whether no task may be leased yet, after a restart."""
        return self._clock.elapsed() < self._held_back_until

    def take_data(self) -> dict[int, TaskData]:
        """Take what the tasks run on that were added since the last call, by row id."""
        data, self._data = self._data, {}
        return data

    def lease(self, row_id: int, worker: str, frame: int) -> bool:
        """Lease a task to a worker.

        Returns:
            Whether its sender had a notice that it waits.
        """
        self._begin_lease(self._tasks[row_id], row_id, Lease(worker, frame, self._clock.elapsed()))
        was_reported = row_id in self._reported_waiting
        self._reported_waiting.discard(row_id)
        return was_reported

    def set_frame(self, task_ids: Iterable[str], frame: int) -> None:
        """Note the number of the frame that brings leased tasks to their worker."""
        for task_id in task_ids:
            lease = self._leases.get(row_id_of(task_id))
            if lease is not None:
                lease.frame = frame

    def find(self, task_id: str) -> Task | None:
        """The task with an id, queued or leased."""
        task = self._tasks.get(row_id_of(task_id))
        return task if task is not None and task.id == task_id else None

    def find_leased(self, point: Point, worker: str, task_id: str) -> Task | None:
        """The task with an id that a worker holds; None if it does not hold it, or no longer."""
        task = self.find(task_id)
        return task if task is not None and self.holds(point, worker, task.row.row_id) else None

    def holds(self, point: Point, worker: str, row_id: int) -> bool:
        """Whether a task is leased to a worker of this point; workers of other points may have the same name."""
        lease = self._leases.get(row_id)
        return lease is not None and lease.worker == worker and row_id in point.scheduler

    def has_seen(self, row_id: int, seen: int) -> bool:
        """Whether a worker has taken in the frame that brought a leased task, by the last frame that it has seen."""
        return self._leases[row_id].frame <= seen

    def requeue(self, point: Point, row_ids: Collection[int], *, unsent: bool = False) -> None:
        """Queue leased tasks again that did not reach their worker.

        Args:
            point: their dispatch point.
            row_ids: the rows of their requests.
            unsent: they were not sent, so nothing was lost.
        """
        for row_id in point.scheduler.requeue(row_ids, unsent=unsent):
            self._end_lease(self._tasks[row_id], row_id)

    def confirm(self, point: Point, name: str, received: Iterable[str]) -> None:
        """Note which leased tasks have reached their worker."""
        for row_id in map(row_id_of, received):
            if self.holds(point, name, row_id):
                point.scheduler.confirm(row_id)

    def reconcile(self, point: Point, name: str, seen: int, held: Collection[str], loads: Collection[str]) -> None:
        """Compare what is leased to a worker with what it reports to hold.

        Args:
            point: its dispatch point.
            name: the worker.
            seen: the number of the last frame that it has taken in.
            held: ids of the tasks that it holds.
            loads: ids of the tasks that load a flow, and so have no request.
        """
        now = self._clock.elapsed()
        scheduler = point.scheduler
        queued = [row_id for row_id in map(self._queued_row_id, held) if row_id in scheduler]
        for row_id in scheduler.adopt(name, queued):
            self._begin_lease(self._tasks[row_id], row_id, Lease(name, 0, now))
        lost = []
        worker = point.workers[name]
        for row_id in worker.leased:
            lease = self._leases[row_id]
            if self._tasks[row_id].id in held:
                scheduler.confirm(row_id)
            elif lease.frame <= seen or now - lease.since > LOST_FRAME_TIMEOUT_S:
                lost.append(row_id)
        self.requeue(point, lost)
        outbox = worker.outbox
        if not worker.is_greeted:
            own = {self._tasks[row_id].id for row_id in worker.leased}
            outbox.cancelled += [task for task in held if task not in own and task not in outbox.finished]
        outbox.cancelled += self._overdue_strays(worker, held, loads)

    def note_report(self, row_id: int) -> None:
        """Note that the sender of a request has heard something of its run, which is void if the worker is lost."""
        self._leases[row_id].has_reported = True

    def reported_by(self, point: Point, name: str) -> list[IncomingRow]:
        """The requests that a worker holds, and of whose runs their senders have heard something."""
        held = point.workers[name].leased
        return [self._tasks[row_id].row for row_id in held if self._leases[row_id].has_reported]

    def remove_worker(self, point: Point, name: str, *, graceful: bool) -> list[Task]:
        """Forget a worker that is gone; its tasks wait again.

        Args:
            point: its dispatch point.
            name: the worker.
            graceful: it said goodbye, so its tasks are not counted as attempts.

        Returns:
            The tasks that it may have been running, with one more attempt.
        """
        worker = point.workers.pop(name)
        for row_id in worker.leased:
            del self._leases[row_id]
        attempted = []
        for row_id in point.scheduler.remove_worker(name):
            task = self._tasks[row_id]
            if graceful or task.id in worker.parked:
                continue
            row = task.row._replace(attempts=self._journal.incoming.count_attempt(row_id))
            task = self._tasks[row_id] = task._replace(row=row)
            attempted.append(task)
        return attempted

    def _begin_lease(self, task: Task, row_id: int, lease: Lease) -> None:
        self._leases[row_id] = lease
        self._points.get(task.point).workers[lease.worker].leased.add(row_id)

    def _end_lease(self, task: Task, row_id: int) -> None:
        lease = self._leases.pop(row_id, None)
        worker = None if lease is None else self._points.get(task.point).workers.get(lease.worker)
        if worker is not None:
            worker.leased.discard(row_id)

    def _overdue_strays(self, worker: Worker, held: Collection[str], loads: Collection[str]) -> list[str]:
        """Tasks that a worker still holds some time after nothing waits for them: they are cancelled once more."""
        now = self._clock.elapsed()
        strays = [task_id for task_id in held if task_id not in loads and self.find(task_id) is None]
        worker.strays = {task_id: worker.strays.get(task_id, now) for task_id in strays}
        overdue = [task_id for task_id, since in worker.strays.items() if now - since > GRACE_PERIOD_S]
        worker.strays |= dict.fromkeys(overdue, now)
        return [task_id for task_id in overdue if task_id not in worker.outbox.finished]

    def _queued_row_id(self, task_id: str) -> int:
        """The row of a task that no worker holds, else -1."""
        task = self.find(task_id)
        if task is None or task.row.row_id in self._leases or task.row.row_id in self._suspended:
            return -1
        return task.row.row_id
