"""The table of questions to the human."""

from __future__ import annotations

from p2pflowsd.journal.rows import IncomingRow, PromptRow, columns
from p2pflowsd.journal.sql import is_one_of
from p2pflowsd.journal.table import Table
from p2pflowsd.lifecycle import PromptState, may_become

_INSERT = (
    f"INSERT INTO prompts ({', '.join(columns(PromptRow))}, place)"
    f" VALUES ({', '.join('?' * len(columns(PromptRow)))}, (SELECT coalesce(max(place), 0) + 1 FROM prompts))"
)
_END = {
    state: f"UPDATE prompts SET state = '{state}', answer = ?, ended = ? WHERE n = ? AND {is_one_of(may_become(state))}"
    for state in PromptState
}
# SQLite may read all open questions to find those of a peer, unless it must use this index.
_OPEN_OF = "INDEXED BY prompts_open_of_peer WHERE state = 'open' AND peer = ?"
_COUNT_OPEN_OF = f"SELECT count(*) FROM prompts {_OPEN_OF}"


class PromptTable(Table[PromptRow]):
    """Questions in the order in which they are asked."""

    name = "prompts"
    row_type = PromptRow

    def add(self, request: IncomingRow, text: str, data: str, label: str = "") -> PromptRow:
        """Store the question that a request asks; both have the same number.

        Args:
            request: the request that the human is to answer.
            text: what the human reads.
            data: all of the request's data, as JSON.
            label: the name by which the asking flow knows this human.
        """
        prompt = PromptRow(
            row_id=request.row_id,
            id=request.id,
            peer=request.peer,
            type=request.type,
            endpoint=request.endpoint,
            conversation=request.conversation,
            text=text,
            data=data,
            received=request.received,
            expires=request.expires,
            state=PromptState.OPEN,
            answer=None,
            label=label,
        )
        self._db.execute(_INSERT, prompt)
        return prompt

    def end(self, row_id: int, state: PromptState, now: int, answer: str | None = None) -> bool:
        """Move a question to a final state; return False if it was not open."""
        return self._changes_one(_END[state], answer, now, row_id)

    def has_id(self, message_id: str) -> bool:
        """Return whether there is a question with an id, from any peer."""
        return self._value("SELECT 1 FROM prompts WHERE id = ?", message_id) is not None

    def get(self, row_id: int) -> PromptRow | None:
        """Return one question."""
        return self._one("WHERE n = ?", row_id)

    def open(self) -> list[PromptRow]:
        """Return all open questions, oldest first."""
        return self._many("WHERE state = 'open' ORDER BY place")

    def count_open_of(self, peer: str) -> int:
        """Return how many open questions a peer has asked."""
        count: int = self._value(_COUNT_OPEN_OF, peer)
        return count

    def open_of(self, peer: str, limit: int) -> list[PromptRow]:
        """Return some of a peer's open questions."""
        return self._many(f"{_OPEN_OF} LIMIT ?", peer, limit)

    def all(self) -> list[PromptRow]:
        """Return all questions, oldest first."""
        return self._many("ORDER BY place")

    def newest(self, limit: int) -> list[PromptRow]:
        """Return the last questions, newest first."""
        return self._many("ORDER BY place DESC LIMIT ?", limit)

    def matching(self, id_part: str) -> list[PromptRow]:
        """Return the questions whose id is written in short as `id_part`."""
        return self._matching(id_part)
