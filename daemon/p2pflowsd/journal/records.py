"""The table of what unfinished runs did: their calls with the answers, and the results of their steps.

A run that begins again after its worker died finds here what it must not do twice.
"""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.rows import RecordRow, columns

_COLUMNS = ", ".join(columns(RecordRow))


class RecordTable:
    """Records by the number of the request that runs, and the order in which the run made them."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, row: RecordRow) -> None:
        """Keep a record."""
        self._db.execute(f"INSERT INTO records ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)", row)

    def get(self, row_id: int, call_index: int) -> RecordRow | None:
        """One record of a run."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE n = ? AND k = ?", (row_id, call_index)).fetchone()
        return RecordRow._make(row) if row else None

    def of(self, row_id: int) -> list[RecordRow]:
        """All records of a run, in order."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM records WHERE n = ? ORDER BY k", (row_id,))
        return [RecordRow._make(row) for row in found]

    def conclude(self, row_id: int, call_index: int, value: str) -> bool:
        """Keep the answer to a call; False if there is no such call, or it has one."""
        changed = self._db.execute(
            "UPDATE records SET value = ? WHERE n = ? AND k = ? AND value IS NULL", (value, row_id, call_index)
        )
        return changed.rowcount == 1

    def forget(self, row_id: int) -> None:
        """Drop what a run recorded: it has its end."""
        self._db.execute("DELETE FROM records WHERE n = ?", (row_id,))

    def runs(self) -> set[int]:
        """The runs that have records."""
        return {int(row_id) for (row_id,) in self._db.execute("SELECT DISTINCT n FROM records")}
