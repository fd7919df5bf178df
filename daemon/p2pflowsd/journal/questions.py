"""The table of questions that this user asks other humans."""

from __future__ import annotations

from p2pflowsd.journal.rows import QuestionRow, columns
from p2pflowsd.journal.sql import insert_into, is_one_of
from p2pflowsd.journal.table import Table
from p2pflowsd.lifecycle import QuestionState, may_become

MAX_KEPT = 1_000
"""How many ended questions are remembered."""

_INSERT = insert_into("questions", columns(QuestionRow)[1:])
_END = {
    state: f"UPDATE questions SET state = '{state}', result = ?, people = ?, ended = ?, due = NULL"
    f" WHERE n = ? AND {is_one_of(may_become(state))}"
    for state in QuestionState
}
# Few questions are open. SQLite may read the whole table to find them, unless it must use this index.
_OPEN = "INDEXED BY questions_open WHERE state = 'open'"


class QuestionTable(Table[QuestionRow]):
    """Questions in the order in which they were asked."""

    name = "questions"
    row_type = QuestionRow

    def add(self, question: QuestionRow) -> int:
        """Store a question, and return its number; that of the row is ignored."""
        return self._db.execute(_INSERT, question[1:]).lastrowid or 0

    def set_people(self, row_id: int, people: str, due: int | None) -> None:
        """Store what has become of those who are asked, and when something else is to be done."""
        self._db.execute("UPDATE questions SET people = ?, due = ? WHERE n = ?", (people, due, row_id))

    def set_claim(self, row_id: int, by: str, until: int, claims: int) -> None:
        """Store who works on the answer, until when, and how often that was said."""
        self._db.execute(
            "UPDATE questions SET claimed_by = ?, claimed_until = ?, claims = ? WHERE n = ?",
            (by, until, claims, row_id),
        )

    def end(self, row_id: int, state: QuestionState, result: str, people: str, now: int) -> bool:
        """Move a question to a final state; return False if it was not open."""
        return self._changes_one(_END[state], result, people, now, row_id)

    def get(self, row_id: int) -> QuestionRow | None:
        """Return one question."""
        return self._one("WHERE n = ?", row_id)

    def matching(self, id_part: str) -> list[QuestionRow]:
        """Return the questions whose id is written in short as `id_part`."""
        return self._matching(id_part)

    def count_open(self) -> int:
        """Return how many questions are open."""
        count: int = self._value(f"SELECT count(*) FROM questions {_OPEN}")
        return count

    def open(self, limit: int) -> list[QuestionRow]:
        """Return the open questions, newest first."""
        return self._many(f"{_OPEN} ORDER BY n DESC LIMIT ?", limit)

    def ended(self, limit: int) -> list[QuestionRow]:
        """Return the questions that have ended, newest first."""
        return self._many("WHERE state != 'open' ORDER BY n DESC LIMIT ?", limit)

    def due(self, now: int) -> list[QuestionRow]:
        """Return the open questions for which something is to be done."""
        return self._many(f"{_OPEN} AND due <= ? ORDER BY n", now)

    def next_due(self) -> int | None:
        """Return when something is to be done for a question, in milliseconds since the Unix epoch."""
        due: int | None = self._value(f"SELECT min(due) FROM questions {_OPEN}")
        return due

    def clear(self) -> int:
        """Remove the questions that have ended, and return how many there were."""
        return self._db.execute("DELETE FROM questions WHERE state != 'open'").rowcount

    def prune(self) -> None:
        """Remove the oldest questions that have ended, beyond the limit."""
        self._db.execute(
            "DELETE FROM questions WHERE n IN"
            " (SELECT n FROM questions WHERE state != 'open' ORDER BY n DESC LIMIT -1 OFFSET ?)",
            (MAX_KEPT,),
        )
