"""The only way in: bytes from the broker become recorded facts, or a counted refusal.

Nothing is changed before a bundle's seal and signature hold; everything that a batch records is committed before it
is acknowledged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput, as_theirs
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import HEADER_BYTES, NONCE_BYTES, BundleKind, Envelope, Opened, Refused, claimed_sender
from p2pflows.protocol.file_frames import MAX_FRAME_BYTES
from p2pflows.protocol.message import ANSWERS, MAX_LIFETIME_MS, Message, Type
from p2pflows.protocol.notice import Notice
from p2pflows.settings.limits import Limits
from p2pflowsd.asking.questions import Questions
from p2pflowsd.clock import Clock
from p2pflowsd.human.delegations import Delegations
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import OPEN_OUTGOING, IncomingState, OutgoingState
from p2pflowsd.link import Delivery
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving.admission import Admission
from p2pflowsd.receiving.allowance import (
    LINES_OF_A_BAD_NOTICE,
    LINES_OF_A_REFUSED_MESSAGE,
    LINES_OF_A_STREAM,
    StrangersAllowance,
    UselessAllowance,
)
from p2pflowsd.receiving.blocked import BlockedRequests
from p2pflowsd.receiving.deadlines import Deadlines
from p2pflowsd.receiving.held import HeldRequests
from p2pflowsd.receiving.quotas import Quotas
from p2pflowsd.receiving.refusals import REPEATED, Refusals
from p2pflowsd.receiving.seen_bundles import SeenBundles
from p2pflowsd.receiving.seen_notices import SeenNotices
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.reports import Reports
from p2pflowsd.sending.files import Files
from p2pflowsd.sending.notices import Notices, is_progress
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.peer_clocks import difference
from p2pflowsd.sending.resends import Resends
from p2pflowsd.sending.restored_journals import RestoredJournals
from p2pflowsd.sending.stream_repairs import StreamRepairs
from p2pflowsd.sending.waiters import Waiters

MAX_CLOCK_SKEW_MS = 300_000
"""How far a peer's clock may be ahead of ours."""
MAX_BLOCKED = 40_000
"""How many requests of all users together may wait for an earlier one of their stream."""
_MIN_BUNDLE_BYTES = HEADER_BYTES + NONCE_BYTES
"""Bytes of a bundle's header and nonce."""


class Intake:
    """Verifies bundles, and records their messages and notices.

    Attributes:
        useless: stops users who send much that has no effect.
    """

    def __init__(
        self,
        *,
        user: str,
        envelope: Envelope,
        journal: Journal,
        contacts: Contacts,
        clock: Clock,
        outbox: Outbox,
        repairs: StreamRepairs,
        resends: Resends,
        waiters: Waiters,
        questions: Questions,
        notices: Notices,
        reports: Reports,
        leases: Leases,
        admission: Admission,
        delegations: Delegations,
        deadlines: Deadlines,
        blocked: BlockedRequests,
        held: HeldRequests,
        restored: RestoredJournals,
        limits: Limits,
        quotas: Quotas,
        files: Files,
        log: OwnersLog,
    ) -> None:
        self._user = user
        self._envelope = envelope
        self._journal = journal
        self._contacts = contacts
        self._clock = clock
        self._outbox = outbox
        self._repairs = repairs
        self._resends = resends
        self._waiters = waiters
        self._questions = questions
        self._notices = notices
        self._reports = reports
        self._leases = leases
        self._admission = admission
        self._delegations = delegations
        self._deadlines = deadlines
        self._blocked = blocked
        self._held = held
        self._restored = restored
        self._limits = limits
        self._quotas = quotas
        self._files = files
        self._log = log
        self._allowance = StrangersAllowance(clock)
        self.useless = UselessAllowance(clock)
        self._seen_bundles = SeenBundles()
        self._seen_notices = SeenNotices()
        self._refusals = Refusals(journal=journal, clock=clock, log=log)

    def receive(self, endpoint: str, delivery: Delivery) -> None:
        """Take in a bundle that was published for an endpoint.

        Raises:
            Refused: the whole bundle has no effect; refused messages inside a good one are counted here.
        """
        if delivery.retain:
            raise Refused("retained")
        if len(delivery.payload) < _MIN_BUNDLE_BYTES:
            raise Refused("malformed")
        claimed = claimed_sender(delivery.payload)
        if claimed in self._contacts.known.blocked:
            raise Refused("blocked")
        if not self._is_known(claimed):
            if endpoint == topics.NOTICE and not self._exchanges_messages_with(claimed):
                raise Refused("unrelated")
            if not self._outbox.awaits(claimed) and not self._allowance.may_open(claimed, len(delivery.payload)):
                raise Refused("rate_limited")
        self.useless.check(claimed)
        if self._seen_bundles.has(endpoint, delivery.payload):
            raise Refused("replayed")
        opened = self._envelope.open(delivery.payload)
        if opened.kind is BundleKind.FILE or (opened.kind is BundleKind.NOTICE) != (endpoint == topics.NOTICE):
            raise Refused("wrong_topic")
        self._seen_bundles.add(endpoint, delivery.payload)
        if opened.kind is BundleKind.NOTICE:
            self._notice(opened.sender, opened.bodies)
        else:
            self._messages(endpoint, opened)
        self._resends.hear_from(opened.sender)

    def check_file_packet(self, delivery: Delivery, holders: Collection[str]) -> None:
        """Check that a packet about a file may be opened.

        Args:
            delivery: the packet.
            holders: the users from whom files are being fetched.

        Raises:
            Refused: it may not, as no honest peer sends it to us now, or its sender sends too much that has no effect.
        """
        payload = delivery.payload
        if delivery.retain:
            raise Refused("retained")
        if not _MIN_BUNDLE_BYTES <= len(payload) <= MAX_FRAME_BYTES:
            raise Refused("malformed")
        claimed = claimed_sender(payload)
        if claimed in self._contacts.known.blocked:
            raise Refused("blocked")
        if not self._is_known(claimed) and claimed not in holders:
            if not self._files.may_fetch_any(claimed):
                raise Refused("unrelated")
            if not self._allowance.may_open(claimed, len(payload)):
                raise Refused("rate_limited")
        self.useless.check(claimed)

    def release_blocked(self) -> None:
        """Admit some of the blocked requests whose turn has come."""
        self._blocked.release(lambda row: self._admission.admit(row, self._stored(row)))

    def refuse(self, reason: str, delivery: Delivery) -> None:
        """Count a refused delivery; log it if no honest peer would send it, with the sender that it claims."""
        match topics.parse(delivery.topic):
            case topics.InboxTopic(_, endpoint):
                claimed = claimed_sender(delivery.payload) if len(delivery.payload) >= _MIN_BUNDLE_BYTES else ""
                self._refusals.note(reason, claimed, endpoint, f"A bundle was refused as {reason}.")
            case found:
                claimed = found.user if isinstance(found, topics.PresenceTopic) else ""
                topic = delivery.topic[:200]
                self._refusals.note(reason, claimed, "", f"A delivery on {topic} was refused as {reason}.")

    def _is_known(self, user: str) -> bool:
        return user == self._user or user in self._contacts.known.by_user

    def _exchanges_messages_with(self, stranger: str) -> bool:
        """Return whether notices of a stranger can be about something."""
        return self._outbox.sends_to(stranger) or self._notices.is_requesting_from(stranger)

    def _read_notice(self, sender: str, bodies: Sequence[bytes]) -> Notice:
        try:
            notice = Notice.from_bodies(bodies)
        except ValueError as error:
            self.useless.charge(sender, LINES_OF_A_BAD_NOTICE)
            raise Refused("malformed") from error
        if notice.to != self._user:
            self.useless.charge(sender, LINES_OF_A_BAD_NOTICE)
            raise Refused("wrong_recipient")
        if not self._seen_notices.take(sender, notice.boot, notice.number):
            raise Refused("replayed")
        return notice

    def _notice(self, sender: str, bodies: Sequence[bytes]) -> None:
        notice = self._read_notice(sender, bodies)
        pending = self._outbox.pending
        self._outbox.confirm_stored(sender, notice.received, at=notice.at)
        self._outbox.confirm_stored(sender, notice.held, "held", at=notice.at)
        self._outbox.confirm_stored(sender, notice.waiting, "waiting", at=notice.at)
        for endpoint in self._outbox.record_untimely(sender, notice.untimely):
            clocks = difference(self._outbox.peer_clocks.offset_ms(sender))
            self._log.note("refused", sender, endpoint, f"They refused a message of yours: {clocks}.")
        self._outbox.record_refusals(sender, notice.refused)
        useless = _lines(notice) - (pending - self._outbox.pending)
        for endpoint, epoch, seq in notice.gaps:
            skip = self._repairs.fill_gap(sender, endpoint, epoch, seq)
            if skip is not None:
                self._notices.announce_skip(sender, *skip)
        for endpoint, epoch, seq in notice.skips:
            self._skip(sender, endpoint, Position(epoch, seq))
        expected = {endpoint: Position(epoch, seq) for endpoint, epoch, seq in notice.positions}
        for endpoint, epoch, message_id in notice.rewound:
            skip = self._repairs.start_new_epoch(sender, endpoint, epoch, message_id, expected.get(endpoint))
            if skip is not None:
                self._notices.announce_skip(sender, *skip)
        for message_id, data in notice.progress:
            sent = self._journal.outgoing.find(message_id)
            if sent is None or sent.peer != sender or sent.state not in OPEN_OUTGOING or not is_progress(data):
                useless += 1
                continue
            self._waiters.on_progress(message_id, data)
            self._questions.on_progress(sent, data)
            self._reports.pass_on(sent, data)
        self.useless.charge(sender, useless)

    def _messages(self, endpoint: str, opened: Opened) -> None:
        bundle: int | None = None
        until = 0
        wanted = False
        is_charged = not self._is_known(opened.sender) and not self._outbox.awaits(opened.sender)
        for position, body in enumerate(opened.bodies):
            if is_charged and not self._allowance.may_read(opened.sender):
                self._refusals.note("rate_limited", opened.sender, endpoint, "", len(opened.bodies) - position)
                break
            try:
                message = self._checked(endpoint, opened.sender, body)
                if message.type in ANSWERS:
                    self._answer(message)
                    continue
                if bundle is None:
                    bundle = self._journal.incoming.add_bundle(opened.sender, opened.proof, message.expires)
                    until = message.expires
                elif message.expires > until:
                    until = message.expires
                    self._journal.incoming.keep_bundle(bundle, until)
                self._request(message, body, bundle)
                wanted = True
            except Refused as refused:
                detail = f"A message was refused as {refused.reason}."
                self._refusals.note(refused.reason, opened.sender, endpoint, detail)
                if refused.reason not in REPEATED:
                    self.useless.charge(opened.sender, LINES_OF_A_REFUSED_MESSAGE)
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
        if sender in self._contacts.known.by_user or endpoint == topics.INVITE:
            self._notices.refuse_untimely(sender, message.id)
        if message.expires <= now:
            raise Refused("expired")
        raise Refused("too_long_lived")

    def _answer(self, message: Message) -> None:
        self._notices.confirm(message.sender, message.id)
        if self._delegations.follow(message):
            return
        state = OutgoingState.FAILED if message.type == Type.ERROR else OutgoingState.DONE
        is_theirs = message.type == Type.ERROR and message.sender != self._user
        data = as_theirs(message.data, message.sender) if is_theirs else message.data
        answer, question = strict_json.text_of(data), message.in_reply_to or ""
        if not self._outbox.record_answer(message.sender, question, state, answer, created=message.created):
            raise Refused("replayed")
        if state is OutgoingState.DONE:
            with contextlib.suppress(BadInput):  # what is no reference is data
                references = self._files.references(message.data, answer)
                self._files.take_in_what_fits(references, message.sender, self._clock.now())

    def _request(self, message: Message, body: bytes, bundle: int) -> None:
        peer, endpoint = message.sender, message.endpoint
        position = Position(message.epoch, message.seq)
        expected = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
        had_epoch = expected is not None
        if not had_epoch and not self._journal.streams.has_room(peer):
            self._refuse(message, "streams_full")
        is_new_epoch = expected is None or expected.epoch < message.epoch
        if expected is None or is_new_epoch:
            expected = Position(message.epoch, 0)
        others_first = self._blocked.is_going_on(peer, endpoint) or (
            is_new_epoch and self._blocked.has_stream(peer, endpoint)
        )
        state = IncomingState.READY if position == expected and not others_first else IncomingState.BLOCKED
        if position >= expected:
            self._ensure_room(message, state, len(body))
        if is_new_epoch:
            if had_epoch and self._is_known(peer):
                self._restored.note_new_epoch(peer, endpoint)
            self._move_on(peer, endpoint, expected)
        row = None
        if position >= expected:
            row = self._journal.incoming.add(message, body, bundle, self._clock.now(), state)
        if position == expected:
            self._move_on(peer, endpoint, expected.next)
        if row is None:
            self._seen_or_lost(message, expected)
            return
        self._journal.count("received")
        self._notices.confirm(peer, message.id)
        self._deadlines.expect(message.expires)
        if state == IncomingState.READY:
            self._admission.admit(row, message)
        else:
            self._blocked.add(peer, endpoint, position)
            self._blocked.move_on(peer, endpoint, expected)

    def _ensure_room(self, message: Message, state: IncomingState, size: int) -> None:
        """Check that a request may be stored in a state, or is stored already.

        A withdrawal makes room, so it needs none, unless it waits for an earlier message.

        Raises:
            Refused: there are too many in that state, or its sender fills too much; the sender is told so.
        """
        peer = message.sender
        needs_room = message.type != Type.CANCEL or state == IncomingState.BLOCKED
        has_room = not needs_room or self._quotas.has_room(peer, size, is_post=message.type == Type.POST)
        if not has_room and self._is_new(message):
            self._refuse(message, "quota_full")
        if state == IncomingState.BLOCKED:
            if not self._has_room_to_block(peer) and self._is_new(message):
                self._refuse(message, "streams_full")
        elif self._admission.would_hold(message) and self._is_new(message) and not self._held.make_room_for(peer):
            self._refuse(message, "requests_full")

    def _refuse(self, message: Message, reason: str) -> None:
        """Tell the sender of a message why there is no room for it; it comes again.

        Raises:
            Refused: always.
        """
        self._notices.refuse(message.sender, message.id, reason)
        raise Refused(reason)

    def _is_new(self, message: Message) -> bool:
        return not self._journal.incoming.knows(message.sender, message.id)

    def _has_room_to_block(self, peer: str) -> bool:
        count = self._blocked.count_of(peer)
        if self._blocked.count() >= MAX_BLOCKED:
            return False
        if self._is_known(peer):
            return count < self._limits.blocked_per_contact
        # Counted with held ones: what follows a request without a place would otherwise be blocked by it.
        count += self._journal.incoming.count_held(peer)
        limits = self._limits
        return count < limits.requests_per_stranger and self._blocked_of_strangers() < limits.requests_of_strangers

    def _blocked_of_strangers(self) -> int:
        return sum(count for peer, count in self._blocked.counts().items() if not self._is_known(peer))

    def _seen_or_lost(self, message: Message, expected: Position) -> None:
        """Refuse a message whose position is taken: by a copy of it, or by another, if the sender's journal is old.

        If ids with later deadlines were forgotten, because the clock was ahead, it counts as a copy.
        """
        may_be_forgotten = message.expires < self._journal.remembered.forgotten_until
        if may_be_forgotten or self._journal.incoming.knows(message.sender, message.id):
            row = self._journal.incoming.find(message.sender, message.id)
            self._notices.confirm(
                message.sender,
                message.id,
                held=row is not None and row.state == IncomingState.HELD,
                waiting=row is not None and self._leases.is_waiting(row.row_id),
            )
            raise Refused("replayed")
        self._notices.report_rewind(message.sender, message.endpoint, message.epoch, message.id, expected)
        raise Refused("rewound")

    def _skip(self, peer: str, endpoint: str, to: Position) -> None:
        """Move a blocked stream on, because no message before a position will come any more."""
        if not self._blocked.has_stream(peer, endpoint):
            return  # nothing waits; should a later message arrive, the missing ones are asked for
        expected = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
        if expected is not None and expected.epoch == to.epoch and to.seq > expected.seq:
            self._move_on(peer, endpoint, to)

    def _move_on(self, peer: str, endpoint: str, to: Position) -> None:
        """Move a stream to a position; its blocked requests up to there are admitted by `release_blocked`."""
        self._journal.streams.set(Direction.INCOMING, peer, endpoint, to)
        self._blocked.move_on(peer, endpoint, to)

    def _stored(self, row: IncomingRow) -> Message:
        return Message.model_validate_json(self._journal.incoming.body(row.row_id))


def _lines(notice: Notice) -> int:
    """Return how many lines without progress a notice has, those about streams counted as they cost."""
    of_messages = (notice.received, notice.held, notice.waiting, notice.untimely, notice.refused)
    of_streams = (notice.gaps, notice.skips, notice.rewound)
    return sum(len(lines) for lines in of_messages) + LINES_OF_A_STREAM * sum(len(lines) for lines in of_streams)
