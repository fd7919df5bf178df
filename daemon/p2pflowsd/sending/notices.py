"""What we owe other daemons: receipts, and repairs of streams; gathered for a moment, then sent as one notice each.

A receipt that an answer makes needless is not sent. Whatever is lost is asked for again by whoever misses it.
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
"""Seconds that a receipt waits for company, or for an answer that makes it needless."""
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
    skips: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    rewound: list[tuple[str, int, str]] = field(default_factory=list)
    progress: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class Notices:
    """Drafts by peer, and the streams that wait for something."""

    def __init__(self, journal: Journal, clock: Clock) -> None:
        self._journal = journal
        self._clock = clock
        self._drafts: dict[str, _Draft] = {}
        self._gaps: dict[tuple[str, str], tuple[float, int]] = {}

    def received(self, peer: str, message_id: str, *, held: bool = False, waiting: bool = False) -> None:
        """Say that a message is committed."""
        draft = self._draft(peer)
        for ids, here in ((draft.received, not held and not waiting), (draft.held, held), (draft.waiting, waiting)):
            if here:
                ids[message_id] = None
            else:
                ids.pop(message_id, None)

    def answered(self, peer: str, message_id: str) -> None:
        """An answer leaves, which says it all."""
        draft = self._drafts.get(peer)
        if draft is not None:
            for ids in (draft.received, draft.held, draft.waiting):
                ids.pop(message_id, None)
            if any(told == message_id for told, _ in draft.progress):
                draft.due = 0.0  # what was told before the answer leaves before it

    def skip(self, peer: str, endpoint: str, epoch: int, seq: int) -> None:
        """Say that nothing before a place will come."""
        self._draft(peer).skips[endpoint] = (endpoint, epoch, seq)

    def rewound(self, peer: str, endpoint: str, epoch: int, message_id: str) -> None:
        """Say that a message took a place that another had."""
        draft = self._draft(peer)
        if len(draft.rewound) < MAX_IDS:
            draft.rewound.append((endpoint, epoch, message_id))

    def progress(self, peer: str, message_id: str, data: dict[str, Any]) -> None:
        """Say how a call gets on."""
        draft = self._draft(peer)
        if len(draft.progress) < MAX_PROGRESS_LINES:
            draft.progress.append((message_id, data))

    def blocked(self, peer: str, endpoint: str) -> None:
        """A stream waits for a message; ask for it if it does not come soon."""
        self._gaps.setdefault((peer, endpoint), (self._clock.elapsed() + GAP_BACKOFF.delay_s(0), 0))

    def link_up(self) -> None:
        """The broker answers again: what was asked for in the meantime went nowhere, so ask anew."""
        self._gaps = dict.fromkeys(self._gaps, (self._clock.elapsed() + GAP_BACKOFF.delay_s(0), 0))

    def unblocked(self, peer: str, endpoint: str) -> None:
        """A stream waits no more."""
        self._gaps.pop((peer, endpoint), None)

    def is_blocked(self, peer: str, endpoint: str) -> bool:
        """Whether a stream waits for a message."""
        return (peer, endpoint) in self._gaps

    def next_due(self) -> float | None:
        """When something is to be sent, in the clock's elapsed seconds."""
        if not (self._drafts or self._gaps):
            return None
        return min(
            (*(draft.due for draft in self._drafts.values()), *(due for due, _ in self._gaps.values())), default=None
        )

    def take(self) -> list[tuple[str, Notice]]:
        """What is due now, once."""
        if not (self._drafts or self._gaps):
            return []
        elapsed = self._clock.elapsed()
        gaps: dict[str, list[tuple[str, int, int]]] = {}
        for (peer, endpoint), (due, times_asked) in list(self._gaps.items()):
            place = self._journal.streams.get(Direction.INCOMING, peer, endpoint)
            if due <= elapsed and place is not None:
                self._gaps[peer, endpoint] = (elapsed + GAP_BACKOFF.delay_s(times_asked + 1), times_asked + 1)
                gaps.setdefault(peer, []).append((endpoint, *place))
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
