"""The clocks of a soak jump for all processes of one person at once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from soak.clocks import READING_MS, ShiftedClock

HOUR_MS = 3_600_000
PROGRAM = (
    "import time; print(time.time_ns()); input(); print(time.time_ns(), int(time.time() * 1e9), time.monotonic_ns())"
)


def test_a_running_process_sees_the_jump(tmp_path: Path) -> None:
    """A process that runs already sees the wall clock jump, and its monotonic clock goes on."""
    clock = ShiftedClock(tmp_path / "clock")
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM],
        env={**os.environ, **clock.environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    before = int(process.stdout.readline())
    assert abs(before - time.time_ns()) < 30e9
    clock.jump_to(-HOUR_MS)
    out, _ = process.communicate("\n")
    nanoseconds, seconds, monotonic = map(int, out.split())
    assert abs(nanoseconds + HOUR_MS * 1_000_000 - time.time_ns()) < 30e9
    assert abs(seconds - nanoseconds) < 1e9
    assert monotonic <= time.monotonic_ns()


def test_readings_near_a_jump(tmp_path: Path) -> None:
    """The latest possible reading counts both sides of a jump, if it was near."""
    clock = ShiftedClock(tmp_path / "clock")
    now = time.time_ns() // 1_000_000
    assert clock.latest_reading(now) == now
    clock.jump_to(HOUR_MS)
    assert clock.latest_reading(now) == now + HOUR_MS + READING_MS
    assert clock.latest_reading(now + 120_000) == now + 120_000 + HOUR_MS
    clock.jump_to(-HOUR_MS)
    assert clock.latest_reading(now) == now + HOUR_MS + READING_MS
    assert clock.latest_reading(now + 120_000) == now + 120_000 - HOUR_MS
