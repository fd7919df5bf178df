"""Where each stream stands: the next number we give, and the next number we expect."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

OUT = "out"
IN = "in"
_MAX_STRANGER_STREAMS = 10_000


class Position(NamedTuple):
    """A place in a stream; the next message has this number."""

    epoch: int
    seq: int


class StreamTable:
    """Places, kept in memory and written with the transaction in which they change."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[tuple[str, str, str], Position | None] = {}
        self._visited = ("", "")
        self._changed: set[tuple[str, str, str]] = set()

    def get(self, way: str, peer: str, endpoint: str) -> Position | None:
        """Where a stream stands; None before its first message."""
        key = (way, peer, endpoint)
        if key not in self._known:
            row = self._db.execute(
                "SELECT epoch, seq FROM streams WHERE way = ? AND peer = ? AND endpoint = ?", key
            ).fetchone()
            if len(self._known) >= _MAX_STRANGER_STREAMS:
                self.save()
                self._known.clear()
            self._known[key] = Position._make(row) if row else None
        return self._known[key]

    def set(self, way: str, peer: str, endpoint: str, place: Position) -> None:
        """Say where a stream stands now."""
        self._known[way, peer, endpoint] = place
        self._changed.add((way, peer, endpoint))

    def forget_strangers(self, friends: Collection[str]) -> None:
        """Drop some places of unknown senders who have left no request; a stream that goes on repairs itself."""
        some = self._db.execute(
            """SELECT peer, endpoint FROM streams WHERE way = 'in' AND (peer, endpoint) > (?, ?)
               ORDER BY peer, endpoint LIMIT 500""",
            self._visited,
        ).fetchall()
        for peer, endpoint in some:
            left = self._db.execute("SELECT 1 FROM incoming WHERE peer = ? LIMIT 1", (peer,)).fetchone()
            if peer not in friends and left is None:
                self._db.execute("DELETE FROM streams WHERE way = 'in' AND peer = ? AND endpoint = ?", (peer, endpoint))
                self._known.pop((IN, peer, endpoint), None)
                self._changed.discard((IN, peer, endpoint))
        self._visited = some[-1] if some else ("", "")

    def save(self) -> None:
        """Write what has changed."""
        if not self._changed:
            return
        self._db.executemany(
            """INSERT INTO streams VALUES (?, ?, ?, ?, ?)
               ON CONFLICT (way, peer, endpoint) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq""",
            [(*key, *place) for key in self._changed if (place := self._known[key]) is not None],
        )
        self._changed.clear()
