"""The port between a flow and what runs it: a worker implements `Run`; flows and proxies send through it."""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from p2pflows.errors import CallError, DeadlinePassed, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.spent import Spent

if TYPE_CHECKING:
    from p2pflows.flows.message import FlowMessage

_INSTANCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Target:
    """The flow that a proxy sends to.

    Args:
        user: a user id, 64 lower-case hex digits.
        endpoint: the name under which that user serves the flow.
        instance: 32 hex digits; None for what has no instances: stateless flows, humans, singletons.

    Raises:
        UsageError: an argument is malformed.
    """

    user: str
    endpoint: str
    instance: str | None = None

    def __post_init__(self) -> None:
        if not topics.is_user_id(self.user):
            raise UsageError(f"{self.user!r} is not a user id.", "A user id is 64 lower-case hex digits.")
        topics.check_name(self.endpoint, "an endpoint")
        if self.instance is not None and not _INSTANCE.fullmatch(self.instance):
            raise UsageError(f"{self.instance!r} is not an instance id.", "Get an instance with get_flow_instance.")


@dataclass(frozen=True, slots=True)
class CallResult:
    """How a call ended: with data, or with an error.

    Args:
        id: the wire id of the answer.
        sender: the user id that answered; the daemon has authenticated it.
        data: the answer's data; empty for an error.
        error: why there is no data.
    """

    id: str
    sender: str
    data: dict[str, Any] = field(default_factory=dict)
    error: CallError | None = None


class Run(Protocol):
    """One run of one flow: what a flow can do while it runs.

    What is sent "when the run succeeds" is committed together with the new state, or not at all.
    """

    @property
    def user(self) -> str:
        """The user id of the daemon that runs the flow."""

    @property
    def instance(self) -> str | None:
        """The instance that runs; None for a stateless flow."""

    @property
    def wants_progress(self) -> bool:
        """Whether the caller listens to progress."""

    def call(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> Future[CallResult]:
        """Send a call now. It is recorded, so a run that starts over continues with the same call.

        Args:
            target: what is called.
            message: the message.
            timeout: seconds until the deadline; None for the default one.
            subflow: the name under which the flow that runs knows the target.
            progress: whether what the target reports is progress of this run.
        """

    def wait(self, pending: Future[CallResult], timeout: float | None) -> CallResult:
        """Block until the call ends, without holding a worker slot.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
        """

    async def wait_async(self, pending: Future[CallResult], timeout: float | None) -> CallResult:  # noqa: ASYNC109 - as wait
        """Wait until the call ends, without blocking the event loop.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
        """

    def cancel(self, pending: Future[CallResult]) -> bool:
        """Withdraw a call; return whether it was still open."""

    def call_back(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> None:
        """Send a call when this run succeeds; its answer becomes an input message of the same instance.

        The arguments are those of `call`.
        """

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that needs no answer, when this run succeeds."""

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Answer a request of this run or an earlier one, when this run succeeds.

        Args:
            request: the wire id of the request.
            data: the answer's data.
            error: what the caller receives in place of the data; this run still succeeds and keeps its state.
        """

    def step(self, compute: Callable[[], Any], *, is_deferred: bool = False) -> Any:
        """Compute a value once and record it as JSON; a run that starts over receives the recorded value.

        Args:
            compute: returns the value.
            is_deferred: whether it is recorded only before this run calls, waits, or makes another step. A run that
                ends without any of these needs no record, as what it sends at its end takes its place.
        """

    def progress(self, data: dict[str, Any]) -> None:
        """Report progress to the caller before the answer, if the caller listens; a report may be lost."""

    def note_spent(self, spent: Spent) -> None:
        """Note what a request to a model took, for the owner's account and limits."""

    def time_left(self) -> float:
        """Return the seconds until the deadline of the request; infinite if there is none.

        Raises:
            Cancelled: the run was withdrawn.
        """

    def stopping(self, stop: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Call a function, from another thread, if the run is withdrawn or its deadline passes inside the block."""


_CURRENT: contextvars.ContextVar[Run] = contextvars.ContextVar("p2pflows_run")


def current() -> Run:
    """Return the run that the calling code is part of, so that a plain function can call other flows.

    Raises:
        UsageError: no worker runs this code.
    """
    try:
        return _CURRENT.get()
    except LookupError:
        raise outside("This code") from None


@contextlib.contextmanager
def set_current(run: Run) -> Iterator[None]:
    """Let `current` return this run inside the block; a worker uses it around each run."""
    token = _CURRENT.set(run)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def too_late(timeout: float | None) -> DeadlinePassed:
    """Return the error for a wait that timed out; the call itself stays open."""
    return DeadlinePassed(f"No answer came within {timeout:g} seconds.", "Wait again, or use a longer timeout.")


def outside(what: str) -> UsageError:
    """Return the error for code that can send and wait only while a worker runs it."""
    return UsageError(
        f"{what} is not run by a worker, so it cannot send or wait.",
        "Serve the flow, run a worker, and call it through get_flow_instance.",
    )
