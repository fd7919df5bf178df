"""Time and randomness, passed in as values so that tests and the simulator can supply their own."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `now` for times that peers compare; `elapsed`, which never jumps, for waiting."""

    def now(self) -> int:
        """Return the wall time in milliseconds since the Unix epoch."""

    def elapsed(self) -> float:
        """Return the seconds since some fixed moment; the value never decreases."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> int:
        """Return the wall time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> float:
        """Return the seconds since some fixed moment; the value never decreases."""
        return time.monotonic()


class Entropy(Protocol):
    """A source of random bytes."""

    def __call__(self, count: int, /) -> bytes:
        """Return a number of random bytes."""


system_entropy: Entropy = os.urandom
