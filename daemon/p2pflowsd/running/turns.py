"""Turns: an instance works on one request at a time, until that request and all that it has asked have ended.

The requests of several callers would otherwise meet in one state, and one caller would get the answer for another
(docs/FLOWS.md, One request at a time). Flows that interleave requests on purpose, and parallel flows, take no turns.
"""

from __future__ import annotations

from collections import deque

from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState


class Turns:
    """Which request each instance works on, and which ones wait for their turn."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._open: dict[str, set[int]] = {}
        """The requests that an instance works on; more than one only if they began before turns were taken."""
        self._waiting: dict[str, deque[int]] = {}
        self._touched: dict[str, None] = {}
        for row in journal.incoming.in_state(IncomingState.AWAITING_REPLY):
            self._open.setdefault(row.instance or "", set()).add(row.row_id)
        for row in journal.incoming.in_state(IncomingState.READY):
            if row.instance is not None and row.root_request is not None:
                self._open.setdefault(row.instance, set()).add(row.root_request)
        for instance, row_id in journal.outgoing.open_roots():
            self._open.setdefault(instance, set()).add(row_id)

    def enter(self, row: IncomingRow) -> bool:
        """Return whether a request may run now; otherwise it waits for its turn."""
        instance = row.instance or ""
        if row.row_id in self._open.get(instance, ()):
            return True
        if instance in self._open:
            self._waiting.setdefault(instance, deque()).append(row.row_id)
            self._touched[instance] = None
            return False
        self._open[instance] = {row.row_id}
        return True

    def waiting(self) -> list[int]:
        """Return the rows of all requests that wait for their turn."""
        return [row_id for rows in self._waiting.values() for row_id in rows]

    def touch(self, instance: str | None) -> None:
        """Look at the turns of an instance once this batch is recorded: one of its requests may have ended."""
        if instance in self._open:
            self._touched[instance] = None

    def next_rows(self) -> list[IncomingRow]:
        """Return the requests whose turn has come."""
        touched, self._touched = self._touched, {}
        rows = []
        for instance in touched:
            still_open = {row_id for row_id in self._open.get(instance, ()) if self._is_open(row_id)}
            waiting = self._waiting.get(instance, deque())
            while waiting and not still_open:
                row = self._journal.incoming.get(waiting.popleft())
                if row is not None and row.state == IncomingState.READY:
                    still_open.add(row.row_id)
                    rows.append(row)
            if still_open:
                self._open[instance] = still_open
            else:
                self._open.pop(instance, None)
            if not waiting:
                self._waiting.pop(instance, None)
        return rows

    def _is_open(self, row_id: int) -> bool:
        """Whether a request waits for a run, or for a call that was made for it.

        A request that its flow keeps without asking anything can only be answered by the run of a later request, so
        that one may follow.
        """
        incoming = self._journal.incoming
        if incoming.state(row_id) == IncomingState.READY:
            return True
        is_under_way = self._journal.outgoing.has_open_of_root(row_id) or incoming.has_answers_for(row_id)
        return is_under_way and incoming.get(row_id) is not None
