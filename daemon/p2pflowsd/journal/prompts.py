"""The table of questions to the human."""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from p2pflows import short_ids
from p2pflows.protocol.message import Type
from p2pflowsd.journal.rows import IncomingRow, PromptRow, columns
from p2pflowsd.journal.sql import is_one_of
from p2pflowsd.journal.table import Table
from p2pflowsd.journal.usage import UsageTable
from p2pflowsd.lifecycle import PromptState, may_become

_COLUMNS = columns(PromptRow)
_NEXT_PLACE = "(SELECT coalesce(max(place), 0) + 1 FROM prompts)"
_INSERT = (
    f"INSERT INTO prompts ({', '.join(_COLUMNS)}, backwards)"
    f" VALUES ({', '.join(_NEXT_PLACE if name == 'place' else '?' for name in _COLUMNS)}, ?) RETURNING place"
)
_END = {
    state: f"UPDATE prompts SET state = '{state}', answer = ?, ended = ?, snoozed = 0"
    f" WHERE n = ? AND {is_one_of(may_become(state))}"
    for state in PromptState
}
# SQLite may read all open questions to find a few, unless it must use one of these indexes.
_OPEN = "INDEXED BY prompts_open WHERE state = 'open'"
_OPEN_OF = "INDEXED BY prompts_open_of_peer WHERE state = 'open' AND peer = ?"
_OPEN_SINCE = "INDEXED BY prompts_open_since WHERE state = 'open'"
_SNOOZED = "INDEXED BY prompts_snoozed WHERE snoozed > 0"
_ALL = "INDEXED BY prompts_place WHERE true"
_ALL_OF = "INDEXED BY prompts_of_peer WHERE peer = ?"
_SHOWN = "snoozed = 0"
_SHOWN_ID = f"substr(id, -{short_ids.SHOWN})"
_OPEN_WITH_ID = {
    "id": "INDEXED BY prompts_open_id WHERE state = 'open'",
    "backwards": "INDEXED BY prompts_open_backwards WHERE state = 'open'",
    _SHOWN_ID: "INDEXED BY prompts_open_shown WHERE state = 'open'",
}
_WITH_ID = {
    "id": "WHERE true",
    "backwards": "INDEXED BY prompts_backwards WHERE true",
    _SHOWN_ID: "INDEXED BY prompts_shown WHERE true",
}
_COUNT_OPEN = "SELECT peer, type, count(*) FROM prompts INDEXED BY prompts_open_of_peer WHERE state = 'open'"
_GROUPS_OF = (
    "SELECT conversation, type, count(*), min(n)"
    f" FROM prompts {_OPEN_OF} AND snoozed = 0 GROUP BY conversation, type ORDER BY min(place) LIMIT ?"
)
MAX_MATCHING = 5
"""How many questions a short id finds; more than one are ambiguous."""
MAX_PAGE_CHARS = 1_000_000
"""After so much text a page ends, although it may have more rows."""
_AFTER_HEX = "g"
"""Comes after every hex digit."""


@dataclass(frozen=True, slots=True)
class Page:
    """Which questions a page of the inbox has.

    Attributes:
        limit: the most questions on it.
        after: the question before the first one on it; None for the first page.
        is_open: whether only open questions are on it.
        peer: whose questions are on it; None for those of all.
        type: `call` for questions that want an answer, `post` for notes, None for both.
        since: the earliest arrival, in milliseconds since the Unix epoch.
        snoozed: whether it has the hidden questions instead of those that are shown.
    """

    limit: int
    after: PromptRow | None = None
    is_open: bool = True
    peer: str | None = None
    type: Type | None = None
    since: int | None = None
    snoozed: bool = False


class PromptTable(Table[PromptRow]):
    """Questions in the order in which they are asked."""

    name = "prompts"
    row_type = PromptRow

    def __init__(self, db: sqlite3.Connection, usage: UsageTable) -> None:
        super().__init__(db)
        self._usage = usage

    def add(self, request: IncomingRow, text: str, data: str, label: str = "", flow: str = "") -> PromptRow:
        """Store the question that a request asks; both have the same number.

        Args:
            request: the request that the human is to answer.
            text: what the human reads.
            data: all of the request's data, as JSON.
            label: the name by which the asking flow knows this human.
            flow: the flow that asks, with its dispatch point.
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
            flow=flow,
        )
        values = [value for name, value in zip(_COLUMNS, prompt, strict=True) if name != "place"]
        self._usage.add_question(request.peer, len(text.encode()) + len(data.encode()))
        return prompt._replace(place=self._value(_INSERT, *values, prompt.id[::-1]))

    def end(self, row_id: int, state: PromptState, now: int, answer: str | None = None) -> bool:
        """Move a question to a final state; return False if it was not open."""
        return self._changes_one(_END[state], answer, now, row_id)

    def has_id(self, message_id: str) -> bool:
        """Return whether there is a question with an id, from any peer."""
        return self._value("SELECT 1 FROM prompts WHERE id = ?", message_id) is not None

    def get(self, row_id: int) -> PromptRow | None:
        """Return one question."""
        return self._one("WHERE n = ?", row_id)

    def page(self, page: Page) -> list[PromptRow]:
        """Return the questions of a page: those that want an answer before the notes, each in the order of asking.

        Past ones are in the order of asking alone, whatever their type and time. A page ends early where its texts get
        long. The cost depends on the length of the page, and on what one peer may have open, but not on how many
        questions there are.
        """
        found: list[PromptRow] = []
        size = 0
        for row in itertools.islice(self._rows(page), page.limit):
            found.append(row)
            size += len(row.text) + len(row.data)
            if size > MAX_PAGE_CHARS:
                break
        return found

    def _rows(self, page: Page) -> Iterator[PromptRow]:
        if not page.is_open:
            yield from self._rows_of(page, None, page.after)
            return
        for kind in (Type.CALL, Type.POST):
            if page.type in (None, kind) and (page.after is None or page.after.type <= kind):
                after = page.after if page.after is not None and page.after.type == kind else None
                yield from self._rows_of(page, kind, after)

    def _rows_of(self, page: Page, kind: Type | None, after: PromptRow | None) -> Iterator[PromptRow]:
        """Read the rows of a page that have a type, or any, and come after another row."""
        clause, key = _base(page)
        values: list[object] = [] if page.peer is None else [page.peer]
        if kind is not None:
            clause += " AND type = ?"
            values.append(kind)
        if page.is_open and page.since is not None:
            clause += " AND received >= ?"
            values.append(page.since)
        if after is not None:
            clause += f" AND ({', '.join(key)}) > ({', '.join('?' * len(key))})"
            values += [getattr(after, "row_id" if name == "n" else name) for name in key]
        statement = self._select(f"{clause} ORDER BY {', '.join(key)} LIMIT ?")
        yield from map(PromptRow._make, self._db.execute(statement, (*values, page.limit)))

    def groups_of(self, peer: str, limit: int) -> list[tuple[str, str, int, int]]:
        """Return a peer's open questions by conversation and type: how many, and the number of the first one."""
        return self._db.execute(_GROUPS_OF, (peer, limit)).fetchall()

    def open(self) -> list[PromptRow]:
        """Return all open questions, oldest first."""
        return self._many(f"{_OPEN} ORDER BY place")

    def count_open(self) -> list[tuple[str, str, int]]:
        """Return how many open questions there are of each peer and type."""
        return self._db.execute(f"{_COUNT_OPEN} GROUP BY peer, type").fetchall()

    def open_of(self, peer: str, limit: int, kind: Type | None = None) -> list[PromptRow]:
        """Return some of a peer's open questions, of one type or of both."""
        if kind is None:
            return self._many(f"{_OPEN_OF} LIMIT ?", peer, limit)
        return self._many(f"{_OPEN_OF} AND type = ? LIMIT ?", peer, kind, limit)

    def snooze(self, row_id: int, until: int) -> bool:
        """Hide an open question until a time, or show it again with 0; return False if it is not open."""
        return self._changes_one("UPDATE prompts SET snoozed = ? WHERE n = ? AND state = 'open'", until, row_id)

    def set_claim(self, row_id: int, by: str, until: int) -> None:
        """Store who works on the answer to a question, and until when."""
        self._db.execute("UPDATE prompts SET claimed_by = ?, claimed_until = ? WHERE n = ?", (by, until, row_id))

    def snoozed(self) -> list[PromptRow]:
        """Return the hidden questions, those first that are shown again first."""
        return self._many(f"{_SNOOZED} ORDER BY snoozed")

    def all(self) -> list[PromptRow]:
        """Return all questions, oldest first."""
        return self._many("ORDER BY place")

    def newest(self, limit: int) -> list[PromptRow]:
        """Return the last questions, newest first."""
        return self._many("ORDER BY place DESC LIMIT ?", limit)

    def matching(self, id_part: str) -> list[PromptRow]:
        """Return some open questions whose id is written in short as `id_part`; if there are none, past ones."""
        if not short_ids.is_id_part(id_part):
            return []
        return self._with_id(_OPEN_WITH_ID, id_part) or self._with_id(_WITH_ID, id_part)

    def _with_id(self, clauses: dict[str, str], id_part: str) -> list[PromptRow]:
        """Return some questions whose id, backwards or not, or as it is shown, begins with a part."""
        found: dict[int, PromptRow] = {}
        for column, clause in clauses.items():
            part = id_part[::-1] if column == "backwards" else id_part
            range_of = f"{clause} AND {column} >= ? AND {column} < ? LIMIT {MAX_MATCHING}"
            found |= {row.row_id: row for row in self._many(range_of, part, part + _AFTER_HEX)}
        return list(found.values())[:MAX_MATCHING]


def _base(page: Page) -> tuple[str, tuple[str, ...]]:
    """Return the beginning of the clause that selects a page, and the columns of its order."""
    if not page.is_open:
        return (_ALL if page.peer is None else _ALL_OF), ("place",)
    if page.snoozed:
        return (_SNOOZED if page.peer is None else f"{_SNOOZED} AND peer = ?"), ("place",)
    if page.peer is not None:
        return f"{_OPEN_OF} AND {_SHOWN}", ("place",)
    if page.since is not None:
        return f"{_OPEN_SINCE} AND {_SHOWN}", ("received", "n")
    return f"{_OPEN} AND {_SHOWN}", ("place",)
