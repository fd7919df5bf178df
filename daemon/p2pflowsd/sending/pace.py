"""Lets something happen only so often, for each of many keys."""

from __future__ import annotations

from typing import Generic, TypeVar

from p2pflowsd.clock import Clock

MAX_KEYS = 10_000
"""How many keys are remembered; beyond that, the ones that had their turn longest ago are forgotten."""

Key = TypeVar("Key")


class Pace(Generic[Key]):
    """Lets something happen once in an interval for each key.

    Args:
        clock: the time.
        interval_s: how many seconds pass between two turns of one key.
    """

    def __init__(self, clock: Clock, interval_s: float) -> None:
        self._clock = clock
        self._interval_s = interval_s
        self._last: dict[Key, float] = {}

    def wait_s(self, key: Key) -> float:
        """Return how many seconds a key has to wait for its next turn; 0 if it may have it now."""
        last = self._last.get(key)
        return 0.0 if last is None else max(0.0, last + self._interval_s - self._clock.elapsed())

    def take(self, key: Key) -> bool:
        """Take a key's turn; return False if its last one was too short a time ago."""
        if self.wait_s(key) > 0:
            return False
        elapsed = self._clock.elapsed()
        self._last.pop(key, None)
        self._last[key] = elapsed
        while (oldest := next(iter(self._last))) != key and (
            len(self._last) > MAX_KEYS or self._last[oldest] + self._interval_s <= elapsed
        ):
            del self._last[oldest]
        return True
