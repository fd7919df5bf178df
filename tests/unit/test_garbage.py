"""Tests of when a daemon collects garbage, which stops everything meanwhile."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from p2pflowsd.__main__ import GARBAGE_THRESHOLDS


@pytest.fixture
def looked_at() -> Iterator[list[int]]:
    """How many objects each collection looks at, while those of before are left alone, as in a daemon."""
    counts: list[int] = []

    def note(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            counts.append(sum(len(gc.get_objects(generation=each)) for each in range(info["generation"] + 1)))

    thresholds = gc.get_threshold()
    gc.freeze()
    gc.callbacks.append(note)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    try:
        yield counts
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(note)
        gc.unfreeze()


def test_no_collection_looks_at_all_that_is_queued(looked_at: list[int]) -> None:
    """A look at 500,000 objects, as of 150,000 queued messages, would stop the daemon for a tenth of a second."""
    queued = [[number] for number in range(500_000)]
    assert max(looked_at) <= 40_000 < len(queued)
