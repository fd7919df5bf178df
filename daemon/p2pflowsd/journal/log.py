"""The table of what the owner may want to know: who was refused what, and why; only the newest entries stay."""

from __future__ import annotations

from p2pflowsd.journal.rows import LogRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

MAX_ENTRIES = 10_000
MAX_REMOVED = 500
"""How many entries one call removes for their age."""
MAX_DETAIL_CHARS = 500
_INSERT = insert_into("log", columns(LogRow)[1:])


class LogTable(Table[LogRow]):
    """Entries in the order in which they were made."""

    name = "log"
    row_type = LogRow

    def add(self, at: int, what: str, peer: str, endpoint: str, detail: str) -> None:
        """Store an entry."""
        self._db.execute(_INSERT, (at, what, peer, endpoint, detail[:MAX_DETAIL_CHARS]))

    def newest(self, limit: int, after: int = 0) -> list[LogRow]:
        """Return the newest entries that come after one, oldest first."""
        return self._many("WHERE n > ? ORDER BY n DESC LIMIT ?", after, limit)[::-1]

    def prune(self, before: int) -> None:
        """Remove the oldest entries beyond the limit, and some of those that were made before a time."""
        self._db.execute("DELETE FROM log WHERE n <= (SELECT max(n) FROM log) - ?", (MAX_ENTRIES,))
        self._db.execute(
            "DELETE FROM log WHERE n IN (SELECT n FROM log WHERE n > 0 ORDER BY n LIMIT ?) AND at < ?",
            (MAX_REMOVED, before),
        )
