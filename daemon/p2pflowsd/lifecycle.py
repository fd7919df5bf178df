"""The states of a message, and the only legal moves between them.

Two rules: nothing outside this file decides which moves are legal, and this file knows nothing of how states are
stored. `docs/lifecycle.md` is drawn from these tables; a test keeps it so.
"""

from __future__ import annotations

from enum import StrEnum


class IncomingState(StrEnum):
    """A request that came to us."""

    BLOCKED = "blocked"
    """An earlier message of its stream has not come yet."""
    HELD = "held"
    """Its sender is unknown and waits in `requests`."""
    READY = "ready"
    """It has its turn: it waits for a worker, or runs on one."""
    ASKED = "asked"
    """It is a prompt in the inbox."""
    AWAITING_REPLY = "kept"
    """Its run ended without an answer, which a later run of the same instance may give."""
    DONE = "done"
    """Its effect is kept."""
    FAILED = "failed"
    """It was answered with an error."""
    DEAD = "dead"
    """Its worker died at every attempt; it can be retried."""
    EXPIRED = "expired"
    """Its deadline passed first."""


class OutgoingState(StrEnum):
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


class PromptState(StrEnum):
    """A question to the human."""

    OPEN = "open"
    ANSWERED = "answered"
    DECLINED = "declined"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


MOVES: dict[type[StrEnum], dict[StrEnum, frozenset[StrEnum]]] = {
    IncomingState: {
        IncomingState.BLOCKED: frozenset({IncomingState.READY, IncomingState.EXPIRED}),
        IncomingState.HELD: frozenset({IncomingState.READY, IncomingState.FAILED, IncomingState.EXPIRED}),
        IncomingState.READY: frozenset(
            {
                IncomingState.HELD,
                IncomingState.ASKED,
                IncomingState.AWAITING_REPLY,
                IncomingState.DONE,
                IncomingState.FAILED,
                IncomingState.DEAD,
                IncomingState.EXPIRED,
            }
        ),
        IncomingState.ASKED: frozenset({IncomingState.DONE, IncomingState.FAILED, IncomingState.EXPIRED}),
        IncomingState.AWAITING_REPLY: frozenset({IncomingState.DONE, IncomingState.FAILED, IncomingState.EXPIRED}),
        IncomingState.DEAD: frozenset({IncomingState.READY}),
        IncomingState.DONE: frozenset(),
        IncomingState.FAILED: frozenset(),
        IncomingState.EXPIRED: frozenset(),
    },
    OutgoingState: {
        OutgoingState.PENDING: frozenset(
            {
                OutgoingState.STORED,
                OutgoingState.DONE,
                OutgoingState.FAILED,
                OutgoingState.EXPIRED,
                OutgoingState.CANCELLED,
            }
        ),
        OutgoingState.STORED: frozenset(
            {OutgoingState.DONE, OutgoingState.FAILED, OutgoingState.EXPIRED, OutgoingState.CANCELLED}
        ),
        OutgoingState.DONE: frozenset({OutgoingState.FAILED}),
        OutgoingState.FAILED: frozenset(),
        OutgoingState.EXPIRED: frozenset(),
        OutgoingState.CANCELLED: frozenset(),
    },
    PromptState: {
        PromptState.OPEN: frozenset(
            {PromptState.ANSWERED, PromptState.DECLINED, PromptState.EXPIRED, PromptState.CANCELLED}
        ),
        PromptState.ANSWERED: frozenset(),
        PromptState.DECLINED: frozenset(),
        PromptState.EXPIRED: frozenset(),
        PromptState.CANCELLED: frozenset(),
    },
}
"""A table for each kind of thing, as states of the same name are equal. A post counts as done once stored, and may
still turn out to have failed there."""

OPEN_INCOMING = frozenset(
    {IncomingState.BLOCKED, IncomingState.HELD, IncomingState.READY, IncomingState.ASKED, IncomingState.AWAITING_REPLY}
)
OPEN_OUTGOING = frozenset({OutgoingState.PENDING, OutgoingState.STORED})


def may_become(new: IncomingState | OutgoingState | PromptState) -> list[StrEnum]:
    """The states from which `new` can be reached in one move."""
    return [old for old, moves in MOVES[type(new)].items() if new in moves]
