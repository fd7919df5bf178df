"""How long to wait before the next attempt: delays that grow to a limit, with jitter against simultaneous retries."""

from __future__ import annotations

from dataclasses import dataclass

_MAX_EXPONENT = 64
"""Any larger exponent means `max_s`, and a float overflows at 2**1024."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """The delays between attempts. It has no clock and no randomness: callers count failures and supply chance.

    Attributes:
        initial_s: seconds after the first failure.
        max_s: seconds that no delay exceeds before its jitter.
        factor: how much longer each delay is than the one before.
        jitter: the least and the greatest factor that chance applies to a delay; (1, 1) for no jitter.
    """

    initial_s: float
    max_s: float
    factor: float = 2.0
    jitter: tuple[float, float] = (1.0, 1.0)

    def delay_s(self, failures: int, chance: float = 0.0) -> float:
        """Return the seconds to wait before the next attempt.

        Args:
            failures: how many attempts failed before the last one, from 0.
            chance: a random number from 0 to 1; 0 applies the least factor of the jitter, 1 the greatest.
        """
        least, most = self.jitter
        delay = min(self.initial_s * self.factor ** min(failures, _MAX_EXPONENT), self.max_s)
        return delay * (least + (most - least) * chance)
