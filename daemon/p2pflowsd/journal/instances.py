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
_MAX_AT_HAND = 2_000
"""How many instances are kept in memory."""
_MAX_AT_HAND_CHARS = 4_000_000
"""How long their texts may be, together."""


class InstanceTable(Table[InstanceRow]):
    """Instances by id."""

    name = "instances"
    row_type = InstanceRow

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._counts: dict[tuple[str, str], int] = {}
        self._at_hand: dict[str, InstanceRow | None] = {}
        """The instances that were used last, the longest unused first; None for an id that none has."""
        self._at_hand_chars = 0

    def add(self, row: InstanceRow) -> None:
        """Store a mounted instance."""
        self._db.execute(_INSERT, row)
        self._count_more(row, 1)
        self._keep_at_hand(row.id, row)

    def get(self, instance: str) -> InstanceRow | None:
        """Return the instance with an id; the journal is read only if it was not used lately."""
        if instance in self._at_hand:
            row = self._at_hand[instance] = self._at_hand.pop(instance)
            return row
        row = self._one("WHERE id = ?", instance)
        self._keep_at_hand(instance, row)
        return row

    def save(self, instance: str, state: str | None, now: int) -> None:
        """Store the state that a run left, and when; None leaves the state as it was."""
        self._db.execute(
            "UPDATE instances SET state = coalesce(?, state), used = ? WHERE id = ?", (state, now, instance)
        )
        row = self._at_hand.get(instance)
        if row is not None:
            self._keep_at_hand(instance, row._replace(state=row.state if state is None else state, used=now))

    def restore(self, instance: str, state: str | None) -> None:
        """Put back an earlier state; None for that of the class."""
        self._db.execute("UPDATE instances SET state = ? WHERE id = ?", (state, instance))
        self._forget(instance)

    def reset(self, instance: str) -> None:
        """Remove the state of an instance."""
        self.restore(instance, None)

    def remove(self, row: InstanceRow) -> None:
        """Remove an instance."""
        if self._changes_one("DELETE FROM instances WHERE id = ?", row.id):
            self._count_more(row, -1)
        self._forget(row.id)

    def forget(self) -> None:
        """Keep nothing in memory, as the transaction that is rolled back may have changed any of it."""
        self._at_hand.clear()
        self._at_hand_chars = 0
        self._counts.clear()

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

    def _keep_at_hand(self, instance: str, row: InstanceRow | None) -> None:
        self._forget(instance)
        self._at_hand[instance] = row
        self._at_hand_chars += _chars(row)
        while len(self._at_hand) > _MAX_AT_HAND or self._at_hand_chars > _MAX_AT_HAND_CHARS:
            self._forget(next(iter(self._at_hand)))

    def _forget(self, instance: str) -> None:
        self._at_hand_chars -= _chars(self._at_hand.pop(instance, None))


def _chars(row: InstanceRow | None) -> int:
    """How long the texts of a row are that may be long."""
    if row is None:
        return 0
    return len(row.config) + len(row.subflows) + len(row.initial or "") + len(row.state or "")
