"""A queue that is short most of the time behaves as a deque does, and takes less memory."""

from __future__ import annotations

import sys
from collections import deque

from hypothesis import given
from hypothesis import strategies as st

from p2pflowsd.running import fifo
from p2pflowsd.running.fifo import Fifo

STEPS = st.lists(st.tuples(st.sampled_from(["append", "take", "put_back", "remove"]), st.integers(0, 3)), max_size=200)


@given(STEPS, st.integers(0, 100))
def test_it_holds_what_a_deque_holds(steps: list[tuple[str, int]], start: int) -> None:
    """Whatever is added at either end, taken or removed, in a short queue and in a long one."""
    queue, model = Fifo(), deque(range(start))
    queue.put_back(range(start))
    for number, (step, size) in enumerate(steps, start=1_000):
        if step == "append":
            queue.append(number)
            model.append(number)
        elif step == "put_back":
            numbers = [number * 10 + each for each in range(size)]
            queue.put_back(numbers)
            model.extendleft(reversed(numbers))
        elif model and step == "take":
            assert queue.take() == model.popleft()
        elif model:
            gone = model[size % len(model)]
            queue.remove(gone)
            model.remove(gone)
        assert list(queue) == list(model)
        assert len(queue) == len(model)
        assert not model or queue.first == model[0]


def test_what_was_taken_takes_no_memory() -> None:
    """A queue through which much has gone is as small as a new one."""
    queue = Fifo()
    for number in range(10_000):
        queue.append(number)
        if number >= 10:
            queue.take()
    assert len(queue) == 10
    assert len(queue._numbers) <= 2 * fifo._MIN_DROPPED + 10


def test_a_short_queue_is_small() -> None:
    """A waiting run has one, so 100,000 of them count."""
    queue = Fifo()
    queue.append(1)
    assert sys.getsizeof(queue) + sys.getsizeof(queue._numbers) < 160 < sys.getsizeof(deque([1]))
