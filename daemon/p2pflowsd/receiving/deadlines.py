"""Deadlines: ends messages and requests that are overdue, with an error that says why nothing came of them."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from p2pflows.errors import DeadlinePassed, NotAllowed, NoWorker, P2pflowsError, UnknownUser, Unreachable
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.message import Type
from p2pflowsd.clock import Clock
from p2pflowsd.human.inbox import Inbox
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow
from p2pflowsd.lifecycle import IncomingState, OutgoingState, PromptState
from p2pflowsd.link import Link
from p2pflowsd.receiving.blocked import BlockedRequests
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.turns import Turns
from p2pflowsd.sending.outbox import NO_ROOM, Outbox
from p2pflowsd.sending.peer_clocks import difference
from p2pflowsd.sending.presence import Presence
from p2pflowsd.sending.waiters import Waiters

MAX_EXPIRED = 25
"""How many messages of ours, and how many requests in each state, one batch ends."""


class Deadlines:
    """Ends messages and requests whose deadline has passed."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        link: Link,
        outbox: Outbox,
        presence: Presence,
        leases: Leases,
        effects: Effects,
        settlement: Settlement,
        turns: Turns,
        inbox: Inbox,
        blocked: BlockedRequests,
        waiters: Waiters,
        name_of: Callable[[str], str | None],
        point_of: Callable[[str], str],
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._link = link
        self._outbox = outbox
        self._presence = presence
        self._leases = leases
        self._effects = effects
        self._settlement = settlement
        self._turns = turns
        self._inbox = inbox
        self._blocked = blocked
        self._waiters = waiters
        self._name_of = name_of
        self._point_of = point_of
        self._corrected: list[tuple[float, str]] = []
        """A heap of the messages that clients waited for when the clock was set back, with their deadlines.

        These are in seconds of `Clock.elapsed`, so that no later change of the wall clock moves them.
        """
        self._corrected_ids: set[str] = set()
        self._next_request: int | None = journal.incoming.next_expiry()

    def expect(self, expires: int) -> None:
        """Look at requests again when this deadline passes, in milliseconds since the Unix epoch."""
        if self._next_request is None or expires < self._next_request:
            self._next_request = expires

    def clock_set_back(self, ms: int) -> None:
        """Let the messages that clients wait for end when they would have ended without the change of the clock."""
        before = self._clock.now() + ms
        for message_id in self._waiters.message_ids():
            row = self._journal.outgoing.find(message_id)
            if row is not None and message_id not in self._corrected_ids:
                self._corrected_ids.add(message_id)
                deadline = self._clock.elapsed() + (row.expires - before) / 1000
                heapq.heappush(self._corrected, (deadline, message_id))

    def expire(self) -> None:
        """End messages and requests whose deadline has passed; if there are many, the next batches end the rest."""
        now = self._clock.now()
        while self._corrected and self._corrected[0][0] <= self._clock.elapsed():
            _, message_id = heapq.heappop(self._corrected)
            self._corrected_ids.discard(message_id)
            sent = self._journal.outgoing.find(message_id)
            if sent is not None:
                self._expire_sent(sent)
        if self._outbox.next_expiry is not None and self._outbox.next_expiry <= now:
            for sent in self._journal.outgoing.expired(now, MAX_EXPIRED):
                self._expire_sent(sent)
            self._outbox.next_expiry = self._journal.outgoing.next_expiry()
        if self._next_request is not None and self._next_request <= now:
            for row in self._journal.incoming.expired(now, MAX_EXPIRED):
                self._expire_request(row)
            self._next_request = self._journal.incoming.next_expiry()

    @property
    def has_expired(self) -> bool:
        """Whether messages or requests are left for the next batch to end."""
        sent, received = self._outbox.next_expiry, self._next_request
        now = self._clock.now()
        return (sent is not None and sent <= now) or (received is not None and received <= now)

    def _expire_sent(self, sent: OutgoingRow) -> None:
        error = strict_json.dumps(self._why_expired(sent).as_wire())
        self._outbox.end(sent, OutgoingState.EXPIRED, error)

    def _expire_request(self, row: IncomingRow) -> None:
        waited = self._leases.is_waiting(row.row_id)
        self._leases.drop(row.row_id)
        self._inbox.withdraw(row.row_id, PromptState.EXPIRED)
        self._journal.incoming.move(row.row_id, IncomingState.EXPIRED)
        if row.state == IncomingState.BLOCKED:
            self._blocked.remove(row.peer, row.endpoint)
        self._effects.undo(row.row_id)
        self._turns.touch(row.instance)
        if row.type == Type.POST and row.state == IncomingState.READY:
            self._settlement.tell_error(
                row,
                NoWorker(f"No worker served {row.endpoint!r} in time.")
                if waited
                else DeadlinePassed(f"{row.endpoint!r} did not run in time."),
            )

    def _why_expired(self, row: OutgoingRow) -> P2pflowsError:
        """The most helpful error for a message whose deadline has passed."""
        mine = row.peer == self._user
        who = "Your daemon" if mine else self._name_of(row.peer) or f"User {row.peer[:8]}…"
        if row.state == OutgoingState.PENDING:
            return self._why_not_stored(row, who)
        if row.note == "held":
            return NotAllowed(
                f"{who} has not allowed you yet.",
                f"Ask them to run: p2pflows allow {self._user}; then send it again. p2pflows log says when they did.",
            )
        if row.note == "waiting":
            what = "a new instance" if row.endpoint == topics.INSTANCES else repr(row.endpoint)
            point = self._point_of(row.endpoint) if mine else ""
            if point:
                return NoWorker(
                    f"Your dispatch point {point!r} has no free worker for {what}.",
                    f"Start one: p2pflows worker --dispatch-point {point}",
                )
            return NoWorker(
                f"{who} has no free worker for {what}.",
                f"Ask for one; its dispatch point is in: p2pflows describe {self._name_of(row.peer) or row.peer}/"
                + ("ENDPOINT" if row.endpoint == topics.INSTANCES else row.endpoint),
            )
        return DeadlinePassed(f"{who} has the message, but no answer came in time.", "Give it longer: --timeout 10m")

    def _why_not_stored(self, row: OutgoingRow, who: str) -> P2pflowsError:
        """The most helpful error for a message whose recipient never confirmed it; `who` is the recipient."""
        why_not = self._link.why_not(topics.inbox(row.peer, row.endpoint))
        if not self._link.connected:
            return Unreachable(
                f"Your own daemon has no connection to its broker. {why_not}".strip(), "See also: p2pflows status"
            )
        if why_not:
            return Unreachable(f"The broker does not take messages to {who}. {why_not}", "See also: p2pflows log")
        if row.note in NO_ROOM:
            what = (
                "takes no more of your messages until some of those have ended that are there"
                if row.note == "quota_full"
                else "has no room for more requests that wait there"
            )
            return Unreachable(f"{who} {what}.", "Try again later, or with a longer --timeout.")
        online = self._presence.online(row.peer)
        if online is None and self._name_of(row.peer) is None:
            return UnknownUser(
                f"Nobody with the user id {row.peer} was ever seen on this broker.",
                "Check the id with its owner: p2pflows id",
            )
        if self._outbox.is_untimely(row.id):
            return Unreachable(
                f"{who} refused the message: {difference(self._outbox.peer_clocks.offset_ms(row.peer))}.",
                "Set the clock right that is wrong, and try again.",
            )
        state = "is online, but did not confirm the message" if online else "is offline"
        return Unreachable(f"{who} {state}.", "Try again when they are online, or with a longer --timeout.")
