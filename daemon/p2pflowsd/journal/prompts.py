"""The table of questions to the human."""

from __future__ import annotations

import sqlite3

from p2pflowsd.journal.rows import IncomingRow, PromptRow
from p2pflowsd.lifecycle import Prompt, may_become

_COLUMNS = ", ".join(PromptRow._fields)


class PromptTable:
    """Questions by arrival."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def ask(self, row: IncomingRow, text: str, data: str) -> PromptRow:
        """Keep a new question; it has the number of its request."""
        prompt = PromptRow(
            row.n, row.id, row.peer, row.type, row.endpoint, row.conversation, text, data, row.received, row.expires, Prompt.OPEN, None
        )
        self._db.execute(f"INSERT INTO prompts ({_COLUMNS}) VALUES ({', '.join('?' * len(prompt))})", prompt)
        return prompt

    def end(self, n: int, state: Prompt, now: int, answer: str | None = None) -> bool:
        """Give a question its end, if it is still open."""
        old = may_become(state)
        return (
            self._db.execute(
                f"UPDATE prompts SET state = ?, answer = ?, ended = ? WHERE n = ? AND state IN ({', '.join('?' * len(old))})",
                (state, answer, now, n, *old),
            ).rowcount
            == 1
        )

    def get(self, n: int) -> PromptRow | None:
        """One question."""
        row = self._db.execute(f"SELECT {_COLUMNS} FROM prompts WHERE n = ?", (n,)).fetchone()
        return PromptRow._make(row) if row else None

    def open(self) -> list[PromptRow]:
        """All open questions, oldest first."""
        return [PromptRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM prompts WHERE state = 'open' ORDER BY n")]

    def recent(self) -> list[PromptRow]:
        """All questions that are still remembered, oldest first."""
        return [PromptRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM prompts ORDER BY n")]

    def like(self, part: str) -> list[PromptRow]:
        """Questions whose id begins or ends with some hex digits."""
        found = self._db.execute(f"SELECT {_COLUMNS} FROM prompts WHERE id GLOB ? OR id GLOB ?", (part + "*", "*" + part))
        return [PromptRow._make(row) for row in found]
