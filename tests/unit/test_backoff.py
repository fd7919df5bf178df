"""Delays between attempts double up to a limit, and jitter spreads them."""

from __future__ import annotations

import pytest

from p2pflows.backoff import Backoff


def test_delays_double_up_to_the_limit() -> None:
    """Each delay is twice the one before it, and none exceeds the limit."""
    backoff = Backoff(initial_s=0.5, max_s=3.0)
    assert [backoff.delay_s(failures) for failures in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]


@pytest.mark.parametrize(("chance", "delay"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_jitter_multiplies_the_delay_by_a_number_in_its_range(chance: float, delay: float) -> None:
    """`chance` chooses the place between the least and the most."""
    assert Backoff(initial_s=1.0, max_s=3.0, jitter=(0.5, 1.0)).delay_s(0, chance) == delay


@pytest.mark.parametrize("failures", [1_023, 1_024, 1_000_000])
def test_any_number_of_failures_has_a_delay(failures: int) -> None:
    """A message that is sent for a month, or a link that is down for a year, does not overflow a float."""
    assert Backoff(initial_s=3.0, max_s=600.0).delay_s(failures) == 600.0
