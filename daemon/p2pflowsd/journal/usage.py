"""How much of the journal each peer fills, counted in memory as rows come, move and go.

Each transaction writes the counts that it changes, beside the rows. So a start reads no rows to count them, and a crash
or a transaction that is rolled back leaves counts that fit to the rows; after either, the journal is opened anew.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from p2pflowsd.journal.rows import UsageRow, columns
from p2pflowsd.journal.sql import HAS_NUMBER, insert_into
from p2pflowsd.journal.table import Table
from p2pflowsd.lifecycle import IncomingState

_MAX_CACHED_PEERS = 10_000
_COLUMNS = columns(UsageRow)
_COUNTED = _COLUMNS[1:]
_ANSWERS, _REMEMBERED, _BYTES = (_COUNTED.index(name) for name in ("answers", "remembered", "bytes"))
_COLUMN_OF: dict[str, int] = {
    state: _COUNTED.index(column)
    for state, column in {
        IncomingState.BLOCKED: "blocked",
        IncomingState.HELD: "held",
        IncomingState.READY: "tasks",
        IncomingState.AWAITING_REPLY: "tasks",
        IncomingState.DEAD: "dead",
        IncomingState.ASKED: "questions",
        IncomingState.DONE: "remembered",
        IncomingState.FAILED: "remembered",
        IncomingState.EXPIRED: "remembered",
    }.items()
}
_SAVE = (
    insert_into("usage", _COLUMNS)
    + " ON CONFLICT (peer) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _COUNTED)
)
_ROWS = {
    "incoming": f"SELECT peer, state, coalesce(length(body), large) FROM incoming WHERE {HAS_NUMBER}",
    "outgoing": "SELECT peer, NULL, coalesce(length(body), large) FROM outgoing"
    f" WHERE {HAS_NUMBER} AND type IN ('reply', 'error')",
    "prompts": "SELECT peer, NULL, length(CAST(text AS BLOB)) + length(CAST(data AS BLOB)) FROM prompts"
    f" WHERE {HAS_NUMBER}",
}
_ENDED_QUESTIONS = (
    "SELECT n FROM prompts INDEXED BY prompts_ended_of_peer WHERE peer = ? AND state != 'open' ORDER BY n LIMIT ?"
)


class UsageTable(Table[UsageRow]):
    """How many rows and bytes the messages of each peer take."""

    name = "usage"
    row_type = UsageRow

    def __init__(self, db: sqlite3.Connection) -> None:
        super().__init__(db)
        self._counts: dict[str, list[int]] = {}
        self._changed: set[str] = set()

    def of(self, peer: str) -> UsageRow:
        """Return what one peer fills."""
        return UsageRow(peer, *self._of(peer))

    def all(self) -> list[UsageRow]:
        """Return what each peer fills, those with most bytes first."""
        found = {row.peer: row for row in self._many("")}
        found |= {peer: UsageRow(peer, *counts) for peer, counts in self._counts.items()}
        return sorted((row for row in found.values() if any(row[1:])), key=lambda row: (-row.bytes, row.peer))

    def add_request(self, peer: str, state: str, size: int) -> None:
        """Count a request that was stored, with a body of so many bytes."""
        counts = self._change(peer)
        counts[_COLUMN_OF[state]] += 1
        counts[_BYTES] += size

    def move_request(self, peer: str, old: str, new: str, freed: int) -> None:
        """Count a request in another state, and the bytes of its body less if that was removed."""
        counts = self._change(peer)
        counts[_COLUMN_OF[old]] -= 1
        counts[_COLUMN_OF[new]] += 1
        counts[_BYTES] -= freed

    def forget_remembered(self, peer: str, count: int) -> None:
        """Stop counting requests that have ended, as their ids are forgotten."""
        self._change(peer)[_REMEMBERED] -= count

    def add_answer(self, peer: str, by: int, size: int) -> None:
        """Count answers that wait for their receipt; `by` and `size` are negative for one that waits no more."""
        counts = self._change(peer)
        counts[_ANSWERS] += by
        counts[_BYTES] += size

    def add_question(self, peer: str, size: int) -> None:
        """Count the bytes of a question that was stored."""
        self._change(peer)[_BYTES] += size

    def forget(self, table: str, row_ids: Sequence[int]) -> None:
        """Stop counting rows that are about to be removed; only rows that have ended are.

        Args:
            table: their table, which may be one that is not counted.
            row_ids: their numbers.
        """
        if row_ids and table in _ROWS:
            for peer, state, size in self._db.execute(_ROWS[table], (json.dumps(row_ids),)):
                counts = self._change(peer)
                counts[_BYTES] -= size
                if state is not None:
                    counts[_COLUMN_OF[state]] -= 1

    def forget_ended_questions(self, peer: str, limit: int) -> None:
        """Remove the oldest questions of a peer that have ended, to make room."""
        row_ids = [row_id for (row_id,) in self._db.execute(_ENDED_QUESTIONS, (peer, limit))]
        self.forget("prompts", row_ids)
        self._db.execute(f"DELETE FROM prompts WHERE {HAS_NUMBER}", (json.dumps(row_ids),))

    def forget_idle(self) -> None:
        """Forget the peers that fill nothing."""
        self.save()
        self._counts.clear()
        self._db.execute(
            "DELETE FROM usage WHERE blocked + held + tasks + dead + questions + answers + remembered = 0 AND bytes = 0"
        )

    def save(self) -> None:
        """Write the counts that have changed."""
        if self._changed:
            self._db.executemany(_SAVE, [(peer, *self._counts[peer]) for peer in self._changed])
            self._changed.clear()

    def _change(self, peer: str) -> list[int]:
        """The counts of a peer, to be changed and then written."""
        self._changed.add(peer)
        return self._of(peer)

    def _of(self, peer: str) -> list[int]:
        counts = self._counts.get(peer)
        if counts is None:
            if len(self._counts) >= _MAX_CACHED_PEERS:
                changed = {each: self._counts[each] for each in self._changed if each != peer}
                self._counts.clear()
                self._counts |= changed
            row = self._one("WHERE peer = ?", peer)
            counts = self._counts[peer] = [0] * len(_COUNTED) if row is None else list(row[1:])
        return counts
