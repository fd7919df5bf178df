"""Which faults happen when, and to whom: decided by a seed before a soak begins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

KILLS = ("kill daemon", "kill worker")
_OTHERS: dict[str, tuple[int, float, float]] = {
    "pause daemon": (3, 1.0, 8.0),
    "pause worker": (3, 1.0, 8.0),
    "jump clock": (2, 3.0, 20.0),
    "restart broker": (1, 0.0, 2.0),
    "empty broker": (1, 0.0, 2.0),
    "partition": (3, 1.0, 12.0),
    "half-open": (2, 1.0, 12.0),
    "disconnect": (2, 0.0, 0.0),
    "cut frame": (2, 0.0, 0.0),
    "delay": (2, 3.0, 15.0),
    "repeat": (2, 3.0, 15.0),
    "reorder": (2, 3.0, 15.0),
    "drop": (1, 3.0, 15.0),
}
"""For each other kind of fault: its weight, and how many seconds it lasts at least and at most."""
NAMES = (*KILLS, *_OTHERS)
_MAX_DOWN_S = 3.0
"""How long a killed daemon stays down at most."""
_QUIET_END_S = 1.0
"""The end of the time, in which no new fault begins."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        at: seconds after the beginning.
        name: one of `NAMES`.
        victim: the number of the user it happens to; a broker has no victim, and ignores it.
        seconds: how long it lasts.
        draw: a random number from 0 to 1 for what else is to be decided.
    """

    at: float
    name: str
    victim: int
    seconds: float
    draw: float


def plan(seed: int, *, seconds: float, users: int, kills: int, others: int, without: Sequence[str] = ()) -> list[Fault]:
    """Return the faults of a soak in the order of their beginning.

    Args:
        seed: the same seed gives the same faults.
        seconds: how long the soak lasts.
        users: how many users there are.
        kills: how many daemons and workers are killed with kill -9.
        others: how many other faults there are.
        without: names of faults that must not happen.
    """
    random = Random(seed)  # noqa: S311 - decides when, guards nothing
    end = max(0.0, seconds - _QUIET_END_S)

    def fault(name: str, shortest: float, longest: float) -> Fault:
        lasts = min(random.uniform(shortest, longest), seconds / 4)
        return Fault(random.uniform(0, end), name, random.randrange(users), lasts, random.random())

    found = [fault(random.choice(KILLS), 0.0, _MAX_DOWN_S) for _ in range(kills)]
    names = [name for name in _OTHERS if name not in without]
    for name in random.choices(names, [_OTHERS[name][0] for name in names], k=others) if names else ():
        _, shortest, longest = _OTHERS[name]
        found.append(fault(name, shortest, longest))
    return sorted(found, key=lambda each: each.at)
