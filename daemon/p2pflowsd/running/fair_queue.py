"""Lanes that wait for a slot; their callers take turns."""

from __future__ import annotations

FIRST = ""
"""Stands for a caller whose lanes come before those of all others."""
_FIRST_COUNT = -1


class FairQueue:
    """Waiting lanes, by caller.

    Next is a lane of the caller who has the fewest running lanes; among equals, of the one whose last turn is longest
    ago. The lanes of one caller keep their order. Each operation takes the same time however many lanes wait.
    """

    def __init__(self) -> None:
        self._waiting: dict[str, dict[str, None]] = {}
        self._running: dict[str, int] = {}
        self._by_running: dict[int, dict[str, None]] = {}

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, lane: str, caller: str) -> None:
        """Let a lane wait, unless it does already."""
        lanes = self._waiting.get(caller)
        if lanes is None:
            self._waiting[caller] = {lane: None}
            self._enter(caller)
        else:
            lanes.setdefault(lane)

    def discard(self, lane: str, caller: str) -> None:
        """Remove a lane, if it waits."""
        lanes = self._waiting.get(caller)
        if lanes is None or lane not in lanes:
            return
        del lanes[lane]
        if not lanes:
            del self._waiting[caller]
            self._leave(caller)

    def peek(self) -> str:
        """Return the name of the next lane. One must wait."""
        caller = next(iter(self._by_running[min(self._by_running)]))
        return next(iter(self._waiting[caller]))

    def pop(self) -> str:
        """Remove the next lane, and return its name. One must wait."""
        callers = self._by_running[min(self._by_running)]
        caller = next(iter(callers))
        lane = next(iter(self._waiting[caller]))
        if len(callers) > 1:  # the caller has had a turn
            del callers[caller]
            callers[caller] = None
        self.discard(lane, caller)
        return lane

    def begin(self, caller: str) -> None:
        """Count a lane of a caller as running."""
        self._count(caller, 1)

    def end(self, caller: str) -> None:
        """Count a lane of a caller as running no more."""
        self._count(caller, -1)

    def _count(self, caller: str, change: int) -> None:
        waits = caller in self._waiting
        if waits:
            self._leave(caller)
        count = self._running.get(caller, 0) + change
        if count:
            self._running[caller] = count
        else:
            del self._running[caller]
        if waits:
            self._enter(caller)

    def _enter(self, caller: str) -> None:
        self._by_running.setdefault(self._rank(caller), {})[caller] = None

    def _leave(self, caller: str) -> None:
        rank = self._rank(caller)
        callers = self._by_running[rank]
        del callers[caller]
        if not callers:
            del self._by_running[rank]

    def _rank(self, caller: str) -> int:
        return _FIRST_COUNT if caller == FIRST else self._running.get(caller, 0)
