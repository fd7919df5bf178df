"""Which streams miss a message, and when the next one is asked for."""

from __future__ import annotations

import pytest
from simulation.timeline import Timeline, TimelineClock

from p2pflowsd.sending.gaps import GAP_BACKOFF, Gaps

ANN, BOB = "a" * 64, "b" * 64
X, Y, Z = (ANN, "x"), (ANN, "y"), (BOB, "z")


@pytest.fixture
def timeline() -> Timeline:
    """The time."""
    return Timeline()


@pytest.fixture
def gaps(timeline: Timeline) -> Gaps:
    """No stream misses anything yet."""
    return Gaps(TimelineClock(timeline))


def test_each_stream_is_asked_for_later_each_time(gaps: Gaps, timeline: Timeline) -> None:
    """Not before its time, and as if for the first time once some of what was missing has come."""
    gaps.add(X)
    assert gaps.take(9) == []
    for times_asked in range(4):
        timeline.sleep(GAP_BACKOFF.delay_s(times_asked) - 0.01)
        gaps.add(X)  # which is asked for already
        assert gaps.take(9) == []
        timeline.sleep(0.01)
        assert gaps.take(9) == [X]
    gaps.restart(X)
    timeline.sleep(GAP_BACKOFF.delay_s(0))
    assert gaps.take(9) == [X]
    timeline.sleep(GAP_BACKOFF.delay_s(0))
    assert gaps.take(9) == []


def test_a_batch_asks_for_a_few(gaps: Gaps, timeline: Timeline) -> None:
    """The others stay due."""
    for stream in (X, Y, Z):
        gaps.add(stream)
    timeline.sleep(1.0)
    assert len(gaps.take(2)) == 2
    assert len(gaps.take(2)) == 1


def test_a_stream_that_misses_nothing_is_not_asked_for(gaps: Gaps, timeline: Timeline) -> None:
    """A peer has a gap as long as one of its streams has one."""
    for stream in (X, Y, X):
        gaps.add(stream)
    assert (X in gaps, Z in gaps) == (True, False)
    assert (gaps.has_any_of(ANN), gaps.has_any_of(BOB)) == (True, False)
    for stream, is_left in ((X, True), (X, True), (Y, False)):
        gaps.remove(stream)
        gaps.restart(stream)
        assert gaps.has_any_of(ANN) is is_left
    timeline.sleep(1.0)
    assert (gaps.next_due(), gaps.take(9)) == (None, [])
