"""The table of mounted flows: their frozen config, and their state."""

from __future__ import annotations

from p2pflowsd.journal.rows import InstanceRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

_INSERT = insert_into("instances", columns(InstanceRow))


class InstanceTable(Table[InstanceRow]):
    """Instances by id."""

    name = "instances"
    row_type = InstanceRow

    def add(self, row: InstanceRow) -> None:
        """Store a mounted instance."""
        self._db.execute(_INSERT, row)

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

    def remove(self, instance: str) -> None:
        """Remove an instance."""
        self._db.execute("DELETE FROM instances WHERE id = ?", (instance,))

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
        return int(self._value("SELECT count(*) FROM instances WHERE endpoint = ? AND client = ?", endpoint, client))

    def oldest_conversations(self, endpoint: str, client: str, limit: int) -> list[InstanceRow]:
        """Return some instances of an endpoint that a client's conversations use, the longest unused first."""
        return self._many(
            "WHERE endpoint = ? AND client = ? AND own = 0 ORDER BY used, id LIMIT ?", endpoint, client, limit
        )

    def idle(self, before: int, limit: int) -> list[InstanceRow]:
        """Return some instances of conversations that nobody has used since a time in milliseconds."""
        return self._many("WHERE own = 0 AND used < ? LIMIT ?", before, limit)
