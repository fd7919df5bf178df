"""The table of long bodies and answers, apart from the rows of their messages.

SQLite writes a row whole whenever one of its values changes. So what is long lies here, and is written once; the row
has only its length. Triggers remove it when its row no longer needs it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from enum import IntEnum

MAX_INLINE_BYTES = 3_500
"""Most bytes that lie in the row of a message: with what else the row has, they fit into one page."""
_KINDS = 3


class Kind(IntEnum):
    """What a long text is; together with the number of its row, this is its number here."""

    REQUEST = 0
    """The body of a row of `incoming`."""
    MESSAGE = 1
    """The body of a row of `outgoing`."""
    ANSWER = 2
    """The answer in a row of `outgoing`."""


def lies_apart(body: bytes) -> bool:
    """Return whether a body is too long for the row of its message."""
    return len(body) > MAX_INLINE_BYTES


def in_row(body: bytes) -> tuple[bytes | None, int]:
    """Return what the row of a message has of a body, and the length of what lies apart from it."""
    return (None, len(body)) if lies_apart(body) else (body, 0)


def number_of(kind: Kind, row_id: int | str = "n") -> str:
    """Return the SQL expression of the number that a long text has, by the expression of its row's number."""
    return f"{row_id} * {_KINDS} + {int(kind)}"


def read_either(column: str, length: str, table: str, kind: Kind) -> str:
    """Return the SQL expression of a body that is in its row or here.

    Args:
        column: the column that has it if it is short.
        length: the column that has its length if it lies here, and 0 if not.
        table: the table of both.
        kind: what it is.
    """
    here = f"(SELECT bodies.body FROM bodies WHERE bodies.n = {number_of(kind, f'{table}.n')})"
    return f"CASE WHEN {length} > 0 THEN {here} ELSE {column} END"


class BodyTable:
    """Long bodies and answers.

    A request is often answered before the batch that brought it is committed. So its body waits in memory, and `save`
    writes it only if it is still needed.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._unsaved: dict[int, bytes] = {}
        """Bodies of requests, by the numbers of these."""

    @property
    def unsaved(self) -> Mapping[int, bytes]:
        """The bodies of requests that the open transaction has not written yet, by the numbers of the requests."""
        return self._unsaved

    def put(self, kind: Kind, row_id: int, body: bytes) -> None:
        """Write a long text; it takes the place of an earlier one."""
        self._db.execute(f"INSERT OR REPLACE INTO bodies (n, body) VALUES ({number_of(kind, '?')}, ?)", (row_id, body))

    def put_soon(self, request: int, body: bytes) -> None:
        """Keep the body of a request until `save`."""
        self._unsaved[request] = body

    def drop_unsaved(self, request: int) -> None:
        """Do not write the body of a request that has ended."""
        self._unsaved.pop(request, None)

    def save(self) -> None:
        """Write what waits in memory."""
        for request, body in self._unsaved.items():
            self.put(Kind.REQUEST, request, body)
        self._unsaved.clear()

    def forget_unsaved(self) -> None:
        """Forget what waits in memory, because its transaction was rolled back."""
        self._unsaved.clear()
