"""Daemons with room for few requests: nothing is lost, done twice or out of order, and nothing waits for ever."""

from __future__ import annotations

from random import Random

from simulation.checker import check
from simulation.random_lives import TIGHT, RandomActions
from simulation.world import FEW_MESSAGES, World


def test_what_has_no_room_comes_in_its_turn_or_ends_at_its_deadline() -> None:
    """Random lives in which requests are refused again and again for lack of room."""
    refused = 0
    for seed in (4, 5):
        with World(seed, people=3, kept_messages=FEW_MESSAGES, limits=TIGHT) as world:
            actions = RandomActions(world, Random(seed + 1))  # noqa: S311 - a simulation, no secrets
            world.run(1.0)
            for _ in range(250):
                actions.step()
            assert world.settle() == []
            assert check(world.facts) == []
            for machine in world.machines:
                assert machine.node is not None
                counters = machine.node.journal.counters
                refused += counters.get("refused.quota_full", 0) + counters.get("refused.streams_full", 0)
    assert refused > 20
