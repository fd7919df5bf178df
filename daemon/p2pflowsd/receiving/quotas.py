"""Quotas: how much of the journal each peer may fill, in rows and bytes, and how much strangers may together.

What the owner's own flows and commands send has a quota of its own, so nobody takes room from another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from p2pflows.contacts import Contacts
from p2pflows.settings.limits import Limits
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import UsageRow

MAX_FORGOTTEN = 100
"""How many ended questions of a peer one message may push out."""
STRANGERS_COUNTED_EVERY_S = 1.0
POSTS_PART = 0.9
"""How much of a quota posts may fill. The rest is left for calls, for whose answers somebody waits."""
NEAR = 0.8
"""From this part of a limit on, `status` shows it."""


@dataclass(frozen=True, slots=True)
class Fill:
    """How full one limit is.

    Attributes:
        limit: its name.
        what: what it counts.
        used: how much there is.
        most: how much there may be.
    """

    limit: str
    what: str
    used: int
    most: int

    @property
    def part(self) -> float:
        """How much of the limit is used; 1 is all."""
        return self.used / self.most


class Quotas:
    """Decides whether there is room for a request of a peer."""

    def __init__(self, *, user: str, limits: Limits, journal: Journal, contacts: Contacts, clock: Clock) -> None:
        self._user = user
        self._limits = limits
        self._usage = journal.usage
        self._contacts = contacts
        self._clock = clock
        self._strangers_bytes = 0
        self._strangers_remembered = 0
        self._count_strangers_at = 0.0

    def has_room(self, peer: str, size: int, *, is_post: bool = False) -> bool:
        """Return whether a request of a peer may be stored.

        Questions of the peer that have ended give way.

        Args:
            peer: its sender.
            size: the bytes of its body.
            is_post: whether nobody waits for an answer.
        """
        part = POSTS_PART if is_post else 1.0
        usage = self._usage.of(peer)
        if not self._is_known(peer) and not self._strangers_have_room(size):
            return False
        if not self._has_rows(usage, part):
            return False
        most = self._most_bytes(peer) * part
        if usage.bytes + size <= most:
            return True
        self._usage.forget_ended_questions(peer, MAX_FORGOTTEN)
        return self._usage.of(peer).bytes + size <= most

    def fills(self, usage: UsageRow) -> list[Fill]:
        """Return how full each limit of one peer is."""
        limits = self._limits
        if usage.peer == self._user:
            return [
                Fill("own_requests", "requests", usage.requests, limits.own_requests),
                Fill("own_bytes", "bytes", usage.bytes, limits.own_bytes),
            ]
        if not self._is_known(usage.peer):
            waiting = usage.blocked + usage.held
            return [
                Fill("requests_per_stranger", "requests", waiting, limits.requests_per_stranger),
                Fill("answers_per_stranger", "answers", usage.answers, limits.answers_per_stranger),
                Fill("bytes_per_stranger", "bytes", usage.bytes, limits.bytes_per_stranger),
            ]
        return [
            Fill("requests_per_contact", "requests", usage.requests, limits.requests_per_contact),
            Fill("blocked_per_contact", "blocked", usage.blocked, limits.blocked_per_contact),
            Fill("questions_per_contact", "questions", usage.questions, limits.questions_per_contact),
            Fill("answers_per_contact", "answers", usage.answers, limits.answers_per_contact),
            Fill("remembered_per_contact", "remembered", usage.remembered, limits.remembered_per_contact),
            Fill("bytes_per_contact", "bytes", usage.bytes, limits.bytes_per_contact),
        ]

    def status(self, most: int) -> dict[str, Any]:
        """Return what each peer fills, the fullest first, and what the strangers fill together.

        Args:
            most: how many peers are listed.
        """
        shown = [(row, self.fills(row)) for row in self._usage.all()]
        shown.sort(key=lambda each: -max(fill.part for fill in each[1]))
        strangers = [row for row, _ in shown if not self._is_known(row.peer)]
        return {
            "peers": [
                {
                    "user": row.peer,
                    **{name: value for name, value in row._asdict().items() if name != "peer"},
                    "near": [
                        {"limit": fill.limit, "what": fill.what, "used": fill.used, "most": fill.most}
                        for fill in fills
                        if fill.part >= NEAR
                    ],
                }
                for row, fills in shown[:most]
            ],
            "strangers": {
                "peers": len(strangers),
                "requests": sum(row.blocked + row.held for row in strangers),
                "bytes": sum(row.bytes for row in strangers),
            },
            "limits": self._limits.model_dump(),
        }

    def _has_rows(self, usage: UsageRow, part: float) -> bool:
        """Whether a peer may have one more request; limits for some states are checked where the state is known."""
        limits = self._limits
        if usage.peer == self._user:
            return usage.requests < limits.own_requests * part
        if not self._is_known(usage.peer):
            return usage.answers < limits.answers_per_stranger
        return (
            usage.requests < limits.requests_per_contact * part
            and usage.answers < limits.answers_per_contact
            and usage.remembered < limits.remembered_per_contact
        )

    def _most_bytes(self, peer: str) -> int:
        if peer == self._user:
            return self._limits.own_bytes
        return self._limits.bytes_per_contact if self._is_known(peer) else self._limits.bytes_per_stranger

    def _strangers_have_room(self, size: int) -> bool:
        now = self._clock.elapsed()
        if now >= self._count_strangers_at:
            self._count_strangers_at = now + STRANGERS_COUNTED_EVERY_S
            strangers = [row for row in self._usage.all() if not self._is_known(row.peer)]
            self._strangers_bytes = sum(row.bytes for row in strangers)
            self._strangers_remembered = sum(row.remembered for row in strangers)
        self._strangers_bytes += size
        return (
            self._strangers_bytes <= self._limits.bytes_of_strangers
            and self._strangers_remembered < self._limits.remembered_of_strangers
        )

    def _is_known(self, peer: str) -> bool:
        return peer == self._user or peer in self._contacts.known.by_user
