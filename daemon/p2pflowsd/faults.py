"""Named crash points inside the real code; they do nothing unless a test arms one.

`P2PFLOWS_CRASH_AT=name:3` ends the process, as kill -9 would, when the code reaches that point for the third time.
The simulator passes its own `Faults`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol


class Faults(Protocol):
    """Is notified of every crash point that the code reaches."""

    def reach(self, point: str) -> None:
        """Note that the code has reached a point; may end the process instead of returning."""


class NoFaults:
    """Lets the code pass every point."""

    def reach(self, point: str) -> None:
        """Do nothing."""


class CrashAt:
    """Ends the process when the code reaches one point for the n-th time."""

    def __init__(self, point: str, count: int) -> None:
        self._point = point
        self._left = count

    def reach(self, point: str) -> None:
        """End the process at the n-th passage of the point."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os._exit(137)


def from_environment(environment: Mapping[str, str]) -> Faults:
    """Return the crash point that `P2PFLOWS_CRASH_AT` names, or no faults if it is not set."""
    point, _, count = environment.get("P2PFLOWS_CRASH_AT", "").partition(":")
    return CrashAt(point, int(count or "1")) if point else NoFaults()
