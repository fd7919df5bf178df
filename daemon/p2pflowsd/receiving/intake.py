"""The only way in: bytes from the broker become recorded facts, or a counted refusal.

Nothing is changed before a bundle's seal and signature hold; everything that a batch records is committed before it
is acknowledged.
"""

from __future__ import annotations

from pydantic import ValidationError

from p2pflows.contacts import Contacts
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import BundleKind, Envelope, Opened, Refused, claimed_sender
from p2pflows.protocol.message import ANSWERS, MAX_LIFETIME_MS, Message, Notice, Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.link import Delivery
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving.admission import Admission
from p2pflowsd.receiving.deadlines import Deadlines
from p2pflowsd.running.leases import Leases
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.peer_clocks import difference
from p2pflowsd.sending.waiters import Waiters

MAX_CLOCK_SKEW_MS = 300_000
"""How far a peer's clock may be ahead of ours."""
MAX_HELD_PER_SENDER = 20
MAX_HELD = 200
MAX_BODIES = 1_024
STRANGER_RATE = 20.0
STRANGER_BURST = 100.0
_MIN_BUNDLE_BYTES = 58
"""Bytes of a bundle's header and nonce."""
_HONEST = frozenset({"replayed", "expired", "rewound", "blocked", "rate_limited", "requests_full"})
"""Refusals that an honest sender can cause, or that are only counted so that no sender can fill the log."""


class TokenBucket:
    """A token bucket: so many strangers' bundles a second are looked at, the rest costs nothing."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tokens = STRANGER_BURST
        self._at = clock.elapsed()

    def take(self) -> bool:
        """Whether one more may be looked at now."""
        elapsed = self._clock.elapsed()
        self._tokens = min(STRANGER_BURST, self._tokens + (elapsed - self._at) * STRANGER_RATE)
        self._at = elapsed
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class Intake:
    """Verifies bundles, and records their messages and notices."""

    def __init__(
        self,
        *,
        user: str,
        envelope: Envelope,
        journal: Journal,
        contacts: Contacts,
        clock: Clock,
        outbox: Outbox,
        waiters: Waiters,
        notices: Notices,
        leases: Leases,
        admission: Admission,
        deadlines: Deadlines,
        log: OwnersLog,
    ) -> None:
        self._user = user
        self._envelope = envelope
        self._journal = journal
        self._contacts = contacts
        self._clock = clock
        self._outbox = outbox
        self._waiters = waiters
        self._notices = notices
        self._leases = leases
        self._admission = admission
        self._deadlines = deadlines
        self._log = log
        self._allowance = TokenBucket(clock)
        for row in journal.incoming.in_state(IncomingState.BLOCKED):
            self._notices.request_missing(row.peer, row.endpoint)

    def receive(self, endpoint: str, delivery: Delivery) -> None:
        """Take in a bundle that was published for an endpoint.

        Raises:
            Refused: the whole bundle has no effect; refused messages inside a good one are counted here.
        """
        if delivery.retain:
            raise Refused("retained")
        if len(delivery.payload) < _MIN_BUNDLE_BYTES:
            raise Refused("malformed")
        book = self._contacts.known
        claimed = claimed_sender(delivery.payload)
        if claimed in book.blocked:
            raise Refused("blocked")
        stranger = claimed != self._user and claimed not in book.by_user
        if stranger and not self._outbox.awaits(claimed) and not self._allowance.take():
            raise Refused("rate_limited")
        opened = self._envelope.open(delivery.payload)
        if opened.kind is BundleKind.NOTICE:
            if endpoint != topics.NOTICE:
                raise Refused("wrong_topic")
            for body in opened.bodies:
                self._notice(opened.sender, body)
        elif endpoint == topics.NOTICE:
            raise Refused("wrong_topic")
        else:
            self._messages(endpoint, opened, stranger=stranger)

    def refuse(self, reason: str, delivery: Delivery) -> None:
        """Count a refused delivery; log it if no honest peer would send it, with the sender that it claims."""
        self._journal.count(f"refused.{reason}")
        if reason in _HONEST:
            return
        match topics.parse(delivery.topic):
            case topics.InboxTopic(_, endpoint):
                claimed = claimed_sender(delivery.payload) if len(delivery.payload) >= _MIN_BUNDLE_BYTES else ""
                self._log.note("refused", claimed, endpoint, f"A bundle was refused as {reason}.")
            case _:
                self._log.note("refused", "", "", f"A delivery on {delivery.topic[:200]} was refused as {reason}.")

    def _notice(self, sender: str, body: bytes) -> None:
        try:
            notice = Notice.model_validate_json(body)
        except ValidationError as error:
            raise Refused("malformed") from error
        if notice.to != self._user:
            raise Refused("wrong_recipient")
        self._outbox.confirm_stored(sender, notice.received)
        self._outbox.confirm_stored(sender, notice.held, "held")
        self._outbox.confirm_stored(sender, notice.waiting, "waiting")
        for endpoint in self._outbox.record_untimely(sender, notice.untimely):
            clocks = difference(self._outbox.peer_clocks.offset_ms(sender))
            self._log.note("refused", sender, endpoint, f"They refused a message of yours: {clocks}.")
        for endpoint, epoch, seq in notice.gaps:
            skip = self._outbox.fill_gap(sender, endpoint, epoch, seq)
            if skip is not None:
                self._notices.announce_skip(sender, *skip)
        for endpoint, epoch, seq in notice.skips:
            self._skip(sender, endpoint, Position(epoch, seq))
        for endpoint, epoch, message_id in notice.rewound:
            self._outbox.start_new_epoch(sender, endpoint, epoch, message_id)
        for message_id, data in notice.progress:
            self._waiters.on_progress(sender, message_id, data)

    def _messages(self, endpoint: str, opened: Opened, *, stranger: bool) -> None:
        bundle: int | None = None
        wanted = False
        if len(opened.bodies) > MAX_BODIES:
            raise Refused("malformed")
        for position, body in enumerate(opened.bodies):
            try:
                message = self._checked(endpoint, opened.sender, body)
                if message.type in ANSWERS:
                    self._answer(message)
                    continue
                if stranger and position and not self._allowance.take():
                    raise Refused("rate_limited")  # noqa: TRY301 - one place counts refusals
                if stranger and not self._room_for(message):
                    raise Refused("requests_full")  # noqa: TRY301 - one place counts refusals
                if bundle is None:
                    bundle = self._journal.incoming.add_bundle(
                        opened.sender, opened.proof, self._clock.now() + MAX_LIFETIME_MS
                    )
                self._request(message, body, bundle)
                wanted = True
            except Refused as refused:
                self._journal.count(f"refused.{refused.reason}")
                if refused.reason not in _HONEST:
                    self._log.note("refused", opened.sender, endpoint, f"A message was refused as {refused.reason}.")
        if bundle is not None and not wanted:
            self._journal.incoming.drop_bundle(bundle)

    def _checked(self, endpoint: str, sender: str, body: bytes) -> Message:
        try:
            message = Message.from_bytes(body)
        except ValueError as error:
            raise Refused("malformed") from error
        now = self._clock.now()
        if message.sender != sender:
            raise Refused("wrong_sender")
        if message.recipient != self._user:
            raise Refused("wrong_recipient")
        if message.endpoint != endpoint or (message.type in ANSWERS) != (endpoint == topics.REPLY):
            raise Refused("wrong_topic")
        latest = now + MAX_CLOCK_SKEW_MS
        if message.expires > now and message.created <= latest and message.expires <= latest + MAX_LIFETIME_MS:
            return message
        if sender in self._contacts.known.by_user:
            self._notices.refuse_untimely(sender, message.id)
        raise Refused("expired" if message.expires <= now else "too_long_lived")

    def _answer(self, message: Message) -> None:
        self._notices.confirm(message.sender, message.id)
        state = OutgoingState.FAILED if message.type == Type.ERROR else OutgoingState.DONE
        if not self._outbox.record_answer(
            message.sender, message.in_reply_to or "", state, strict_json.dumps(message.data)
        ):
            raise Refused("replayed")

    def _room_for(self, message: Message) -> bool:
        incoming = self._journal.incoming
        return (
            incoming.count_undecided() < MAX_HELD and incoming.count_undecided(message.sender) < MAX_HELD_PER_SENDER
        ) or incoming.find(message.sender, message.id) is not None

    def _request(self, message: Message, body: bytes, bundle: int) -> None:
        peer, endpoint = message.sender, message.endpoint
        position = Position(message.epoch, message.seq)
        expected = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
        if expected is None or expected.epoch < message.epoch:
            expected = Position(message.epoch, 0)
            self._release(peer, endpoint, expected)
        is_next = position == expected
        row = None
        if position >= expected:
            state = IncomingState.READY if is_next else IncomingState.BLOCKED
            row = self._journal.incoming.add(message, body, bundle, self._clock.now(), state)
        if is_next:
            self._journal.streams.set(Direction.INCOMING, peer, endpoint, expected.next)
        if row is not None:
            self._journal.count("received")
            self._notices.confirm(peer, message.id)
            self._deadlines.expect(message.expires)
            if is_next:
                self._admission.admit(row, message)
            else:
                self._notices.request_missing(peer, endpoint)
        if is_next and self._notices.is_requesting(peer, endpoint):
            self._release(peer, endpoint, expected.next)
        if row is None:
            self._seen_or_lost(message)

    def _seen_or_lost(self, message: Message) -> None:
        """Refuse a message whose position is taken: by a copy of it, or by another, if the sender's journal is old."""
        row = self._journal.incoming.find(message.sender, message.id)
        if row is not None:
            self._notices.confirm(
                message.sender,
                message.id,
                held=row.state == IncomingState.HELD,
                waiting=self._leases.is_waiting(row.row_id),
            )
            raise Refused("replayed")
        self._notices.report_rewind(message.sender, message.endpoint, message.epoch, message.id)
        raise Refused("rewound")

    def _skip(self, peer: str, endpoint: str, to: Position) -> None:
        """Move a stream on, because no message before a position will come any more."""
        expected = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
        if expected is not None and expected.epoch == to.epoch and to.seq > expected.seq:
            self._release(peer, endpoint, to)

    def _release(self, peer: str, endpoint: str, to: Position) -> None:
        """Move a stream on to a position, and admit the blocked requests that come next by that."""
        still_blocked = 0
        for row in self._journal.incoming.blocked(peer, endpoint):
            position = Position(row.epoch, row.seq)
            if position <= to:
                to = max(to, position.next)
                self._journal.incoming.move(row.row_id, IncomingState.READY)
                self._admission.admit(row, Message.model_validate_json(self._journal.incoming.body(row.row_id)))
            else:
                still_blocked += 1
        self._journal.streams.set(Direction.INCOMING, peer, endpoint, to)
        if not still_blocked:
            self._notices.stop_requesting(peer, endpoint)
