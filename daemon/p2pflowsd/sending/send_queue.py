"""The open messages in memory: which are to be sent, which wait for their receipt, and which calls are stored."""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice

from p2pflows.backoff import Backoff
from p2pflows.protocol.message import ANSWERS
from p2pflowsd.counts import count_down

MAX_BUNDLE_BYTES = 128_000
MAX_BUNDLE_MESSAGES = 128
"""A recipient takes up to 0.1 ms for each, and does nothing else meanwhile."""
BUNDLED_OVERHEAD_BYTES = 40
"""Bytes that a message takes in a bundle besides its body: its length and its hash, rounded up."""
MAX_IN_FLIGHT_BYTES = 4_000_000
"""Per recipient, so that the broker's queue for a slow reader stays short."""
MAX_IN_FLIGHT_MESSAGES = 512
"""Per recipient, so that what is sent next does not arrive behind seconds of work."""
MAX_STREAM_PART = 0.5
"""The part of both that one stream takes, so that what goes to another endpoint finds room and arrives soon."""
BACKOFF = Backoff(initial_s=3.0, max_s=600.0, jitter=(1.0, 1.2))
"""How long a message waits for its receipt before it is sent again."""
PAUSE = Backoff(initial_s=0.5, max_s=8.0)
"""How long a stream whose recipient has no room waits, until one of its messages finds out whether there is room."""
MAX_CACHED_BYTES = 16_000_000
"""How many bytes of bodies stay in memory until they are sent; further bodies are read from the journal."""

_BESIDE = "beside "
"""Before an endpoint: what is sent again although the stream pauses. No endpoint has such a name."""
_ANSWERS_OF = "answers of "
"""Before an endpoint of ours: what it answers. No endpoint has such a name."""


@dataclass(slots=True)
class OutboxEntry:
    """A pending message, or a stored call.

    Attributes:
        row_id: its number in the journal.
        id: its message id.
        type: a `message.Type`.
        peer: the user id of the recipient.
        endpoint: the recipient's endpoint.
        size: the length of its body in bytes.
        answerer: our endpoint that answers, if it is an answer; empty if that is not known.
        body: the body; None if it has to be read from the journal.
        attempts: how often it was sent since this daemon started.
        waits: how often it has waited for its receipt since a broker or recipient came back; each wait is longer.
        due: when it is sent again, in the clock's elapsed seconds.
        first_sent: when it was first sent since its recipient came online, in the clock's elapsed seconds.
        is_untimely: whether its recipient has refused it for its times.
        sent_at: when it was sent last.
        times_hurried: how often it was sent before it was due; see `Outbox.hear_from`.
        times_requested: how often it was sent because its recipient has asked for one before it; see `Outbox.fill_gap`.
        times_requested_first: how often because its recipient has asked for it.
        is_settled: whether it was removed from the queue; a stored call may come back.
        epoch: the epoch in which it was accepted; it is sent in the current one of its stream.
        seq: its number in its stream.
    """

    row_id: int
    id: str
    type: str
    peer: str
    endpoint: str
    size: int
    answerer: str = ""
    body: bytes | None = None
    attempts: int = 0
    waits: int = 0
    due: float = 0.0
    first_sent: float | None = None
    is_untimely: bool = False
    sent_at: float = 0.0
    times_hurried: int = 0
    times_requested: int = 0
    times_requested_first: int = 0
    is_settled: bool = False
    epoch: int = 0
    seq: int = 0

    @property
    def stream(self) -> tuple[str, str]:
        """The recipient and their endpoint."""
        return (self.peer, self.endpoint)

    @property
    def turn(self) -> tuple[str, str]:
        """The recipient, and what it takes turns as: their endpoint, or of an answer the endpoint that answers."""
        return (self.peer, _ANSWERS_OF + self.answerer) if self.is_answer else self.stream

    @property
    def is_answer(self) -> bool:
        """Whether it answers a request; answers belong to no stream, and nothing answers them."""
        return self.type in ANSWERS


@dataclass(slots=True)
class _UnderWay:
    """How many messages wait for receipts, and how many bytes their bodies have."""

    messages: int = 0
    bytes: int = 0

    def room(self, part: float) -> tuple[int, int]:
        """Return how many more messages and bytes may be under way, of a part of what may be to one recipient."""
        return int(part * MAX_IN_FLIGHT_MESSAGES) - self.messages, int(part * MAX_IN_FLIGHT_BYTES) - self.bytes


_NOTHING = _UnderWay()


@dataclass(slots=True)
class _Pause:
    """A stream whose recipient has no room.

    Attributes:
        queue: its messages that are to be sent.
        until: when one of them is sent, in the clock's elapsed seconds.
        probes: how many were sent so, one after the other.
    """

    queue: deque[OutboxEntry]
    until: float
    probes: int = 0


class SendQueue:
    """Pending messages, and stored calls.

    The messages of one stream are sent in the order in which they were added. The streams to a recipient take turns, a
    bundle each, so that a call does not wait behind what is queued for another endpoint; and so do the endpoints that
    answer, so that an answer does not wait behind those of another. For the same reason what a
    recipient has no room for is not in flight: its stream pauses, and sends one message at a time until one is stored.
    And one stream fills half of what may be in flight to its recipient.
    """

    def __init__(self) -> None:
        self._entries: dict[str, OutboxEntry] = {}
        self._unsent: dict[str, OrderedDict[str, deque[OutboxEntry]]] = {}
        """By recipient and turn; the one that comes next is the first."""
        self._sent: dict[str, dict[str, OutboxEntry]] = {}
        """By recipient and id."""
        self._streams: dict[tuple[str, str], OrderedDict[str, OutboxEntry]] = {}
        self._stored: dict[str, dict[str, dict[str, OutboxEntry]]] = {}
        """Calls that wait for their answer, by recipient, endpoint and id."""
        self._count_to: Counter[str] = Counter()
        self._due: list[tuple[float, int, Sequence[OutboxEntry]]] = []
        """A heap of bundles; an entry that is not sent, or was sent again, is out of date."""
        self._pauses: dict[tuple[str, str], _Pause] = {}
        self._pauses_end: list[tuple[float, tuple[str, str]]] = []
        """A heap; an entry whose stream does not pause, or does so for longer, is out of date."""
        self._numbers = count()
        self._under_way: defaultdict[str | tuple[str, str], _UnderWay] = defaultdict(_UnderWay)
        """By recipient, and by turn."""
        self._cached_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def has_unsent(self) -> bool:
        """Whether a message is to be sent; not whether the recipient's window is open for it."""
        return bool(self._unsent)

    def add(self, entry: OutboxEntry, body: bytes | None = None) -> None:
        """Add a message at the end of its recipient's queue; its body is cached if there is space for it."""
        if body is not None and self._cached_bytes + len(body) <= MAX_CACHED_BYTES:
            self._cached_bytes += len(body)
            entry.body = body
        self._entries[entry.id] = entry
        self._count_to[entry.peer] += 1
        if not entry.is_answer:
            self._streams.setdefault(entry.stream, OrderedDict())[entry.id] = entry
        self._queue_of(entry).append(entry)

    def get(self, message_id: str) -> OutboxEntry | None:
        """Return the pending message with an id."""
        return self._entries.get(message_id)

    def page(self, offset: int, limit: int) -> list[OutboxEntry]:
        """Return some of the pending messages, in the order in which they were added."""
        return list(islice(self._entries.values(), offset, offset + limit))

    def remove(self, message_id: str) -> None:
        """Remove a message that needs no further attempt; does nothing if it is not pending."""
        entry = self._entries.pop(message_id, None)
        if entry is not None:
            self.drop_body(entry)
            entry.is_settled = True
            self._take_back(entry)
            count_down(self._count_to, entry.peer)
            if not entry.is_answer:
                stream = self._streams[entry.stream]
                del stream[entry.id]
                if not stream:
                    del self._streams[entry.stream]
                    self.end_pause(entry.stream)

    def is_head(self, entry: OutboxEntry) -> bool:
        """Return whether a message is the first pending one of its stream."""
        return not entry.is_answer and next(iter(self._streams[entry.stream])) == entry.id

    def keep_stored(self, entry: OutboxEntry) -> None:
        """Remember a call that its recipient has stored, because it may miss the call later."""
        entry.is_settled = True
        self._stored.setdefault(entry.peer, {}).setdefault(entry.endpoint, {})[entry.id] = entry

    def forget_stored(self, peer: str, endpoint: str, message_id: str) -> None:
        """Forget a stored call that has ended; does nothing if it is not stored."""
        streams = self._stored.get(peer, {})
        calls = streams.get(endpoint, {})
        if calls.pop(message_id, None) is not None and not calls:
            del streams[endpoint]
            if not streams:
                del self._stored[peer]

    def has_stored(self, peer: str) -> bool:
        """Return whether a call to a recipient is stored."""
        return peer in self._stored

    def stored(self, peer: str, endpoint: str, first: int) -> list[OutboxEntry]:
        """Return the stored calls of one stream from a number on, in the order of the stream."""
        calls = self._stored.get(peer, {}).get(endpoint, {}).values()
        return sorted((entry for entry in calls if entry.seq >= first), key=_seq)

    def newest_stored(self, peer: str) -> list[OutboxEntry]:
        """Return the last stored call of each stream to a recipient that has no pending message."""
        streams = self._stored.get(peer, {})
        return [
            max(calls.values(), key=_seq)
            for endpoint, calls in streams.items()
            if (peer, endpoint) not in self._streams
        ]

    def reopen(self, entries: Sequence[OutboxEntry]) -> None:
        """Queue stored calls again; they come before all pending messages of their streams, and are in order."""
        for entry in entries:
            self.forget_stored(*entry.stream, entry.id)
            entry.is_settled = False
            self.add(entry)
        for entry in reversed(entries):
            self._streams[entry.stream].move_to_end(entry.id, last=False)

    def resend(self, entry: OutboxEntry) -> bool:
        """Queue a message again if it was sent; a message that was not sent keeps its place in the queue.

        It does not take part in a pause of its stream: the recipient may have room for the others only after it.

        Returns:
            Whether it was sent.
        """
        was_sent = self._take_back(entry)
        if was_sent and entry.stream in self._pauses:
            self._unsent.setdefault(entry.peer, OrderedDict()).setdefault(_BESIDE + entry.endpoint, deque()).append(
                entry
            )
        elif was_sent:
            self._queue_of(entry).append(entry)
        return was_sent

    def pause(self, entries: Sequence[OutboxEntry], elapsed: float) -> None:
        """Queue messages of one stream again for which their recipient has no room, and let their stream pause.

        Args:
            entries: the messages; those that are not sent keep their places.
            elapsed: the clock's elapsed seconds.
        """
        refused = sorted((entry for entry in entries if self._take_back(entry)), key=_seq)
        if not refused:
            return
        for entry in refused:
            entry.waits = 0
        peer, endpoint = stream = refused[0].stream
        queue = self._queue_of(refused[0])
        while queue and queue[0].seq < refused[-1].seq:
            refused.append(queue.popleft())
        queue.extendleft(sorted(refused, key=_seq, reverse=True))
        if stream not in self._pauses:
            self._pauses[stream] = _Pause(queue, elapsed)
            self._let_pause(stream, elapsed + PAUSE.delay_s(0))
        self._remove_unsent(peer, endpoint)

    def end_pause(self, stream: tuple[str, str]) -> None:
        """Let a stream go on, because its recipient has room; does nothing if it does not pause."""
        pause = self._pauses.pop(stream, None)
        if pause is not None:
            self._add_unsent(stream, pause.queue)

    def end_pauses_to(self, peer: str) -> None:
        """Let all streams to a recipient go on, because its daemon has started again."""
        for stream in [each for each in self._pauses if each[0] == peer]:
            self.end_pause(stream)

    def probe(self, stream: tuple[str, str], elapsed: float) -> None:
        """Let a stream that pauses send one message with the next call of `probe_due`."""
        if stream in self._pauses:
            self._let_pause(stream, elapsed)

    def probe_due(self, elapsed: float) -> None:
        """Let each stream whose pause is over send one message, and pause for longer until that is confirmed."""
        while self._pauses_end and self._pauses_end[0][0] <= elapsed:
            until, stream = heapq.heappop(self._pauses_end)
            pause = self._pauses.get(stream)
            if pause is None or pause.until != until:
                continue
            pause.probes += 1
            self._let_pause(stream, elapsed + PAUSE.delay_s(pause.probes))
            self._add_unsent(stream, pause.queue)

    def drop_body(self, entry: OutboxEntry) -> None:
        """Remove the cached body of a message."""
        if entry.body is not None:
            self._cached_bytes -= len(entry.body)
            entry.body = None

    def has_messages_to(self, peer: str) -> bool:
        """Return whether a message to a recipient is pending."""
        return peer in self._count_to

    def sent(self) -> list[OutboxEntry]:
        """Return the messages that wait for their receipt, in the order in which they were accepted."""
        return sorted((entry for entries in self._sent.values() for entry in entries.values()), key=_row_id)

    def sent_to(self, peer: str) -> list[OutboxEntry]:
        """Return the messages that wait for the receipt of one recipient, in the order in which they were accepted."""
        return sorted(self._sent.get(peer, {}).values(), key=_row_id)

    def take_due(self, elapsed: float) -> list[OutboxEntry]:
        """Return the messages that have waited long enough for their receipt; each of them is to be sent again."""
        due = []
        while self._due and self._due[0][0] <= elapsed:
            at, _, bundle = heapq.heappop(self._due)
            due += [entry for entry in bundle if entry.due == at and entry.id in self._sent.get(entry.peer, ())]
        return due

    def stream(self, peer: str, endpoint: str, limit: int) -> list[OutboxEntry]:
        """Return the first pending messages of one stream, in its order."""
        return list(islice(self._streams.get((peer, endpoint), OrderedDict()).values(), limit))

    def peers(self) -> list[str]:
        """Return the recipients of the messages that are to be sent."""
        return list(self._unsent)

    def next_bundle(self, peer: str, max_bytes: int = MAX_BUNDLE_BYTES) -> list[OutboxEntry]:
        """Take the next messages of one stream to a recipient that fit into one bundle.

        Args:
            peer: the recipient.
            max_bytes: how many bytes messages may have together; a larger one is alone.

        Returns:
            The messages; none if there are none, or if enough bytes are in flight to this recipient.
        """
        room, size = self._under_way.get(peer, _NOTHING).room(1.0)
        streams = self._unsent.get(peer, OrderedDict())
        bundle: list[OutboxEntry] = []
        blocked = 0
        while len(streams) > blocked and not bundle and room > 0 and size > 0:
            turn, queue = next(iter(streams.items()))
            is_probe = (peer, turn) in self._pauses
            room_of, size_of = self._under_way.get((peer, turn), _NOTHING).room(MAX_STREAM_PART)
            most = min(room, room_of, 1 if is_probe else MAX_BUNDLE_MESSAGES)
            bundle = _take_bundle(queue, min(size, size_of), most, max_bytes)
            if not queue or (bundle and is_probe):
                del streams[turn]
            else:
                streams.move_to_end(turn)
                blocked += 1
        if not streams:
            self._unsent.pop(peer, None)
        return bundle

    def put_back(self, peer: str, bundle: Sequence[OutboxEntry]) -> None:
        """Return a bundle that could not be sent to the front of its recipient's queue."""
        queue = self._queue_of(bundle[0])
        queue.extendleft(reversed(bundle))
        self._add_unsent(bundle[0].turn, queue)
        self._unsent[peer].move_to_end(bundle[0].turn[1], last=False)

    def mark_sent(self, bundle: Sequence[OutboxEntry], *, at: float, due: float) -> None:
        """Let messages wait for their receipts.

        Args:
            bundle: messages that were sent together.
            at: when they were sent, in the clock's elapsed seconds.
            due: when to send them again, in the clock's elapsed seconds.
        """
        for entry in bundle:
            self.drop_body(entry)
            entry.sent_at = at
            entry.due = due
            entry.attempts += 1
            entry.waits += 1
            self._sent.setdefault(entry.peer, {})[entry.id] = entry
            for key in (entry.peer, entry.turn):
                self._under_way[key].messages += 1
                self._under_way[key].bytes += entry.size
        heapq.heappush(self._due, (due, next(self._numbers), bundle))

    def _queue_of(self, entry: OutboxEntry) -> deque[OutboxEntry]:
        """The queue of an entry's turn, which is created if it is new."""
        pause = self._pauses.get(entry.stream)
        if pause is not None:
            return pause.queue
        return self._unsent.setdefault(entry.peer, OrderedDict()).setdefault(entry.turn[1], deque())

    def _add_unsent(self, stream: tuple[str, str], queue: deque[OutboxEntry]) -> None:
        peer, endpoint = stream
        self._unsent.setdefault(peer, OrderedDict()).setdefault(endpoint, queue)

    def _remove_unsent(self, peer: str, endpoint: str) -> None:
        streams = self._unsent.get(peer, OrderedDict())
        streams.pop(endpoint, None)
        if not streams:
            self._unsent.pop(peer, None)

    def _let_pause(self, stream: tuple[str, str], until: float) -> None:
        self._pauses[stream].until = until
        heapq.heappush(self._pauses_end, (until, stream))

    def _take_back(self, entry: OutboxEntry) -> bool:
        """Remove a message from those that wait for their receipt; return whether it was one of them."""
        sent = self._sent.get(entry.peer, {})
        if sent.pop(entry.id, None) is None:
            return False
        if not sent:
            del self._sent[entry.peer]
        for key in (entry.peer, entry.turn):
            under_way = self._under_way[key]
            under_way.messages -= 1
            under_way.bytes -= entry.size
            if not under_way.messages:
                del self._under_way[key]
        return True


def _take_bundle(queue: deque[OutboxEntry], window: int, most: int, max_bytes: int) -> list[OutboxEntry]:
    """Take the first messages of a queue that fit into one bundle, and drop those that are settled.

    Args:
        queue: the messages of one stream.
        window: how many more bytes may be in flight; a message larger than that still goes, but alone.
        most: how many messages it may take.
        max_bytes: how many bytes they may have together; a larger one is alone.
    """
    bundle: list[OutboxEntry] = []
    size = 0
    while queue and len(bundle) < most:
        entry = queue[0]
        if entry.is_settled:
            queue.popleft()
            continue
        fits = size + entry.size <= min(window, max_bytes) if bundle else window > 0
        if not fits:
            break
        bundle.append(queue.popleft())
        size += entry.size
    return bundle


def _row_id(entry: OutboxEntry) -> int:
    return entry.row_id


def _seq(entry: OutboxEntry) -> int:
    return entry.seq
