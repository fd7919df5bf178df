"""The table of what unfinished runs did: their calls with the answers, and the results of their steps.

A run that starts again after its worker died finds here what it must not do twice.
"""

from __future__ import annotations

from p2pflowsd.journal.rows import RecordRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

_INSERT = insert_into("records", columns(RecordRow))


class RecordTable(Table[RecordRow]):
    """Records by the number of the request that runs, and the order in which the run made them."""

    name = "records"
    row_type = RecordRow

    def add(self, row: RecordRow) -> None:
        """Store a record."""
        self._db.execute(_INSERT, row)

    def get(self, row_id: int, call_index: int) -> RecordRow | None:
        """Return one record of a run."""
        return self._one("WHERE n = ? AND k = ?", row_id, call_index)

    def of(self, row_id: int) -> list[RecordRow]:
        """Return all records of a run, in order."""
        return self._many("WHERE n = ? ORDER BY k", row_id)

    def set_value(self, row_id: int, call_index: int, value: str) -> bool:
        """Store the answer to a call; return False if there is no such call, or it has an answer."""
        return self._changes_one(
            "UPDATE records SET value = ? WHERE n = ? AND k = ? AND value IS NULL", value, row_id, call_index
        )

    def remove(self, row_id: int) -> None:
        """Remove all records of a run, because it has ended."""
        self._db.execute("DELETE FROM records WHERE n = ?", (row_id,))

    def remove_one(self, row_id: int, call_index: int) -> None:
        """Remove one record of a run."""
        self._db.execute("DELETE FROM records WHERE n = ? AND k = ?", (row_id, call_index))

    def runs(self, call_index: int | None = None) -> set[int]:
        """Return the numbers of the requests whose runs have records, or a record with an index."""
        statement = "SELECT DISTINCT n FROM records WHERE k = coalesce(?, k)"
        return {row_id for (row_id,) in self._db.execute(statement, (call_index,))}
