"""What the tables of the journal have in common."""

from __future__ import annotations

import sqlite3
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from p2pflows import short_ids
from p2pflowsd.journal.rows import columns

Row = TypeVar("Row", bound=NamedTuple)


class Table(Generic[Row]):
    """A table whose rows are read as named tuples.

    A subclass sets its name and the type of its rows, and passes clauses such as `WHERE n = ?`. The statement for each
    clause is built once: building it at every call would cost a noticeable part of running it.
    """

    name: ClassVar[str]
    row_type: type[Row]

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._selects: dict[str, str] = {}

    def _one(self, clause: str, *values: object) -> Row | None:
        """Return the first row that a clause selects, or None."""
        row = self._db.execute(self._select(clause), values).fetchone()
        return self.row_type._make(row) if row else None

    def _many(self, clause: str, *values: object) -> list[Row]:
        """Return all rows that a clause selects."""
        make = self.row_type._make
        return [make(row) for row in self._db.execute(self._select(clause), values)]

    def _matching(self, id_part: str) -> list[Row]:
        """Return the rows whose id is written in short as `id_part`."""
        patterns = short_ids.globs(id_part)
        if not patterns:
            return []
        if len(id_part) == short_ids.LENGTH:  # which an index finds
            return self._many("WHERE id = ?", id_part)
        either = " OR ".join(["id GLOB ?"] * len(patterns))
        return self._many(f"WHERE {either}", *patterns)

    def _value(self, statement: str, *values: object) -> Any:
        """Run a statement; return the first column of its first row, or None if it has no row."""
        row = self._db.execute(statement, values).fetchone()
        return row[0] if row else None

    def _changes_one(self, statement: str, *values: object) -> bool:
        """Run a statement that changes one row or none; return whether it changed one."""
        return self._db.execute(statement, values).rowcount == 1

    def _select(self, clause: str) -> str:
        statement = self._selects.get(clause)
        if statement is None:
            fields = ", ".join(columns(self.row_type))
            statement = self._selects[clause] = f"SELECT {fields} FROM {self.name} {clause}"
        return statement
