"""What runs have done and what is not settled yet: recorded calls and steps, and how to take them back.

Each call and step of a run is recorded under its index in the run, so a run that begins again does nothing twice. When
the request of a run ends without its effect, its open calls are withdrawn and its instance gets its state back.
"""

from __future__ import annotations

import json

from p2pflows.errors import Cancelled
from p2pflows.protocol import topics
from p2pflows.protocol.asks import Record, read_result
from p2pflows.protocol.message import Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow, RecordRow
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.running.leases import Leases
from p2pflowsd.sending.outbox import Outbox

POST_LIFETIME_MS = 7 * 24 * 3_600_000
"""How long a flow's message lives when no call waits for it."""
MAX_RECORD_BYTES = 300_000
"""Recorded values that travel with a task; a worker asks for the rest."""

_STATE_BEFORE = -1
"""The index of the record that holds an instance's state as it was before a request which is still to be answered."""
_SUSPENDED = -2
"""The index of the record which says that the run waits for an answer, and that no worker holds it."""
MOUNT = "mount"
"""The kind of record of a call that gets a subflow for an instance which does not exist yet."""


class Effects:
    """The unsettled effects of the runs of one daemon."""

    def __init__(self, *, journal: Journal, clock: Clock, outbox: Outbox, leases: Leases) -> None:
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._leases = leases
        self._recorded = journal.records.runs()

    def has_begun(self, row_id: int) -> bool:
        """Whether a task has done something that is recorded."""
        return row_id in self._recorded

    def record(self, record: RecordRow) -> None:
        """Keep a call or step of a run."""
        self._recorded.add(record.row_id)
        self._journal.records.add(record)

    def keep_state(self, row_id: int, instance: str, state: str | None) -> None:
        """Keep an instance's state as it was before a request that is still to be answered."""
        self.record(RecordRow(row_id, _STATE_BEFORE, "before", instance, None, state))

    def note_suspended(self, row_id: int) -> None:
        """Keep that a run waits without a worker, so that a restart of the daemon does not begin it again."""
        self.note_resumed(row_id)
        self.record(RecordRow(row_id, _SUSPENDED, "suspended", "", None, None))

    def note_resumed(self, row_id: int) -> None:
        """Keep that a suspended run may begin again."""
        self._journal.records.remove_one(row_id, _SUSPENDED)

    def suspended(self) -> set[int]:
        """The rows of the requests whose runs are suspended."""
        return self._journal.records.runs(_SUSPENDED)

    def records(self, row_id: int) -> dict[int, Record]:
        """What earlier attempts of a task have recorded, by call index; results that are too large are left out."""
        if row_id not in self._recorded:
            return {}
        records, size = {}, 0
        for record in self._journal.records.of(row_id):
            if record.call_index < 0:
                continue
            size += len(record.value or "")
            if record.value is not None and size <= MAX_RECORD_BYTES:
                records[record.call_index] = Record(record.fingerprint, read_result(json.loads(record.value)))
            else:  # the worker must know at least that this was done
                records[record.call_index] = Record(record.fingerprint, None)
        return records

    def undo(self, row_id: int) -> None:
        """Withdraw the open calls and the mounts of a request that has ended without its effect."""
        for sent in self._journal.outgoing.of_root(row_id):
            self.withdraw_sent(sent)
        if row_id not in self._recorded:
            return
        for record in self._journal.records.of(row_id):
            if record.call_index == _STATE_BEFORE:
                self._put_back(record)
            else:
                self.withdraw(record)
        self.settle(row_id)

    def settle(self, row_id: int) -> None:
        """Forget the records of a request: its effects stay."""
        if row_id in self._recorded:
            self._recorded.discard(row_id)
            self._journal.records.remove(row_id)

    def pin_state(self, instance: str, root: int | None = None) -> bool:
        """Let an instance's state stay, whatever becomes of the requests that still wait for an answer.

        Args:
            instance: which.
            root: the one request that may still put the state back.

        Returns:
            Whether there were others.
        """
        others = [row_id for row_id in self._journal.incoming.unanswered_of(instance) if row_id != root]
        for row_id in others:
            self.settle(row_id)
        return bool(others)

    def withdraw_mounts(self, row_id: int) -> None:
        """Release the subflows that an abandoned attempt of a run has mounted."""
        for record in self._journal.records.of(row_id) if row_id in self._recorded else ():
            if record.kind == MOUNT:
                self.withdraw(record)

    def withdraw(self, record: RecordRow | None) -> None:
        """Withdraw the call of a record, if it made one."""
        sent = None if record is None or record.message is None else self._journal.outgoing.find(record.message)
        if sent is not None:
            self.withdraw_sent(sent)

    def withdraw_sent(self, sent: OutgoingRow) -> None:
        """Withdraw a call that a run sent; a mount is taken back even after it was answered."""
        mounted = sent.endpoint == topics.INSTANCES
        withdrawn = self._outbox.end(sent, OutgoingState.CANCELLED)
        if withdrawn or mounted:
            expires = max(sent.expires, self._clock.now() + POST_LIFETIME_MS) if mounted else sent.expires
            self._outbox.accept(Type.CANCEL, sent.peer, sent.endpoint, {}, expires=expires, in_reply_to=sent.id)

    def _put_back(self, before: RecordRow) -> None:
        """Put an instance's state back as it was before a request that will not be answered.

        If another run may have begun from the present state, that state stays.
        """
        rows = self._journal.incoming.open_of(before.fingerprint)
        if any(row.root_request != before.row_id for row in rows):
            return
        self._journal.instances.restore(before.fingerprint, before.value)
        for row in rows:  # answers to the request's calls: they must not run the flow any more
            self._leases.drop(row.row_id)
            if self._journal.incoming.move(row.row_id, IncomingState.FAILED, Cancelled.kind):
                self.undo(row.row_id)
