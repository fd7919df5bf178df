"""Which incoming streams miss a message, and when to ask for it."""

from __future__ import annotations

import heapq

from p2pflows.backoff import Backoff
from p2pflowsd.clock import Clock
from p2pflowsd.counts import count_down

GAP_BACKOFF = Backoff(initial_s=0.5, max_s=300.0)
"""When a message that a stream waits for is asked for, and asked for again."""

Stream = tuple[str, str]
"""The peer and the endpoint of an incoming stream."""


class Gaps:
    """The streams that miss a message, in the order in which they are due to be asked for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gaps: dict[Stream, tuple[float, int]] = {}
        self._due: list[tuple[float, Stream]] = []
        """A heap; an entry whose time is not that of its stream's gap is out of date."""
        self._streams_of: dict[str, int] = {}

    def __contains__(self, stream: Stream) -> bool:
        return stream in self._gaps

    def has_any_of(self, peer: str) -> bool:
        """Return whether a stream of a peer misses a message."""
        return peer in self._streams_of

    def add(self, stream: Stream) -> None:
        """Ask for the next message of a stream, unless it arrives soon; no change if it is asked for already."""
        if stream not in self._gaps:
            self._streams_of[stream[0]] = self._streams_of.get(stream[0], 0) + 1
            self._schedule(stream, 0)

    def remove(self, stream: Stream) -> None:
        """Stop asking for messages of a stream, because it misses none any more."""
        if self._gaps.pop(stream, None) is not None:
            count_down(self._streams_of, stream[0])

    def restart(self, stream: Stream) -> None:
        """Ask for the next message of a stream soon, because earlier ones have arrived."""
        if stream in self._gaps:
            self._schedule(stream, 0)

    def restart_all(self) -> None:
        """Ask for everything that is missing soon."""
        self._due.clear()
        for stream in self._gaps:
            self._schedule(stream, 0)

    def next_due(self) -> float | None:
        """Return when the next stream is due, in the clock's elapsed seconds; None if there is none."""
        while self._due and not self._is_current(self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def take(self, limit: int) -> list[Stream]:
        """Return the streams that are due now, and let each wait longer than before.

        Args:
            limit: how many streams are returned at most; the others stay due.
        """
        elapsed = self._clock.elapsed()
        taken: list[Stream] = []
        while len(taken) < limit and (due := self.next_due()) is not None and due <= elapsed:
            _, stream = heapq.heappop(self._due)
            self._schedule(stream, self._gaps[stream][1] + 1)
            taken.append(stream)
        return taken

    def _schedule(self, stream: Stream, times_asked: int) -> None:
        due = self._clock.elapsed() + GAP_BACKOFF.delay_s(times_asked)
        self._gaps[stream] = (due, times_asked)
        heapq.heappush(self._due, (due, stream))

    def _is_current(self, entry: tuple[float, Stream]) -> bool:
        due, stream = entry
        return self._gaps.get(stream, (None, 0))[0] == due
