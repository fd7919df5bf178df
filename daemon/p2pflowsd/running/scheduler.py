"""Decides which task goes to which worker next: bookkeeping for one dispatch point, without I/O or time.

A *lane* holds tasks that must take effect in order, one at a time: those of one sender to one endpoint. A lane with
work occupies one slot of one worker. Several of its tasks may be leased to that worker at once (a window), which runs
them in order. What is leased is always the beginning of its lane, and a lane gets more only once its worker holds what
it got before, so a worker that misses a frame never runs what comes behind it. A lane keeps its slot while no other
lane waits for one; otherwise it empties and queues again.

Between the end of a run and the next task, a slot would stand still for a round trip. So the only worker of a point has
some lanes of short runs at hand before a slot is free for them. With several workers, such a lane could wait at one
while another stands still.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

from p2pflowsd.running.fair_queue import FairQueue
from p2pflowsd.running.fifo import Fifo
from p2pflowsd.running.paces import FIRST_WINDOW, MAX_WINDOW, lanes_ahead


class Assignment(NamedTuple):
    """A task that is leased to a worker."""

    worker: str
    task: int


class Group(NamedTuple):
    """A bound on how many lanes run at once.

    Attributes:
        name: what names the group.
        most: how many of its lanes may run at once.
    """

    name: str
    most: int


@dataclass(slots=True)
class _GroupState:
    most: int
    lanes: int = 0
    """Those that know the group; without any it is forgotten."""
    running: int = 0
    held: FairQueue = field(default_factory=FairQueue)
    """Lanes whose turn for a slot has come while the group was full."""


@dataclass(slots=True)
class _Lane:
    name: str
    window: int = MAX_WINDOW
    caller: str = ""
    endpoint: str | None = None
    groups: tuple[str, ...] = ()
    held_in: str | None = None
    """The group in which it waits, if its turn has come while that was full."""
    is_counted: bool = False
    """Whether it counts as running; a run that waits for an answer does not."""
    waiting: Fifo = field(default_factory=Fifo)
    leased: dict[int, None] = field(default_factory=dict)
    worker: str | None = None
    is_suspended: bool = False
    """Whether its first task waits for an answer, and no worker holds it."""
    unconfirmed: bool = False
    """Whether its worker has not yet reported that it holds the last leased task."""


@dataclass(slots=True)
class _Worker:
    slots: int
    lanes: dict[str, None] = field(default_factory=dict)
    """Its lanes, in the order in which they get its slots."""
    draining: bool = False
    overdue: int = 0
    """Slots with tasks that were cancelled and go on."""

    @property
    def free(self) -> int:
        return 0 if self.draining else max(0, self.slots - self.overdue - len(self.lanes))


class Scheduler:
    """The lanes and workers of one dispatch point.

    Args:
        windows: how many tasks of one lane of an endpoint may be leased at once.
    """

    def __init__(self, windows: Mapping[str, int] | None = None) -> None:
        self._windows = {} if windows is None else windows
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[int, str] = {}
        self._idle = FairQueue()
        self._groups: dict[str, _GroupState] = {}
        self._wants_more: dict[str, None] = {}
        self._workers: dict[str, _Worker] = {}
        self._suspended = 0

    def __contains__(self, task: int) -> bool:
        return task in self._lane_of

    @property
    def workers(self) -> int:
        """The number of workers."""
        return len(self._workers)

    @property
    def slots(self) -> int:
        """The number of lanes that can run at once when no run goes on after its end."""
        return sum(worker.slots for worker in self._workers.values() if not worker.draining)

    @property
    def usable(self) -> int:
        """The number of lanes that can run at once now."""
        return sum(max(0, worker.slots - worker.overdue) for worker in self._workers.values() if not worker.draining)

    @property
    def free(self) -> int:
        """The number of further lanes that could run now."""
        return sum(worker.free for worker in self._workers.values())

    @property
    def queued(self) -> int:
        """The number of tasks that wait or run."""
        return len(self._lane_of)

    @property
    def suspended(self) -> int:
        """The number of those that wait for an answer, and that no worker holds."""
        return self._suspended

    def add(  # noqa: PLR0917 - the last four are those of a new lane
        self,
        task: int,
        lane: str,
        window: int = MAX_WINDOW,
        caller: str = "",
        endpoint: str | None = None,
        groups: Collection[Group] = (),
    ) -> None:
        """Queue a task at the end of a lane.

        Args:
            task: the task.
            lane: the lane, which is created if it is new.
            window: how many tasks of a new lane may be leased at once.
            caller: whose turn it is when a new lane gets a slot; FIRST if it comes before all others.
            endpoint: the endpoint whose window bounds that of a new lane; None for no other bound.
            groups: those of a new lane. A new bound of a group holds for all its lanes from now on.
        """
        if task in self._lane_of:
            return
        self._lane_of[task] = lane
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Lane(lane, window, caller, endpoint)
            if groups:
                self._join(found, groups)
        found.waiting.append(task)
        self._queue_lane(found)

    def is_draining(self, worker: str) -> bool:
        """Whether a worker is about to end, and waits for its last confirmations."""
        return worker in self._workers and self._workers[worker].draining

    def announce(self, worker: str, slots: int, *, draining: bool = False, overdue: int = 0) -> None:
        """Add a worker, or update its slots; a draining worker gets no more tasks, nor does an overdue slot."""
        known = self._workers.setdefault(worker, _Worker(slots))
        known.slots = slots
        known.draining = draining
        known.overdue = overdue

    def adopt(self, worker: str, tasks: Collection[int]) -> list[int]:
        """Lease tasks to a worker that holds them already, because it outlived a restart of the daemon.

        Returns:
            Those that are leased to it now: the beginnings of lanes that no other worker has.
        """
        adopted = []
        for name in dict.fromkeys(self._lane_of[task] for task in tasks):
            lane = self._lanes[name]
            is_free = lane.worker in (None, worker)
            first = list(takewhile(lambda task: task in tasks, lane.waiting)) if is_free else []
            if first:
                for _ in first:
                    lane.leased[lane.waiting.take()] = None
                lane.worker = worker
                self._workers[worker].lanes[lane.name] = None
                self._unqueue(lane)
                self._set_counted(lane, True)
                self._queue_lane(lane)
                adopted += first
        return adopted

    def set_waiting(self, task: int, is_waiting: bool) -> None:
        """Note whether the run of a leased task waits for an answer; meanwhile its lane does not count as running.

        Else a run could wait for one that its own group keeps from running.
        """
        lane = self._lanes[self._lane_of[task]]
        if lane.worker is not None and task in lane.leased:
            self._set_counted(lane, not is_waiting)

    def suspend(self, task: int) -> list[int]:
        """Take a task that waits for an answer from its worker; its lane stands still until `resume`.

        Args:
            task: the first task of its lane, leased or not.

        Returns:
            The tasks that are leased no more: this one, and those behind it.
        """
        lane = self._lanes[self._lane_of[task]]
        requeued = list(lane.leased)
        lane.waiting.put_back(requeued)
        lane.leased.clear()
        self._set_suspended(lane, True)
        self._release(lane)
        return requeued

    def resume(self, task: int) -> None:
        """Let the lane of a suspended task go on, with that task first."""
        lane = self._lanes[self._lane_of[task]]
        self._set_suspended(lane, False)
        self._queue_lane(lane)

    def confirm(self, task: int) -> None:
        """Note that a worker holds a leased task, and so all that its lane got before."""
        lane = self._lanes[self._lane_of[task]]
        if task == next(reversed(lane.leased)):
            lane.unconfirmed = False

    def is_head(self, task: int) -> bool:
        """Whether a task is the first of its lane, so that it may end now."""
        lane = self._lanes[self._lane_of[task]]
        return task == (next(iter(lane.leased)) if lane.leased else lane.waiting.first)

    def assign(self) -> list[Assignment]:
        """Lease what can be leased now."""
        assignments: list[Assignment] = []
        while self._idle and (worker := self._least_loaded()) is not None:
            lane = self._lanes[self._idle.pop()]
            if lane.groups and self._is_held(lane):
                continue
            self._begin(lane, worker, assignments)
        if self._idle and len(self._workers) == 1:
            self._assign_ahead(*next(iter(self._workers.items())), assignments)
        if not self._idle:
            for name in list(self._wants_more):
                self._fill_window(self._lanes[name], assignments)
        return assignments

    def done(self, task: int) -> None:
        """Remove a task that has ended; its lane goes on with the next."""
        name = self._lane_of.pop(task, None)
        if name is None:
            return
        lane = self._lanes[name]
        if task in lane.leased:
            del lane.leased[task]
        else:
            if task == lane.waiting.first:
                self._set_suspended(lane, False)
            lane.waiting.remove(task)
        if not lane.leased:
            self._release(lane)
        elif lane.worker is not None:  # its worker lets it go behind its other lanes
            lanes = self._workers[lane.worker].lanes
            lanes[name] = lanes.pop(name)

    def requeue(self, tasks: Collection[int], *, unsent: bool = False) -> list[int]:
        """Let leased tasks that did not reach their worker wait again, with all behind them in their lanes.

        Args:
            tasks: the tasks.
            unsent: they were not sent, as they do not fit beside those before them, which leave only now.

        Returns:
            All tasks that wait again.
        """
        requeued: list[int] = []
        for name in dict.fromkeys(self._lane_of[task] for task in tasks):
            lane = self._lanes[name]
            leased = list(lane.leased)
            kept = list(takewhile(lambda task: task not in tasks, leased))
            lane.leased = dict.fromkeys(kept)
            lane.waiting.put_back(leased[len(kept) :])
            requeued += leased[len(kept) :]
            if kept:
                lane.unconfirmed = lane.unconfirmed and unsent
                self._queue_lane(lane)
            else:
                self._release(lane)
        return requeued

    def remove_worker(self, worker: str) -> list[int]:
        """Remove a worker that is gone; its tasks wait again.

        Returns:
            The first task of each lane that had a slot, which may have been running.
        """
        removed = self._workers.get(worker)
        if removed is None:
            return []
        first = []
        for number, name in enumerate(list(removed.lanes)):
            lane = self._lanes[name]
            leased = list(lane.leased)
            first += leased[:1] if number < removed.slots else []
            lane.leased.clear()
            lane.waiting.put_back(leased)
            self._release(lane)
        del self._workers[worker]
        return first

    def _least_loaded(self) -> str | None:
        """The worker with the most free slots; None if there are none."""
        best = max(self._workers, key=lambda name: self._workers[name].free, default=None)
        return best if best is not None and self._workers[best].free > 0 else None

    def _assign_ahead(self, name: str, worker: _Worker, assignments: list[Assignment]) -> None:
        """Let a worker have lanes at hand whose slots are not free yet. Groups bound what runs, so theirs wait here."""
        usable = worker.slots - worker.overdue
        while self._idle and usable > 0 and not worker.draining:
            lane = self._lanes[self._idle.peek()]
            most = usable + lanes_ahead(self._windows.get(lane.endpoint or "", 1))
            if lane.groups or len(worker.lanes) >= most:
                return
            self._begin(self._lanes[self._idle.pop()], name, assignments)

    def _begin(self, lane: _Lane, worker: str, assignments: list[Assignment]) -> None:
        lane.worker = worker
        self._workers[worker].lanes[lane.name] = None
        self._set_counted(lane, True)
        self._fill_window(lane, assignments)

    def _fill_window(self, lane: _Lane, assignments: list[Assignment]) -> None:
        """Lease tasks of a lane that has a slot, as many as its window allows."""
        assert lane.worker is not None  # noqa: S101 - callers pass lanes with a slot
        if not self._workers[lane.worker].draining and not lane.unconfirmed:
            window = lane.window
            if window > 1 and lane.endpoint is not None:
                window = min(window, self._windows.get(lane.endpoint, FIRST_WINDOW))
            while lane.waiting and len(lane.leased) < window:
                task = lane.waiting.take()
                lane.leased[task] = None
                lane.unconfirmed = True
                assignments.append(Assignment(lane.worker, task))
        self._queue_lane(lane)

    def _queue_lane(self, lane: _Lane) -> None:
        """Queue a lane for a slot, or for more tasks at its worker, if tasks of it wait."""
        if lane.is_suspended:
            self._unqueue(lane)
        elif lane.worker is None:
            if lane.waiting and lane.held_in is None:
                self._idle.add(lane.name, lane.caller)
        elif lane.waiting:
            self._wants_more.setdefault(lane.name)
        else:
            self._wants_more.pop(lane.name, None)

    def _set_suspended(self, lane: _Lane, is_suspended: bool) -> None:
        self._suspended += is_suspended - lane.is_suspended
        lane.is_suspended = is_suspended

    def _unqueue(self, lane: _Lane) -> None:
        """Let a lane wait for a slot no more."""
        if lane.held_in is not None:
            self._groups[lane.held_in].held.discard(lane.name, lane.caller)
            lane.held_in = None
        self._idle.discard(lane.name, lane.caller)

    def _set_counted(self, lane: _Lane, is_counted: bool) -> None:
        """Count a lane as running, or no more; then lanes that its groups held may queue again."""
        if lane.is_counted == is_counted:
            return
        lane.is_counted = is_counted
        if is_counted:
            self._idle.begin(lane.caller)
        else:
            self._idle.end(lane.caller)
        for name in lane.groups:
            group = self._groups[name]
            if is_counted:
                group.running += 1
                group.held.begin(lane.caller)
            else:
                group.running -= 1
                group.held.end(lane.caller)
                self._let_on(group)

    def _join(self, lane: _Lane, groups: Collection[Group]) -> None:
        lane.groups = tuple(group.name for group in groups)
        for name, most in groups:
            group = self._groups.setdefault(name, _GroupState(most))
            group.lanes += 1
            more, group.most = most - group.most, most
            for _ in range(more):
                self._let_on(group)

    def _leave_groups(self, lane: _Lane) -> None:
        for name in lane.groups:
            group = self._groups[name]
            group.lanes -= 1
            if not group.lanes:
                del self._groups[name]

    def _is_held(self, lane: _Lane) -> bool:
        """Whether one of its groups is full; then the lane waits there, and lets others of its groups go on."""
        full = next((name for name in lane.groups if self._is_full(self._groups[name])), None)
        if full is None:
            return False
        lane.held_in = full
        self._groups[full].held.add(lane.name, lane.caller)
        for name in lane.groups:
            self._let_on(self._groups[name])
        return True

    def _let_on(self, group: _GroupState) -> None:
        """Let the next lane that a group holds queue again, if the group has room."""
        if group.held and not self._is_full(group):
            lane = self._lanes[group.held.pop()]
            lane.held_in = None
            self._queue_lane(lane)

    @staticmethod
    def _is_full(group: _GroupState) -> bool:
        return group.running >= group.most

    def _release(self, lane: _Lane) -> None:
        """Free the slot of a lane without leased tasks; if tasks of it wait, it queues at the end."""
        if lane.worker is not None:
            del self._workers[lane.worker].lanes[lane.name]
            lane.worker = None
            lane.unconfirmed = False
            self._set_counted(lane, False)
        self._wants_more.pop(lane.name, None)
        if lane.waiting:
            self._queue_lane(lane)
        else:
            self._unqueue(lane)
            self._leave_groups(lane)
            del self._lanes[lane.name]
