"""The table of worker tokens: for which dispatch point each is, and how long it is good."""

from __future__ import annotations

from p2pflowsd.journal.rows import WorkerTokenRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

_INSERT = insert_into("worker_tokens", columns(WorkerTokenRow))


class WorkerTokenTable(Table[WorkerTokenRow]):
    """Worker tokens, without their keys."""

    name = "worker_tokens"
    row_type = WorkerTokenRow

    def add(self, row: WorkerTokenRow) -> None:
        """Store a token."""
        self._db.execute(_INSERT, row)

    def get(self, token_id: str) -> WorkerTokenRow | None:
        """Return a token, or None if there is none with this id."""
        return self._one("WHERE id = ?", token_id)

    def all(self) -> list[WorkerTokenRow]:
        """Return all tokens, oldest first."""
        return self._many("ORDER BY created, id")

    def revoke(self, token_id: str, now: int) -> None:
        """Note that a token is revoked."""
        self._db.execute("UPDATE worker_tokens SET revoked = ? WHERE id = ?", (now, token_id))

    def remove(self, token_id: str) -> None:
        """Forget a token."""
        self._db.execute("DELETE FROM worker_tokens WHERE id = ?", (token_id,))
