"""Run outside of a worker: a notebook or script sends through the client of the local daemon."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from p2pflows.client import Client
from p2pflows.errors import CallError, DaemonNotRunning, P2pflowsError, UsageError
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Target, too_late
from p2pflows.protocol.spent import Spent

DEFAULT_TIMEOUT_S = 24 * 3600.0
"""How long a call without a timeout stays open; a human may have to answer it."""
_MAX_DAEMON_AWAY_S = 60.0
"""How long the daemon may be away while a call waits for its answer."""
_RETRY_AFTER_S = 0.5


class ClientRun:
    """The port `Run` for code that no worker runs. It can call and send, but no run exists that an answer could enter.

    Args:
        client: the client of the local daemon.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: dict[Future[CallResult], str] = {}
        self.user = client.user_id
        self.instance: str | None = None

    @property
    def wants_progress(self) -> bool:
        """Nobody listens."""
        return False

    def call(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> Future[CallResult]:
        """Send a call; when this returns, the daemon has committed it."""
        del progress
        submitted = self._client.request(
            "submit",
            address=f"{target.user}/{target.endpoint}",
            instance=target.instance,
            data=message.sendable(),
            timeout=DEFAULT_TIMEOUT_S if timeout is None else timeout,
            conversation=message.conversation,
            source=subflow[:64],
        )
        pending: Future[CallResult] = Future()
        pending.set_running_or_notify_cancel()
        self._calls[pending] = submitted["id"]
        threading.Thread(
            target=self._await, args=(submitted["id"], pending), name=f"answer of {target.endpoint}", daemon=True
        ).start()
        return pending

    def note_spent(self, spent: Spent) -> None:
        """Drop it: whoever runs the program pays."""
        del spent

    def time_left(self) -> float:
        """There is no deadline."""
        return math.inf

    def stopping(self, stop: Callable[[], None]) -> contextlib.AbstractContextManager[None]:
        """Nobody withdraws what no worker runs."""
        del stop
        return contextlib.nullcontext()

    def wait(self, pending: Future[CallResult], timeout: float | None) -> CallResult:
        """Block until the call ends.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
        """
        try:
            return pending.result(timeout)
        except TimeoutError:
            raise too_late(timeout) from None

    async def wait_async(self, pending: Future[CallResult], timeout: float | None) -> CallResult:  # noqa: ASYNC109 - the port's
        """Wait until the call ends, without blocking the event loop.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
        """
        import asyncio

        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), timeout)
        except TimeoutError:
            raise too_late(timeout) from None

    def cancel(self, pending: Future[CallResult]) -> bool:
        """Withdraw a call; return whether it was still open."""
        message_id = self._calls.get(pending)
        if message_id is None:  # it has ended
            return False
        try:
            self._client.request("cancel", id=message_id)
        except CallError:  # it has ended meanwhile
            return False
        return True

    def call_back(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> None:
        """Refuse: there is no run that an answer could enter.

        Raises:
            UsageError: always.
        """
        del target, message, timeout, subflow, progress
        raise UsageError(
            "get_reply passes the answer to the run method of a flow, and no flow runs here.",
            "Use get_reply_future(message).get_data(), or send_message(message).",
        )

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that needs no answer; when this returns, the daemon has committed it."""
        self._client.request(
            "send",
            address=f"{target.user}/{target.endpoint}",
            instance=target.instance,
            data=message.sendable(),
            conversation=message.conversation,
            source=message.src_flow[:64],
        )

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Refuse: only a flow answers.

        Raises:
            UsageError: always.
        """
        del request, data, error
        raise UsageError("Only the flow that was called can answer.", "Send a new message instead.")

    def step(self, compute: Callable[[], Any], *, is_deferred: bool = False) -> Any:
        """Compute a value; outside of a run nothing is recorded."""
        del is_deferred
        return compute()

    def progress(self, data: dict[str, Any]) -> None:
        """Drop it: no caller waits for it."""
        del data

    def _await(self, message_id: str, pending: Future[CallResult]) -> None:
        try:
            pending.set_result(self._wait_for_end(message_id))
        except P2pflowsError as error:
            pending.set_exception(error)
        finally:
            self._calls.pop(pending, None)
            self._client.release()

    def _wait_for_end(self, message_id: str) -> CallResult:
        away_since: float | None = None
        while True:
            requested_at = time.monotonic()
            try:
                answer = self._client.request("wait", id=message_id)
            except DaemonNotRunning:
                if away_since is None or time.monotonic() - requested_at > _RETRY_AFTER_S:  # it was back meanwhile
                    away_since = time.monotonic()
                if time.monotonic() - away_since > _MAX_DAEMON_AWAY_S:
                    raise
                time.sleep(_RETRY_AFTER_S)
            except P2pflowsError as error:
                call_error = error if isinstance(error, CallError) else CallError(error.message, error.hint)
                return CallResult(message_id, "", error=call_error)
            else:
                return CallResult(message_id, str(answer["from"]), dict(answer["data"]))
