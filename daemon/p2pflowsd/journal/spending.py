"""The table of what was spent at models: a row for each day, endpoint, caller and model."""

from __future__ import annotations

from p2pflowsd.journal.rows import SpendingRow, columns
from p2pflowsd.journal.table import Table

MAX_ROWS = 20_000
"""How many rows are kept; the days that are longest ago go first."""
KEPT_DAYS = 400
_COUNTS = ("calls", "tokens_in", "tokens_out", "cached", "cost")
_ADD = (
    f"INSERT INTO spending ({', '.join(columns(SpendingRow))})"
    f" VALUES ({', '.join('?' * len(columns(SpendingRow)))}) ON CONFLICT (day, endpoint, caller, model, is_direct)"
    f" DO UPDATE SET {', '.join(f'{name} = {name} + excluded.{name}' for name in _COUNTS)}"
)


class SpendingTable(Table[SpendingRow]):
    """What was spent, by day (days since 1970-01-01, UTC)."""

    name = "spending"
    row_type = SpendingRow

    def add(self, row: SpendingRow) -> None:
        """Add to what was spent that day by that caller there at that model."""
        self._db.execute(_ADD, row)

    def since(self, day: int) -> list[SpendingRow]:
        """Return what was spent on a day and after it."""
        return self._many("WHERE day >= ? ORDER BY day, endpoint, caller, model", day)

    def tidy(self, today: int) -> None:
        """Forget the days that are too long ago, and the first ones if there are too many rows."""
        last = self._value("SELECT day FROM spending ORDER BY day DESC LIMIT 1 OFFSET ?", MAX_ROWS)
        until = max(today - KEPT_DAYS, -1 if last is None else min(last, today - 1))
        self._db.execute("DELETE FROM spending WHERE day <= ?", (until,))
