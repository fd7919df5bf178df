"""The ids of requests that have ended: all that is left of most of them, so that none takes effect twice.

A row has the number of the sender, the 16 bytes of the id, and until when a copy could still be valid: 30 bytes of the
file. Ids grow with time (RFC 9562, section 5.7), so pages are filled one after the other, and emptied in that order.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from p2pflowsd.journal.usage import UsageTable
from p2pflowsd.lifecycle import IncomingState

MAX_PRUNED = 1_000
"""How many ids, and senders, one call of `prune` looks at."""
_FORGOTTEN = "forgotten_until"
"""The key in `meta` of the time before which the deadlines of all forgotten ids were."""
_MAX_CACHED_SENDERS = 10_000
_FIRST = (0, b"")
_END_OF_SLICE = (
    f"SELECT sender, id FROM remembered WHERE (sender, id) > (?, ?) ORDER BY sender, id LIMIT 1 OFFSET {MAX_PRUNED - 1}"
)
_IN_SLICE = "FROM remembered WHERE (sender, id) > (?, ?) AND (sender, id) <= (?, ?) AND until < ?"
_LAST = (2**62, b"")
_FORGET_SENDERS = (
    "DELETE FROM senders WHERE n > ? AND n <= ? AND NOT EXISTS (SELECT 1 FROM remembered WHERE sender = senders.n)"
    " RETURNING user"
)


class RememberedTable:
    """Ids by sender."""

    def __init__(self, db: sqlite3.Connection, usage: UsageTable) -> None:
        self._db = db
        self._usage = usage
        self._numbers: dict[str, int | None] = {}
        """The numbers of senders, as far as they were looked up; None of those who have none."""
        self._pruned_to = _FIRST
        self._pruned_senders_to = 0
        self._forgotten_until: int | None = None

    def has(self, peer: str, message_id: str) -> bool:
        """Return whether an id of a sender is remembered here."""
        number = self._number_of(peer)
        if number is None:
            return False
        found = self._db.execute(
            "SELECT 1 FROM remembered WHERE sender = ? AND id = ?", (number, bytes.fromhex(message_id))
        )
        return found.fetchone() is not None

    def has_any(self, peer: str) -> bool:
        """Return whether any id of a sender is remembered here."""
        number = self._number_of(peer)
        found = self._db.execute("SELECT 1 FROM remembered WHERE sender = ? LIMIT 1", (number,))
        return number is not None and found.fetchone() is not None

    @property
    def forgotten_until(self) -> int:
        """The time before which the deadlines of all forgotten ids were, in milliseconds since the Unix epoch.

        It is long past, unless the clock was ahead when they were forgotten.
        """
        if self._forgotten_until is None:
            row = self._db.execute("SELECT value FROM meta WHERE key = ?", (_FORGOTTEN,)).fetchone()
            self._forgotten_until = int(row[0]) if row else 0
        return self._forgotten_until

    def note_forgotten(self, before: int) -> None:
        """Take note that ids are forgotten whose deadlines were before a time."""
        if before > self.forgotten_until:
            self._forgotten_until = before
            self._db.execute(
                "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (_FORGOTTEN, str(before)),
            )

    def add(self, requests: Iterable[tuple[str, str, int]]) -> None:
        """Remember requests that have ended.

        Args:
            requests: the sender, the id and the deadline of each, in milliseconds since the Unix epoch.
        """
        rows = []
        for peer, message_id, expires in requests:
            rows.append((self._add_sender(peer), bytes.fromhex(message_id), expires))
            self._usage.add_request(peer, IncomingState.DONE, 0)
        self._db.executemany("INSERT INTO remembered (sender, id, until) VALUES (?, ?, ?)", rows)

    def prune(self, before: int) -> bool:
        """Forget some of the ids whose deadline has passed; after the last slice, the first is next.

        Args:
            before: the time in milliseconds since the Unix epoch before which their deadlines must have passed.

        Returns:
            Whether there were some in this slice, so that the next call should come soon.
        """
        start = self._pruned_to
        end = self._db.execute(_END_OF_SLICE, start).fetchone()
        self._pruned_to = _FIRST if end is None else end
        bounds = (*start, *(end or _LAST), before)
        gone = self._db.execute(f"SELECT sender, count(*) {_IN_SLICE} GROUP BY sender", bounds).fetchall()
        if gone:
            self._db.execute(f"DELETE {_IN_SLICE}", bounds)
            self.note_forgotten(before)
            for number, count in gone:
                (peer,) = self._db.execute("SELECT user FROM senders WHERE n = ?", (number,)).fetchone()
                self._usage.forget_remembered(peer, count)
        self._forget_senders()
        return bool(gone)

    def _forget_senders(self) -> None:
        """Forget some of the senders of whom no id is left."""
        start = self._pruned_senders_to
        (end,) = self._db.execute(
            f"SELECT max(n) FROM (SELECT n FROM senders WHERE n > ? ORDER BY n LIMIT {MAX_PRUNED})", (start,)
        ).fetchone()
        self._pruned_senders_to = end or 0
        for (peer,) in self._db.execute(_FORGET_SENDERS, (start, end)).fetchall():
            self._numbers.pop(peer, None)

    def _add_sender(self, peer: str) -> int:
        number = self._number_of(peer)
        if number is None:
            number = self._db.execute("INSERT INTO senders (user) VALUES (?)", (peer,)).lastrowid or 0
            self._numbers[peer] = number
        return number

    def _number_of(self, peer: str) -> int | None:
        if peer not in self._numbers:
            if len(self._numbers) >= _MAX_CACHED_SENDERS:
                self._numbers.clear()
            found = self._db.execute("SELECT n FROM senders WHERE user = ?", (peer,)).fetchone()
            self._numbers[peer] = None if found is None else found[0]
        return self._numbers[peer]
