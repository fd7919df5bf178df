"""The port between a flow and what runs it: a worker implements `Run`, flows and proxies only speak to it."""

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

if TYPE_CHECKING:
    from p2pflows.flows.message import FlowMessage

_INSTANCE = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Target:
    """Whom a proxy stands for.

    Args:
        user: a user id, 64 lower-case hex digits.
        endpoint: the name under which that user serves the flow.
        instance: 32 hex digits; None for what is addressed by its endpoint alone: stateless flows, humans, singletons.

    Raises:
        UsageError: one of them is malformed, told before anything leaves.
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
class Answer:
    """What came back for a call.

    Args:
        id: the wire id of the answer.
        sender: the user id that answered, authenticated.
        data: what it says; empty for an error.
        error: why there is no data.
    """

    id: str
    sender: str
    data: dict[str, Any] = field(default_factory=dict)
    error: CallError | None = None


class Run(Protocol):
    """One run of one flow, as the flow sees it.

    What leaves "when the run ends well" leaves together with the new state, or not at all.
    """

    @property
    def user(self) -> str:
        """Whose daemon this is, as a user id."""

    @property
    def instance(self) -> str | None:
        """The executing instance; None for a stateless flow."""

    def call(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> Future[Answer]:
        """Send a call at once; durable, so that a run that starts over finds the same call."""

    def wait(self, pending: Future[Answer], timeout: float | None) -> Answer:
        """Block for the answer without holding a worker slot.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """

    async def wait_async(self, pending: Future[Answer], timeout: float | None) -> Answer:  # noqa: ASYNC109 - as wait
        """Wait for the answer without blocking the event loop.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """

    def cancel(self, pending: Future[Answer]) -> bool:
        """Withdraw a call; gives whether it was still unanswered."""

    def call_back(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> None:
        """Send a call when this run ends well; its answer enters `run` of the executing instance as a message."""

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that wants no answer when this run ends well."""

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Answer the request with this wire id, of this run or an earlier one, when this run ends well.

        With an error, that is what its caller gets in place of the data; the state of this run is kept all the same.
        """

    def step(self, compute: Callable[[], Any]) -> Any:
        """Run something once and record its JSON result; a run that starts over gets what was recorded."""

    def progress(self, data: dict[str, Any]) -> None:
        """Tell the caller something before the answer; it may be lost."""


_CURRENT: contextvars.ContextVar[Run] = contextvars.ContextVar("p2pflows_run")


def current() -> Run:
    """The run that the code at hand is part of, so that a plain function can call others too.

    Raises:
        UsageError: no worker runs this code.
    """
    try:
        return _CURRENT.get()
    except LookupError:
        raise outside("This code") from None


@contextlib.contextmanager
def set_current(run: Run) -> Iterator[None]:
    """Make a run what `current` gives inside the block; for whoever runs flows."""
    token = _CURRENT.set(run)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def too_late(timeout: float | None) -> DeadlinePassed:
    """The error for whoever has waited so many seconds for an answer in vain."""
    return DeadlinePassed(f"No answer came within {timeout:g} seconds.", "Wait again, or give it longer.")


def outside(what: str) -> UsageError:
    """The error for something that only works while a worker runs it."""
    return UsageError(
        f"{what} is not run by a worker, so it cannot send or wait.",
        "Serve the flow, run a worker, and call it through get_flow_instance.",
    )
