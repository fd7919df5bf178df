"""FlowFuture: the answer of a call that may not have come yet."""

from __future__ import annotations

import copy
from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from p2pflows.errors import CallError, UsageError
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Run

OutputInterface = Callable[[Any], Any]
"""Takes an answer's data and gives other data."""


class FlowFuture:
    """The answer of one call, to be waited for, looked for, or awaited; an answer that came can be read many times.

    Args:
        run: what sent the call.
        pending: its answer, as the run gave it.
        request: the message that was sent.
        subflow: the key of the subflow, or the name of the proxy, that it went to.
    """

    def __init__(self, run: Run, pending: Future[CallResult], *, request: FlowMessage, subflow: str) -> None:
        self._run = run
        self._pending = pending
        self._request = request
        self._subflow = subflow
        self._interface: OutputInterface | None = None

    def set_output_interface(self, interface: OutputInterface | None) -> None:
        """Let what every method gives pass through this first."""
        self._interface = interface

    def get_data(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the answer; gives its data.

        Args:
            timeout: seconds; None waits for as long as the call lives.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
            CallError: there will be no answer, and why; a class for each kind.
        """
        return self._data(self._wait(timeout))

    def get_message(self, timeout: float | None = None) -> FlowMessage:
        """Wait for the answer; gives it as a message. Raises as `get_data`."""
        return self._message(self._wait(timeout))

    def try_get_data(self) -> dict[str, Any] | None:
        """The answer's data, or None when it has not come; raises a CallError when it never will."""
        return self._data(self._settled()) if self.done() else None

    def try_get_message(self) -> FlowMessage | None:
        """The answer as a message, or None when it has not come; raises a CallError when it never will."""
        return self._message(self._settled()) if self.done() else None

    def done(self) -> bool:
        """Whether the call has ended: answered, failed or withdrawn."""
        return self._pending.done()

    def exception(self, timeout: float | None = None) -> CallError | None:
        """Wait for the end of the call; gives why there is no answer, or None when there is one.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """
        if not self.done():
            try:
                return _error_in(self._wait(timeout))
            except CallError:
                if not self.done():
                    raise
        try:
            return _error_in(self._settled())
        except CallError as error:
            return error

    def cancel(self) -> bool:
        """Withdraw the call; gives whether it was still unanswered."""
        return not self.done() and self._run.cancel(self._pending)

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        """Gives the data, and raises as `get_data`."""
        return self._get().__await__()

    async def _get(self) -> dict[str, Any]:
        if not self.done():
            return self._data(await self._run.wait_async(self._pending, None))
        return self._data(self._settled())

    def _wait(self, timeout: float | None) -> CallResult:
        if self.done():
            return self._settled()
        return self._run.wait(self._pending, timeout)

    def _settled(self) -> CallResult:
        return self._pending.result(timeout=0)

    def _data(self, answer: CallResult) -> dict[str, Any]:
        error = _error_in(answer)
        if error is not None:
            raise error
        data = copy.deepcopy(answer.data)
        if self._interface is None:
            return data
        changed = self._interface(data)
        if isinstance(changed, FlowMessage):
            changed = changed.data
        if not isinstance(changed, dict):
            raise UsageError(
                f"The output interface gave a {type(changed).__name__} and no dict.", "Let it return the data."
            )
        return changed

    def _message(self, answer: CallResult) -> FlowMessage:
        return FlowMessage(
            data=self._data(answer),
            message_id=answer.id,
            created_by=self._subflow,
            src_flow=self._subflow,
            dst_flow=self._request.created_by,
            input_message_id=self._request.message_id,
            is_reply=True,
            user_id=answer.sender,
            subflow=self._subflow,
            conversation=self._request.conversation,
            private_keys=list(self._request.private_keys),
        )


def _error_in(answer: CallResult) -> CallError | None:
    """A new error each time: one that is raised twice would carry the first raise along."""
    return None if answer.error is None else type(answer.error)(answer.error.message, answer.error.hint)
