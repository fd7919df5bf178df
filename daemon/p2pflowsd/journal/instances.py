"""The table of mounted flows: their frozen config, and their state."""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.rows import InstanceRow, columns

_COLUMNS = ", ".join(columns(InstanceRow))


class InstanceTable:
    """Instances by id."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, row: InstanceRow) -> None:
        """Keep a mounted instance."""
        self._db.execute(f"INSERT INTO instances ({_COLUMNS}) VALUES ({', '.join('?' * len(row))})", row)

    def get(self, instance: str) -> InstanceRow | None:
        """The instance with an id."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM instances WHERE id = ?", (instance,)).fetchone()
        return InstanceRow._make(row) if row else None

    def save(self, instance: str, state: str | None, now: int) -> None:
        """Keep the state that a run left; None leaves it as it was."""
        self._db.execute(
            "UPDATE instances SET state = coalesce(?, state), used = ? WHERE id = ?", (state, now, instance)
        )

    def restore(self, instance: str, state: str | None) -> None:
        """Put back a state."""
        self._db.execute("UPDATE instances SET state = ? WHERE id = ?", (state, instance))

    def reset(self, instance: str) -> None:
        """Forget the state."""
        self._db.execute("UPDATE instances SET state = NULL WHERE id = ?", (instance,))

    def remove(self, instance: str) -> None:
        """Forget an instance."""
        self._db.execute("DELETE FROM instances WHERE id = ?", (instance,))

    def of(self, endpoint: str | None = None, client: str | None = None) -> list[InstanceRow]:
        """Instances of an endpoint or all, for a client or all, oldest first."""
        found = self._db.execute(
            f"""SELECT {_COLUMNS} FROM instances
                WHERE endpoint = coalesce(?, endpoint) AND client = coalesce(?, client) ORDER BY created, id""",
            (endpoint, client),
        )
        return [InstanceRow._make(row) for row in found]

    def count(self, endpoint: str, client: str) -> int:
        """How many instances of an endpoint a client has."""
        query = "SELECT count(*) FROM instances WHERE endpoint = ? AND client = ?"
        return int(self._db.execute(query, (endpoint, client)).fetchone()[0])

    def counts(self, endpoint: str) -> dict[str, int]:
        """How many instances of an endpoint each client has."""
        query = "SELECT client, count(*) FROM instances WHERE endpoint = ? GROUP BY client"
        return dict(self._db.execute(query, (endpoint,)).fetchall())

    def oldest_conversations(self, endpoint: str, client: str, limit: int) -> list[InstanceRow]:
        """Some of the instances that a client's conversations have of an endpoint, the longest unused first."""
        found = self._db.execute(
            f"""SELECT {_COLUMNS} FROM instances WHERE endpoint = ? AND client = ? AND own = 0
                ORDER BY used, id LIMIT ?""",
            (endpoint, client, limit),
        )
        return [InstanceRow._make(row) for row in found]

    def idle(self, before: int, limit: int) -> list[InstanceRow]:
        """Some instances of conversations that nobody has gone on with for long."""
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM instances WHERE own = 0 AND used < ? LIMIT ?", (before, limit)
        )
        return [InstanceRow._make(row) for row in found]
