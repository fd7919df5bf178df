"""How long the runs of each endpoint take, and so how many tasks of one lane a worker gets at once.

What is leased to a worker runs in that worker's slot, before anything of another caller. So a lane of short runs gets
many, which saves round trips, and a lane of long runs gets one.
"""

from __future__ import annotations

from collections.abc import Mapping

MAX_WINDOW = 128
AT_HAND_MS = 200.0
"""How long a worker works on what it has got of a lane, about."""
FIRST_WINDOW = 4
"""The window of an endpoint of which no run has ended yet."""
_LANES_AHEAD = 4
"""What part of a window the lanes of others are that wait at a worker while all its slots are taken: a fourth."""
_WEIGHT = 0.3
"""How much the last run counts beside all before it."""


class Paces:
    """The windows of the endpoints of one daemon."""

    def __init__(self) -> None:
        self._windows: dict[str, int] = {}
        self._means_ms: dict[str, float] = {}

    @property
    def windows(self) -> Mapping[str, int]:
        """The window of each endpoint of which a run has ended."""
        return self._windows

    def note(self, endpoint: str, took_ms: float) -> None:
        """Note how long a run has taken, in milliseconds."""
        mean = self._means_ms.get(endpoint)
        if mean == took_ms == 0:
            return
        mean = took_ms if mean is None else mean + _WEIGHT * (took_ms - mean)
        self._means_ms[endpoint] = mean
        self._windows[endpoint] = MAX_WINDOW if mean * MAX_WINDOW <= AT_HAND_MS else max(1, int(AT_HAND_MS / mean))


def lanes_ahead(window: int) -> int:
    """Return how many lanes may wait at a worker for a slot there, if their endpoint has this window."""
    return window // _LANES_AHEAD
