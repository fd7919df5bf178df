"""Messages that we send: accepted, sealed in bundles, and published until their recipient confirms to have stored them.

A PUBACK proves nothing, because a broker may forget; only a signed notice or answer of the recipient settles a message.
Until then the message is sent again with back-off, and at once when the broker or the recipient comes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from p2pflows.errors import FlowFailed, TooLarge
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope
from p2pflows.protocol.ids import new_id
from p2pflows.protocol.message import ANSWERS, MAX_LIFETIME_MS, Message, Type
from p2pflows.protocol.notice import Notice
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.counts import count_down
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState
from p2pflowsd.link import Link
from p2pflowsd.sending.composer import PACKET_OVERHEAD_BYTES, Composer
from p2pflowsd.sending.files import Files
from p2pflowsd.sending.open_ids import OpenIds
from p2pflowsd.sending.peer_clocks import PeerClocks
from p2pflowsd.sending.presence import Followed, Presence
from p2pflowsd.sending.send_queue import (
    BACKOFF,
    BUNDLED_OVERHEAD_BYTES,
    MAX_BUNDLE_BYTES,
    MAX_BUNDLE_MESSAGES,
    OutboxEntry,
    SendQueue,
)
from p2pflowsd.sending.stream_repairs import StreamRepairs
from p2pflowsd.sending.waiters import Waiters

MAX_REDATED = 500
"""How many messages are given other times in one batch, after the clock was set back, and how many get theirs back."""
MAX_RECENT = 2_000
"""How many of the calls accepted last are in memory as rows; the answers to others are matched with the journal."""
NO_ROOM = frozenset({"requests_full", "streams_full", "quota_full"})
"""The reasons for which a recipient does not store a message that it may store later."""


class Outbox:
    """The messages of this daemon to all users.

    Args:
        user: the user id of the owner.
        envelope: seals the bundles.
        journal: where messages are stored.
        link: where they are published.
        clock: the time.
        entropy: random bytes for ids, nonces and jitter.
        faults: notified before and after publishing.
        waiters: notified of the end of each message.
        queue: the open messages.
        repairs: told which messages are confirmed, and which end unconfirmed.
        followed: gets the users whose status matters, because we wait for something from them.
        presence: numbers the starts of this daemon.
        files: the files that messages may refer to.

    Attributes:
        on_call_settled: called with row, state and answer when a message ends that was accepted with an origin.
        on_stored: called with a recipient, the id of a message that they have confirmed, and why it is not run yet.
        on_ended: each is called with row, state and answer of each message that ends in another way.
        peer_clocks: how far other clocks are from ours.
        next_expiry: when the first deadline of an open message may pass, in milliseconds since the Unix epoch.
    """

    def __init__(
        self,
        *,
        user: str,
        envelope: Envelope,
        journal: Journal,
        link: Link,
        clock: Clock,
        entropy: Entropy,
        faults: Faults,
        waiters: Waiters,
        queue: SendQueue,
        repairs: StreamRepairs,
        followed: Followed,
        presence: Presence,
        files: Files,
    ) -> None:
        self._user = user
        self._envelope = envelope
        self._journal = journal
        self._link = link
        self._clock = clock
        self._entropy = entropy
        self._faults = faults
        self._waiters = waiters
        self._queue = queue
        self._repairs = repairs
        self._composer = Composer(envelope, link)
        self.peer_clocks = PeerClocks(clock)
        self._followed = followed
        self._presence = presence
        self._files = files
        self.on_call_settled: Callable[[OutgoingRow, OutgoingState, bytes | None], None] = _ignore
        self.on_stored: Callable[[str, str, str], None] = lambda _peer, _message_id, _note: None
        self.on_ended: list[Callable[[OutgoingRow, OutgoingState, bytes | None], None]] = []
        self._open_ids = OpenIds()
        self._too_large: list[str] = []
        """Ids of messages that were found to be larger than the broker takes."""
        self._unanswered: Counter[str] = Counter()
        self._notices_sent = 0
        self.next_expiry: int | None = journal.outgoing.next_expiry()
        self._recent: dict[str, OutgoingRow] = {}
        """Calls that were accepted a moment ago, by id, as they are in the journal while they are pending."""
        self._last_created = 0
        """When the newest pending message was accepted, by the clock of that moment."""
        self._redated: dict[str, tuple[int, int]] = {}
        """When some of the messages that `redate` has changed were created, and their deadlines, by id."""
        for row in journal.outgoing.pending():
            self._last_created = max(self._last_created, row.created)
            self._enqueue(_entry(row))
        for row in journal.outgoing.stored():
            self._unanswered[row.peer] += 1
            self._open_ids.add(row.id)
            if row.size:  # older releases have removed the body
                self._queue.keep_stored(_entry(row))

    @property
    def pending(self) -> int:
        """How many messages are not yet stored by their recipients."""
        return len(self._queue)

    @property
    def has_unsent(self) -> bool:
        """Whether a message may be sent now that was not sent yet."""
        return self._queue.has_unsent and self._link.connected

    def peers(self) -> set[str]:
        """Return the users whose receipt or answer to a request of ours we wait for."""
        return {peer for peer, count in self._unanswered.items() if count > 0}

    def awaits(self, peer: str) -> bool:
        """Return whether we wait for a user's receipt or answer to a request of ours."""
        return self._unanswered[peer] > 0

    def sends_to(self, peer: str) -> bool:
        """Return whether we have sent a request to a user, or are sending an answer."""
        return (
            self.awaits(peer)
            or self._queue.has_messages_to(peer)
            or self._journal.streams.has_any(Direction.OUTGOING, peer)
        )

    def matching(self, id_part: str) -> list[OutgoingRow]:
        """Return calls and posts whose id is written in short as `id_part`: a few, if it is ambiguous.

        The end of an id finds a message that is open, or one of the last 10,000.
        """
        found = {row.row_id: row for row in self._journal.outgoing.matching(id_part)}
        for message_id in self._open_ids.matching(id_part):
            row = self._journal.outgoing.find(message_id)
            if row is not None and row.type in (Type.CALL, Type.POST):
                found[row.row_id] = row
        return [found[row_id] for row_id in sorted(found)]

    def page(self, offset: int, limit: int) -> list[OutgoingRow]:
        """Return some of the messages that are not stored by their recipients, oldest first."""
        rows = (self._journal.outgoing.get(entry.row_id) for entry in self._queue.page(offset, limit))
        return [row for row in rows if row is not None]

    def attempts(self, message_id: str) -> int:
        """Return how often a pending message was sent since this daemon started."""
        entry = self._queue.get(message_id)
        return entry.attempts if entry else 0

    def accept(
        self,
        kind: Type,
        peer: str,
        endpoint: str,
        data: dict[str, Any],
        *,
        expires: int,
        conversation: str | None = None,
        in_reply_to: str | None = None,
        answerer: str = "",
        source: str = "",
        flow: str = "",
        message_id: str | None = None,
        instance: str | None = None,
        typed: Mapping[str, str] | None = None,
        origin: str | None = None,
        progress: bool = False,
    ) -> Message:
        """Store a message; it is sent after the commit.

        Args:
            kind: the type of the message.
            peer: the user id of the recipient.
            endpoint: the recipient's endpoint.
            data: the content.
            expires: the deadline, in milliseconds since the Unix epoch.
            conversation: the conversation that it belongs to; a new one by default.
            in_reply_to: the id of the message that it answers or withdraws.
            answerer: our endpoint that answers; its answers take turns with those of others.
            source: what it shows as its origin.
            flow: the endpoint and dispatch point of the flow whose run sends it: "Booking@default".
            message_id: its id; a new one by default.
            instance: the instance under the endpoint; by default the recipient chooses.
            typed: texts that a person typed for keys of the data; the recipient takes them where its flow takes texts.
            origin: JSON that is stored with it and passed to `on_call_settled` when it ends.
            progress: whether the recipient is to report how far a call has got.

        Returns:
            The message as it will be sent.

        Raises:
            TooLarge: the body exceeds the size limit.
            BadInput: the data cannot be written as JSON that every recipient can read.
            UnknownUser: the recipient's user id is not a public key.
            FileLost: it refers to a file that is not here.
        """
        now = self._clock.now()
        message_id = message_id or new_id(now, self._entropy(10))
        position = Position(0, 0) if kind in ANSWERS else self._next_position(peer, endpoint)
        message, body = self._composer.compose(
            {
                "id": message_id,
                "type": kind,
                "from": self._user,
                "to": peer,
                "endpoint": endpoint,
                "instance": instance,
                "conversation": conversation or message_id,
                "cause": in_reply_to,
                "epoch": position.epoch,
                "seq": position.seq,
                "created": now,
                "expires": min(expires, now + MAX_LIFETIME_MS),
                "source": source,
                "flow": flow,
                "data": data,
                "typed": dict(typed or {}),
                "progress": progress,
            }
        )
        references = self._files.references(message.data, body)
        self._files.check(references, peer)
        self._files.grant(references, peer, message.expires)
        if kind not in ANSWERS:
            self._followed.add(peer)
            self._journal.streams.set(Direction.OUTGOING, peer, endpoint, position.next)
        row_id = self._journal.outgoing.add(message, body, origin)
        self._last_created = max(self._last_created, now)
        entry = OutboxEntry(row_id, message_id, kind, peer, endpoint, len(body), answerer)
        entry.epoch, entry.seq = position
        self._enqueue(entry, body)
        if kind == Type.CALL:
            self._remember(message, row_id, len(body), origin)
        if self.next_expiry is None or message.expires < self.next_expiry:
            self.next_expiry = message.expires
        return message

    def confirm_stored(self, peer: str, ids: Iterable[str], note: str = "", *, at: int = 0) -> None:
        """Settle the messages that their recipient has confirmed as stored.

        Args:
            peer: the user id of the recipient.
            ids: message ids; those of other recipients are ignored.
            note: why the recipient does not run them yet, "held" or "waiting"; empty if it does.
            at: when the recipient says so, by its clock, in milliseconds since the Unix epoch; 0 if that is not known.
        """
        settled: list[OutboxEntry] = []
        for message_id in ids:
            entry = self._queue.get(message_id)
            if entry is not None and entry.peer == peer:
                settled.append(entry)
                self._queue.end_pause(entry.stream)
                if entry.is_untimely:
                    self.peer_clocks.forget(peer)
                self._queue.remove(message_id)
            if note or entry is None:
                self._journal.outgoing.set_note(message_id, peer, note)
            self.on_stored(peer, message_id, note)
        self._compare_clocks(peer, at, settled)
        self._journal.count("delivered", len(settled))
        for entry in settled:
            if not entry.is_answer:
                self._repairs.note_confirmed(entry)
            if entry.type == Type.CALL:
                self._queue.keep_stored(entry)
        calls = [entry.id for entry in settled if entry.type == Type.CALL]
        answers = [entry.id for entry in settled if entry.is_answer]
        others = [entry.id for entry in settled if entry.type in (Type.POST, Type.CANCEL)]
        self._journal.outgoing.mark_stored(calls, others, answers, self._clock.now())
        self._stop_waiting(peer, len(others))
        for message_id in others:
            self._open_ids.remove(message_id)
        for message_id in (*others, *answers):
            self._waiters.on_settled(message_id, OutgoingState.DONE, None)

    def record_untimely(self, peer: str, lines: Iterable[tuple[str, int]]) -> list[str]:
        """Record that a peer has refused messages for their times.

        Args:
            peer: the user id of the recipient.
            lines: message ids, each with the time of the recipient's clock; ids of other recipients are ignored.

        Returns:
            The endpoints of the messages that we still send.
        """
        endpoints = []
        for message_id, theirs in lines:
            entry = self._queue.get(message_id)
            if entry is not None and entry.peer == peer and entry.first_sent is not None:
                entry.is_untimely = True
                self.peer_clocks.learn(peer, theirs, entry.first_sent)
                endpoints.append(entry.endpoint)
        return endpoints

    def is_untimely(self, message_id: str) -> bool:
        """Return whether the recipient of a pending message has refused it for its times."""
        entry = self._queue.get(message_id)
        return entry is not None and entry.is_untimely

    def record_refusals(self, peer: str, refusals: Iterable[tuple[str, str]]) -> None:
        """Store why their recipient has no room for some pending messages; their streams pause, and go on later.

        Args:
            peer: the user id of the recipient.
            refusals: message ids with the reason; those of other recipients are ignored.
        """
        refused: dict[tuple[str, str], list[OutboxEntry]] = {}
        for message_id, reason in refusals:
            entry = self._queue.get(message_id)
            if entry is not None and entry.peer == peer and reason in NO_ROOM and not entry.is_answer:
                self._journal.outgoing.set_note(message_id, peer, reason)
                refused.setdefault(entry.stream, []).append(entry)
        for entries in refused.values():
            self._queue.pause(entries, self._clock.elapsed())

    def record_answer(
        self, peer: str, in_reply_to: str, state: OutgoingState, answer: bytes, *, created: int = 0
    ) -> bool:
        """End a request with the answer that arrived; return False if the request is unknown or over.

        Args:
            peer: the user id of the one who answers.
            in_reply_to: the id of the request.
            state: how it ends.
            answer: the answer, or the error, as JSON.
            created: when the answer was made, by the clock of that user, in milliseconds since the Unix epoch.
        """
        recent = self._recent.get(in_reply_to) if self._queue.get(in_reply_to) is not None else None
        row = recent or self._journal.outgoing.find(in_reply_to)
        if row is None or row.peer != peer or row.type in ANSWERS:
            return False
        if row.type == Type.CALL and (row.state == OutgoingState.DONE or row.expires <= self._clock.now()):
            return False
        if row.state == OutgoingState.PENDING:
            self._journal.count("delivered")
        if self.is_untimely(row.id):
            self.peer_clocks.forget(peer)
        entry = self._queue.get(row.id)
        self._compare_clocks(peer, created, [] if entry is None else [entry])
        return self.end(row, state, answer)

    def _compare_clocks(self, peer: str, theirs: int, confirmed: Sequence[OutboxEntry]) -> None:
        """Learn how far a peer's clock is from ours: it has got some messages by a time of its clock."""
        sent = [entry.first_sent for entry in confirmed if entry.first_sent is not None]
        if theirs and sent:
            self.peer_clocks.learn(peer, theirs, max(sent))

    def end(self, row: OutgoingRow, state: OutgoingState, answer: bytes | None = None, *, skips: bool = False) -> bool:
        """End a message of ours; return False if it has ended already.

        Args:
            row: the message.
            state: how it ends.
            answer: the answer, or the error, as JSON.
            skips: whether its recipient never gets it, so that later messages must not wait for it there.
        """
        is_fetched = self._waiters.are_there_for(row.id)
        if not self._journal.outgoing.move(row.id, state, self._clock.now(), answer, is_fetched=is_fetched):
            return False
        self._recent.pop(row.id, None)
        entry = self._queue.get(row.id)
        was_head = entry is not None and self._queue.is_head(entry)
        self._queue.remove(row.id)
        self._open_ids.remove(row.id)
        self._queue.forget_stored(row.peer, row.endpoint, row.id)
        if was_head and (skips or state in (OutgoingState.EXPIRED, OutgoingState.CANCELLED)):
            self._repairs.announce_skip(row.peer, row.endpoint)
        if row.state in OPEN_OUTGOING and row.type not in ANSWERS:
            self._stop_waiting(row.peer, 1)
        self._waiters.on_settled(row.id, state, answer)
        for on_ended in self.on_ended:
            on_ended(row, state, answer)
        if row.origin is not None:
            self.on_call_settled(row, state, answer)
        return True

    def redate(self) -> None:
        """Give the messages new times that were accepted while the clock was ahead, as recipients refuse them.

        A request keeps its lifetime, and an answer the deadline of its request.
        """
        now = self._clock.now()
        if self._last_created <= now:
            return
        self._redated = {each: times for each, times in self._redated.items() if self._queue.get(each) is not None}
        rows = self._journal.outgoing.created_after(now, MAX_REDATED)
        for row in rows:
            entry = self._queue.get(row.id)
            if entry is None:
                continue
            lifetime = row.expires - (now if entry.is_answer else row.created)
            expires = now + min(lifetime, MAX_LIFETIME_MS)
            if len(self._redated) < MAX_REDATED:
                self._redated.setdefault(row.id, (row.created, row.expires))
            self._restamp(entry, created=now, expires=expires)
            self.next_expiry = min(expires, self.next_expiry or expires)
        if len(rows) < MAX_REDATED:
            self._last_created = now

    def restore_times(self) -> None:
        """Give messages their own times again, because the clock was right before it was set back."""
        now = self._clock.now()
        for message_id, (created, expires) in list(self._redated.items()):
            if created > now:
                continue
            del self._redated[message_id]
            entry = self._queue.get(message_id)
            if entry is not None:
                self._restamp(entry, created=created, expires=expires)
                self._last_created = max(self._last_created, created)

    def _restamp(self, entry: OutboxEntry, **fields: int) -> None:
        """Send a pending message with another position in its stream, or with other times."""
        body = self._journal.outgoing.body(entry.id) or b"{}"
        message = Message.model_validate_json(body).model_copy(update=fields)
        self._recent.pop(entry.id, None)
        self._journal.outgoing.restamp(entry.row_id, message)
        self._queue.drop_body(entry)
        self._queue.resend(entry)

    def flush(self) -> None:
        """Publish what may be sent; called after each commit."""
        if not self._link.connected:
            return
        overhead = PACKET_OVERHEAD_BYTES + MAX_BUNDLE_MESSAGES * BUNDLED_OVERHEAD_BYTES
        max_bytes = min(MAX_BUNDLE_BYTES, self._link.max_packet - overhead, self._link.max_bundle)
        for peer in self._queue.peers():
            while bundle := self._queue.next_bundle(peer, max_bytes):
                if not self._publish(peer, bundle):
                    return

    @property
    def has_too_large(self) -> bool:
        """Whether a message was found to be larger than the broker takes, and has not ended yet."""
        return bool(self._too_large)

    def end_too_large(self) -> list[tuple[OutboxEntry, TooLarge]]:
        """End the messages that were found to be larger than the broker takes; return each with its error.

        An answer is replaced by an error, so that whoever waits for it hears why it does not come.
        """
        ended: list[tuple[OutboxEntry, TooLarge]] = []
        found, self._too_large = self._too_large, []
        for message_id in found:
            entry, row = self._queue.get(message_id), self._journal.outgoing.find(message_id)
            if entry is None or row is None:
                continue
            error = TooLarge(
                f"The message is {entry.size:,} bytes, more than the broker {self._link.broker} takes "
                f"({max(0, self._link.max_packet - PACKET_OVERHEAD_BYTES):,}).",
                "Send a reference to the data, or split it; its operator can set a larger maximum packet size.",
            )
            ended.append((entry, error))
            if entry.is_answer:
                self._replace_answer(row, error)
            else:
                self.end(row, OutgoingState.FAILED, strict_json.dumps(error.as_wire()), skips=True)
        return ended

    def _replace_answer(self, row: OutgoingRow, error: TooLarge) -> None:
        """Send an error in place of an answer."""
        answer = Message.model_validate_json(self._journal.outgoing.body(row.id) or b"{}")
        self._queue.remove(row.id)
        self._journal.outgoing.mark_stored([], [], [row.id], self._clock.now())
        failed = FlowFailed(f"The answer does not arrive. {error.message}", "Its author can let it answer with less.")
        self.accept(
            Type.ERROR,
            row.peer,
            row.endpoint,
            failed.as_wire(),
            expires=answer.expires,
            conversation=answer.conversation,
            in_reply_to=answer.in_reply_to,
        )

    def send_notice(self, peer: str, notice: Notice) -> None:
        """Send a notice if the link is up; a notice that is lost is not sent again."""
        if self._link.connected:
            self._notices_sent += 1
            about = {"boot": self._presence.boot, "number": self._notices_sent, "at": self._clock.now()}
            body = notice.model_copy(update=about).to_bytes()
            bundle = self._envelope.seal(BundleKind.NOTICE, peer, [body], self._entropy(NONCE_BYTES))
            self._faults.reach("outbox.before_notice")
            self._link.publish(topics.inbox(peer, topics.NOTICE), bundle)

    def check(self, peer: str, endpoint: str, data: dict[str, Any], kind: Type = Type.CALL) -> None:
        """Check that `accept` would accept a message, without storing it.

        Raises:
            CallError: any error that `accept` would raise.
        """
        any_id = "0" * 32
        message, body = self._composer.compose(
            {
                "id": any_id,
                "type": kind,
                "from": self._user,
                "to": peer,
                "endpoint": endpoint,
                "conversation": any_id,
                "cause": any_id if kind in ANSWERS else None,
                "created": 0,
                "expires": 0,
                "data": data,
            }
        )
        self._files.check(self._files.references(message.data, body), peer)

    def _remember(self, message: Message, row_id: int, size: int, origin: str | None) -> None:
        """Keep the row of a call in memory, as its answer may come within milliseconds."""
        if len(self._recent) >= MAX_RECENT:
            del self._recent[next(iter(self._recent))]
        self._recent[message.id] = OutgoingRow(
            row_id=row_id,
            id=message.id,
            type=message.type,
            peer=message.recipient,
            endpoint=message.endpoint,
            epoch=message.epoch,
            seq=message.seq,
            conversation=message.conversation,
            size=size,
            created=message.created,
            expires=message.expires,
            state=OutgoingState.PENDING,
            note="",
            answer=None,
            origin=origin,
        )

    def _next_position(self, peer: str, endpoint: str) -> Position:
        return self._journal.streams.get(Direction.OUTGOING, peer, endpoint) or Position(self._clock.now(), 0)

    def _enqueue(self, entry: OutboxEntry, body: bytes | None = None) -> None:
        self._queue.add(entry, body)
        if not entry.is_answer:
            self._unanswered[entry.peer] += 1
            self._open_ids.add(entry.id)

    def _stop_waiting(self, peer: str, count: int) -> None:
        """Expect fewer receipts and answers from a user."""
        count_down(self._unanswered, peer, count)

    def _publish(self, peer: str, bundle: list[OutboxEntry]) -> bool:
        """Seal and publish a bundle; return False if it is queued again because the link is down."""
        missing = [entry.row_id for entry in bundle if entry.body is None]
        bodies = self._journal.outgoing.bodies(missing) if missing else {}
        stream = self._journal.streams.get(Direction.OUTGOING, *bundle[0].stream)
        sealed = self._envelope.seal(
            BundleKind.MESSAGES,
            peer,
            [_in_epoch(stream, entry, entry.body or bodies[entry.row_id]) for entry in bundle],
            self._entropy(NONCE_BYTES),
        )
        self._faults.reach("outbox.before_publish")
        published = self._link.publish(topics.inbox(peer, bundle[0].endpoint), sealed)
        if not published and not self._link.connected:
            self._queue.put_back(peer, bundle)
            return False
        if not published:
            # Too large for this broker: the next batch ends it. Until then it waits like one without a receipt.
            self._too_large += [entry.id for entry in bundle]
        self._faults.reach("outbox.after_publish")
        elapsed, random = self._clock.elapsed(), self._entropy(1)[0] / 256
        by_waits: dict[int, list[OutboxEntry]] = {}
        for entry in bundle:
            entry.first_sent = elapsed if entry.first_sent is None else entry.first_sent
            by_waits.setdefault(entry.waits, []).append(entry)
        for waits, entries in by_waits.items():
            self._queue.mark_sent(entries, at=elapsed, due=elapsed + BACKOFF.delay_s(waits, random))
        return True


def _in_epoch(stream: Position | None, entry: OutboxEntry, body: bytes) -> bytes:
    """Return the body of a message with the current epoch of its stream."""
    if stream is None or entry.is_answer or entry.epoch == stream.epoch:
        return body
    return Message.model_validate_json(body).model_copy(update={"epoch": stream.epoch}).to_bytes()


def _entry(row: OutgoingRow) -> OutboxEntry:
    """The entry of a message that the journal has."""
    entry = OutboxEntry(row.row_id, row.id, row.type, row.peer, row.endpoint, row.size)
    entry.epoch, entry.seq = row.epoch, row.seq
    return entry


def _ignore(_row: OutgoingRow, _state: OutgoingState, _answer: bytes | None) -> None:
    """Do nothing; the node replaces this once the runs exist."""
