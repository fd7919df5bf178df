"""The errors of p2pflows.

P2pflowsError
├── UsageError          an argument, file or setting is wrong      exit 2
├── DaemonNotRunning    no daemon listens on the home's socket     exit 3
├── JournalFailed       the disk does not take the change          exit 1
└── CallError           a call or message failed; a class per kind
    ├── UnknownUser     no such user id or contact                 exit 3
    ├── Unreachable     the other daemon did not get the message   exit 3
    ├── NotServed       the other user does not serve the endpoint exit 1
    ├── NotAllowed      the other user does not allow the call     exit 4
    ├── Busy            a limit is reached: come again later       exit 6
    ├── BadInput        the endpoint does not accept the data      exit 2
    ├── TooLarge        the data is over the size limit            exit 2
    ├── OverQuota       there is no room for the files             exit 1
    ├── FileLost        a file of the message cannot be had        exit 1
    ├── FlowFailed      the flow raised, or its command failed     exit 1
    ├── WorkerLost      the worker died at every attempt           exit 1
    ├── NoWorker        no worker runs for the dispatch point      exit 3
    ├── Declined        the human declined                         exit 1
    ├── Delegated       the human has passed the question on       exit 1
    ├── Cancelled       the call was cancelled                     exit 1
    ├── BadAnswer       the human's answer is not what was asked   exit 1
    ├── Undecided       those who were asked do not agree          exit 1
    └── DeadlinePassed  no answer arrived in time                  exit 5

On the wire, an error is named by its `kind`; docs/PROTOCOL.md lists all kinds.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self


class P2pflowsError(Exception):
    """The base class of all errors of p2pflows.

    Args:
        message: what failed, as one sentence.
        hint: what the user can do next, as one sentence; may be empty.

    Attributes:
        kind: the name of the error in JSON and on the wire.
        exit_code: the exit code of a command that fails with this error.
        user: the id of the other user whose daemon or flow chose the words; empty if they are ours.
        name: the petname of that user, if they are a contact.
        details: the whole cause, for the owner of the flow that failed and nobody else; empty if the message says it.
    """

    kind: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1
    user: str = ""
    name: str | None = None
    details: str = ""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = str(message)
        self.hint = str(hint)

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return {"code": self.kind, "message": self.message, "hint": self.hint}

    def as_reply(self) -> dict[str, Any]:
        """Return the object that the control API returns; it also says whose words they are, if not ours."""
        about = {"from": self.user, "name": self.name} if self.user else {}
        return {**self.as_json(), **about}

    def said_by(self, user: str, name: str | None = None) -> Self:
        """Mark the words of this error as those of another user, and return it."""
        self.user, self.name = user, name
        return self

    def as_wire(self, max_chars: int | None = None) -> dict[str, Any]:
        """Return the object that goes to other daemons and to workers (docs/PROTOCOL.md).

        Args:
            max_chars: the limit for the message, and for the hint; None for no limit.
        """
        return {"kind": self.kind, "message": self.message[:max_chars], "hint": self.hint[:max_chars]}


class UsageError(P2pflowsError):
    """An argument, a file or a setting is wrong."""

    kind = "usage"
    exit_code = 2


class DaemonNotRunning(P2pflowsError):
    """No daemon listens on the home's socket."""

    kind = "daemon_not_running"
    exit_code = 3


class JournalFailed(P2pflowsError):
    """The daemon cannot write its journal or its files, because the disk is full or failing."""

    kind = "disk"


class CallError(P2pflowsError):
    """A call or message failed."""


class UnknownUser(CallError):
    """There is no user with that id, or no contact with that name."""

    kind = "unknown_user"
    exit_code = 3


class Unreachable(CallError):
    """The recipient's daemon did not receive the message before the deadline."""

    kind = "unreachable"
    exit_code = 3


class NotServed(CallError):
    """The recipient does not serve the endpoint."""

    kind = "not_served"


class NotAllowed(CallError):
    """The recipient does not allow you to call the endpoint."""

    kind = "not_allowed"
    exit_code = 4


class Busy(CallError):
    """A limit of the endpoint is reached.

    Args:
        message: which limit, as one sentence.
        hint: what the user can do next.
        retry_after_s: after how many seconds there may be room again; 0 if that is not known.
    """

    kind = "busy"
    exit_code = 6

    def __init__(self, message: str, hint: str = "", *, retry_after_s: int = 0) -> None:
        super().__init__(message, hint)
        self.retry_after_s = retry_after_s

    def as_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints: also when to come again."""
        return {**super().as_json(), **self._when()}

    def as_wire(self, max_chars: int | None = None) -> dict[str, Any]:
        """Return the object that goes to other daemons: also when to come again."""
        return {**super().as_wire(max_chars), **self._when()}

    def _when(self) -> dict[str, int]:
        return {"retry_after_s": self.retry_after_s} if self.retry_after_s else {}


class BadInput(CallError):
    """The endpoint does not accept the data."""

    kind = "bad_input"
    exit_code = 2


class TooLarge(CallError):
    """The data is over the size limit."""

    kind = "too_large"
    exit_code = 2


class OverQuota(CallError):
    """There is no room for the files of a message, here or at its recipient."""

    kind = "over_quota"


class FileLost(CallError):
    """A file that a message refers to is not there any more, or is not what it should be."""

    kind = "no_file"


class FlowFailed(CallError):
    """The flow raised an exception, or its command ended with a non-zero exit code."""

    kind = "flow_failed"


class WorkerLost(CallError):
    """The worker died at every attempt to run the flow."""

    kind = "worker_lost"


class NoWorker(CallError):
    """No worker runs for the endpoint's dispatch point."""

    kind = "no_worker"
    exit_code = 3


class Declined(CallError):
    """The human declined to answer."""

    kind = "declined"


class Delegated(CallError):
    """The human has passed the question on to another user.

    Args:
        message: what happened, as one sentence.
        hint: what the user can do next.
        to: the id of the other user.
        why: the reason; may be empty.
    """

    kind = "delegated"

    def __init__(self, message: str, hint: str = "", *, to: str = "", why: str = "") -> None:
        super().__init__(message, hint)
        self.to, self.why = to, why

    def as_wire(self, max_chars: int | None = None) -> dict[str, Any]:
        """Return the object that goes to other daemons: also to whom, and why."""
        return {**super().as_wire(max_chars), "to": self.to, "why": self.why[:max_chars]}


class Cancelled(CallError):
    """The call or message was cancelled."""

    kind = "cancelled"


class BadAnswer(CallError):
    """The human has answered, but with something else than the question asks for."""

    kind = "bad_answer"


class Undecided(CallError):
    """Several people were asked, and not enough of them gave the same answer."""

    kind = "undecided"


class DeadlinePassed(CallError):
    """No answer arrived before the deadline."""

    kind = "deadline"
    exit_code = 5


MAX_RETRY_AFTER_S = 10 * 86_400
"""A longer time is not believed."""

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
        Busy,
        BadInput,
        TooLarge,
        OverQuota,
        FileLost,
        FlowFailed,
        WorkerLost,
        NoWorker,
        Declined,
        Delegated,
        Cancelled,
        BadAnswer,
        Undecided,
        DeadlinePassed,
    )
}


ONLY_LOCAL = frozenset(
    error.kind
    for error in (
        P2pflowsError,
        UsageError,
        DaemonNotRunning,
        JournalFailed,
        UnknownUser,
        Unreachable,
        BadAnswer,
        Undecided,
    )
)
"""Kinds that only the daemon of the caller can know, so that no answer of another user may claim them."""


def as_theirs(content: dict[str, Any], user: str) -> dict[str, Any]:
    """Mark the error in another user's answer as theirs; a kind that they cannot know becomes `flow_failed`."""
    kind = str(content.get("kind", ""))
    return {**content, "kind": FlowFailed.kind if kind in ONLY_LOCAL else kind, "from": user}


def from_kind(kind: str, message: str, hint: str = "", retry_after_s: object = 0) -> P2pflowsError:
    """Return an error of a kind; of an unknown kind, a plain CallError.

    Args:
        kind: the kind.
        message: what failed.
        hint: what the user can do next.
        retry_after_s: of a Busy: after how many seconds there may be room again; ignored if it is no such number.
    """
    error = BY_KIND.get(kind, CallError)(message, hint)
    if isinstance(error, Busy) and type(retry_after_s) is int and 0 < retry_after_s <= MAX_RETRY_AFTER_S:
        error.retry_after_s = retry_after_s
    return error


def replay_diverged(line: str = "") -> FlowFailed:
    """Return the error of a run that began again and did not repeat the calls that it had made before.

    Args:
        line: where it took another way, as `FILE.py:LINE`, if that is known.
    """
    where = f" at {line}" if line else ""
    return FlowFailed(
        f"The run began again, and{where} did not repeat the calls that it had made before, so it cannot continue.",
        "Let the run depend on nothing but its message and state; put everything else into self.step().",
    )


def from_peer(content: object) -> CallError:
    """Return the error in an answer, as `as_theirs` marked it if it is another user's.

    A kind that no answer may have becomes a plain CallError.
    """
    fields = content if isinstance(content, dict) else {}
    kind, message, hint = (str(fields.get(name, "")) for name in ("kind", "message", "hint"))
    known = kind if issubclass(BY_KIND.get(kind, CallError), CallError) else CallError.kind
    error = from_kind(known, message or "No reason was given.", hint, fields.get("retry_after_s"))
    assert isinstance(error, CallError)  # noqa: S101 - other kinds were left out
    return error.said_by(fields["from"]) if isinstance(fields.get("from"), str) else error
