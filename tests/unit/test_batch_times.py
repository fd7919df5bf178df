"""The longest batch is remembered for a while, and then forgotten."""

from __future__ import annotations

from p2pflowsd.batch_times import WINDOW_S, BatchTimes


def test_the_longest_batch_is_forgotten_after_a_while() -> None:
    """It shows for one to two windows, whatever came after it."""
    times = BatchTimes()
    times.add(0.0, 0.5)
    times.add(1.0, 1.25)
    assert times.longest_ms == 500
    times.add(WINDOW_S, WINDOW_S + 0.125)
    assert times.longest_ms == 500
    times.add(2 * WINDOW_S + 1, 2 * WINDOW_S + 1.0625)
    assert times.longest_ms == 125
    times.add(9 * WINDOW_S, 9 * WINDOW_S + 0.001)
    assert times.longest_ms == 1
