"""The wall clock of one person, which a soak sets forward and back."""

from __future__ import annotations

import struct
import time
from pathlib import Path

_FOLDER = Path(__file__).parent / "shifted_clock"
_MARGIN_MS = 60_000
"""How far from a jump both readings count.

A process may have been stopped after it read the clock; and a client waits no longer because the clock was set back, so
a short deadline may pass by the clock as it was before.
"""


READING_MS = 100
"""How far apart a process may have read its wall clock and its monotonic clock when it noticed that one was set."""


class ShiftedClock:
    """A clock that the processes with `environment` use.

    Args:
        path: the file with the shift.
    """

    def __init__(self, path: Path) -> None:
        path.write_bytes(struct.pack("<q", 0))
        self._path = path
        self._jumps = [(0, 0)]
        """When the clock was set, in milliseconds of the true time, and how far ahead it was from then on."""
        self.environment = {"PYTHONPATH": str(_FOLDER), "P2PFLOWS_SOAK_CLOCK": str(path)}

    def jump_to(self, shift_ms: int) -> None:
        """Set the clock to so many milliseconds ahead of the true time."""
        with self._path.open("r+b") as file:
            file.write(struct.pack("<q", shift_ms))
        self._jumps.append((time.time_ns() // 1_000_000, shift_ms))

    def latest_reading(self, true_ms: int) -> int:
        """Return the latest wall time that a process can have read by a true time, if it read just now."""
        before = [shift for moment, shift in self._jumps if moment < true_ms - _MARGIN_MS]
        near = [shift for moment, shift in self._jumps if abs(moment - true_ms) <= _MARGIN_MS]
        return true_ms + max([*before[-1:], *near]) + (READING_MS if near else 0)
