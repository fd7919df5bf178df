"""Messages on their way out: accepted, sealed in bundles, sent until their recipient says that they are stored.

A PUBACK proves nothing (a broker may forget), so only the recipient's signed notice or answer settles a message.
Until then it is sent again with back-off, and at once when the broker or the recipient comes back.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from p2pflows.backoff import Backoff
from p2pflows.errors import BadInput, TooLarge, UnknownUser
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope
from p2pflows.protocol.message import ANSWERS, MAX_BODY_BYTES, MAX_LIFETIME_MS, Message, Notice, Type, new_id
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState
from p2pflowsd.link import Link
from p2pflowsd.sending.presence import Followed
from p2pflowsd.sending.waiters import Waiters

MAX_BUNDLE_BYTES = 128_000
MAX_BUNDLE_MESSAGES = 256
MAX_IN_FLIGHT_BYTES = 4_000_000
"""Per recipient, so that a broker's queue for one slow reader stays small, and what is lost is always resent."""
MAX_CACHED_BYTES = 16_000_000
"""Bodies that stay in memory until they leave; those of more are read again from the journal."""
END_OF_EPOCH = 2**62
"""After the last place of an epoch that has ended."""
PACKET_OVERHEAD_BYTES = 1_000
"""Bytes that topic, header, signature and framing take beside a body, rounded up."""
BACKOFF = Backoff(initial_s=3.0, max_s=600.0, jitter=(1.0, 1.2))


@dataclass(slots=True)
class Entry:
    """A pending message in memory; where it has no body, that is read again from the journal."""

    row_id: int
    id: str
    type: str
    peer: str
    endpoint: str
    size: int
    body: bytes | None = None
    attempts: int = 0
    due: float = 0.0
    settled: bool = False


class Outbox:
    """All that leaves this daemon for other users."""

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
        followed: Followed,
    ) -> None:
        self._user = user
        self._envelope = envelope
        self._journal = journal
        self._link = link
        self._clock = clock
        self._entropy = entropy
        self._faults = faults
        self._waiters = waiters
        self._followed = followed
        self.on_call_settled: Callable[[OutgoingRow, OutgoingState, bytes | None], None] = _ignore
        """Takes the end of a message that a run sent: the message, how it ended, and its answer."""
        self._entries: dict[str, Entry] = {}
        self._fresh: dict[str, deque[Entry]] = {}
        self._sent: dict[str, Entry] = {}
        self._in_flight: dict[str, int] = {}
        self._kept_bytes = 0
        self.next_expiry: int | None = journal.outgoing.next_expiry()
        self._waits_for: Counter[str] = Counter(journal.outgoing.stored_by_peer())
        for row in journal.outgoing.pending():
            self._enqueue(Entry(row.row_id, row.id, row.type, row.peer, row.endpoint, row.size))

    @property
    def pending(self) -> int:
        """How many messages their recipients have not stored yet."""
        return len(self._entries)

    @property
    def has_fresh(self) -> bool:
        """Whether anything may leave that has not left."""
        return bool(self._fresh) and self._link.connected

    def peers(self) -> set[str]:
        """Whom we have asked something and whose receipts or answers we wait for."""
        return {peer for peer, count in self._waits_for.items() if count > 0}

    def awaits(self, peer: str) -> bool:
        """Whether we have asked a user something and wait for their receipt or answer."""
        return self._waits_for[peer] > 0

    def attempts(self, message_id: str) -> int:
        """How often a pending message was sent, since this daemon started."""
        entry = self._entries.get(message_id)
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
        source: str = "",
        message_id: str | None = None,
        instance: str | None = None,
        origin: str | None = None,
    ) -> Message:
        """Keep a message to be sent; it leaves after the commit.

        Args:
            kind: what it is for.
            peer: who gets it.
            endpoint: which of their flows.
            data: what it says.
            expires: its deadline, in milliseconds since the Unix epoch.
            conversation: the conversation it belongs to; a new one by default.
            in_reply_to: the message that it answers or withdraws.
            source: what it shows as its origin.
            message_id: its id, where that follows from something; a new one by default.
            instance: which instance under the endpoint.
            origin: kept with it, and given back when it has its end.

        Raises:
            TooLarge: the body is over the size limit.
            BadInput: the data cannot be written as JSON that every recipient reads.
            UnknownUser: the recipient's id is nobody's key.
        """
        now = self._clock.now()
        message_id = message_id or new_id(now, self._entropy(10))
        place = Position(0, 0) if kind in ANSWERS else self._next_place(peer, endpoint)
        message, body = self._compose(
            {
                "id": message_id,
                "type": kind,
                "from": self._user,
                "to": peer,
                "endpoint": endpoint,
                "instance": instance,
                "conversation": conversation or message_id,
                "cause": in_reply_to,
                "epoch": place.epoch,
                "seq": place.seq,
                "created": now,
                "expires": min(expires, now + MAX_LIFETIME_MS),
                "source": source,
                "data": data,
            }
        )
        if kind not in ANSWERS:
            self._followed.add(peer)
            self._journal.streams.set(Direction.OUTGOING, peer, endpoint, Position(place.epoch, place.seq + 1))
        row_id = self._journal.outgoing.add(message, body, origin)
        entry = Entry(row_id, message_id, kind, peer, endpoint, len(body))
        if self._kept_bytes + len(body) <= MAX_CACHED_BYTES:
            self._kept_bytes += len(body)
            entry.body = body
        self._enqueue(entry)
        if self.next_expiry is None or message.expires < self.next_expiry:
            self.next_expiry = message.expires
        return message

    def stored(self, peer: str, ids: Iterable[str], note: str = "") -> None:
        """The recipient says that it has committed these messages."""
        settled: list[Entry] = []
        for message_id in ids:
            entry = self._entries.get(message_id)
            if entry is not None and entry.peer == peer:
                settled.append(entry)
                self._settle(message_id)
            if note or entry is None:
                self._journal.outgoing.set_note(message_id, peer, note)
        self._journal.count("delivered", len(settled))
        calls = [entry.id for entry in settled if entry.type == Type.CALL]
        answers = [entry.id for entry in settled if entry.type in ANSWERS]
        others = [entry.id for entry in settled if entry.type in (Type.POST, Type.CANCEL)]
        self._journal.outgoing.mark_stored(calls, others, answers, self._clock.now())
        self._forget(peer, len(others))
        for message_id in (*others, *answers):
            self._waiters.on_settled(message_id, OutgoingState.DONE, None)

    def answered(self, peer: str, in_reply_to: str, state: OutgoingState, answer: bytes) -> bool:
        """An answer came; False if its request is unknown or has its end already."""
        row = self._journal.outgoing.find(in_reply_to)
        if row is None or row.peer != peer or row.type in ANSWERS:
            return False
        if row.type == Type.CALL and row.state == OutgoingState.DONE:
            return False
        if row.state == OutgoingState.PENDING:
            self._journal.count("delivered")
        return self.end(row, state, answer)

    def end(self, row: OutgoingRow, state: OutgoingState, answer: bytes | None = None) -> bool:
        """Give a message its end; False if it has one already."""
        if not self._journal.outgoing.move(row.id, state, self._clock.now(), answer):
            return False
        self._settle(row.id)
        if row.state in OPEN_OUTGOING and row.type not in ANSWERS:
            self._forget(row.peer, 1)
        self._waiters.on_settled(row.id, state, answer)
        if row.origin is not None:
            self.on_call_settled(row, state, answer)
        return True

    def gap(self, peer: str, endpoint: str, epoch: int, seq: int) -> tuple[str, int, int] | None:
        """The recipient waits for a place in a stream.

        What is there leaves again; if nothing is, gives (endpoint, epoch, seq) of the first place that will still come.
        """
        place = self._journal.streams.get(Direction.OUTGOING, peer, endpoint)
        if place is None or place.epoch != epoch:
            return (endpoint, epoch, END_OF_EPOCH)
        if place.seq <= seq:
            self._begin_epoch(peer, endpoint, epoch)
            return (endpoint, epoch, END_OF_EPOCH)
        pending = self._stream(peer, endpoint)
        first = place.seq
        if pending:
            row = self._journal.outgoing.get(pending[0].row_id)
            first = row.seq if row is not None else first
            self._again(pending[0])
        return (endpoint, epoch, first) if first > seq else None

    def rewound(self, peer: str, endpoint: str, epoch: int, message_id: str) -> None:
        """Our journal is older than what the recipient knows of us: continue the stream in a new epoch."""
        place = self._journal.streams.get(Direction.OUTGOING, peer, endpoint)
        entry = self._entries.get(message_id)
        if place is None or place.epoch != epoch or entry is None or entry.peer != peer:
            return
        self._begin_epoch(peer, endpoint, epoch)

    def _begin_epoch(self, peer: str, endpoint: str, old: int) -> None:
        fresh = max(self._clock.now(), old + 1)
        pending = self._stream(peer, endpoint)
        for seq, entry in enumerate(pending):
            body = self._journal.outgoing.body(entry.id) or b"{}"
            message = Message.model_validate_json(body).model_copy(update={"epoch": fresh, "seq": seq})
            self._journal.outgoing.restamp(entry.row_id, fresh, seq, message.to_bytes())
            self._let_go(entry)
            self._again(entry)
        self._journal.streams.set(Direction.OUTGOING, peer, endpoint, Position(fresh, len(pending)))

    def link_up(self) -> None:
        """The broker may have forgotten everything: all that is not stored leaves again."""
        for entry in sorted(self._sent.values(), key=lambda entry: entry.row_id):
            self._again(entry)

    def peer_up(self, peer: str) -> None:
        """A recipient came back: what waits for it leaves again."""
        for entry in [entry for entry in self._sent.values() if entry.peer == peer]:
            self._again(entry)

    def tick(self) -> None:
        """Send again what has waited long enough for its receipt."""
        elapsed = self._clock.elapsed()
        for entry in [entry for entry in self._sent.values() if entry.due <= elapsed]:
            self._again(entry)

    def flush(self) -> None:
        """Publish what may leave; called after each commit."""
        if not self._link.connected:
            return
        for peer in [peer for peer, queue in self._fresh.items() if queue]:
            queue = self._fresh[peer]
            while (bundle := self._next_bundle(peer, queue)) is not None:
                if not self._publish(peer, bundle) and not self._link.connected:
                    return
            if not queue:
                del self._fresh[peer]

    def notify(self, peer: str, notice: Notice) -> None:
        """Send a notice; nobody minds if it is lost."""
        if self._link.connected:
            bundle = self._envelope.seal(BundleKind.NOTICE, peer, [notice.to_bytes()], self._entropy(NONCE_BYTES))
            self._faults.reach("outbox.before_notice")
            self._link.publish(topics.inbox(peer, topics.NOTICE), bundle)

    def check(self, peer: str, endpoint: str, data: dict[str, Any]) -> None:
        """See whether a message could be accepted, without keeping it.

        Raises:
            CallError: what `accept` would raise.
        """
        nobody = "0" * 32
        self._compose(
            {
                "id": nobody,
                "type": Type.CALL,
                "from": self._user,
                "to": peer,
                "endpoint": endpoint,
                "conversation": nobody,
                "created": 0,
                "expires": 0,
                "data": data,
            }
        )

    def _compose(self, fields: dict[str, Any]) -> tuple[Message, bytes]:
        """The message and its body."""
        if not self._envelope.can_seal_to(fields["to"]):
            raise UnknownUser(
                f"{fields['to']} is nobody's user id: it is no public key.", "Check the id with its owner: p2pflows id"
            )
        try:
            message = Message.model_validate(fields)
            body = message.to_bytes()
            strict_json.check_levels(body)
        except ValueError as error:
            reason = (
                "it is nested too deeply"
                if "depth" in str(error) or "recursion" in str(error)
                else "it holds text that is not Unicode"
            )
            raise BadInput(
                f"The data cannot be sent as JSON: {reason}.", "Send plain objects, lists, texts and numbers."
            ) from error
        limit = min(MAX_BODY_BYTES, self._link.max_packet - PACKET_OVERHEAD_BYTES)
        if len(body) > limit:
            raise TooLarge(
                f"The message is {len(body):,} bytes; the limit is {limit:,}.",
                "Send a reference to the data, or split it.",
            )
        return message, body

    def _stream(self, peer: str, endpoint: str) -> list[Entry]:
        """What one stream has not had stored, in its order; looked for only when a stream is to be repaired."""
        found = [
            entry
            for entry in self._entries.values()
            if entry.peer == peer and entry.endpoint == endpoint and entry.type not in ANSWERS
        ]
        return sorted(found, key=lambda entry: entry.row_id)

    def _next_place(self, peer: str, endpoint: str) -> Position:
        return self._journal.streams.get(Direction.OUTGOING, peer, endpoint) or Position(self._clock.now(), 0)

    def _enqueue(self, entry: Entry) -> None:
        self._entries[entry.id] = entry
        self._fresh.setdefault(entry.peer, deque()).append(entry)
        if entry.type not in ANSWERS:
            self._waits_for[entry.peer] += 1

    def _again(self, entry: Entry) -> None:
        if self._sent.pop(entry.id, None) is not None:
            self._in_flight[entry.peer] -= entry.size
            self._fresh.setdefault(entry.peer, deque()).append(entry)

    def _forget(self, peer: str, count: int) -> None:
        self._waits_for[peer] -= count
        if self._waits_for[peer] <= 0:
            del self._waits_for[peer]

    def _settle(self, message_id: str) -> None:
        entry = self._entries.pop(message_id, None)
        if entry is not None:
            self._let_go(entry)
            entry.settled = True
            if self._sent.pop(message_id, None) is not None:
                self._in_flight[entry.peer] -= entry.size

    def _let_go(self, entry: Entry) -> None:
        """Keep a body in memory no more."""
        if entry.body is not None:
            self._kept_bytes -= len(entry.body)
            entry.body = None

    def _next_bundle(self, peer: str, queue: deque[Entry]) -> list[Entry] | None:
        """The next messages that share an endpoint and fit, taken off the queue."""
        bundle: list[Entry] = []
        size = 0
        room = MAX_IN_FLIGHT_BYTES - self._in_flight.get(peer, 0)
        while queue and len(bundle) < MAX_BUNDLE_MESSAGES:
            entry = queue[0]
            if entry.settled:
                queue.popleft()
                continue
            fits = (
                size + entry.size <= min(room, MAX_BUNDLE_BYTES) and entry.endpoint == bundle[0].endpoint
                if bundle
                else room > 0
            )
            if not fits:
                break
            bundle.append(queue.popleft())
            size += entry.size
        return bundle or None

    def _publish(self, peer: str, bundle: list[Entry]) -> bool:
        missing = [entry.row_id for entry in bundle if entry.body is None]
        bodies = self._journal.outgoing.bodies(missing) if missing else {}
        sealed = self._envelope.seal(
            BundleKind.MESSAGES,
            peer,
            [entry.body or bodies[entry.row_id] for entry in bundle],
            self._entropy(NONCE_BYTES),
        )
        self._faults.reach("outbox.before_publish")
        left = self._link.publish(topics.inbox(peer, bundle[0].endpoint), sealed)
        if not left and not self._link.connected:
            self._fresh[peer].extendleft(reversed(bundle))
            return False
        # What is too large for this broker waits like what got no receipt; nobody else waits for it.
        self._faults.reach("outbox.after_publish")
        elapsed = self._clock.elapsed()
        for entry in bundle:
            self._let_go(entry)
            entry.due = elapsed + BACKOFF.delay_s(entry.attempts, self._entropy(1)[0] / 256)
            entry.attempts += 1
            self._sent[entry.id] = entry
            self._in_flight[peer] = self._in_flight.get(peer, 0) + entry.size
        return left


def _ignore(_row: OutgoingRow, _state: OutgoingState, _answer: bytes | None) -> None:
    """Do nothing: no run is there yet."""
