"""Where each stream stands: the next number that we give to a message, and the next number that we expect."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from p2pflowsd.journal.remembered import RememberedTable
from p2pflowsd.journal.table import Table

MAX_STREAMS_OF_PEER = 10_000
"""How many streams of one sender are remembered."""
_MAX_CACHED_STREAMS = 10_000
_MAX_COUNTED_PEERS = 10_000
_MAX_CHECKED_STREAMS = 500
"""How many streams one call of `forget_strangers` looks at."""


class Direction(StrEnum):
    """Whether we send a stream or receive it."""

    INCOMING = "in"
    OUTGOING = "out"


class Position(NamedTuple):
    """A position in a stream: the number of the next message."""

    epoch: int
    seq: int

    @property
    def next(self) -> Position:
        """The position one message later."""
        return Position(self.epoch, self.seq + 1)


_Key = tuple[Direction, str, str]


class StreamTable(Table[Position]):
    """Positions by stream; cached in memory, and written by the transaction in which they change."""

    name = "streams"
    row_type = Position

    def __init__(self, db: sqlite3.Connection, remembered: RememberedTable) -> None:
        super().__init__(db)
        self._remembered = remembered
        self._cached: dict[_Key, Position | None] = {}
        self._changed: set[_Key] = set()
        self._last_checked = ("", "")
        self._incoming_of: dict[str, int] = {}
        """How many incoming streams some peers have, at least."""

    def get(self, direction: Direction, peer: str, endpoint: str) -> Position | None:
        """Return the position of a stream, or None before its first message."""
        key = (direction, peer, endpoint)
        if key not in self._cached:
            position = self._one("WHERE way = ? AND peer = ? AND endpoint = ?", *key)
            if len(self._cached) >= _MAX_CACHED_STREAMS:
                self.save()
                self._cached.clear()
            self._cached[key] = position
        return self._cached[key]

    def has_any(self, direction: Direction, peer: str) -> bool:
        """Return whether a stream from or to a peer has a position."""
        statement = "SELECT 1 FROM streams WHERE way = ? AND peer = ? LIMIT 1"
        return self._value(statement, direction, peer) is not None

    def has_room(self, peer: str) -> bool:
        """Return whether one more stream of a sender can be remembered."""
        if peer not in self._incoming_of:
            self.save()
            if len(self._incoming_of) >= _MAX_COUNTED_PEERS:
                self._incoming_of.clear()
            self._incoming_of[peer] = self._value("SELECT count(*) FROM streams WHERE way = 'in' AND peer = ?", peer)
        return self._incoming_of[peer] < MAX_STREAMS_OF_PEER

    def set(self, direction: Direction, peer: str, endpoint: str, position: Position) -> None:
        """Move a stream to a position."""
        key = (direction, peer, endpoint)
        if direction == Direction.INCOMING and peer in self._incoming_of and self.get(*key) is None:
            self._incoming_of[peer] += 1
        self._cached[key] = position
        self._changed.add(key)

    def forget_strangers(self, is_known: Callable[[str], bool]) -> None:
        """Remove some incoming streams of unknown senders who have no request here.

        A stream that goes on later repairs itself. Each call looks at the next streams in the order of their keys.

        Args:
            is_known: says whether the streams of a user stay.
        """
        streams = self._db.execute(
            """SELECT peer, endpoint FROM streams WHERE way = 'in' AND (peer, endpoint) > (?, ?)
               ORDER BY peer, endpoint LIMIT ?""",
            (*self._last_checked, _MAX_CHECKED_STREAMS),
        ).fetchall()
        for peer, endpoint in streams:
            if is_known(peer) or self._remembered.has_any(peer):
                continue
            if self._value("SELECT 1 FROM incoming WHERE peer = ? LIMIT 1", peer):
                continue
            key = (Direction.INCOMING, peer, endpoint)
            self._db.execute("DELETE FROM streams WHERE way = ? AND peer = ? AND endpoint = ?", key)
            self._cached.pop(key, None)
            self._changed.discard(key)
            self._incoming_of.pop(peer, None)
        self._last_checked = streams[-1] if streams else ("", "")

    def save(self) -> None:
        """Write the positions that have changed."""
        if not self._changed:
            return
        self._db.executemany(
            """INSERT INTO streams (way, peer, endpoint, epoch, seq) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (way, peer, endpoint) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq""",
            [(*key, *position) for key in self._changed if (position := self._cached[key]) is not None],
        )
        self._changed.clear()
