"""What a worker holds: which tasks may start, and which results are not acknowledged. No I/O, clock or threads.

```
receive -> waiting in its lane -> take -> running -> finish -> unacknowledged -> receive(done) -> forgotten
                 |                           |                       |                               ^
                 +---- receive(cancel) ------+-----------------------+-------------------------------+
```
A cancelled task that runs keeps its lane until it has ended; its result is dropped. A running task that waits for
others is parked: it keeps its lane, and frees its slot. An *ask* is sent again until the daemon has recorded it; then
the task waits for its result. When too many tasks wait, those that have waited longest are suspended: their runs end
here, and begin again from their records when the daemon has an answer for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

from p2pflows.protocol.asks import Ask, AskAnswer, AskResult, Recorded, Unrecorded
from p2pflows.protocol.worker_frames import (
    CANCELLED,
    DaemonFrame,
    ErrorInfo,
    Overdue,
    SuspendedRun,
    TaskResult,
    TaskSpec,
    Wait,
    WorkerFrame,
    WorkerInfo,
)
from p2pflows.worker.packing import Updates

MAX_WAITING = 256
"""How many waiting runs a worker keeps at hand, unless it is told another number."""
_FIRST_WILL = 2**52
_WILL_STEP = 2**32
"""The wills of a million connections stay below 2^53, so every JSON reader reads them exactly."""


@dataclass(slots=True, eq=False)
class HeldTask:
    """A task that was received and has not ended."""

    spec: TaskSpec
    cancelled: bool = False
    """It was withdrawn: its result is dropped."""
    stop: Callable[[], None] | None = None
    """Ends it while it runs, from any thread; a plain function ends only where it waits."""
    suspended: SuspendedRun | None = None
    """Set when its run ends here only because it waits."""
    started_s: float = 0.0
    """When it began to run, by the monotonic clock."""


class SettledAsk(NamedTuple):
    """The result of something that a running task has asked for."""

    task: str
    call_index: int
    result: AskResult


@dataclass(frozen=True, slots=True)
class Received:
    """What has to be done about a frame that was not a repeat."""

    is_new_boot: bool
    """The daemon has restarted, and needs a hello."""
    to_stop: list[HeldTask]
    """Tasks that run, and were cancelled or suspended."""
    settled: list[SettledAsk]


@dataclass(slots=True, eq=False)
class _HeldResult:
    result: TaskResult
    sent: float | None = None
    """When it was last put into a frame."""


@dataclass(slots=True, eq=False)
class _OpenAsk:
    ask: Ask
    recorded: bool = False
    sent: float | None = None
    """When it was last put into a frame."""


class Lanes:
    """The bookkeeping of one worker.

    Args:
        info: the worker, as each of its frames names it.
        max_waiting: how many runs may wait here before the oldest of them are suspended.
    """

    def __init__(self, info: WorkerInfo, max_waiting: int = MAX_WAITING) -> None:
        self.draining = False
        self.abandoned: list[HeldTask] = []
        """Parked tasks that a drain has left to another worker; they may still be in this process."""
        self._info = info
        self._max_waiting = max_waiting
        self._daemon_reads_changes = False
        self._boot = 0
        self._seen = 0
        self._number = 0
        self._will = _FIRST_WILL - _WILL_STEP
        self._tasks: dict[str, HeldTask] = {}
        self._results: dict[str, _HeldResult] = {}
        self._fresh: list[_HeldResult] = []
        self._waiting: dict[str, deque[HeldTask]] = {}
        self._running: dict[str, HeldTask] = {}
        self._stopping: dict[str, HeldTask] = {}
        """Running tasks that were cancelled, by their lanes."""
        self._ready: deque[str] = deque()
        self._ready_loads: deque[str] = deque()
        self._loading: set[str] = set()
        """Lanes of tasks that load a flow: they need no slot."""
        self._parked: dict[str, int] = {}
        """Parked tasks, each with the number of its waits side by side."""
        self._slots_changed = False
        self._asks: dict[str, dict[int, _OpenAsk]] = {}
        """The open asks of each task, by their call indexes."""
        self._fresh_asks: dict[tuple[str, int], _OpenAsk] = {}
        self._received: dict[str, None] = {}
        """Tasks that no frame has named yet."""
        self._parking: dict[str, bool] = {}
        """Tasks that were parked, or not any more, since the last frame."""
        self._may_be_suspended: dict[str, HeldTask] = {}
        """Parked tasks that wait without a time limit, the longest wait first."""
        self._woken: dict[str, None] = {}
        """Parked tasks that got a result, and may be about to go on."""
        self._suspended: dict[str, tuple[SuspendedRun, str]] = {}
        """Suspended runs that the daemon has not confirmed, with their lanes, which take no tasks until then."""
        self._closed_lanes: set[str] = set()

    def receive(self, frame: DaemonFrame) -> Received | None:
        """Take in a frame; None if it is not newer than the last."""
        is_new_boot = frame.boot > self._boot
        if frame.boot < self._boot or (not is_new_boot and frame.number <= self._seen):
            return None
        self._boot, self._seen = frame.boot, frame.number
        self._daemon_reads_changes = frame.reads_changes
        if is_new_boot:
            self._forget_suspended(list(self._suspended))  # it begins again with what this worker holds
        for task_id in frame.done:
            self._results.pop(task_id, None)
        self._forget_suspended(frame.done)
        to_stop = [task for task in map(self._forget, frame.cancel) if task is not None]
        if not self.draining:
            for spec in frame.tasks:
                self._accept(spec)
        settled = [settled for answer in frame.answers if (settled := self._settle(answer))]
        return Received(is_new_boot, to_stop + self._suspend_surplus(), settled)

    def take(self) -> HeldTask | None:
        """The next task that may start; it counts as running from now on."""
        if not self._ready or len(self._running) - len(self._parked) - len(self._loading) >= self._info.slots:
            return None
        return self._start(self._ready.popleft())

    def take_load(self) -> HeldTask | None:
        """The next task that loads a flow, which never waits for a slot."""
        if not self._ready_loads:
            return None
        lane = self._ready_loads.popleft()
        self._loading.add(lane)
        return self._start(lane)

    def _start(self, lane: str) -> HeldTask:
        task = self._running[lane] = self._waiting[lane].popleft()
        return task

    def finish(self, task: HeldTask, result: TaskResult) -> None:
        """End a running task; its lane goes behind those that wait."""
        if self._running.get(task.spec.lane) is not task:
            return
        if task.suspended is not None and self._tasks.get(task.spec.id) is task:
            self._note_suspended(task, task.suspended)
        self._leave(task)
        if not task.cancelled:
            del self._tasks[task.spec.id]
        elif result.spent:  # that counts, although nobody waits for the result
            result = result._replace(error=ErrorInfo(CANCELLED, "It was cancelled."), data=b"null")
        else:
            return
        held = self._results[task.spec.id] = _HeldResult(result)
        self._fresh.append(held)

    def park(self, task: HeldTask, *, is_timed: bool = False) -> None:
        """Free the slot of a running task while it waits for others.

        Args:
            task: the task.
            is_timed: it goes on by itself after a while, so it must stay here.
        """
        task_id = task.spec.id
        if self._running.get(task.spec.lane) is not task:
            return
        waits = self._parked[task_id] = self._parked.get(task_id, 0) + 1
        self._parking[task_id] = True
        self._slots_changed = True
        if is_timed:
            self._may_be_suspended.pop(task_id, None)
        elif waits == 1:
            self._may_be_suspended[task_id] = task

    def unpark(self, task: HeldTask) -> None:
        """Let a parked task go on at once: it may be one too many for a moment, but it never starves.

        It stays parked while another of its waits, side by side, goes on.
        """
        task_id = task.spec.id
        left = self._parked.pop(task_id, 1) - 1
        if left:
            self._parked[task_id] = left
        else:
            self._no_longer_parked(task_id)
        self._slots_changed = True

    def take_slots_changed(self) -> bool:
        """Whether slots were freed or taken since the last call in a way that a frame has to report."""
        changed, self._slots_changed = self._slots_changed, False
        return changed

    def add_ask(self, ask: Ask) -> None:
        """Note what a running task asks for."""
        open_ask = self._asks.setdefault(ask.task, {})[ask.call_index] = _OpenAsk(ask)
        self._fresh_asks[ask.task, ask.call_index] = open_ask

    def drop_ask(self, ask: Ask) -> None:
        """Forget an ask that no frame can carry."""
        self._remove_ask(ask.task, ask.call_index)

    def fresh_asks(self, now: float) -> list[Ask]:
        """The asks that were in no frame yet."""
        return self._send_asks(list(self._fresh_asks.values()), now)

    def due_asks(self, now: float, resend_after: float) -> list[Ask]:
        """The fresh asks, and those that were sent `resend_after` seconds ago or earlier and are not recorded."""
        latest = now - resend_after
        asks = [each for asks in self._asks.values() for each in asks.values()]
        due = [each for each in asks if each.sent is None or (not each.recorded and each.sent <= latest)]
        return self._send_asks(due, now)

    @property
    def waits(self) -> list[Wait]:
        """The asks that the daemon has recorded, and that have no result yet."""
        return [
            Wait(task_id, call_index)
            for task_id, asks in self._asks.items()
            for call_index, open_ask in asks.items()
            if open_ask.recorded
        ]

    def fresh_results(self, now: float) -> list[TaskResult]:
        """The results that were in no frame yet."""
        fresh, self._fresh = self._fresh, []
        return self._send_results([held for held in fresh if self._results.get(held.result.task) is held], now)

    def overdue_results(self, now: float, resend_after: float) -> list[TaskResult]:
        """The results that were sent `resend_after` seconds ago or earlier and are not acknowledged."""
        latest = now - resend_after
        overdue = [held for held in self._results.values() if held.sent is not None and held.sent <= latest]
        return self._send_results(overdue, now)

    def unacknowledged_results(self, now: float) -> list[TaskResult]:
        """All results that the daemon has not acknowledged."""
        self._fresh = []
        return self._send_results(self._results.values(), now)

    def drain(self) -> None:
        """Take no more tasks, and leave those that have not started, and those that are parked, to another worker."""
        self.draining = True
        for lane in self._waiting.values():
            for task in lane:
                del self._tasks[task.spec.id]
        self._ready.clear()
        self._ready_loads.clear()
        self._waiting = {lane: deque() for lane in self._running}
        for task in [task for task in self._running.values() if task.spec.id in self._parked]:
            # It may wait for days; another worker takes it up where it stands.
            self._forget(task.spec.id)
            self._leave(task)
            self._stopping.pop(task.spec.lane, None)
            self.abandoned.append(task)

    @property
    def running(self) -> list[HeldTask]:
        """The tasks that run now."""
        return list(self._running.values())

    @property
    def overdue(self) -> list[Overdue]:
        """The tasks that were cancelled and still occupy a slot."""
        return [
            Overdue(task.spec.id, task.spec.endpoint, task.spec.expires)
            for lane, task in self._stopping.items()
            if lane not in self._loading and task.spec.id not in self._parked
        ]

    @property
    def is_idle(self) -> bool:
        """Whether nothing runs and every result is acknowledged."""
        return not (self._running or self._results)

    @property
    def has_backlog(self) -> bool:
        """Whether a task waits for others to end."""
        return any(self._waiting.values())

    @property
    def held(self) -> list[str]:
        """The ids of tasks that were received and whose results are not acknowledged."""
        return [*self._tasks, *self._results]

    def named(self, *, is_full: bool) -> list[str]:
        """The ids of tasks that the next frame names for sure."""
        return self.held if is_full or not self._daemon_reads_changes else [*self._received, *self._parking]

    def next_frame(
        self,
        results: Sequence[TaskResult] = (),
        updates: Updates | None = None,
        *,
        bye: bool = False,
        is_full: bool = True,
    ) -> WorkerFrame:
        """The next frame to the daemon.

        Args:
            results: results that it carries.
            updates: what running tasks say.
            bye: the worker is gone.
            is_full: list all that is held, as some frame before may be lost; otherwise say what has changed.
        """
        self._number += 1
        is_full = is_full or not self._daemon_reads_changes
        frame = self._frame(self._number, results, updates or Updates(), bye=bye, is_full=is_full)
        self._received.clear()
        self._parking.clear()
        return frame

    def next_will(self) -> WorkerFrame:
        """The frame that the broker sends if the connection that is about to be made breaks.

        Each will is numbered above all frames of its connection, and below those of the next one: the daemon takes a
        frame for a repeat if its number is not above all that it has seen.
        """
        if self._will >= _FIRST_WILL:
            self._number = self._will
        self._will += _WILL_STEP
        return replace(self._frame(self._will, (), Updates(), bye=True, is_full=True), held=())

    def _frame(
        self, number: int, results: Sequence[TaskResult], updates: Updates, *, bye: bool, is_full: bool
    ) -> WorkerFrame:
        parking = dict.fromkeys(self._parked, True) if is_full else self._parking
        return WorkerFrame(
            worker=replace(self._info, slots=self._info.slots + len(self._parked)) if self._parked else self._info,
            boot=self._boot,
            number=number,
            seen=self._seen,
            held=self.held if is_full else None,
            received=() if is_full else list(self._received),
            parked=[task_id for task_id, is_parked in parking.items() if is_parked],
            unparked=[task_id for task_id, is_parked in parking.items() if not is_parked],
            suspended=[run for run, _ in self._suspended.values()],
            results=results,
            draining=self.draining,
            bye=bye,
            asks=updates.asks,
            waits=updates.waits,
            progress=updates.progress,
            overdue=self.overdue,
        )

    def _accept(self, spec: TaskSpec) -> None:
        if spec.id in self._tasks or spec.id in self._results or spec.lane in self._closed_lanes:
            return
        self._received[spec.id] = None
        task = self._tasks[spec.id] = HeldTask(spec)
        lane = self._waiting.setdefault(spec.lane, deque())
        if not lane and spec.lane not in self._running:
            (self._ready_loads if spec.op == "load" else self._ready).append(spec.lane)
        lane.append(task)

    def _leave(self, task: HeldTask) -> None:
        """Free the lane of a task that has run."""
        lane = task.spec.lane
        del self._running[lane]
        self._stopping.pop(lane, None)
        self._loading.discard(lane)
        self._slots_changed |= task.cancelled
        self._drop_asks(task.spec.id)
        if self._waiting[lane]:
            self._ready.append(lane)
        else:
            del self._waiting[lane]

    def _forget(self, task_id: str) -> HeldTask | None:
        """Drop what is held under an id.

        Returns:
            The task if it runs, and so has to be stopped.
        """
        self._results.pop(task_id, None)
        task = self._tasks.pop(task_id, None)
        if task is None:
            return None
        task.cancelled = True
        self._drop_asks(task_id)
        lane = task.spec.lane
        if self._running.get(lane) is task:
            self._stopping[lane] = task
            return task
        waiting = self._waiting[lane]
        waiting.remove(task)
        if not waiting and lane not in self._running:
            (self._ready_loads if task.spec.op == "load" else self._ready).remove(lane)
            del self._waiting[lane]
        return None

    def _send_results(self, results: Collection[_HeldResult], now: float) -> list[TaskResult]:
        for held in results:
            held.sent = now
        return [held.result for held in results]

    def _send_asks(self, asks: Collection[_OpenAsk], now: float) -> list[Ask]:
        for open_ask in asks:
            open_ask.sent = now
        self._fresh_asks.clear()
        return [open_ask.ask for open_ask in asks]

    def _settle(self, answer: AskAnswer) -> SettledAsk | None:
        """Take the answer to an ask; None if its task still has to wait."""
        task, call_index, status = answer
        open_ask = self._asks.get(task, {}).get(call_index)
        if open_ask is None:
            return None
        if isinstance(status, Recorded):
            open_ask.recorded = True
            return None
        if isinstance(status, Unrecorded):
            open_ask.recorded, open_ask.sent = False, None
            self._fresh_asks[task, call_index] = open_ask
            return None
        self._remove_ask(task, call_index)
        if task in self._parked:
            self._woken[task] = None
        return SettledAsk(task, call_index, status)

    def _suspend_surplus(self) -> list[HeldTask]:
        """Suspend the runs that have waited longest, if too many wait.

        A run that has just got a result, or whose asks are not all recorded, is left alone.

        Returns:
            The tasks whose runs have to be stopped.
        """
        surplus = len(self._may_be_suspended) - self._max_waiting
        if surplus <= 0 or self.draining or not self._daemon_reads_changes:
            return []
        chosen = list(islice(filter(self._is_settled_down, self._may_be_suspended.values()), surplus))
        for task in chosen:
            task_id = task.spec.id
            task.suspended = SuspendedRun(task_id, list(self._asks[task_id]))
            task.cancelled = True
            self._stopping[task.spec.lane] = task
            del self._may_be_suspended[task_id]
            self._remove_asks(task_id)
        return chosen

    def _is_settled_down(self, task: HeldTask) -> bool:
        """Whether nothing can happen in a parked task until the daemon answers one of its asks."""
        asks = self._asks.get(task.spec.id, {})
        return bool(asks) and task.spec.id not in self._woken and all(ask.recorded for ask in asks.values())

    def _note_suspended(self, task: HeldTask, run: SuspendedRun) -> None:
        """Report a suspended run that has ended, and leave what waits behind it to the daemon."""
        lane = task.spec.lane
        del self._tasks[task.spec.id]
        for behind in self._waiting[lane]:
            del self._tasks[behind.spec.id]
        self._waiting[lane].clear()
        self._suspended[task.spec.id] = run, lane
        self._closed_lanes.add(lane)
        self._slots_changed = True

    def _forget_suspended(self, task_ids: Iterable[str]) -> None:
        for task_id in task_ids:
            _, lane = self._suspended.pop(task_id, (None, None))
            if lane is not None:
                self._closed_lanes.discard(lane)

    def _no_longer_parked(self, task_id: str) -> None:
        self._parking[task_id] = False
        self._may_be_suspended.pop(task_id, None)
        self._woken.pop(task_id, None)

    def _drop_asks(self, task_id: str) -> None:
        if self._parked.pop(task_id, None) is not None:
            self._no_longer_parked(task_id)
        self._remove_asks(task_id)

    def _remove_ask(self, task_id: str, call_index: int) -> None:
        asks = self._asks.get(task_id, {})
        asks.pop(call_index, None)
        self._fresh_asks.pop((task_id, call_index), None)
        if not asks:
            self._asks.pop(task_id, None)

    def _remove_asks(self, task_id: str) -> None:
        for call_index in self._asks.pop(task_id, {}):
            self._fresh_asks.pop((task_id, call_index), None)
