"""Virtual time: steps run in the order of their time, and waiting takes no real time."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable

START_MS = 1_800_000_000_000
"""The wall time at the start of a simulation, in milliseconds since the Unix epoch."""


class Timeline:
    """A queue of steps, each with its time. Time moves only when `run` or `sleep` is called."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self._steps: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, moment: float, step: Callable[[], None]) -> None:
        """Run a step at a moment, after all steps that were added before for the same moment."""
        heapq.heappush(self._steps, (max(moment, self.elapsed), next(self._numbers), step))

    def after(self, seconds: float, step: Callable[[], None]) -> None:
        """Run a step in some seconds."""
        self.at(self.elapsed + seconds, step)

    def run(self, seconds: float) -> None:
        """Let some seconds pass, and run the steps that are due in them."""
        end = self.elapsed + seconds
        while self._steps and self._steps[0][0] <= end:
            moment, _, step = heapq.heappop(self._steps)
            self.elapsed = max(self.elapsed, moment)
            step()
        self.elapsed = end

    def sleep(self, seconds: float) -> None:
        """Let time pass without running steps, as if all machines were suspended; the steps are then late."""
        self.elapsed += seconds


class TimelineClock:
    """The clocks of one machine in the simulation.

    Args:
        timeline: the time that all machines share.
        skew_ms: how many milliseconds the wall clock of this machine is ahead.
    """

    def __init__(self, timeline: Timeline, skew_ms: int = 0) -> None:
        self._timeline = timeline
        self.skew_ms = skew_ms

    def now(self) -> int:
        """Return the wall time in milliseconds since the Unix epoch."""
        return START_MS + int(self._timeline.elapsed * 1000) + self.skew_ms

    def elapsed(self) -> float:
        """Return the seconds since the simulation began."""
        return self._timeline.elapsed
