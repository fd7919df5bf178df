"""Receipts for other daemons, and repairs of streams; collected for a moment, then sent as one notice to each peer.

An answer replaces the receipt of its request. A notice that is lost does no harm: the peer that misses something in it
asks again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from p2pflows.backoff import Backoff
from p2pflows.protocol.message import Notice
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.streams import Direction

GATHER_S = 0.025
"""How long a receipt waits so that others travel in the same notice, or for an answer that replaces it."""
GAP_BACKOFF = Backoff(initial_s=0.5, max_s=300.0)
"""When a message that a stream waits for is asked for, and asked for again."""
MAX_IDS = 2_000
MAX_PROGRESS_LINES = 100


@dataclass(slots=True)
class _Draft:
    due: float
    received: dict[str, None] = field(default_factory=dict)
    held: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, None] = field(default_factory=dict)
    untimely: dict[str, int] = field(default_factory=dict)
    skips: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rewound: list[tuple[str, int, str]] = field(default_factory=list)
    progress: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Notices:
    """The drafts of notices by peer, and the incoming streams that miss a message."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._drafts: dict[str, _Draft] = {}
        self._gaps: dict[tuple[str, str], tuple[float, int]] = {}

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
        if len(untimely) < MAX_IDS:
            untimely[message_id] = self._clock.now()

    def announce_skip(self, peer: str, endpoint: str, epoch: int, seq: int) -> None:
        """Tell a peer that no message before a position of our stream will come."""
        self._draft(peer).skips[endpoint] = (endpoint, epoch, seq)

    def report_rewind(self, peer: str, endpoint: str, epoch: int, message_id: str) -> None:
        """Tell a peer that its message has the number of another one that we received before."""
        draft = self._draft(peer)
        if len(draft.rewound) < MAX_IDS:
            draft.rewound.append((endpoint, epoch, message_id))

    def send_progress(self, peer: str, message_id: str, data: dict[str, Any]) -> None:
        """Tell a peer how far its call has got."""
        draft = self._draft(peer)
        if len(draft.progress) < MAX_PROGRESS_LINES:
            draft.progress.append((message_id, data))

    def request_missing(self, peer: str, endpoint: str) -> None:
        """Ask for the next message of an incoming stream, unless it arrives soon."""
        self._gaps.setdefault((peer, endpoint), (self._clock.elapsed() + GAP_BACKOFF.delay_s(0), 0))

    def request_all_missing(self) -> None:
        """Ask soon for everything that is missing, because requests were lost while the broker was away."""
        self._gaps = dict.fromkeys(self._gaps, (self._clock.elapsed() + GAP_BACKOFF.delay_s(0), 0))

    def stop_requesting(self, peer: str, endpoint: str) -> None:
        """Stop asking for messages of an incoming stream, because it misses none any more."""
        self._gaps.pop((peer, endpoint), None)

    def is_requesting(self, peer: str, endpoint: str) -> bool:
        """Return whether an incoming stream misses a message, which is asked for."""
        return (peer, endpoint) in self._gaps

    def next_due(self) -> float | None:
        """Return when the next notice is due, in the clock's elapsed seconds; None if there is none."""
        if not (self._drafts or self._gaps):
            return None
        return min((*(draft.due for draft in self._drafts.values()), *(due for due, _ in self._gaps.values())))

    def take(self) -> list[tuple[str, Notice]]:
        """Take the notices that are due now, as (peer, notice)."""
        if not (self._drafts or self._gaps):
            return []
        elapsed = self._clock.elapsed()
        gaps: dict[str, list[tuple[str, int, int]]] = {}
        for (peer, endpoint), (due, times_asked) in list(self._gaps.items()):
            position = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
            if due <= elapsed and position is not None:
                self._gaps[peer, endpoint] = (elapsed + GAP_BACKOFF.delay_s(times_asked + 1), times_asked + 1)
                gaps.setdefault(peer, []).append((endpoint, *position))
        due_now = {
            peer for peer, draft in self._drafts.items() if draft.due <= elapsed or len(draft.received) >= MAX_IDS
        }
        notices = []
        for peer in sorted(due_now | set(gaps)):
            draft = self._drafts.pop(peer, None) or _Draft(elapsed)
            notice = Notice(
                to=peer,
                received=list(draft.received),
                held=list(draft.held),
                waiting=list(draft.waiting),
                untimely=list(draft.untimely.items()),
                gaps=gaps.get(peer, []),
                skips=list(draft.skips.values()),
                rewound=draft.rewound,
                progress=draft.progress,
            )
            if notice != Notice(to=peer):
                notices.append((peer, notice))
        return notices

    def _draft(self, peer: str) -> _Draft:
        draft = self._drafts.get(peer)
        if draft is None:
            draft = self._drafts[peer] = _Draft(self._clock.elapsed() + GATHER_S)
        return draft
