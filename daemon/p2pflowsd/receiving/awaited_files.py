"""Requests that wait for the files that they refer to, before they go to a worker.

Requests of one sender to one endpoint take effect in their order. So a request that comes behind one that waits for a
file waits with it, unless the flow runs all requests side by side.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable

from p2pflows.errors import CallError, FileLost, NotAllowed
from p2pflows.protocol.message import Message
from p2pflowsd.journal import Journal
from p2pflowsd.journal.files import as_files
from p2pflowsd.journal.rows import AwaitedRow, FileRow, IncomingRow
from p2pflowsd.lifecycle import FileState, IncomingState
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.files import FETCHED_AT_ONCE_BYTES, Files

MAX_RELEASED = 64
"""How many requests go on, or end, in one batch; the next batches go on with the others."""
MAX_REVIEWED = 50
"""How many of the requests that wait one batch looks at, as they may have ended meanwhile."""
_Line = tuple[str, str]
"""A sender and an endpoint."""


class AwaitedFiles:
    """The requests that wait.

    Args:
        journal: where they are listed.
        files: fetches what they refer to.
        settlement: ends those whose files cannot be had.
        is_contact: whether a user may send files.

    Attributes:
        on_complete: called with each request that need not wait any more.
    """

    def __init__(
        self, *, journal: Journal, files: Files, settlement: Settlement, is_contact: Callable[[str], bool]
    ) -> None:
        self._journal = journal
        self._files = files
        self._settlement = settlement
        self._is_contact = is_contact
        self.on_complete: Callable[[IncomingRow], None] = lambda _row: None
        self._lines: dict[_Line, deque[AwaitedRow]] = {}
        self._missing: dict[str, dict[int, _Line]] = {}
        """The requests that wait for a file, with their lines."""
        self._may_go_on: dict[_Line, None] = {}
        """The lines whose first request may wait for nothing any more, in turn."""
        self._failed: deque[tuple[int, str]] = deque()
        """Requests of which a file cannot be had, and why."""
        self._to_review: deque[_Line] = deque()
        self._going_on: int | None = None
        """The request that is handed on now."""
        for row in journal.awaited.all():
            self._add(row)
        files.on_settled.append(self._on_settled)

    def holds(self, row: IncomingRow, message: Message, flow: Served) -> bool:
        """Fetch the files of a request; return whether it waits, or has ended because they cannot be had.

        Args:
            row: the request.
            message: its message.
            flow: what it goes to. A human sees it at once, with what is fetched later.
        """
        try:
            references = self._files.references(message.data)
            if references and not self._is_contact(row.peer):
                raise NotAllowed("Only contacts may send files.", "Send it without a file.")
            if flow.kind == "human":
                self._files.take_in_what_fits(references, row.peer, row.expires, FETCHED_AT_ONCE_BYTES)
                return False
            missing = self._files.take_in(references, row.peer, row.expires) if references else []
        except CallError as error:
            self._settlement.fail(row, error)
            return True
        endpoint = f"{row.endpoint} {row.row_id}" if flow.parallel else row.endpoint
        if not missing and ((row.peer, endpoint) not in self._lines or row.row_id == self._going_on):
            return False
        waiting = AwaitedRow(row.row_id, row.peer, endpoint, as_files(missing))
        self._journal.awaited.add(waiting)
        self._add(waiting)
        return True

    @property
    def may_go_on(self) -> bool:
        """Whether `release` has work to do."""
        return bool(self._may_go_on or self._failed)

    def review(self) -> None:
        """Look at those that wait behind a request that may have ended; called at each tick."""
        for _ in range(min(MAX_REVIEWED, len(self._to_review))):
            line = self._to_review.popleft()
            if line in self._lines:
                self._to_review.append(line)
                self._may_go_on.setdefault(line)

    def release(self) -> None:
        """Let some of those go on, or end, that need not wait any more; called in each batch."""
        for _ in range(MAX_RELEASED):
            if self._failed:
                self._fail(*self._failed.popleft())
            elif self._may_go_on:
                line = next(iter(self._may_go_on))
                del self._may_go_on[line]
                if self._release_first(line):
                    self._may_go_on[line] = None
            else:
                return

    def _on_settled(self, file: FileRow) -> None:
        rows = self._missing.pop(file.id, {})
        if file.state == FileState.FAILED:
            self._failed.extend((row_id, file.error) for row_id in rows)
        self._may_go_on |= dict.fromkeys(rows.values())

    def _fail(self, row_id: int, reason: str) -> None:
        row = self._journal.incoming.get(row_id)
        if row is not None and row.state == IncomingState.READY:
            self._settlement.fail(row, FileLost(reason, "Send it again."))

    def _add(self, waiting: AwaitedRow) -> None:
        line = (waiting.peer, waiting.endpoint)
        if line not in self._lines:
            self._lines[line] = deque()
            self._to_review.append(line)
        self._lines[line].append(waiting)
        for file_id in json.loads(waiting.files):
            self._missing.setdefault(file_id, {})[waiting.row_id] = line

    def _release_first(self, line: _Line) -> bool:
        """Let the first request of a line go on, if it waits for nothing any more; return whether the next one may."""
        queue = self._lines.get(line)
        if not queue:
            self._lines.pop(line, None)
            return False
        waiting = queue[0]
        row = self._journal.incoming.get(waiting.row_id)
        is_open = row is not None and row.state == IncomingState.READY
        if is_open and not self._is_complete(waiting):
            return False
        queue.popleft()
        self._journal.awaited.remove(waiting.row_id)
        if row is not None and is_open:
            self._going_on = row.row_id
            self.on_complete(row)
            self._going_on = None
        return True

    def _is_complete(self, waiting: AwaitedRow) -> bool:
        rows = (self._journal.files.get(file_id) for file_id in json.loads(waiting.files))
        return all(row is not None and row.state == FileState.HERE for row in rows)
