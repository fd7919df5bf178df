"""Virtual time: what happens, happens in the order of its time, and waiting costs nothing."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

BEGIN_MS = 1_800_000_000_000
"""The wall clock's time when a simulation begins."""


class Timeline:
    """A queue of steps, each with its time; nothing else moves the time."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._steps: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, step: Callable[[], None]) -> None:
        """Do something at a moment, after everything else that was asked for that moment."""
        heapq.heappush(self._steps, (max(moment, self.elapsed), next(self._numbers), step))

    def after(self, seconds: float, step: Callable[[], None]) -> None:
        """Do something in so many seconds."""
        self.at(self.elapsed + seconds, step)

    def run(self, seconds: float) -> None:
        """Let so many seconds pass."""
        end = self.elapsed + seconds
        while self._steps and self._steps[0][0] <= end:
            moment, _, step = heapq.heappop(self._steps)
            self.elapsed = max(self.elapsed, moment)
            step()
        self.elapsed = end

    def sleep(self, seconds: float) -> None:
        """Let time pass in which nobody does anything, as when all machines sleep; what was due is late."""
        self.elapsed += seconds


class TimelineClock:
    """The clocks of one machine in the simulation.

    Args:
        timeline: the time that all machines share.
        skew_ms: how far this machine's wall clock is ahead.
    """

    def __init__(self, timeline: Timeline, skew_ms: int = 0) -> None:
        self._timeline = timeline
        self.skew_ms = skew_ms

    def now(self) -> int:
        """Wall time in milliseconds since the Unix epoch."""
        return BEGIN_MS + int(self._timeline.elapsed * 1000) + self.skew_ms

    def elapsed(self) -> float:
        """Seconds since the simulation began."""
        return self._timeline.elapsed
