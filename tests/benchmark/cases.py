"""What is measured, and what comes out."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Case(NamedTuple):
    """Exchanges of one kind.

    Attributes:
        size: bytes of text that go there and back.
        in_flight: how many are under way at a time.
        exchanges: how many there are in all.
    """

    size: int
    in_flight: int
    exchanges: int

    @property
    def name(self) -> str:
        """What a table calls it."""
        size = f"{self.size} B" if self.size < KIB else f"{self.size // KIB} KiB"
        return f"{size}, " + ("one at a time" if self.in_flight == 1 else f"{self.in_flight:,} in flight")


KIB = 1_024
SINGLE, MANY, VERY_MANY = 1, 64, 1_024
FULL = (
    Case(200, SINGLE, 500),
    Case(200, MANY, 10_000),
    Case(200, VERY_MANY, 10_000),
    Case(16 * KIB, MANY, 2_000),
    Case(256 * KIB, MANY, 300),
)
QUICK = (Case(200, SINGLE, 200), Case(200, MANY, 4_000), Case(16 * KIB, MANY, 800))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One program's exchanges of one case.

    Attributes:
        times: how long each took, in seconds.
        seconds: how long all of them took together.
        cpu: the seconds of processor time of each process that took part.
    """

    times: Sequence[float]
    seconds: float
    cpu: Mapping[str, float]

    @property
    def p50(self) -> float:
        """The median time, in seconds."""
        return statistics.median(self.times)

    @property
    def p99(self) -> float:
        """The time that 99 of 100 took at most, in seconds."""
        return statistics.quantiles(self.times, n=100)[-1]

    @property
    def rate(self) -> float:
        """Exchanges in a second."""
        return len(self.times) / self.seconds

    @property
    def cpu_per_exchange(self) -> dict[str, float]:
        """Processor time of each process for one exchange, in seconds."""
        return {name: seconds / len(self.times) for name, seconds in self.cpu.items()}


class Summary(NamedTuple):
    """The medians over all rounds: p50 and p99 in seconds, exchanges in a second, processor seconds for one."""

    p50: float
    p99: float
    rate: float
    cpu: dict[str, float]


def summarise(rounds: Sequence[Measurement]) -> Summary:
    """Return the medians of some measurements of one case."""
    median = statistics.median
    cpu = [each.cpu_per_exchange for each in rounds]
    return Summary(
        median(each.p50 for each in rounds),
        median(each.p99 for each in rounds),
        median(each.rate for each in rounds),
        {name: median(each.get(name, 0.0) for each in cpu) for name in cpu[0]},
    )
