"""What a worker holds: which tasks may start, which results are not acknowledged. No I/O, clock or threads.

```
receive -> waiting in its lane -> take -> running -> finish -> unacknowledged -> receive(done) -> forgotten
                 |                           |                       |                               ^
                 +---- receive(cancel) ------+-----------------------+-------------------------------+
```
A cancelled task that runs keeps its lane until it has ended; its result is dropped. A running task that waits for
others is parked: it keeps its lane, and frees its slot. What a running task wants kept is an *ask*: it stands in frames
until the daemon says that it is kept, and in the list of what is waited for until it is answered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from p2pflows.worker.frames import Answer, Ask, Incoming, Result, Task

_FIRST_WILL = 2**62
_WILL_STEP = 2**32


@dataclass(frozen=True, slots=True)
class Received:
    """What a frame that was not a repeat asks for."""

    new_boot: bool
    """The daemon has restarted: it wants to be told everything."""
    to_stop: list[Task]
    """Tasks that run and were cancelled."""
    answers: list[Answer]
    """What running tasks have waited for."""


class Lanes:
    """The bookkeeping of one worker.

    Args:
        about: what each frame says about this worker: `worker`, `slots`, `pid`, `host`.
    """

    def __init__(self, about: dict[str, Any]) -> None:
        self.draining = False
        self.abandoned: list[Task] = []
        """Tasks that waited for others and were left to another worker; they may still be in this process."""
        self._about = about
        self._slots: int = about["slots"]
        self._boot = 0
        self._seen = 0
        self._n = 0
        self._will = _FIRST_WILL - _WILL_STEP
        self._tasks: dict[str, Task] = {}
        self._results: dict[str, Result] = {}
        self._fresh: list[Result] = []
        self._waiting: dict[str, deque[Task]] = {}
        self._running: dict[str, Task] = {}
        self._ready: deque[str] = deque()
        self._parked: dict[str, int] = {}
        """Tasks that wait for others, and for how many of them side by side."""
        self._parked_changed = False
        self._asks: dict[tuple[str, int], Ask] = {}

    def receive(self, frame: Incoming) -> Received | None:
        """Take in a frame; None for one that is not newer than the last."""
        new_boot = frame.boot > self._boot
        if frame.boot < self._boot or (not new_boot and frame.n <= self._seen):
            return None
        self._boot, self._seen = frame.boot, frame.n
        for id_ in frame.done:
            self._results.pop(id_, None)
        to_stop = [task for task in map(self._forget, frame.cancel) if task is not None]
        if not self.draining:
            for task in frame.tasks:
                self._accept(task)
        return Received(new_boot, to_stop, [answer for answer in frame.answers if self._settle(answer)])

    def take(self) -> Task | None:
        """The next task that may start; it counts as running from now on."""
        if not self._ready or len(self._running) - len(self._parked) >= self._slots:
            return None
        lane = self._ready.popleft()
        task = self._waiting[lane].popleft()
        self._running[lane] = task
        return task

    def finish(self, task: Task, result: Result) -> None:
        """A running task has ended; its lane goes behind those that wait."""
        if self._running.get(task.lane) is not task:
            return
        self._leave(task)
        if not task.dropped:
            del self._tasks[task.id]
            self._results[task.id] = result
            self._fresh.append(result)

    def park(self, task: Task) -> None:
        """A running task waits for others: its slot is free."""
        if self._running.get(task.lane) is task:
            self._parked[task.id] = self._parked.get(task.id, 0) + 1
            self._parked_changed = True

    def unpark(self, task: Task) -> None:
        """A parked task goes on, at once: it may be one too many for a moment, but it never starves.

        While it still waits for something else, side by side, it stays parked.
        """
        left = self._parked.pop(task.id, 1) - 1
        if left:
            self._parked[task.id] = left
        self._parked_changed = True

    def parked_changed(self) -> bool:
        """Whether the daemon has to be told anew how many slots there are."""
        changed, self._parked_changed = self._parked_changed, False
        return changed

    def ask(self, ask: Ask) -> None:
        """A running task wants something kept."""
        self._asks[ask.task, ask.k] = ask

    def take_back(self, ask: Ask) -> None:
        """Forget something that cannot be told."""
        self._asks.pop((ask.task, ask.k), None)

    def asks(self, now: float, patience: float = 0.0) -> list[Ask]:
        """What is to be told the daemon: what it was never told, or `patience` ago without a word that it has it."""
        latest = now - patience
        due = [
            ask for ask in self._asks.values() if ask.sent is None or (patience and not ask.kept and ask.sent <= latest)
        ]
        for ask in due:
            ask.sent = now
        return due

    @property
    def waits(self) -> list[tuple[str, int]]:
        """What the daemon has kept and not answered yet."""
        return [key for key, ask in self._asks.items() if ask.kept]

    def fresh(self, now: float) -> list[Result]:
        """The results that were in no frame yet."""
        fresh, self._fresh = self._fresh, []
        return self._send([result for result in fresh if self._results.get(result.task) is result], now)

    def overdue(self, now: float, patience: float) -> list[Result]:
        """The results that were in a frame `patience` ago or earlier and are not acknowledged."""
        latest = now - patience
        held = self._results.values()
        return self._send([result for result in held if result.sent is not None and result.sent <= latest], now)

    def unacknowledged(self, now: float) -> list[Result]:
        """All results that the daemon has not acknowledged."""
        self._fresh = []
        return self._send(list(self._results.values()), now)

    def drain(self) -> None:
        """Take no more tasks, and forget those that have not started: another worker may have them."""
        self.draining = True
        for lane in self._waiting.values():
            for task in lane:
                del self._tasks[task.id]
        self._ready.clear()
        self._waiting = {lane: deque() for lane in self._running}
        for task in [task for task in self._running.values() if task.id in self._parked]:
            # It may wait for days; another worker takes it up where it stands.
            self._forget(task.id)
            self._leave(task)
            self.abandoned.append(task)

    @property
    def running(self) -> list[Task]:
        """The tasks that run now."""
        return list(self._running.values())

    @property
    def idle(self) -> bool:
        """Whether nothing runs and every result is acknowledged."""
        return not (self._running or self._results)

    @property
    def backlog(self) -> bool:
        """Whether a task waits for others to end."""
        return any(self._waiting.values())

    @property
    def held(self) -> list[str]:
        """The ids of tasks that were received and whose results are not acknowledged."""
        return [*self._tasks, *self._results]

    def header(self, results: Sequence[Result] = (), *, bye: bool = False) -> dict[str, Any]:
        """The header of the next frame to the daemon."""
        self._n += 1
        return self._header(self._n, self.held, results, bye=bye)

    def will(self) -> dict[str, Any]:
        """The header of the frame that the broker sends if the connection that is about to be made breaks.

        Each will is numbered above all frames of its connection, and below those of the next one: the daemon
        takes what is not numbered above all it has seen for a repeat.
        """
        if self._will >= _FIRST_WILL:
            self._n = self._will
        self._will += _WILL_STEP
        return self._header(self._will, [], (), bye=True)

    def _header(self, n: int, held: list[str], results: Sequence[Result], *, bye: bool) -> dict[str, Any]:
        return {
            **self._about,
            "slots": self._slots + len(self._parked),
            "parked": list(self._parked),
            "boot": self._boot,
            "n": n,
            "seen": self._seen,
            "held": held,
            "results": [{"task": result.task, "error": result.error} for result in results],
            "draining": self.draining,
            "bye": bye,
        }

    def _accept(self, task: Task) -> None:
        if task.id in self._tasks or task.id in self._results:
            return
        self._tasks[task.id] = task
        lane = self._waiting.setdefault(task.lane, deque())
        if not lane and task.lane not in self._running:
            self._ready.append(task.lane)
        lane.append(task)

    def _leave(self, task: Task) -> None:
        del self._running[task.lane]
        self._drop_asks(task.id)
        if self._waiting[task.lane]:
            self._ready.append(task.lane)
        else:
            del self._waiting[task.lane]

    def _forget(self, id_: str) -> Task | None:
        """Drop what is held under an id; gives the task if it runs and so must be stopped."""
        self._results.pop(id_, None)
        task = self._tasks.pop(id_, None)
        if task is None:
            return None
        task.dropped = True
        self._drop_asks(id_)
        if self._running.get(task.lane) is task:
            return task
        waiting = self._waiting[task.lane]
        waiting.remove(task)
        if not waiting and task.lane not in self._running:
            self._ready.remove(task.lane)
            del self._waiting[task.lane]
        return None

    def _send(self, results: list[Result], now: float) -> list[Result]:
        for result in results:
            result.sent = now
        return results

    def _settle(self, answer: Answer) -> bool:
        """Note what the daemon says to an ask; whether the task that asked can go on by that."""
        ask = self._asks.get((answer.task, answer.k))
        if ask is None:
            return False
        if "kept" in answer.value:
            ask.kept = True
            return False
        if "unknown" in answer.value:
            ask.kept, ask.sent = False, None
            return False
        del self._asks[answer.task, answer.k]
        return True

    def _drop_asks(self, id_: str) -> None:
        self._parked.pop(id_, None)
        for key in [key for key in self._asks if key[0] == id_]:
            del self._asks[key]
