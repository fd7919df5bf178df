"""Proxies outside of flows: what a notebook or script sends goes through the client of the local daemon."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from p2pflows.client import Client
from p2pflows.errors import CallError, DaemonNotRunning, P2pflowsError, UsageError
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import Answer, Target, too_late

DEFAULT_TIMEOUT_S = 24 * 3600.0
"""Seconds until the deadline of a call that names none: a human may have to answer."""
_MAX_DAEMON_AWAY_S = 60.0
"""Seconds for a daemon to come back while an answer is waited for."""
_RETRY_AFTER_S = 0.5


class ClientRun:
    """The port `Run` for code that no worker runs: it can call and send, but there is no run to come back to.

    Args:
        client: the client of the local daemon.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._calls: dict[Future[Answer], str] = {}
        self.user = client.user_id
        self.instance: str | None = None

    def call(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> Future[Answer]:
        """Send a call; it is kept by the daemon when this returns."""
        submitted = self._client.request(
            "submit",
            address=f"{target.user}/{target.endpoint}",
            instance=target.instance,
            data=message.sendable(),
            timeout=DEFAULT_TIMEOUT_S if timeout is None else timeout,
            conversation=message.conversation,
            source=subflow[:64],
        )
        pending: Future[Answer] = Future()
        pending.set_running_or_notify_cancel()
        self._calls[pending] = submitted["id"]
        threading.Thread(
            target=self._await, args=(submitted["id"], pending), name=f"answer of {target.endpoint}", daemon=True
        ).start()
        return pending

    def wait(self, pending: Future[Answer], timeout: float | None) -> Answer:
        """Block for the answer.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """
        try:
            return pending.result(timeout)
        except TimeoutError:
            raise too_late(timeout) from None

    async def wait_async(self, pending: Future[Answer], timeout: float | None) -> Answer:  # noqa: ASYNC109 - the port's
        """Wait for the answer without blocking the event loop.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """
        import asyncio

        try:
            return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), timeout)
        except TimeoutError:
            raise too_late(timeout) from None

    def cancel(self, pending: Future[Answer]) -> bool:
        """Withdraw a call; gives whether it was still unanswered."""
        message_id = self._calls.get(pending)
        if message_id is None:  # it is answered
            return False
        try:
            self._client.request("cancel", id=message_id)
        except CallError:  # it has its end already
            return False
        return True

    def call_back(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> None:
        """There is no run that an answer could enter.

        Raises:
            UsageError: always.
        """
        del target, message, timeout, subflow
        raise UsageError(
            "get_reply gives the answer to the run method of a flow, and there is none here.",
            "Use get_reply_future(message).get_data(), or send_message(message).",
        )

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that wants no answer; it is kept by the daemon when this returns."""
        self._client.request(
            "send",
            address=f"{target.user}/{target.endpoint}",
            instance=target.instance,
            data=message.sendable(),
            conversation=message.conversation,
            source=message.src_flow[:64],
        )

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Only a flow answers.

        Raises:
            UsageError: always.
        """
        del request, data, error
        raise UsageError("Only the flow that was asked can answer.", "Send a message of your own.")

    def step(self, compute: Callable[[], Any]) -> Any:
        """Run something; outside of a run nothing is recorded."""
        return compute()

    def progress(self, data: dict[str, Any]) -> None:
        """Nobody waits for this."""
        del data

    def _await(self, message_id: str, pending: Future[Answer]) -> None:
        try:
            pending.set_result(self._outcome(message_id))
        except P2pflowsError as error:
            pending.set_exception(error)
        finally:
            self._calls.pop(pending, None)
            self._client.release()

    def _outcome(self, message_id: str) -> Answer:
        away_since: float | None = None
        while True:
            asked = time.monotonic()
            try:
                answer = self._client.request("wait", id=message_id)
            except DaemonNotRunning:
                if away_since is None or time.monotonic() - asked > _RETRY_AFTER_S:  # it was there for a while
                    away_since = time.monotonic()
                if time.monotonic() - away_since > _MAX_DAEMON_AWAY_S:
                    raise
                time.sleep(_RETRY_AFTER_S)
            except P2pflowsError as error:
                wrong = error if isinstance(error, CallError) else CallError(error.message, error.hint)
                return Answer(message_id, "", error=wrong)
            else:
                return Answer(message_id, str(answer["from"]), dict(answer["data"]))
