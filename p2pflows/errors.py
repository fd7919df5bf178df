"""What can go wrong, as one small tree.

P2pflowsError
├── UsageError          you gave something we cannot use           exit 2
├── DaemonNotRunning    no daemon listens on this home's socket    exit 3
├── JournalFailed       the daemon's disk is full or failing       exit 1
└── CallError           a message did not get the answer it wanted, one class per kind
    ├── UnknownUser     nobody with that user id or name           exit 3
    ├── Unreachable     their daemon did not take the message      exit 3
    ├── NotServed       they do not serve that endpoint            exit 1
    ├── NotAllowed      they do not let you call it                exit 4
    ├── BadInput        the data does not fit                      exit 2
    ├── TooLarge        the data is over the size limit            exit 2
    ├── FlowFailed      the flow raised, or its command failed     exit 1
    ├── WorkerLost      its worker died at every attempt           exit 1
    ├── NoWorker        no worker serves its dispatch point        exit 3
    ├── Declined        the human said no                          exit 1
    ├── Cancelled       somebody withdrew it                       exit 1
    └── DeadlinePassed  no answer in time                          exit 5

Kinds travel on the wire as their `kind` text; `docs/PROTOCOL.md` lists them.
"""

from __future__ import annotations

from typing import ClassVar


class P2pflowsError(Exception):
    """Something went wrong.

    Args:
        message: one sentence for a person.
        hint: what to do next, one sentence, may be empty.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = str(message)
        self.hint = str(hint)

    def as_json(self) -> dict[str, str]:
        """The error as the one JSON object that `--json` prints."""
        return {"code": self.kind, "message": self.message, "hint": self.hint}

    def as_told(self, longest: int | None = None) -> dict[str, str]:
        """The error as peers and workers are told it (docs/PROTOCOL.md).

        Args:
            longest: most characters of the message, and of the hint; None for all.
        """
        return {"kind": self.kind, "message": self.message[:longest], "hint": self.hint[:longest]}


class UsageError(P2pflowsError):
    """You gave something we cannot use: an argument, a file, a setting."""

    kind = "usage"
    exit_code = 2


class DaemonNotRunning(P2pflowsError):
    """No daemon listens on this home's socket."""

    kind = "daemon_not_running"
    exit_code = 3


class JournalFailed(P2pflowsError):
    """The daemon's disk does not take what has to be kept."""

    kind = "disk"


class CallError(P2pflowsError):
    """A message did not get the answer it wanted."""


class UnknownUser(CallError):
    """Nobody with that user id, or no contact with that name."""

    kind = "unknown_user"
    exit_code = 3


class Unreachable(CallError):
    """Their daemon did not take the message before the deadline."""

    kind = "unreachable"
    exit_code = 3


class NotServed(CallError):
    """They do not serve that endpoint."""

    kind = "not_served"


class NotAllowed(CallError):
    """They do not let you call that endpoint."""

    kind = "not_allowed"
    exit_code = 4


class BadInput(CallError):
    """The data does not fit what the endpoint takes."""

    kind = "bad_input"
    exit_code = 2


class TooLarge(CallError):
    """The data is over the size limit."""

    kind = "too_large"
    exit_code = 2


class FlowFailed(CallError):
    """The flow raised, or its command ended with a non-zero exit code."""

    kind = "flow_failed"


class WorkerLost(CallError):
    """The worker died at every attempt to run it."""

    kind = "worker_lost"


class NoWorker(CallError):
    """No worker serves the endpoint's dispatch point."""

    kind = "no_worker"
    exit_code = 3


class Declined(CallError):
    """The human declined."""

    kind = "declined"


class Cancelled(CallError):
    """The message was withdrawn before it was answered."""

    kind = "cancelled"


class DeadlinePassed(CallError):
    """No answer came before the deadline."""

    kind = "deadline"
    exit_code = 5


BY_KIND: dict[str, type[P2pflowsError]] = {
    error.kind: error
    for error in (
        UsageError,
        DaemonNotRunning,
        JournalFailed,
        UnknownUser,
        Unreachable,
        NotServed,
        NotAllowed,
        BadInput,
        TooLarge,
        FlowFailed,
        WorkerLost,
        NoWorker,
        Declined,
        Cancelled,
        DeadlinePassed,
    )
}


def from_kind(kind: str, message: str, hint: str = "") -> P2pflowsError:
    """Rebuild an error from its kind; one this version does not know is a plain CallError."""
    return BY_KIND.get(kind, CallError)(message, hint)


def ran_differently() -> FlowFailed:
    """The error of a run that began again and did not ask for what it had asked before."""
    return FlowFailed(
        "It ran differently than before its worker died, so it cannot go on.",
        "Let its runs depend on nothing but their message and state; wrap the rest in self.step().",
    )


def from_peer(content: object) -> CallError:
    """The error in another user's answer; only kinds that an answer may have, all else is a plain CallError."""
    fields = content if isinstance(content, dict) else {}
    kind, message, hint = (str(fields.get(name, "")) for name in ("kind", "message", "hint"))
    known = BY_KIND.get(kind, CallError)
    return (known if issubclass(known, CallError) else CallError)(message or "No reason was given.", hint)
