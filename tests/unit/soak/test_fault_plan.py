"""A seed decides which faults happen in a soak."""

from __future__ import annotations

from collections import Counter

from soak.fault_plan import KILLS, NAMES, plan


def test_a_seed_repeats_all_faults() -> None:
    """The same seed gives the same faults, another one gives others, and all of them lie in the time."""
    one, again = (plan(5, seconds=60, users=3, kills=4, others=20) for _ in range(2))
    assert one == again
    assert one != plan(6, seconds=60, users=3, kills=4, others=20)
    assert all(0 <= fault.at < 60 and fault.victim < 3 and fault.seconds <= 15 for fault in one)
    assert [fault.at for fault in one] == sorted(fault.at for fault in one)


def test_as_many_kills_as_wanted() -> None:
    """Kills are counted apart from other faults, and every kind of fault happens sooner or later."""
    names = Counter(fault.name for fault in plan(1, seconds=600, users=5, kills=200, others=300))
    assert sum(names[name] for name in KILLS) == 200
    assert names.total() == 500
    assert set(names) == set(NAMES)


def test_a_fault_that_is_left_out() -> None:
    """A fault that is left out does not happen, even if it is the only one."""
    without = tuple(name for name in NAMES if name != "drop")
    assert {fault.name for fault in plan(1, seconds=60, users=2, kills=0, others=9, without=without)} == {"drop"}
    assert plan(1, seconds=60, users=2, kills=0, others=9, without=NAMES) == []
