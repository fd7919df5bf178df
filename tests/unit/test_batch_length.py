"""How much one batch takes of what has arrived."""

from __future__ import annotations

from p2pflows.links.delivery import Delivery
from p2pflowsd.app import MAX_BATCH_BYTES, MAX_BATCH_DELIVERIES, batch_length


def deliveries(*sizes: int) -> list[Delivery]:
    """Deliveries with so many bytes."""
    return [Delivery("t", b"x" * size, retain=False, is_local=False) for size in sizes]


def test_a_batch_takes_what_it_has_time_for() -> None:
    """So many deliveries and so many bytes of them; a large one is alone, and does not wait for ever."""
    assert batch_length([]) == 0
    assert batch_length(deliveries(1, 1)) == 2
    assert batch_length(deliveries(*[1] * (MAX_BATCH_DELIVERIES + 1))) == MAX_BATCH_DELIVERIES
    assert batch_length(deliveries(MAX_BATCH_BYTES, 1)) == 1
    assert batch_length(deliveries(1, MAX_BATCH_BYTES)) == 1
    assert batch_length(deliveries(10 * MAX_BATCH_BYTES, 1)) == 1
