"""Reports of how far a request has got, for a sender who wants to hear them; nothing of them is stored."""

from __future__ import annotations

from typing import Any

from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.origin import row_of_progress
from p2pflowsd.sending.notices import Notices, is_progress


class Reports:
    """Reports to the users who have called."""

    def __init__(self, *, journal: Journal, notices: Notices) -> None:
        self._journal = journal
        self._notices = notices

    def listener(self, row: IncomingRow) -> IncomingRow | None:
        """The call for which a request or answer runs a flow, if its sender wants reports and waits; None otherwise."""
        root = row if row.root_request is None else self._journal.incoming.get(row.root_request)
        if root is None or not root.wants_progress:
            return None
        return root if root.state in (IncomingState.READY, IncomingState.AWAITING_REPLY) else None

    def report(self, row: IncomingRow, data: dict[str, Any]) -> bool:
        """Report what the run of a request says.

        Returns:
            False if nobody listens, or the report is too large.
        """
        listener = self.listener(row)
        if listener is None or not is_progress(data):
            return False
        self._notices.send_progress(listener.peer, listener.id, data)
        return True

    def pass_on(self, sent: OutgoingRow, data: dict[str, Any]) -> None:
        """Report the progress of a call that a run has made, if its flow passes it on."""
        row_id = row_of_progress(sent.origin)
        row = None if row_id is None else self._journal.incoming.get(row_id)
        if row is not None:
            self.report(row, data)
