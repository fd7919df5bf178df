"""The table of mounted flows: their frozen config, and their state."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from p2pflowsd.journal.rows import InstanceRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

_INSERT = insert_into("instances", columns(InstanceRow))
_MAX_COUNTS = 10_000
"""Of how many clients it is kept in memory how many instances of an endpoint they have."""


class InstanceTable(Table[InstanceRow]):
    """Instances by id."""

    name = "instances"
    row_type = InstanceRow

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._counts: dict[tuple[str, str], int] = {}

    def add(self, row: InstanceRow) -> None:
        """Store a mounted instance."""
        self._db.execute(_INSERT, row)
        self._count_more(row, 1)

    def get(self, instance: str) -> InstanceRow | None:
        """Return the instance with an id."""
        return self._one("WHERE id = ?", instance)

    def save(self, instance: str, state: str | None, now: int) -> None:
        """Store the state that a run left, and when; None leaves the state as it was."""
        self._db.execute(
            "UPDATE instances SET state = coalesce(?, state), used = ? WHERE id = ?", (state, now, instance)
        )

    def restore(self, instance: str, state: str | None) -> None:
        """Put back an earlier state."""
        self._db.execute("UPDATE instances SET state = ? WHERE id = ?", (state, instance))

    def reset(self, instance: str) -> None:
        """Remove the state of an instance."""
        self._db.execute("UPDATE instances SET state = NULL WHERE id = ?", (instance,))

    def remove(self, row: InstanceRow) -> None:
        """Remove an instance."""
        if self._changes_one("DELETE FROM instances WHERE id = ?", row.id):
            self._count_more(row, -1)

    def of(self, endpoint: str | None = None, client: str | None = None) -> list[InstanceRow]:
        """Return the instances of an endpoint or of all, for a client or for all, oldest first."""
        return self._many(
            "WHERE endpoint = coalesce(?, endpoint) AND client = coalesce(?, client) ORDER BY created, id",
            endpoint,
            client,
        )

    def counts(self, endpoint: str) -> dict[str, int]:
        """Return how many instances of an endpoint each client has."""
        query = "SELECT client, count(*) FROM instances WHERE endpoint = ? GROUP BY client"
        return dict(self._db.execute(query, (endpoint,)))

    def count(self, endpoint: str, client: str) -> int:
        """Return how many instances of an endpoint a client has."""
        key = (endpoint, client)
        if key not in self._counts:
            if len(self._counts) >= _MAX_COUNTS:
                self._counts.clear()
            statement = "SELECT count(*) FROM instances WHERE endpoint = ? AND client = ?"
            self._counts[key] = int(self._value(statement, endpoint, client))
        return self._counts[key]

    def oldest_conversations(self, endpoint: str, client: str, limit: int) -> Iterator[str]:
        """Return some instances of an endpoint that a client's conversations use, the longest unused first.

        They are read one by one; nothing may change the table meanwhile.
        """
        found = self._db.execute(
            "SELECT id FROM instances INDEXED BY instances_of_client"
            " WHERE endpoint = ? AND client = ? AND own = 0 ORDER BY used, id LIMIT ?",
            (endpoint, client, limit),
        )
        return (instance for (instance,) in found)

    def idle(self, before: int, limit: int) -> list[InstanceRow]:
        """Return some instances of conversations that nobody has used since a time in milliseconds."""
        return self._many("WHERE own = 0 AND used < ? LIMIT ?", before, limit)

    def _count_more(self, row: InstanceRow, change: int) -> None:
        key = (row.endpoint, row.client)
        if key in self._counts:
            self._counts[key] += change
