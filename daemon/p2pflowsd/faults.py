"""Named crash points inside the real code; silent unless a test arms one.

`P2PFLOWS_CRASH_AT=name:3` ends the process, as kill -9 would, the third time that point is reached.
The simulator passes its own `Faults`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol


class Faults(Protocol):
    """Told about every crash point as it is passed."""

    def reach(self, point: str) -> None:
        """The code is at this point now; may not return."""


class NoFaults:
    """Nothing goes wrong on purpose."""

    def reach(self, point: str) -> None:
        """Do nothing."""


class CrashAt:
    """Ends the process the n-th time one point is reached."""

    def __init__(self, point: str, count: int) -> None:
        self._point = point
        self._left = count

    def reach(self, point: str) -> None:
        """End the process if this is the moment."""
        if point == self._point:
            self._left -= 1
            if self._left == 0:
                os._exit(137)


def from_environment(environment: Mapping[str, str]) -> Faults:
    """What `P2PFLOWS_CRASH_AT` asks for."""
    point, _, count = environment.get("P2PFLOWS_CRASH_AT", "").partition(":")
    return CrashAt(point, int(count or "1")) if point else NoFaults()
