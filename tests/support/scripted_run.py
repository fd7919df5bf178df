"""A run in memory: the port between a flow and its worker, with real futures and a memory that survives a crash."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from p2pflows.errors import CallError, Cancelled, DeadlinePassed
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Target
from p2pflows.protocol.spent import Spent

ALICE, BOB, CAROL = "a" * 64, "b" * 64, "c" * 64
INSTANCE = "1" * 32


@dataclass
class Sent:
    """One message that a flow sent."""

    target: Target
    message: FlowMessage
    subflow: str = ""
    timeout: float | None = None
    progress: bool = False


@dataclass
class Memory:
    """What a run keeps at once, for the time when it starts over."""

    calls: list[tuple[Sent, Future[CallResult]]] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


class ScriptedRun:
    """Keeps what a flow sends; a test answers its calls with `answer` and `fail`, before or after they are awaited.

    Messages that leave at the end of a run are in `posts`, `call_backs` and `replies`. To crash a run, a test drops the
    object, and gives its memory to the next one.
    """

    def __init__(self, user: str = ALICE, instance: str | None = INSTANCE, memory: Memory | None = None) -> None:
        self.user = user
        self.instance = instance
        self.wants_progress = True
        self.memory = memory or Memory()
        self.posts: list[Sent] = []
        self.call_backs: list[Sent] = []
        self.replies: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[tuple[str, CallError]] = []
        self.told: list[dict[str, Any]] = []
        self.spent: list[Spent] = []
        self.deferred: list[bool] = []
        """Of each step, whether it may be recorded later."""
        self._calls_made = 0
        self._steps_made = 0

    def call(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> Future[CallResult]:
        """Keep the n-th call of this run, or return the earlier one."""
        number, self._calls_made = self._calls_made, self._calls_made + 1
        if number == len(self.memory.calls):
            self.memory.calls.append((Sent(target, message, subflow, timeout, progress), Future()))
        return self.memory.calls[number][1]

    def wait(self, pending: Future[CallResult], timeout: float | None) -> CallResult:
        """Wait on the real future."""
        try:
            return pending.result(timeout)
        except TimeoutError as error:
            raise DeadlinePassed("No answer came in time.") from error

    async def wait_async(self, pending: Future[CallResult], timeout: float | None) -> CallResult:  # noqa: ASYNC109 - the port's
        """Wait on the real future, in the event loop."""
        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), timeout)
        except TimeoutError as error:
            raise DeadlinePassed("No answer came in time.") from error

    def cancel(self, pending: Future[CallResult]) -> bool:
        """End a call with an error answer, as a daemon does."""
        if pending.done():
            return False
        pending.set_result(CallResult("", self.user, error=Cancelled("The call was withdrawn.")))
        return True

    def call_back(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> None:
        """Keep the message until the run ends."""
        self.call_backs.append(Sent(target, message, subflow, timeout, progress))

    def post(self, target: Target, message: FlowMessage) -> None:
        """Keep the message until the run ends."""
        self.posts.append(Sent(target, message))

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Keep the reply until the run ends."""
        if error is None:
            self.replies.append((request, data))
        else:
            self.errors.append((request, error))

    def step(self, compute: Callable[[], Any], *, is_deferred: bool = False) -> Any:
        """Compute the n-th step, or return its earlier result."""
        self.deferred.append(is_deferred)
        number, self._steps_made = self._steps_made, self._steps_made + 1
        if number == len(self.memory.steps):
            self.memory.steps.append(json.dumps(compute()))
        return json.loads(self.memory.steps[number])

    def progress(self, data: dict[str, Any]) -> None:
        """Keep the progress in order."""
        self.told.append(data)

    def note_spent(self, spent: Spent) -> None:
        """Keep it."""
        self.spent.append(spent)

    def time_left(self) -> float:
        """There is no deadline."""
        return math.inf

    def stopping(self, stop: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Nobody withdraws this run."""
        del stop
        return contextlib.nullcontext()

    def answer(self, number: int, data: dict[str, Any]) -> None:
        """Answer the call with this number."""
        sent, pending = self.memory.calls[number]
        pending.set_result(CallResult(f"answer {number}", sent.target.user, data))

    def fail(self, number: int, error: CallError) -> None:
        """Answer the call with this number with an error."""
        sent, pending = self.memory.calls[number]
        pending.set_result(CallResult(f"answer {number}", sent.target.user, error=error))


def incoming(data: dict[str, Any], *, request: str | None = "request", user: str = BOB) -> FlowMessage:
    """A message as a worker hands it to a flow: a call, or a post if there is no request."""
    reply_data = {"mode": "no_reply"} if request is None else {"mode": "reply", "message": request}
    return FlowMessage(data=data, src_flow="caller", user_id=user, reply_data=reply_data)


def answer_to(sent: Sent, data: dict[str, Any], error: CallError | None = None) -> FlowMessage:
    """The answer to a call_back, as a worker hands it to the flow that made the call_back."""
    return FlowMessage(
        data=data,
        src_flow=sent.subflow,
        is_reply=True,
        input_message_id=sent.message.message_id,
        subflow=sent.subflow,
        user_id=sent.target.user,
        error=error,
    )
