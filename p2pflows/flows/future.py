"""FlowFuture: the answer to a call, which may still be open."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from typing import Any

from p2pflows.errors import CallError, UsageError
from p2pflows.flows.copies import copied
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Run

OutputInterface = Callable[[Any], Any]
"""Takes an answer's data and returns the data to use in its place."""


class FlowFuture:
    """The answer to one call. It can be waited for, polled or awaited, and read as often as needed.

    Args:
        run: the run that sent the call.
        pending: the future of the call's end, from the run.
        request: the message that was sent.
        subflow: the name of the proxy that sent it: the key of the subflow.
    """

    def __init__(self, run: Run, pending: Future[CallResult], *, request: FlowMessage, subflow: str) -> None:
        self._run = run
        self._pending = pending
        self._request = request
        self._subflow = subflow
        self._interface: OutputInterface | None = None

    def set_output_interface(self, interface: OutputInterface | None) -> None:
        """Set a function that all data passes through before a method returns it; None for no function."""
        self._interface = interface

    def get_data(self, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the answer, and return its data.

        Args:
            timeout: seconds; None waits until the call ends.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
            CallError: the call ended without an answer; each kind of reason has its class.
        """
        return self._data(self._wait(timeout))

    def get_message(self, timeout: float | None = None) -> FlowMessage:
        """Wait for the answer, and return it as a message. Raises as `get_data`."""
        return self._message(self._wait(timeout))

    def try_get_data(self) -> dict[str, Any] | None:
        """Return the answer's data, or None while the call is open. Raises CallError if it ended without one."""
        return self._data(self._settled()) if self.done() else None

    def try_get_message(self) -> FlowMessage | None:
        """Return the answer as a message, or None while the call is open. Raises as `try_get_data`."""
        return self._message(self._settled()) if self.done() else None

    def done(self) -> bool:
        """Return whether the call has ended: answered, failed or withdrawn."""
        return self._pending.done()

    def exception(self, timeout: float | None = None) -> CallError | None:
        """Wait for the end of the call, and return its error, or None when it was answered.

        Raises:
            DeadlinePassed: the timeout passed; the call stays open.
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
        """Withdraw the call; return whether it was still open."""
        return not self.done() and self._run.cancel(self._pending)

    def __await__(self) -> Generator[Any, None, dict[str, Any]]:
        """Await the answer's data. Raises as `get_data`."""
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
        data = copied(answer.data)
        if self._interface is None:
            return data
        changed = self._interface(data)
        if isinstance(changed, FlowMessage):
            changed = changed.data
        if not isinstance(changed, dict):
            raise UsageError(
                f"The output interface returned a {type(changed).__name__}, not a dict.", "Let it return the data."
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
    """Return a new error each time: raising one object twice would show the traceback of the first raise, too."""
    return None if answer.error is None else type(answer.error)(answer.error.message, answer.error.hint)
