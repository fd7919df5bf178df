"""The table of what the owner may want to know of: who was refused what, and why; the newest are kept."""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.rows import LogRow, columns

_COLUMNS = ", ".join(columns(LogRow))
MAX_ENTRIES = 10_000


class LogTable:
    """Entries by the order in which they were made."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, at: int, what: str, peer: str, endpoint: str, detail: str) -> None:
        """Keep an entry."""
        self._db.execute(
            "INSERT INTO log (at, what, peer, endpoint, detail) VALUES (?, ?, ?, ?, ?)",
            (at, what, peer, endpoint, detail[:500]),
        )

    def newest(self, limit: int, after: int = 0) -> list[LogRow]:
        """The newest entries that come after one, oldest first."""
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM (SELECT {_COLUMNS} FROM log WHERE n > ? ORDER BY n DESC LIMIT ?) ORDER BY n",
            (after, limit),
        )
        return [LogRow._make(row) for row in found]

    def prune(self) -> None:
        """Drop the oldest beyond what is kept."""
        self._db.execute("DELETE FROM log WHERE n <= (SELECT max(n) FROM log) - ?", (MAX_ENTRIES,))
