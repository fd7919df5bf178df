"""Removes the rows that no promise needs any more."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from p2pflows.protocol import topics
from p2pflows.settings.retention import Retention
from p2pflowsd.journal.remembered import RememberedTable
from p2pflowsd.journal.sql import HAS_NUMBER
from p2pflowsd.journal.usage import UsageTable

MAX_PRUNED_ROWS = 1_000
"""How many rows of a table one call looks at, so that no call takes long."""
MAX_REMOVED_ROWS = 400
"""How many rows of a table one call removes."""
MAX_FREED_PAGES = 200
"""How many pages one call gives back to the disk, of 4 KB each."""
MAX_DROPPED_ANSWERS = 20
"""How many large answers one call removes."""
KEPT_REQUESTS = 1_000
"""Of the newest requests that have ended, more than the id is kept, so that no number is used again soon."""
KEPT_MESSAGES = 10_000
"""Of the newest messages of ours, those whose end nobody waits for any more are kept too, for `p2pflows asked`."""
_CLOCK_SKEW_MS = 600_000
_DAY_MS = 24 * 3_600_000

_ENDED_REQUESTS = f"""
SELECT n, peer, id, expires FROM incoming
WHERE n > :start AND n <= :end AND state IN ('done', 'failed', 'expired')
  AND (expires < :skew OR n <= (SELECT max(n) FROM incoming) - :kept_requests)
  AND NOT EXISTS (SELECT 1 FROM prompts WHERE prompts.n = incoming.n)
  AND (expires < :skew
    OR (endpoint != '{topics.INSTANCES}'
      AND NOT EXISTS (SELECT 1 FROM incoming AS answer INDEXED BY incoming_answers
            WHERE answer.root = incoming.n AND answer.root IS NOT NULL AND answer.state = 'ready')
      AND NOT EXISTS (SELECT 1 FROM outgoing INDEXED BY outgoing_of_root
            WHERE origin IS NOT NULL AND state IN ('pending', 'stored')
              AND json_extract(origin, '$.root') = +incoming.n)))
ORDER BY n LIMIT :limit"""
"""The requests of which only the id is needed, or nothing.

A prompt has the number of its request; no other request may get that number while the prompt is here. A request for
which a flow still waits for answers is told of their errors, and a mount can be withdrawn after it was done.
"""
_OF_RUNNING = """
(origin GLOB '{"n":*' AND EXISTS (SELECT 1 FROM records
   WHERE records.n = json_extract(origin, '$.n') AND records.k = json_extract(origin, '$.k')))"""
"""Condition: a run that has not ended has sent the message, and may have to withdraw it, or to read its answer."""
_NOBODY_ASKS = """
(fetched > 0 OR type = 'cancel' OR (type = 'post' AND state = 'done')
 OR origin GLOB '{"n":*' OR origin GLOB '{"instance":*')"""
"""Condition: whoever had to know how a message has ended knows it."""
_CONDITIONS = {
    "bundles": "expires < :skew",
    "outgoing": f"""ended IS NOT NULL AND (type IN ('reply', 'error')
      OR ((ended < :calls OR n <= (SELECT max(n) FROM outgoing) - :kept_messages)
        AND (ended < :calls OR coalesce({_NOBODY_ASKS}, false)) AND NOT coalesce({_OF_RUNNING}, false)))""",
    "prompts": "ended < :inbox",
    "invitations": "expires < :month",
    "meetings": "at < :two_months AND added = 1",
    "introductions": "at < :month",
    "wishes": "last < :month",
}
"""Which rows of each table go; what is quickly said of most rows is said first.

Ended messages and prompts stay as long as the owner has set, so that `wait` still finds the answer. Invitations stay
for a month after their end, so that who comes too late reads why; meetings stay longer than any invitation, so that
none is used twice by the same user.
"""
_DROP_LARGE_ANSWERS = (
    "UPDATE outgoing SET answer = NULL, large_answer = 0, fetched = 1"
    " WHERE n IN (SELECT n FROM outgoing INDEXED BY outgoing_large"
    f" WHERE fetched = 2 AND ended < :fetched ORDER BY ended LIMIT {MAX_DROPPED_ANSWERS})"
)


class Pruner:
    """Goes round the tables, one slice of each at a time."""

    def __init__(self, db: sqlite3.Connection, usage: UsageTable, remembered: RememberedTable) -> None:
        self._db = db
        self._usage = usage
        self._remembered = remembered
        self._reached = dict.fromkeys(("incoming", *_CONDITIONS), 0)

    def prune(self, now: int, retention: Retention) -> bool:
        """Remove what is no longer needed from the next slice of each table; after the last slice, the first is next.

        Args:
            now: the time in milliseconds since the Unix epoch.
            retention: how long what has ended stays.

        Returns:
            Whether a slice holds more of it than one call removes, or the file more free pages than one call gives
            back, so that the next call should come soon.
        """
        limits = {
            "skew": now - _CLOCK_SKEW_MS,
            "calls": now - retention.calls * 1000,
            "fetched": now - retention.fetched_answers * 1000,
            "inbox": now - retention.inbox * 1000,
            "month": now - 30 * _DAY_MS,
            "two_months": now - 61 * _DAY_MS,
            "kept_requests": KEPT_REQUESTS,
            "kept_messages": KEPT_MESSAGES,
            "limit": MAX_REMOVED_ROWS,
        }
        has_more = self._remembered.prune(limits["skew"])
        has_more |= self._db.execute(_DROP_LARGE_ANSWERS, limits).rowcount == MAX_DROPPED_ANSWERS
        has_more |= self._shrink_requests(limits)
        for table, condition in _CONDITIONS.items():
            found = self._in_slice(
                table,
                f"SELECT n FROM {table} WHERE n > :start AND n <= :end AND {condition} ORDER BY n LIMIT :limit",
                limits,
            )
            has_more |= self._remove(table, [row_id for (row_id,) in found])
        return has_more | self._free_pages()

    def _shrink_requests(self, limits: dict[str, int]) -> bool:
        """Keep only the ids of some requests that have ended, until copies of them cannot be valid any more.

        That is so ten minutes after their deadline, for clock skew.
        """
        found = self._in_slice("incoming", _ENDED_REQUESTS, limits)
        has_more = self._remove("incoming", [row_id for row_id, *_ in found])
        if any(expires < limits["skew"] for *_, expires in found):
            self._remembered.note_forgotten(limits["skew"])
        self._remembered.add(
            (peer, message_id, expires) for _, peer, message_id, expires in found if expires >= limits["skew"]
        )
        return has_more

    def _in_slice(self, table: str, statement: str, limits: dict[str, int]) -> list[Any]:
        """Return what a statement finds in the next slice of a table; its first column is the number of the row."""
        start = self._reached[table]
        end, count = self._db.execute(
            f"SELECT max(n), count(*) FROM (SELECT n FROM {table} WHERE n > ? ORDER BY n LIMIT {MAX_PRUNED_ROWS})",
            (start,),
        ).fetchone()
        # The round ends here also if rows are added all the time, or what is over would never be reached again.
        self._reached[table] = end if count == MAX_PRUNED_ROWS else 0
        return self._db.execute(statement, {"start": start, "end": end, **limits}).fetchall()

    def _remove(self, table: str, rows: list[int]) -> bool:
        """Remove rows of a slice; return whether it may have more of them."""
        self._usage.forget(table, rows)
        self._db.execute(f"DELETE FROM {table} WHERE {HAS_NUMBER}", (json.dumps(rows),))
        if len(rows) < MAX_REMOVED_ROWS:
            return False
        self._reached[table] = rows[-1]
        return True

    def _free_pages(self) -> bool:
        """Give some of the pages that are not used any more back to the disk; return whether there are more."""
        (free,) = self._db.execute("PRAGMA freelist_count").fetchone()
        for _ in range(min(free, MAX_FREED_PAGES)):
            # Python's sqlite3 steps this statement once, which frees one page whatever number it is given.
            self._db.execute("PRAGMA incremental_vacuum(1)")
        return bool(free > MAX_FREED_PAGES)
