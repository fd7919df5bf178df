"""The table of questions to the human."""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.conditions import is_one_of
from p2pflowsd.journal.rows import IncomingRow, PromptRow, columns
from p2pflowsd.lifecycle import PromptState, may_become

_COLUMNS = ", ".join(columns(PromptRow))


class PromptTable:
    """Questions by the order in which they are asked."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ask(self, row: IncomingRow, text: str, data: str, label: str = "") -> PromptRow:
        """Keep a new question; it has the number of its request."""
        prompt = PromptRow(
            row.row_id,
            row.id,
            row.peer,
            row.type,
            row.endpoint,
            row.conversation,
            text,
            data,
            row.received,
            row.expires,
            PromptState.OPEN,
            None,
            label,
        )
        self._db.execute(
            f"INSERT INTO prompts ({_COLUMNS}, place) "
            f"VALUES ({', '.join('?' * len(prompt))}, (SELECT coalesce(max(place), 0) + 1 FROM prompts))",
            prompt,
        )
        return prompt

    def end(self, row_id: int, state: PromptState, now: int, answer: str | None = None) -> bool:
        """Give a question its end, if it is still open."""
        query = f"UPDATE prompts SET state = ?, answer = ?, ended = ? WHERE n = ? AND {is_one_of(may_become(state))}"
        return self._db.execute(query, (state, answer, now, row_id)).rowcount == 1

    def knows(self, message_id: str) -> bool:
        """Whether a question with this id is remembered, whoever asked it."""
        return self._db.execute("SELECT 1 FROM prompts WHERE id = ?", (message_id,)).fetchone() is not None

    def get(self, row_id: int) -> PromptRow | None:
        """One question."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM prompts WHERE n = ?", (row_id,)).fetchone()
        return PromptRow._make(row) if row else None

    def open(self) -> list[PromptRow]:
        """All open questions, oldest first."""
        return [
            PromptRow._make(row)
            for row in self._db.execute(f"SELECT {_COLUMNS} FROM prompts WHERE state = 'open' ORDER BY place")
        ]

    def recent(self) -> list[PromptRow]:
        """All questions that are still remembered, oldest first."""
        return [PromptRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM prompts ORDER BY place")]

    def newest(self, limit: int) -> list[PromptRow]:
        """The last questions, newest first."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM prompts ORDER BY place DESC LIMIT ?", (limit,))
        return [PromptRow._make(row) for row in found]

    def like(self, part: str) -> list[PromptRow]:
        """Questions whose id begins or ends with some hex digits."""
        found = self._db.execute(
            f"SELECT {_COLUMNS} FROM prompts WHERE id GLOB ? OR id GLOB ?", (part + "*", "*" + part)
        )
        return [PromptRow._make(row) for row in found]
