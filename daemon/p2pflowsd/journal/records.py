"""The table of what unfinished runs did: their calls with the answers, and the results of their steps.

A run that begins again after its worker died finds here what it must not do twice.
"""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.rows import RecordRow

_COLUMNS = ", ".join(RecordRow._fields)


class RecordTable:
    """Records by the number of the request that runs, and the order in which the run made them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, row: RecordRow) -> None:
        """Keep a record."""
        self._db.execute(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)

    def get(self, n: int, k: int) -> RecordRow | None:
        """One record of a run."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE n = ? AND k = ?", (n, k)).fetchone()
        return RecordRow._make(row) if row else None

    def of(self, n: int) -> list[RecordRow]:
        """All records of a run, in order."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE n = ? ORDER BY k", (n,))
        return [RecordRow._make(row) for row in found]

    def conclude(self, n: int, k: int, value: str) -> bool:
        """Keep the answer to a call; False if there is no such call, or it has one."""
        changed = self._db.execute(
            "UPDATE records SET value = ? WHERE n = ? AND k = ? AND value IS NULL", (value, n, k)
        )
        return changed.rowcount == 1

    def forget(self, n: int) -> None:
        """Drop what a run recorded: it has its end."""
        self._db.execute("DELETE FROM records WHERE n = ?", (n,))

    def runs(self) -> set[int]:
        """The runs that have records."""
        return {int(n) for (n,) in self._db.execute("SELECT DISTINCT n FROM records")}
