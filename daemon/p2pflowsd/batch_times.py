"""How long the batches of a daemon take: while one runs, nothing else is answered."""

from __future__ import annotations

WINDOW_S = 300.0


class BatchTimes:
    """Remembers the longest batch of the last five to ten minutes."""

    def __init__(self) -> None:
        self._began = 0.0
        self._longest_s = 0.0
        self._longest_before_s = 0.0

    def add(self, began: float, ended: float) -> None:
        """Note a batch, by the clock's elapsed seconds at its beginning and end."""
        if ended - self._began >= WINDOW_S:
            is_recent = ended - self._began < 2 * WINDOW_S
            self._longest_before_s = self._longest_s if is_recent else 0.0
            self._began, self._longest_s = ended, 0.0
        self._longest_s = max(self._longest_s, ended - began)

    @property
    def longest_ms(self) -> float:
        """How long the longest batch took, in milliseconds."""
        return round(1000 * max(self._longest_s, self._longest_before_s), 1)
