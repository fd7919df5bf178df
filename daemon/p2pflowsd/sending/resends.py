"""When messages are sent again: after a while without a receipt, and once the way to their recipient works again."""

from __future__ import annotations

from collections.abc import Iterable

from p2pflowsd.clock import Clock
from p2pflowsd.sending.pace import Pace
from p2pflowsd.sending.send_queue import BACKOFF, OutboxEntry, SendQueue
from p2pflowsd.sending.stream_repairs import StreamRepairs

RESEND_INTERVAL_S = 5.0
"""How often everything is sent again to a recipient whose daemon comes back again and again."""


class Resends:
    """Queues messages again that wait for their receipts.

    Args:
        queue: the open messages.
        clock: the time.
        repairs: sends stored calls again that a recipient may miss.
    """

    def __init__(self, queue: SendQueue, clock: Clock, repairs: StreamRepairs) -> None:
        self._queue = queue
        self._clock = clock
        self._repairs = repairs
        self._pace = Pace[str](clock, RESEND_INTERVAL_S)
        self._came_back: set[str] = set()
        """The recipients to whom everything is sent again as soon as their turn comes."""
        self._heard_from: set[str] = set()
        """The recipients from whom something has arrived while messages to them wait for their receipts."""

    def resend_all(self) -> None:
        """Send everything again that is not stored, because the broker may have forgotten it."""
        self._came_back.clear()
        self._resend(self._queue.sent())

    def resend_to(self, peer: str) -> None:
        """Send again the messages that a recipient has not confirmed, because its daemon came back.

        The last stored call of each stream is sent, too. If its journal was replaced by an older copy, the recipient
        misses the calls before that one, and asks for them.
        """
        if self._queue.has_messages_to(peer) or self._queue.has_stored(peer):
            self._came_back.add(peer)
            self._resend_to_those_who_came_back()

    def hear_from(self, peer: str) -> None:
        """Send again soon what waits for the receipt of a recipient: the way to them works again."""
        if self._queue.has_messages_to(peer):
            self._heard_from.add(peer)

    def resend_due(self) -> None:
        """Send again what has waited long enough for its receipt, for room, or for the turn of its recipient."""
        for entry in self._queue.take_due(self._clock.elapsed()):
            self._queue.resend(entry)
        self._queue.probe_due(self._clock.elapsed())
        self._resend_to_those_who_were_heard()
        self._resend_to_those_who_came_back()

    def _resend_to_those_who_were_heard(self) -> None:
        """Send again what the back-off would hold up; each message waits longer each time, so that it stays a few."""
        elapsed = self._clock.elapsed()
        for peer in sorted(self._heard_from):
            for entry in self._queue.sent_to(peer):
                if elapsed >= entry.sent_at + BACKOFF.delay_s(entry.times_hurried):
                    entry.times_hurried += 1
                    self._queue.resend(entry)
        self._heard_from.clear()

    def _resend_to_those_who_came_back(self) -> None:
        for peer in sorted(self._came_back):
            if self._pace.take(peer):
                self._came_back.remove(peer)
                self._queue.end_pauses_to(peer)
                entries = self._queue.sent_to(peer)
                for entry in entries:
                    entry.first_sent = None
                self._resend(entries)
                self._repairs.reopen(self._queue.newest_stored(peer))

    def _resend(self, entries: Iterable[OutboxEntry]) -> None:
        for entry in entries:
            entry.waits = entry.times_hurried = entry.times_requested = entry.times_requested_first = 0
            self._queue.resend(entry)
