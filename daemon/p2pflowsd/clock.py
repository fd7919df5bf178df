"""Time and randomness as values passed in, so that a simulator can own them."""

from __future__ import annotations

import os
import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: `now` for what peers compare, `elapsed` for waiting (it never jumps)."""

    def now(self) -> int:
        """Wall time in milliseconds since the Unix epoch."""

    def elapsed(self) -> float:
        """Seconds since some moment; never goes back."""


class SystemClock:
    """The clocks of this machine."""

    def now(self) -> int:
        """Wall time in milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def elapsed(self) -> float:
        """Seconds since some moment; never goes back."""
        return time.monotonic()


class Entropy(Protocol):
    """A source of random bytes."""

    def __call__(self, count: int, /) -> bytes:
        """That many random bytes."""


system_entropy: Entropy = os.urandom
