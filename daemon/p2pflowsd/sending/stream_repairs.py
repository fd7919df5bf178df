"""Repairs streams of which a recipient misses messages: they are sent again, or are skipped, or a new epoch begins."""

from __future__ import annotations

from collections.abc import Sequence

from p2pflows.backoff import Backoff
from p2pflows.protocol.message import MAX_COUNT
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.sending.confirmed import Confirmed
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.pace import Pace
from p2pflowsd.sending.presence import Presence
from p2pflowsd.sending.restored_journals import RestoredJournals
from p2pflowsd.sending.send_queue import MAX_BUNDLE_BYTES, MAX_BUNDLE_MESSAGES, OutboxEntry, SendQueue

END_OF_EPOCH = MAX_COUNT
"""A position after every message of an epoch that has ended."""
REQUEST_BACKOFF = Backoff(initial_s=0.25, max_s=60.0)
"""How long ago a message must have been sent before it is sent again because its recipient asks for it."""
EPOCH_INTERVAL_S = 5.0
"""How often a stream may begin a new epoch."""
MAX_NAMED_EPOCH = 2**52
"""A recipient that names a later epoch is not believed, since a stream whose epochs are used up has come to its end."""


class StreamRepairs:
    """What a recipient's daemon is given that waits for a message of ours.

    Args:
        journal: where messages are stored.
        queue: those that are open.
        clock: the time.
        notices: tells recipients what they need not wait for.
        restored: told when a journal turns out to be an older copy.
        presence: numbers the starts of other daemons.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        queue: SendQueue,
        clock: Clock,
        notices: Notices,
        restored: RestoredJournals,
        presence: Presence,
    ) -> None:
        self._journal = journal
        self._queue = queue
        self._clock = clock
        self._notices = notices
        self._restored = restored
        self._presence = presence
        self._confirmed = Confirmed()
        self._new_epochs = Pace[tuple[str, str]](clock, EPOCH_INTERVAL_S)

    def note_confirmed(self, entry: OutboxEntry) -> None:
        """Note that the present start of a recipient's daemon has confirmed a message."""
        self._confirmed.add(entry.stream, entry.seq, self._presence.boot_of(entry.peer))

    def fill_gap(self, peer: str, endpoint: str, epoch: int, seq: int) -> tuple[str, int, int] | None:
        """Repair a stream of which the recipient has missed messages.

        The first messages of the stream that are still pending are sent again, as many as one bundle holds, and before
        them the stored calls that the recipient misses because its journal is an older copy. A message that was asked
        for before must have been sent longer ago each time.

        Args:
            peer: the user id of the recipient.
            endpoint: the endpoint of the stream.
            epoch: the epoch in which the recipient waits.
            seq: the number of the message that it waits for.

        Returns:
            The endpoint, epoch and number of the first message that the recipient can still expect, if it has to skip
            some; None if the message that it waits for is sent again.
        """
        position = self._journal.streams.get(Direction.OUTGOING, peer, endpoint)
        if position is None or position.epoch != epoch:
            return (endpoint, epoch, END_OF_EPOCH)
        if position.seq <= seq:
            return (endpoint, epoch, END_OF_EPOCH) if self._begin_epoch(peer, endpoint, position) else None
        self._queue.probe((peer, endpoint), self._clock.elapsed())
        pending = self._queue.stream(peer, endpoint, MAX_BUNDLE_MESSAGES)
        first = pending[0].seq if pending else position.seq
        missed = [entry for entry in self._queue.stored(peer, endpoint, seq) if entry.seq < first]
        if self._has_lost(peer, endpoint, seq):
            confirmed = [self._confirmed.boot_of(entry.stream, entry.seq) is not None for entry in (*missed, *pending)]
            self._restored.note_lost_messages(peer, endpoint, sum(confirmed))
        self._resend_requested([*missed, *pending])
        first = missed[0].seq if missed else first
        return (endpoint, epoch, first) if first > seq else None

    def _has_lost(self, peer: str, endpoint: str, seq: int) -> bool:
        """Return whether a recipient asks for a message that an earlier start of its daemon has confirmed.

        The start that has confirmed a message may have asked for it before, and that may arrive late.
        """
        boot = self._confirmed.boot_of((peer, endpoint), seq)
        return boot is not None and boot < self._presence.boot_of(peer)

    def announce_skip(self, peer: str, endpoint: str) -> None:
        """Tell a recipient at once that the first pending message of a stream has ended, as others may wait for it."""
        position = self._journal.streams.get(Direction.OUTGOING, peer, endpoint)
        if position is not None:
            pending = self._queue.stream(peer, endpoint, 1)
            first = pending[0].seq if pending else position.seq
            self._notices.announce_skip(peer, endpoint, position.epoch, first)

    def start_new_epoch(
        self, peer: str, endpoint: str, epoch: int, message_id: str, expected: Position | None = None
    ) -> tuple[str, int, int] | None:
        """Continue a stream in a new epoch, because our journal is older than what the recipient has received.

        Args:
            peer: the user id of the recipient.
            endpoint: the endpoint of the stream.
            epoch: the epoch that the recipient reports.
            message_id: our message whose number the recipient has received with another message.
            expected: the position of the stream at the recipient, if it has named it.

        Returns:
            The endpoint, the new epoch and the number of its first message; None if no epoch begins.
        """
        position = self._journal.streams.get(Direction.OUTGOING, peer, endpoint)
        entry = self._queue.get(message_id)
        if position is None or position.epoch != epoch or entry is None or entry.stream != (peer, endpoint):
            return None
        return self._begin_epoch(peer, endpoint, position, expected)

    def _begin_epoch(
        self, peer: str, endpoint: str, position: Position, expected: Position | None = None
    ) -> tuple[str, int, int] | None:
        """Begin a new epoch, unless the last one began a moment ago; the numbers of the messages go on.

        Pending messages get their new epoch when they are sent, so that this takes no longer the more of them wait.
        """
        if not self._new_epochs.take((peer, endpoint)):
            return None
        self._restored.note_own_by_peer(peer, endpoint)
        epoch = max(self._clock.now(), position.epoch + 1)
        if expected is not None and expected.epoch < MAX_NAMED_EPOCH:
            epoch = max(epoch, expected.epoch + 1)
        self._journal.streams.set(Direction.OUTGOING, peer, endpoint, Position(epoch, position.seq))
        pending = self._queue.stream(peer, endpoint, MAX_BUNDLE_MESSAGES)
        for entry in pending:
            self._queue.resend(entry)
        return (endpoint, epoch, pending[0].seq if pending else position.seq)

    def _resend_requested(self, entries: Sequence[OutboxEntry]) -> None:
        elapsed = self._clock.elapsed()
        size = 0
        missed = []
        for entry in entries[:MAX_BUNDLE_MESSAGES]:
            size += entry.size
            if size > MAX_BUNDLE_BYTES and entry is not entries[0]:
                break
            is_first = entry is entries[0]
            times = entry.times_requested_first if is_first else entry.times_requested
            if elapsed < entry.sent_at + REQUEST_BACKOFF.delay_s(times):
                continue
            if entry.is_settled:
                missed.append(entry)
            if entry.is_settled or self._queue.resend(entry):
                entry.times_requested += not is_first
                entry.times_requested_first += is_first
        self.reopen(missed)

    def reopen(self, entries: Sequence[OutboxEntry]) -> None:
        """Send stored calls again."""
        self._journal.outgoing.reopen([entry.id for entry in entries])
        self._journal.count("delivered", -len(entries))
        self._queue.reopen(entries)
