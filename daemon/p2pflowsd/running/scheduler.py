"""Which task goes to which worker next: pure bookkeeping for one dispatch point, without I/O or time.

A *lane* holds tasks that must take effect in order, one at a time: those of one sender to one endpoint. A lane with
work occupies one slot of one worker, and several of its tasks may be under way to that worker (a window), which costs
nothing, as they run in order there anyway. What is leased is always the beginning of its lane, and a lane gets more
only once its worker holds what it got before, so a worker that misses a frame never runs what comes behind it. A
lane keeps its slot while nobody else waits for one; otherwise it empties and queues again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import takewhile
from typing import NamedTuple

MAX_WINDOW = 128


class Assignment(NamedTuple):
    """A task for a worker."""

    worker: str
    task: int


@dataclass(slots=True)
class _Lane:
    name: str
    window: int = MAX_WINDOW
    waiting: deque[int] = field(default_factory=deque)
    leased: dict[int, None] = field(default_factory=dict)
    worker: str | None = None
    unconfirmed: bool = False
    """Whether the worker has yet to show that it holds what it got last."""


@dataclass(slots=True)
class _Worker:
    slots: int
    lanes: set[str] = field(default_factory=set)
    draining: bool = False

    @property
    def free(self) -> int:
        return 0 if self.draining else max(0, self.slots - len(self.lanes))


class Scheduler:
    """Lanes and workers of one dispatch point."""

    def __init__(self) -> None:
        self._lanes: dict[str, _Lane] = {}
        self._lane_of: dict[int, str] = {}
        self._idle: dict[str, None] = {}
        self._wants_more: dict[str, None] = {}
        self._workers: dict[str, _Worker] = {}

    def __contains__(self, task: int) -> bool:
        return task in self._lane_of

    @property
    def workers(self) -> int:
        """How many workers there are."""
        return len(self._workers)

    @property
    def slots(self) -> int:
        """How many lanes can run at once."""
        return sum(worker.slots for worker in self._workers.values() if not worker.draining)

    @property
    def free(self) -> int:
        """How many more lanes could run now."""
        return sum(worker.free for worker in self._workers.values())

    @property
    def queued(self) -> int:
        """How many tasks wait or run."""
        return len(self._lane_of)

    def add(self, task: int, lane: str, window: int = MAX_WINDOW) -> None:
        """Queue a task at the end of a lane, of which so many tasks may be under way at once."""
        if task in self._lane_of:
            return
        self._lane_of[task] = lane
        found = self._lanes.setdefault(lane, _Lane(lane, window))
        found.waiting.append(task)
        self._wants(found)

    def announce(self, worker: str, slots: int, *, draining: bool = False) -> None:
        """A worker is there, with this many slots."""
        known = self._workers.setdefault(worker, _Worker(slots))
        known.slots = slots
        known.draining = draining

    def adopt(self, worker: str, tasks: Collection[int]) -> list[int]:
        """A worker that outlived a restart of the daemon holds tasks; gives those that are its own now."""
        adopted = []
        for name in dict.fromkeys(self._lane_of[task] for task in tasks):
            lane = self._lanes[name]
            mine = list(takewhile(lambda task: task in tasks, lane.waiting)) if lane.worker in (None, worker) else []
            if mine:
                for _ in mine:
                    lane.leased[lane.waiting.popleft()] = None
                lane.worker = worker
                self._workers[worker].lanes.add(lane.name)
                self._idle.pop(lane.name, None)
                self._wants(lane)
                adopted += mine
        return adopted

    def confirm(self, task: int) -> None:
        """A worker has shown that it holds a leased task, and so all that its lane got before."""
        lane = self._lanes[self._lane_of[task]]
        if task == next(reversed(lane.leased)):
            lane.unconfirmed = False

    def is_head(self, task: int) -> bool:
        """Whether nothing of its lane has to have its end before a task."""
        lane = self._lanes[self._lane_of[task]]
        return task == next(iter(lane.leased or lane.waiting))

    def assign(self) -> list[Assignment]:
        """Lease what can be leased now."""
        given: list[Assignment] = []
        while self._idle and (worker := self._least_loaded()) is not None:
            lane = self._lanes[next(iter(self._idle))]
            del self._idle[lane.name]
            lane.worker = worker
            self._workers[worker].lanes.add(lane.name)
            self._fill_window(lane, given)
        if not self._idle:
            for name in list(self._wants_more):
                self._fill_window(self._lanes[name], given)
        return given

    def done(self, task: int) -> None:
        """A task has its end; its lane goes on with the next."""
        name = self._lane_of.pop(task, None)
        if name is None:
            return
        lane = self._lanes[name]
        if task in lane.leased:
            del lane.leased[task]
        else:
            lane.waiting.remove(task)
        if not lane.leased:
            self._release(lane)

    def requeue(self, tasks: Collection[int], *, unsent: bool = False) -> list[int]:
        """Leased tasks did not reach their worker: they and all behind them wait again; gives all of these.

        Args:
            tasks: which.
            unsent: nothing was lost, they just do not fit beside those before them, which are only now to leave.
        """
        gone: list[int] = []
        for name in dict.fromkeys(self._lane_of[task] for task in tasks):
            lane = self._lanes[name]
            leased = list(lane.leased)
            kept = list(takewhile(lambda task: task not in tasks, leased))
            lane.leased = dict.fromkeys(kept)
            lane.waiting.extendleft(reversed(leased[len(kept) :]))
            gone += leased[len(kept) :]
            if kept:
                lane.unconfirmed = lane.unconfirmed and unsent
                self._wants(lane)
            else:
                self._release(lane)
        return gone

    def worker_lost(self, worker: str) -> list[int]:
        """A worker is gone: its tasks wait again; gives the first of each lane, which may have been running."""
        gone = self._workers.pop(worker, None)
        if gone is None:
            return []
        first = []
        for name in sorted(gone.lanes):
            lane = self._lanes[name]
            leased = list(lane.leased)
            first += leased[:1]
            lane.leased.clear()
            lane.waiting.extendleft(reversed(leased))
            lane.worker = None
            lane.unconfirmed = False
            self._wants_more.pop(name, None)
            self._idle[name] = None
        return first

    def _least_loaded(self) -> str | None:
        best = max(self._workers, key=lambda name: self._workers[name].free, default=None)
        return best if best is not None and self._workers[best].free > 0 else None

    def _fill_window(self, lane: _Lane, given: list[Assignment]) -> None:
        assert lane.worker is not None  # noqa: S101 - only lanes with a slot are fed
        if not self._workers[lane.worker].draining and not lane.unconfirmed:
            while lane.waiting and len(lane.leased) < lane.window:
                task = lane.waiting.popleft()
                lane.leased[task] = None
                lane.unconfirmed = True
                given.append(Assignment(lane.worker, task))
        self._wants(lane)

    def _wants(self, lane: _Lane) -> None:
        """Note where a lane with waiting tasks has to queue for them."""
        if lane.worker is None:
            if lane.waiting:
                self._idle.setdefault(lane.name)
        elif lane.waiting:
            self._wants_more.setdefault(lane.name)
        else:
            self._wants_more.pop(lane.name, None)

    def _release(self, lane: _Lane) -> None:
        """An emptied lane gives its slot back; with more to do it queues at the end."""
        if lane.worker is not None:
            self._workers[lane.worker].lanes.discard(lane.name)
            lane.worker = None
            lane.unconfirmed = False
        self._wants_more.pop(lane.name, None)
        if lane.waiting:
            self._idle.setdefault(lane.name)
        else:
            self._idle.pop(lane.name, None)
            del self._lanes[lane.name]
