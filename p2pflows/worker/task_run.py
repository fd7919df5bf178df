"""One run of a task, as its flow sees it: the port `flows.run.Run`, put into asks to the daemon."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol

from p2pflows.errors import CallError, Cancelled, FlowFailed, TooLarge, UsageError, from_peer, ran_differently
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import Answer, Target, too_late
from p2pflows.protocol import strict_json
from p2pflows.protocol.message import MAX_BODY_BYTES, derived_id
from p2pflows.worker.frames import Ask, Record, Task

_MAX_LABEL_CHARS = 64
_MAX_TIMEOUT_S = 30 * 24 * 3600.0
_MAX_RECORDS = 10_000
MAX_PROGRESS_BYTES = 4_000
"""Most bytes of what is told before the answer, at a time."""


class Host(Protocol):
    """What a run needs of its worker; from any thread."""

    def ask(self, ask: Ask) -> None:
        """Have the daemon keep something."""

    def parked(self, task: Task) -> AbstractContextManager[None]:
        """While the block waits, the task holds no slot."""

    def in_loop(self) -> bool:
        """Whether this is the thread that runs all async flows."""

    def progress(self, task: Task, data: dict[str, Any]) -> None:
        """Tell the caller something."""


class TaskRun:
    """One run of one task.

    Args:
        task: what runs.
        user: whose daemon this is.
        instance: which instance runs; None for a flow without state.
        host: the worker.
    """

    def __init__(self, task: Task, user: str, instance: str | None, host: Host) -> None:
        self.user = user
        self.instance = instance
        self.out: list[dict[str, Any]] = []
        """What leaves when the run has ended well."""
        self._task = task
        self._host = host
        self._lock = threading.Lock()
        self._count = 0
        self._pending: dict[int, Future[dict[str, Any]]] = {}
        self._numbers: dict[Future[Answer], int] = {}
        self._stopped = False

    def call(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> Future[Answer]:
        """Send a call at once; a run that begins again finds the same call."""
        content = {"op": "call", **_sent(target, message, timeout, subflow)}
        mark = derived_id("call", target.user, target.endpoint, target.instance, _sorted(content["data"]))
        k, told = self._keep(content, mark)
        pending: Future[Answer] = Future()
        pending.set_running_or_notify_cancel()
        with self._lock:
            self._numbers[pending] = k
        told.add_done_callback(lambda told: _pass_on(told, pending))
        return pending

    def wait(self, pending: Future[Answer], timeout: float | None) -> Answer:
        """Block for the answer without holding a slot.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
            UsageError: it would block all async flows of this worker.
        """
        if pending.done():
            return pending.result()
        if self._host.in_loop():
            raise UsageError(
                "An async flow that blocks while it waits stops all async flows of its worker.",
                "Write: await self.subflows[key].get_reply_future(message)",
            )
        with self._host.parked(self._task):
            try:
                return pending.result(timeout)
            except TimeoutError:
                raise too_late(timeout) from None

    async def wait_async(self, pending: Future[Answer], timeout: float | None) -> Answer:  # noqa: ASYNC109 - the port's
        """Wait for the answer without blocking the event loop.

        Raises:
            DeadlinePassed: the seconds went by; the call stays alive.
        """
        if pending.done():
            return pending.result()
        with self._host.parked(self._task):
            try:
                return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), timeout)
            except TimeoutError:
                raise too_late(timeout) from None

    def cancel(self, pending: Future[Answer]) -> bool:
        """Withdraw a call; gives whether it was still unanswered."""
        if pending.done():
            return False
        with self._lock:
            k = self._numbers[pending]
        self._ask({"op": "cancel", "call": k}, -1 - k)
        return True

    def call_back(self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str) -> None:
        """Send a call when this run ends well; its answer enters `run` of this instance as a message."""
        self._leaves(
            {
                "op": "call_back",
                "subflow": subflow,
                "packaged": message.message_id,
                **_sent(target, message, timeout, subflow),
            }
        )

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that wants no answer when this run ends well."""
        self._leaves({"op": "post", **_sent(target, message, None, message.src_flow)})

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Answer a request, of this run or an earlier one, when this run ends well."""
        wrong = None if error is None else error.as_told()
        self._leaves({"op": "reply", "request": request, "data": _plain(data), "error": wrong})

    def step(self, compute: Callable[[], Any]) -> Any:
        """Run something once and keep its JSON result; a run that begins again gets what was kept."""
        k, record = self._next_record("step")
        value = None if record is None else record.value
        if value is None:
            content = {"op": "step", "value": _plain(compute()) if record is None else None, "mark": "step"}
            value = self._ask(content, k).result()
        return _unless_failed(value).get("value")

    def progress(self, data: dict[str, Any]) -> None:
        """Tell the caller something before the answer; it may be lost."""
        plain = _plain(data)
        if len(_sorted(plain)) > MAX_PROGRESS_BYTES:
            raise TooLarge(
                f"What is told before the answer may have {MAX_PROGRESS_BYTES:,} bytes at a time.", "Tell it in parts."
            )
        self._host.progress(self._task, plain)

    # What the worker tells.

    def answered(self, k: int, value: dict[str, Any]) -> None:
        """What the run waits for has come."""
        with self._lock:
            told = self._pending.pop(k, None)
        if told is not None:
            told.set_result(value)

    def stop(self) -> None:
        """The run is withdrawn: whatever it waits for ends."""
        with self._lock:
            self._stopped = True
            pending, self._pending = list(self._pending.values()), {}
        for told in pending:
            told.set_exception(_withdrawn())

    def _keep(self, content: dict[str, Any], mark: str) -> tuple[int, Future[dict[str, Any]]]:
        k, record = self._next_record(mark)
        if record is None or record.value is None:
            return k, self._ask({**content, "mark": mark}, k)
        told: Future[dict[str, Any]] = Future()
        told.set_result(record.value)
        return k, told

    def _next_record(self, mark: str) -> tuple[int, Record | None]:
        """The number of the next call or step, and what an earlier attempt has kept under it.

        Raises:
            FlowFailed: it is one too many, or the earlier attempt asked for something else.
        """
        with self._lock:
            k, self._count = self._count, self._count + 1
        if k >= _MAX_RECORDS:
            raise FlowFailed(f"One run made more than {_MAX_RECORDS:,} calls and steps.")
        record = self._task.records.get(k)
        if record is not None and record.mark != mark:
            raise ran_differently()
        return k, record

    def _ask(self, content: dict[str, Any], key: int) -> Future[dict[str, Any]]:
        told: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._stopped:
                raise _withdrawn()
            if key >= 0:
                self._pending[key] = told
        self._host.ask(Ask(self._task.id, key, content))
        return told

    def _leaves(self, content: dict[str, Any]) -> None:
        if self.instance is None:
            raise UsageError(
                "A plain function cannot send what leaves with its state, as it has none.",
                "Make it a class of AtomicFlow, or call and wait.",
            )
        self.out.append(content)


def _pass_on(told: Future[dict[str, Any]], pending: Future[Answer]) -> None:
    try:
        value = told.result()
    except CallError as error:
        pending.set_exception(error)
        return
    wrong = from_peer(value["error"]) if value.get("error") else None
    pending.set_result(Answer(value.get("id", ""), value.get("from", ""), value.get("data") or {}, wrong))


def _sent(target: Target, message: FlowMessage, timeout: float | None, subflow: str) -> dict[str, Any]:
    if timeout is not None and not 0 < timeout <= _MAX_TIMEOUT_S:
        raise UsageError("The timeout is not between 0 seconds and 30 days.", "Give it in seconds.")
    return {
        "user": target.user,
        "endpoint": target.endpoint,
        "instance": target.instance,
        "data": _plain(message.sendable()),
        "source": subflow[:_MAX_LABEL_CHARS],
        "timeout": timeout if timeout is None else float(timeout),
    }


def _plain(value: Any) -> Any:
    """A copy of a value as JSON has it.

    Raises:
        FlowFailed: JSON cannot hold it.
        TooLarge: no message can hold it.
    """
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        written = text.encode()
        strict_json.check_levels(written)
    except (TypeError, ValueError, RecursionError) as error:
        raise FlowFailed(
            f"That cannot be sent or kept as JSON: {error}.", "Use plain objects, lists, texts and numbers."
        ) from error
    if len(written) > MAX_BODY_BYTES:
        raise TooLarge(f"That has {len(written):,} bytes; the limit is {MAX_BODY_BYTES:,}.", "Send a reference to it.")
    return json.loads(text)


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _unless_failed(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("error"):
        raise from_peer(value["error"])
    return value


def _withdrawn() -> Cancelled:
    return Cancelled("The run was withdrawn while it waited.")
