"""Receipts for other daemons, and repairs of streams; collected for a moment, then sent as one notice to each peer.

An answer replaces the receipt of its request. A notice that is lost does no harm: the peer that misses something in it
asks again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from p2pflows.protocol import strict_json
from p2pflows.protocol.message import MAX_COUNT, MAX_PROGRESS_BYTES
from p2pflows.protocol.notice import (
    MAX_NOTICE_BYTES,
    MAX_PROGRESS_LINES,
    MAX_RECEIPTS,
    MAX_STREAM_LINES,
    RECEIPTS,
    Notice,
)
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.sending.gaps import Gaps
from p2pflowsd.sending.pace import Pace

GATHER_S = 0.025
"""How long a receipt waits so that others travel in the same notice, or for an answer that replaces it."""
MAX_DRAFTED_STREAMS = 1_000
"""How many streams a draft has in each of its lists; the peer asks again for what is left out."""
REWIND_INTERVAL_S = 1.0
"""How long nothing more is said about a stream that was reported as rewound."""
_ID_BYTES = 35
_STREAM_LINE_BYTES = 130
_EMPTY_NOTICE_BYTES = 300


@dataclass(slots=True)
class _Draft:
    due: float
    received: dict[str, None] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    untimely: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    skips: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rewound: dict[str, tuple[str, int, str]] = field(default_factory=dict)
    positions: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    progress: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def lines(self) -> Iterator[tuple[str, Any, int]]:
        """All lines, each with the list that it belongs to, and about how many bytes it takes."""
        yield from (("received", line, _ID_BYTES) for line in self.received)
        yield from (("held", line, _ID_BYTES) for line in self.held)
        yield from (("waiting", line, _ID_BYTES) for line in self.waiting)
        yield from (("untimely", line, 2 * _ID_BYTES) for line in self.untimely.items())
        yield from (("refused", line, 2 * _ID_BYTES) for line in self.refused.items())
        yield from (("skips", line, _STREAM_LINE_BYTES) for line in self.skips.values())
        for endpoint, line in self.rewound.items():
            yield "rewound", line, _STREAM_LINE_BYTES
            yield "positions", self.positions[endpoint], _STREAM_LINE_BYTES
        yield from (("progress", line, _ID_BYTES + len(strict_json.dumps(line[1]))) for line in self.progress)

    @property
    def receipts(self) -> int:
        """How many ids it has."""
        return len(self.received) + len(self.held) + len(self.waiting) + len(self.untimely) + len(self.refused)


class Notices:
    """The drafts of notices by peer, and the incoming streams that miss a message."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._drafts: dict[str, _Draft] = {}
        self._gaps = Gaps(clock)
        self._rewinds = Pace[tuple[str, str]](clock, REWIND_INTERVAL_S)

    def confirm(self, peer: str, message_id: str, *, held: bool = False, waiting: bool = False) -> None:
        """Tell a peer that its message is stored.

        Args:
            peer: the user id of the sender.
            message_id: the id of the message.
            held: whether it waits for the owner's decision on its sender.
            waiting: whether it waits for a worker.
        """
        draft = self._draft(peer)
        plain = not held and not waiting
        for ids, applies in ((draft.received, plain), (draft.held, held), (draft.waiting, waiting)):
            if applies:
                ids[message_id] = None
            else:
                ids.pop(message_id, None)

    def drop_receipt(self, peer: str, message_id: str) -> None:
        """Drop the receipt of a message, because its answer is sent instead."""
        draft = self._drafts.get(peer)
        if draft is not None:
            for ids in (draft.received, draft.held, draft.waiting):
                ids.pop(message_id, None)
            if any(request == message_id for request, _ in draft.progress):
                draft.due = 0.0  # progress must be sent before the answer

    def refuse_untimely(self, peer: str, message_id: str) -> None:
        """Tell a peer that its message was refused for its times, and what the time is here."""
        untimely = self._draft(peer).untimely
        if len(untimely) < MAX_RECEIPTS:
            untimely[message_id] = self._clock.now()

    def refuse(self, peer: str, message_id: str, reason: str) -> None:
        """Tell a peer why its message was not stored; it sends the message again."""
        draft = self._draft(peer)
        if len(draft.refused) < MAX_RECEIPTS:
            draft.refused[message_id] = reason

    def announce_skip(self, peer: str, endpoint: str, epoch: int, seq: int) -> None:
        """Tell a peer that no message before a position of our stream will come."""
        skips = self._draft(peer).skips
        if endpoint in skips or len(skips) < MAX_DRAFTED_STREAMS:
            skips[endpoint] = (endpoint, epoch, seq)

    def report_rewind(self, peer: str, endpoint: str, epoch: int, message_id: str, expected: Position) -> None:
        """Tell a peer that its message has the number of another one that we received before.

        Args:
            peer: the user id of the sender.
            endpoint: the endpoint of the stream.
            epoch: the epoch of the message.
            message_id: the id of the message.
            expected: the position at which the stream is here.
        """
        if self._rewinds.take((peer, endpoint)):
            draft = self._draft(peer)
            draft.rewound[endpoint] = (endpoint, epoch, message_id)
            draft.positions[endpoint] = (endpoint, expected.epoch, min(expected.seq, MAX_COUNT))

    def send_progress(self, peer: str, message_id: str, data: dict[str, Any]) -> None:
        """Tell a peer how far its call has got."""
        draft = self._draft(peer)
        if len(draft.progress) < MAX_PROGRESS_LINES:
            draft.progress.append((message_id, data))

    def request_missing(self, peer: str, endpoint: str) -> None:
        """Ask for the next message of an incoming stream, unless it arrives soon."""
        self._gaps.add((peer, endpoint))

    def request_more(self, peer: str, endpoint: str) -> None:
        """Ask soon for the next message of an incoming stream, because what was missing before has arrived."""
        self._gaps.restart((peer, endpoint))

    def request_all_missing(self) -> None:
        """Ask soon for everything that is missing, because requests were lost while the broker was away."""
        self._gaps.restart_all()

    def stop_requesting(self, peer: str, endpoint: str) -> None:
        """Stop asking for messages of an incoming stream, because it misses none any more."""
        self._gaps.remove((peer, endpoint))

    def is_requesting_from(self, peer: str) -> bool:
        """Return whether a message of any stream of a peer is asked for."""
        return self._gaps.has_any_of(peer)

    def next_due(self) -> float | None:
        """Return when the next notice is due, in the clock's elapsed seconds; None if there is none."""
        gap = self._gaps.next_due()
        if not self._drafts:
            return gap
        draft = min(draft.due for draft in self._drafts.values())
        return draft if gap is None else min(draft, gap)

    def take(self, max_bytes: int = MAX_NOTICE_BYTES) -> list[tuple[str, Notice]]:
        """Take the notices that are due now, as (peer, notice).

        Args:
            max_bytes: how large each may be, if that is less than its reader takes.
        """
        elapsed = self._clock.elapsed()
        gaps: dict[str, list[tuple[str, int, int]]] = {}
        for peer, endpoint in self._gaps.take(MAX_STREAM_LINES):
            position = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
            if position is not None:
                gaps.setdefault(peer, []).append((endpoint, position.epoch, min(position.seq, MAX_COUNT)))
        due_now = {
            peer for peer, draft in self._drafts.items() if draft.due <= elapsed or draft.receipts >= MAX_RECEIPTS
        }
        notices = []
        for peer in sorted(due_now | set(gaps)):
            draft = self._drafts.pop(peer, None) or _Draft(elapsed)
            notices += [(peer, notice) for notice in _split(peer, draft, gaps.get(peer, []), max_bytes)]
        return notices

    def _draft(self, peer: str) -> _Draft:
        draft = self._drafts.get(peer)
        if draft is None:
            draft = self._drafts[peer] = _Draft(self._clock.elapsed() + GATHER_S)
        return draft


def is_progress(data: dict[str, Any]) -> bool:
    """Return whether data may be sent as progress: it is JSON of at most MAX_PROGRESS_BYTES."""
    try:
        strict_json.check_numbers(data)
        return len(json.dumps(data, ensure_ascii=False).encode()) <= MAX_PROGRESS_BYTES
    except ValueError:
        return False


def _split(peer: str, draft: _Draft, gaps: list[tuple[str, int, int]], max_bytes: int) -> list[Notice]:
    """Return the notices that hold the lines of a draft, each within what its reader takes."""
    notices: list[dict[str, list[Any]]] = []
    space = receipts = 0
    for name, line, size in (*(("gaps", line, _STREAM_LINE_BYTES) for line in gaps), *draft.lines()):
        is_receipt = name in RECEIPTS
        is_full = size > space  # as at first, when there is no notice yet
        if is_full or (receipts >= MAX_RECEIPTS if is_receipt else len(notices[-1].get(name, ())) >= MAX_STREAM_LINES):
            notices.append({})
            space, receipts = min(MAX_NOTICE_BYTES, max_bytes) - _EMPTY_NOTICE_BYTES, 0
        notices[-1].setdefault(name, []).append(line)
        space -= size
        receipts += is_receipt
    return [Notice.model_validate({"to": peer, **lines}) for lines in notices]
