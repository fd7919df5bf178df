"""Counts that hold no key without anything to count."""

from __future__ import annotations

from collections import Counter

from p2pflowsd.counts import count_down


def test_a_key_of_which_nothing_is_left_is_forgotten() -> None:
    """What is counted down to nothing, or below, takes no place."""
    counts = Counter(ann=3, bob=1, cyd=1)
    count_down(counts, "ann")
    count_down(counts, "bob")
    count_down(counts, "cyd", 2)
    assert dict(counts) == {"ann": 2}
