"""How long to wait before trying again: delays that grow to a limit, with jitter so that peers do not march in step."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_EXPONENT = 64
"""Far beyond every limit that is in use; a float overflows at 2**1024."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays between attempts, without a clock and without chance: callers supply both.

    Attributes:
        initial_s: seconds after the first failure.
        max_s: seconds that no delay exceeds before its jitter.
        factor: how much longer each delay is than the one before.
        jitter: the least and the most that a delay is multiplied by; (1, 1) leaves it as it is.
    """

    initial_s: float
    max_s: float
    factor: float = 2.0
    jitter: tuple[float, float] = (1.0, 1.0)

    def delay_s(self, failures: int, chance: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failures: how many attempts failed before the last one, from 0.
            chance: where in the range of the jitter the delay lies, from 0 to 1.
        """
        least, most = self.jitter
        delay = min(self.initial_s * self.factor ** min(failures, _MAX_EXPONENT), self.max_s)
        return delay * (least + (most - least) * chance)
