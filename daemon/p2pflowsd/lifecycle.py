"""The states of a message, and the only legal moves between them.

Two rules: nothing outside this file decides which moves are legal, and this file knows nothing of how states are
stored. `docs/lifecycle.md` is drawn from these tables; a test keeps it so.
"""

from __future__ import annotations

from enum import StrEnum


class Incoming(StrEnum):
    """A request that came to us."""

    BLOCKED = "blocked"
    """An earlier message of its stream has not come yet."""
    HELD = "held"
    """Its sender is unknown and waits in `requests`."""
    READY = "ready"
    """It has its turn: it waits for a worker, or runs on one."""
    ASKED = "asked"
    """It is a prompt in the inbox."""
    KEPT = "kept"
    """Its run ended without an answer, which a later run of the same instance may give."""
    DONE = "done"
    """Its effect is kept."""
    FAILED = "failed"
    """It was answered with an error."""
    DEAD = "dead"
    """Its worker died at every attempt; it can be retried."""
    EXPIRED = "expired"
    """Its deadline passed first."""


class Outgoing(StrEnum):
    """A message that we send."""

    PENDING = "pending"
    """Sent again and again until its recipient says that it is stored."""
    STORED = "stored"
    """The recipient has committed it; a call now waits for its answer."""
    DONE = "done"
    """Answered; or stored, where no answer is wanted."""
    FAILED = "failed"
    """Answered with an error."""
    EXPIRED = "expired"
    """Its deadline passed first."""
    CANCELLED = "cancelled"
    """Withdrawn by its sender."""


class Prompt(StrEnum):
    """A question to the human."""

    OPEN = "open"
    ANSWERED = "answered"
    DECLINED = "declined"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


MOVES: dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]] = {
    Incoming: {
        Incoming.BLOCKED: frozenset({Incoming.READY, Incoming.EXPIRED}),
        Incoming.HELD: frozenset({Incoming.READY, Incoming.FAILED, Incoming.EXPIRED}),
        Incoming.READY: frozenset(
            {
                Incoming.HELD,
                Incoming.ASKED,
                Incoming.KEPT,
                Incoming.DONE,
                Incoming.FAILED,
                Incoming.DEAD,
                Incoming.EXPIRED,
            }
        ),
        Incoming.ASKED: frozenset({Incoming.DONE, Incoming.FAILED, Incoming.EXPIRED}),
        Incoming.KEPT: frozenset({Incoming.DONE, Incoming.FAILED, Incoming.EXPIRED}),
        Incoming.DEAD: frozenset({Incoming.READY}),
        Incoming.DONE: frozenset(),
        Incoming.FAILED: frozenset(),
        Incoming.EXPIRED: frozenset(),
    },
    Outgoing: {
        Outgoing.PENDING: frozenset(
            {Outgoing.STORED, Outgoing.DONE, Outgoing.FAILED, Outgoing.EXPIRED, Outgoing.CANCELLED}
        ),
        Outgoing.STORED: frozenset({Outgoing.DONE, Outgoing.FAILED, Outgoing.EXPIRED, Outgoing.CANCELLED}),
        Outgoing.DONE: frozenset({Outgoing.FAILED}),
        Outgoing.FAILED: frozenset(),
        Outgoing.EXPIRED: frozenset(),
        Outgoing.CANCELLED: frozenset(),
    },
    Prompt: {
        Prompt.OPEN: frozenset({Prompt.ANSWERED, Prompt.DECLINED, Prompt.EXPIRED, Prompt.CANCELLED}),
        Prompt.ANSWERED: frozenset(),
        Prompt.DECLINED: frozenset(),
        Prompt.EXPIRED: frozenset(),
        Prompt.CANCELLED: frozenset(),
    },
}
"""A table for each kind of thing, as states of the same name are equal. A post counts as done once stored, and may
still turn out to have failed there."""

LIVE_INCOMING = frozenset({Incoming.BLOCKED, Incoming.HELD, Incoming.READY, Incoming.ASKED, Incoming.KEPT})
LIVE_OUTGOING = frozenset({Outgoing.PENDING, Outgoing.STORED})


def may_become(new: Incoming | Outgoing | Prompt) -> list[StrEnum]:
    """The states from which `new` can be reached in one move."""
    return [old for old, moves in MOVES[type(new)].items() if new in moves]
