"""The states of a message, and the only legal moves between them.

Two rules: only this file decides which moves are legal, and it does not know how states are stored.
`scripts/diagram` draws `docs/lifecycle.md` from these tables, and a test compares the two.
"""

from __future__ import annotations

from enum import StrEnum


class IncomingState(StrEnum):
    """A request that we received."""

    BLOCKED = "blocked"
    """An earlier message of its stream has not arrived yet."""
    HELD = "held"
    """Its sender is unknown; it waits in `requests` for the owner's decision."""
    READY = "ready"
    """It waits for a worker, or runs on one."""
    ASKED = "asked"
    """It waits in the inbox for the human's answer."""
    AWAITING_REPLY = "kept"
    """Its run ended without an answer; a later run of the same instance may answer it."""
    DONE = "done"
    """Its effect is stored, and a call was answered."""
    FAILED = "failed"
    """Its sender was sent an error."""
    DEAD = "dead"
    """Its worker died at every attempt; the owner can retry it."""
    EXPIRED = "expired"
    """Its deadline passed before anything else ended it."""


class OutgoingState(StrEnum):
    """A message that we send."""

    PENDING = "pending"
    """It is sent again and again until its recipient confirms that it is stored."""
    STORED = "stored"
    """Its recipient has stored it, and we wait for the answer."""
    DONE = "done"
    """It was answered; or it wants no answer, and its recipient has stored it."""
    FAILED = "failed"
    """It was answered with an error."""
    EXPIRED = "expired"
    """Its deadline passed before anything else ended it."""
    CANCELLED = "cancelled"
    """Its sender withdrew it."""


class PromptState(StrEnum):
    """A question to the human."""

    OPEN = "open"
    ANSWERED = "answered"
    DECLINED = "declined"
    DISMISSED = "dismissed"
    """It was a note, which wants no answer, and the human has put it away."""
    DELEGATED = "delegated"
    """The human has named somebody else who is to answer it."""
    EXPIRED = "expired"
    CANCELLED = "cancelled"


class QuestionState(StrEnum):
    """A question that we ask other humans."""

    OPEN = "open"
    """Nobody's answer, and no end, has decided it yet."""
    ANSWERED = "answered"
    """A human has answered, and signed it."""
    DECLINED = "declined"
    """A human does not want to answer."""
    EXPIRED = "expired"
    """Its deadline passed, and nobody had answered."""
    CANCELLED = "cancelled"
    """Its asker withdrew it."""
    DELEGATED = "delegated"
    """A human has passed it on, and it ended here with that."""
    DEFAULTED = "defaulted"
    """Nobody had answered at its deadline, and its asker had said what holds then."""
    FAILED = "failed"
    """It could not be asked; the error says why."""


class FileState(StrEnum):
    """A file beside messages."""

    HERE = "here"
    """Its bytes are on this disk."""
    WANTED = "wanted"
    """It is being fetched, or is next."""
    OFFERED = "offered"
    """It can be fetched, if the user wants it."""
    FAILED = "failed"
    """It could not be fetched; its error says why."""


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
            {
                OutgoingState.PENDING,
                OutgoingState.DONE,
                OutgoingState.FAILED,
                OutgoingState.EXPIRED,
                OutgoingState.CANCELLED,
            }
        ),
        OutgoingState.DONE: frozenset({OutgoingState.FAILED}),
        OutgoingState.FAILED: frozenset(),
        OutgoingState.EXPIRED: frozenset(),
        OutgoingState.CANCELLED: frozenset(),
    },
    PromptState: {
        PromptState.OPEN: frozenset(
            {
                PromptState.ANSWERED,
                PromptState.DECLINED,
                PromptState.DISMISSED,
                PromptState.DELEGATED,
                PromptState.EXPIRED,
                PromptState.CANCELLED,
            }
        ),
        PromptState.ANSWERED: frozenset(),
        PromptState.DECLINED: frozenset(),
        PromptState.DISMISSED: frozenset(),
        PromptState.DELEGATED: frozenset(),
        PromptState.EXPIRED: frozenset(),
        PromptState.CANCELLED: frozenset(),
    },
    QuestionState: {
        QuestionState.OPEN: frozenset(QuestionState) - {QuestionState.OPEN},
        **{state: frozenset() for state in QuestionState if state != QuestionState.OPEN},
    },
}
"""The legal moves, by the kind of state, the old state and the new one.

Each kind has its own table, because states of two kinds are equal if they have the same name. A post is done once its
recipient has stored it, and may still fail there later. A stored call is pending again when its recipient misses it,
because its journal was replaced by an older copy.
"""

OPEN_INCOMING = frozenset(
    {IncomingState.BLOCKED, IncomingState.HELD, IncomingState.READY, IncomingState.ASKED, IncomingState.AWAITING_REPLY}
)
"""The states of a request that still waits for something; its deadline ends it."""
OPEN_OUTGOING = frozenset({OutgoingState.PENDING, OutgoingState.STORED})
"""The states of a message of ours that still waits for something; its deadline ends it."""


def may_become(new: IncomingState | OutgoingState | PromptState | QuestionState) -> list[StrEnum]:
    """Return the states from which one legal move leads to `new`."""
    return [old for old, moves in MOVES[type(new)].items() if new in moves]
