"""A turn in each interval for each key."""

from __future__ import annotations

import pytest
from simulation.timeline import Timeline, TimelineClock

from p2pflowsd.sending import pace
from p2pflowsd.sending.pace import Pace


@pytest.fixture
def timeline() -> Timeline:
    """The time."""
    return Timeline()


def test_each_key_has_a_turn_of_its_own(timeline: Timeline) -> None:
    """Whoever asks too early waits for the rest of the interval, and no longer because of asking."""
    turns = Pace[str](TimelineClock(timeline), 5.0)
    assert turns.wait_s("a") == 0
    assert turns.take("a")
    timeline.sleep(2)
    assert not turns.take("a")
    assert (turns.wait_s("a"), turns.wait_s("b")) == (3, 0)
    assert turns.take("b")
    timeline.sleep(3)
    assert [turns.take(key) for key in ("a", "b")] == [True, False]
    timeline.sleep(60)
    assert turns.wait_s("a") == 0


def test_keys_whose_turn_is_over_are_forgotten(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """And beyond a number of keys those that had their turn longest ago."""
    turns = Pace[int](TimelineClock(timeline), 5.0)
    for key in range(4):
        turns.take(key)
        timeline.sleep(1)
    assert list(turns._last) == [0, 1, 2, 3]
    timeline.sleep(2)
    turns.take(4)
    assert list(turns._last) == [2, 3, 4]
    monkeypatch.setattr(pace, "MAX_KEYS", 2)
    turns.take(5)
    assert list(turns._last) == [4, 5]
    timeline.sleep(9)
    turns.take(4)
    assert list(turns._last) == [4]
