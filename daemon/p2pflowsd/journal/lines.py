"""The table of what the user and other people have said to each other."""

from __future__ import annotations

import itertools

from p2pflowsd.journal.rows import LineRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

_INSERT = insert_into("lines", columns(LineRow)[1:])
_IS_UNDER_WAY = "(state = 'sent' OR state = 'held' OR state = 'delivered')"


class LineTable(Table[LineRow]):
    """Lines in the order in which they were said."""

    name = "lines"
    row_type = LineRow

    def add(self, line: LineRow) -> LineRow:
        """Store a line; return it with its number."""
        return line._replace(row_id=self._db.execute(_INSERT, line[1:]).lastrowid or 0)

    def set_state(self, row_id: int, state: str) -> None:
        """Store what has become of a line."""
        self._db.execute("UPDATE lines SET state = ? WHERE n = ?", (state, row_id))

    def of_message(self, message_id: str, *, by_me: bool) -> LineRow | None:
        """Return the note or question with an id that the user, or another person, has sent."""
        return self._one(
            "WHERE message = ? AND by_me = ? AND (kind = 'note' OR kind = 'question')", message_id, int(by_me)
        )

    def delegate_of(self, message_id: str) -> tuple[str, str] | None:
        """Return to whom a question of the user was passed on, and why; None if it was not."""
        line = self._one("WHERE message = ? AND by_me = 0 AND kind = 'delegated'", message_id)
        if line is None:
            return None
        to, _, why = line.text.partition(" ")
        return to, why

    def under_way(self) -> list[LineRow]:
        """Return what the user has sent and that may still change."""
        return self._many(f"INDEXED BY lines_under_way WHERE {_IS_UNDER_WAY} AND by_me = 1")

    def with_peer(self, peer: str, limit: int, before: int) -> list[LineRow]:
        """Return the last lines with a person before a number, newest first."""
        return self._many("WHERE peer = ? AND n < ? ORDER BY n DESC LIMIT ?", peer, before, limit)

    def of_conversation(self, conversation: str, limit: int, before: int) -> list[LineRow]:
        """Return the last lines of a conversation before a number, newest first."""
        return self._many("WHERE conversation = ? AND n < ? ORDER BY n DESC LIMIT ?", conversation, before, limit)

    def newest(self, limit: int, before: int) -> list[LineRow]:
        """Return the last lines with anybody before a number, newest first."""
        return self._many("WHERE n < ? ORDER BY n DESC LIMIT ?", before, limit)

    def counts(self) -> dict[str, int]:
        """Return how many lines there are with each person."""
        return dict(self._db.execute("SELECT peer, count(*) FROM lines INDEXED BY lines_of_peer GROUP BY peer"))

    def human_endpoints(self) -> set[tuple[str, str]]:
        """Return the endpoints of other people to which the user has said something, each with its owner."""
        return set(self._db.execute("SELECT DISTINCT peer, endpoint FROM lines WHERE by_me = 1"))

    def remove_before(self, at: int, limit: int) -> list[str]:
        """Remove the oldest lines, as far as they were said before a time; return with whom each was."""
        old = list(itertools.takewhile(lambda line: line.at < at, self._many("WHERE n > 0 ORDER BY n LIMIT ?", limit)))
        self._db.executemany("DELETE FROM lines WHERE n = ?", [(line.row_id,) for line in old])
        return [line.peer for line in old]

    def remove_first(self, peer: str | None = None) -> str | None:
        """Remove the oldest line, with one person or with anybody; return with whom it was."""
        clause = "" if peer is None else "WHERE peer = ?"
        first = self._one(f"{clause} ORDER BY n LIMIT 1", *([] if peer is None else [peer]))
        if first is None:
            return None
        self._db.execute("DELETE FROM lines WHERE n = ?", (first.row_id,))
        return first.peer
