"""Requests that wait for an earlier one of their stream: how many there are, and which streams may go on.

The requests themselves are in the journal. Everything here is found there again after a restart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from p2pflowsd.counts import count_down
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.sending.notices import Notices

MAX_RELEASED = 64
"""How many blocked requests go on in one batch; the next batches go on with the others."""
MAX_RELEASED_OF_STREAM = 16
"""After so many requests of one stream, the other streams have their turn."""

Stream = tuple[str, str]
"""The peer and the endpoint of an incoming stream."""


class BlockedRequests:
    """The incoming streams with blocked requests.

    A stream *may go on* when its first blocked request is not beyond its position. Until all such requests have been
    released, later requests of the stream are stored as blocked too, because they have to wait for these.
    """

    def __init__(self, journal: Journal, notices: Notices) -> None:
        self._journal = journal
        self._notices = notices
        self._heads: dict[Stream, Position | None] = {}
        """The position of the first blocked request of each stream; None if it has to be read."""
        self._going_on: dict[Stream, None] = {}
        """The streams that may go on, in turn."""
        self._count_of: Counter[str] = Counter()
        self._count = 0
        for peer, endpoint, count in journal.incoming.blocked_streams():
            self._count_of[peer] += count
            self._count += count
            self._heads[peer, endpoint] = None
            self._going_on[peer, endpoint] = None
            notices.request_missing(peer, endpoint)

    @property
    def may_go_on(self) -> bool:
        """Whether `release` has work to do."""
        return bool(self._going_on)

    def counts(self) -> dict[str, int]:
        """Return how many requests of each peer are blocked."""
        return dict(self._count_of)

    def count(self) -> int:
        """Return how many requests are blocked."""
        return self._count

    def count_of(self, peer: str) -> int:
        """Return how many requests of a peer are blocked."""
        return self._count_of[peer]

    def has_stream(self, peer: str, endpoint: str) -> bool:
        """Return whether a stream has blocked requests."""
        return (peer, endpoint) in self._heads

    def is_going_on(self, peer: str, endpoint: str) -> bool:
        """Return whether blocked requests of a stream are about to be released, so that a later one has to wait."""
        return (peer, endpoint) in self._going_on

    def add(self, peer: str, endpoint: str, position: Position) -> None:
        """Take note of a request that was stored as blocked."""
        stream = (peer, endpoint)
        self._count_of[peer] += 1
        self._count += 1
        head = self._heads.get(stream, position)
        self._heads[stream] = None if head is None else min(head, position)
        self._notices.request_missing(peer, endpoint)

    def move_on(self, peer: str, endpoint: str, position: Position) -> None:
        """Take note of the new position of a stream."""
        stream = (peer, endpoint)
        if stream in self._heads:
            head = self._heads[stream]
            if head is None or head <= position:
                self._going_on[stream] = None

    def remove(self, peer: str, endpoint: str, count: int = 1) -> None:
        """Take note that requests of a stream are blocked no more, although their turn has not come."""
        self._forget(peer, count)
        self._heads[peer, endpoint] = None
        self._going_on[peer, endpoint] = None

    def release(self, admit: Callable[[IncomingRow], None]) -> None:
        """Let blocked requests go on whose turn has come; not more in one batch than take a few milliseconds.

        Args:
            admit: called with each request, whose state is ready by then.
        """
        left = MAX_RELEASED
        while self._going_on and left > 0:
            stream = next(iter(self._going_on))
            del self._going_on[stream]
            left -= max(1, self._release(stream, min(left, MAX_RELEASED_OF_STREAM), admit))

    def _release(self, stream: Stream, limit: int, admit: Callable[[IncomingRow], None]) -> int:
        """Release requests of one stream, and return how many."""
        incoming, streams = self._journal.incoming, self._journal.streams
        rows = incoming.blocked(*stream, limit=limit + 1)
        position = streams.get(Direction.INCOMING, *stream) or Position(0, 0)
        count = 0
        for row in rows[:limit]:
            if Position(row.epoch, row.seq) > position:
                break
            position = max(position, Position(row.epoch, row.seq).next)
            incoming.move(row.row_id, IncomingState.READY)
            admit(row)
            count += 1
        if count:
            streams.set(Direction.INCOMING, *stream, position)
            self._forget(stream[0], count)
        if count == len(rows):
            del self._heads[stream]
            self._notices.stop_requesting(*stream)
            return count
        head = self._heads[stream] = Position(rows[count].epoch, rows[count].seq)
        if head <= position:
            self._going_on[stream] = None
        elif count:
            self._notices.request_more(*stream)
        return count

    def _forget(self, peer: str, count: int) -> None:
        self._count -= count
        count_down(self._count_of, peer, count)
