"""How far the clocks of peers are from ours, as far as refused messages show it."""

from __future__ import annotations

import pytest
from simulation.timeline import START_MS, Timeline, TimelineClock

from p2pflowsd.sending.peer_clocks import MIN_SHOWN_MS, PeerClocks, difference

ANN = "a" * 64


@pytest.mark.parametrize(("reported", "offset"), [(-3_600_000, -3_600_000), (610_000, 600_000), (7_000, 0)])
def test_an_offset_is_never_larger_than_it_is(reported: int, offset: int) -> None:
    """A refusal may have taken place at any time in the ten seconds since the sending: the least difference counts."""
    timeline = Timeline()
    clocks = PeerClocks(TimelineClock(timeline))
    timeline.run(10)
    clocks.learn(ANN, START_MS + reported, 0.0)
    assert clocks.offset_ms(ANN) == offset
    assert clocks.known() == ({ANN: offset} if offset else {})


def test_a_later_report_that_is_less_exact_changes_nothing() -> None:
    """An offset stays while later reports agree with it, and is forgotten when one shows that the clocks agree."""
    timeline = Timeline()
    clocks = PeerClocks(TimelineClock(timeline))
    clocks.learn(ANN, START_MS + 600_000, 0.0)
    timeline.run(30)
    clocks.learn(ANN, START_MS + 630_000, 0.0)
    assert clocks.known() == {ANN: 600_000}
    clocks.learn(ANN, START_MS + 30_000, 30.0)
    assert clocks.known() == {}
    clocks.learn(ANN, START_MS + 630_000, 30.0)
    assert clocks.known() == {ANN: 600_000}
    clocks.learn(ANN, START_MS + 20_000, 0.0)
    assert clocks.offset_ms(ANN) == 0


@pytest.mark.parametrize(
    ("offset", "clause"),
    [
        (3_540_000, "your clocks differ by 59 min; yours is behind"),
        (-3_540_000, "your clocks differ by 59 min; yours is ahead"),
        (-86_400_000, "your clocks differ by 24 h; yours is ahead"),
        (400_000_000, "your clocks differ by 5 days; yours is behind"),
        (-MIN_SHOWN_MS, "your clocks differ by 5 s; yours is ahead"),
        (0, "your clocks differ"),
    ],
)
def test_a_difference_is_a_clause(offset: int, clause: str) -> None:
    """It names the length in a fitting unit, and which clock is ahead."""
    assert difference(offset) == clause
