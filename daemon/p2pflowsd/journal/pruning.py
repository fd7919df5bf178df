"""Removes the rows that no promise needs any more."""

from __future__ import annotations

import json
import sqlite3

from p2pflows.retention import Retention
from p2pflowsd.journal.sql import HAS_NUMBER
from p2pflowsd.journal.usage import UsageTable

MAX_PRUNED_ROWS = 1_000
"""How many rows of a table one call looks at, so that no call takes long."""
MAX_REMOVED_ROWS = 200
"""How many rows of a table one call removes."""
MAX_FREED_PAGES = 200
"""How many pages one call gives back to the disk, of 4 KB each; files of earlier releases keep theirs."""
_CLOCK_SKEW_MS = 600_000
_DAY_MS = 24 * 3_600_000

_CONDITIONS = {
    # A prompt has the number of its request; no other request may get that number while the prompt is here.
    "incoming": "expires < :skew AND state IN ('done', 'failed', 'expired') AND n NOT IN (SELECT n FROM prompts)",
    "bundles": "expires < :skew",
    # A call stays as long as the run that made it, because the run may have to withdraw it.
    "outgoing": "ended < :calls AND id NOT IN (SELECT message FROM records WHERE message IS NOT NULL)",
    "prompts": "ended < :inbox",
    "invitations": "expires < :month",
    "meetings": "at < :two_months AND added = 1",
    "introductions": "at < :month",
    "wishes": "last < :month",
}
"""Which rows of each table go.

Ids of received messages are remembered until ten minutes after their deadline, for clock skew. Ended messages and
prompts stay as long as the owner has set, so that `wait` still finds the answer. Invitations stay for a month after
their end, so that who comes too late reads why; meetings stay longer than any invitation, so that none is used twice by
the same user.
"""


class Pruner:
    """Goes round the tables, one slice of each at a time."""

    def __init__(self, db: sqlite3.Connection, usage: UsageTable) -> None:
        self._db = db
        self._usage = usage
        self._reached = dict.fromkeys(_CONDITIONS, 0)

    def prune(self, now: int, retention: Retention) -> bool:
        """Remove what is no longer needed from the next slice of each table; after the last slice, the first is next.

        Args:
            now: the time in milliseconds since the Unix epoch.
            retention: how long what has ended stays.

        Returns:
            Whether a slice holds more of it than one call removes, so that the next call should come soon.
        """
        limits = {
            "skew": now - _CLOCK_SKEW_MS,
            "calls": now - retention.calls * 1000,
            "inbox": now - retention.inbox * 1000,
            "month": now - 30 * _DAY_MS,
            "two_months": now - 61 * _DAY_MS,
        }
        has_more = False
        for table, condition in _CONDITIONS.items():
            start = self._reached[table]
            (end,) = self._db.execute(
                f"SELECT max(n) FROM (SELECT n FROM {table} WHERE n > ? ORDER BY n LIMIT {MAX_PRUNED_ROWS})", (start,)
            ).fetchone()
            self._reached[table] = end or 0
            if end is None:
                continue
            found = self._db.execute(
                f"SELECT n FROM {table} WHERE n > :start AND n <= :end AND {condition}"
                f" ORDER BY n LIMIT {MAX_REMOVED_ROWS}",
                {"start": start, "end": end, **limits},
            )
            rows = [row_id for (row_id,) in found]
            self._usage.forget(table, rows)
            self._db.execute(f"DELETE FROM {table} WHERE {HAS_NUMBER}", (json.dumps(rows),))
            if len(rows) == MAX_REMOVED_ROWS:
                self._reached[table] = rows[-1]
                has_more = True
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(free, MAX_FREED_PAGES)):
            # Python's sqlite3 steps this statement once, which frees one page whatever number it is given.
            self._db.execute("PRAGMA incremental_vacuum(1)")
        return has_more
