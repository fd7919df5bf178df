"""Shifts the wall clock of the Python processes of one person, as if their machine's clock were set.

Python imports this module at its start because its folder is in PYTHONPATH. `P2PFLOWS_SOAK_CLOCK` names a file with
the shift in milliseconds, as eight bytes; every process of the person maps it, so all clocks jump at once.
"""

from __future__ import annotations

import mmap
import os
import struct
import time

_FILE = os.environ.get("P2PFLOWS_SOAK_CLOCK")

if _FILE:
    with open(_FILE, "rb") as _file:  # noqa: PTH123 - every Python process of a person starts with this
        _shift = mmap.mmap(_file.fileno(), 8, access=mmap.ACCESS_READ)
    _true_time_ns = time.time_ns

    def _time_ns() -> int:
        (shift_ms,) = struct.unpack("<q", _shift[:8])
        return _true_time_ns() + int(shift_ms) * 1_000_000

    time.time_ns = _time_ns
    time.time = lambda: _time_ns() / 1e9
