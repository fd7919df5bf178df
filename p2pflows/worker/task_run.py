"""One run of a task, as its flow sees it: the port `flows.run.Run`, turned into asks to the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypedDict

from pydantic_core import from_json

from p2pflows.errors import CallError, Cancelled, FlowFailed, UsageError, replay_diverged
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.project import calling_line
from p2pflows.flows.run import CallResult, Target, too_late
from p2pflows.protocol import strict_json
from p2pflows.protocol.asks import (
    MAX_RECORDS,
    MAX_SOURCE_CHARS,
    MAX_TIMEOUT_S,
    Ask,
    AskResult,
    Call,
    CallFailed,
    CallReply,
    CancelCall,
    Record,
    Step,
    StepValue,
)
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.protocol.progress import Numbering
from p2pflows.protocol.run_result import CallBack, Post, Reply, Sent
from p2pflows.protocol.spent import Spent, add_up
from p2pflows.protocol.strict_json import JsonObject
from p2pflows.protocol.worker_frames import ErrorInfo
from p2pflows.sent_files import with_files
from p2pflows.worker.lanes import HeldTask

ANSWER = "The answer"
MAX_PROGRESS_BYTES = 4_000
"""Most bytes of one progress report."""
_STEP = "step"
"""The fingerprint of every step."""


class Suspended(BaseException):
    """Ends a run that waits, to begin again when there is an answer.

    It is no Exception, so that a flow which handles the failure of a call does not take this for one.
    """


class Host(Protocol):
    """What a run needs of its worker; callable from any thread."""

    def ask(self, ask: Ask) -> None:
        """Send an ask to the daemon until it has a result."""

    def parked(self, task: HeldTask, *, is_timed: bool) -> AbstractContextManager[None]:
        """Free the slot of a task while the block waits; `is_timed` if it waits for a limited time only."""

    def in_loop(self) -> bool:
        """Whether this is the thread that runs all async flows."""

    def progress(self, task: HeldTask, data: dict[str, Any]) -> None:
        """Send data to the caller before the answer."""


class TaskRun:
    """One run of one task.

    Args:
        task: the task.
        user: the user id of the daemon's owner.
        instance: the instance that runs; None for a flow without state.
        host: the worker.
    """

    def __init__(self, task: HeldTask, user: str, instance: str | None, host: Host) -> None:
        self.user = user
        self.instance = instance
        self.out: list[Sent] = []
        """What leaves when the run has ended well."""
        self._task = task
        self._host = host
        self._lock = threading.Lock()
        self._count = 0
        self._open: dict[int, Future[AskResult]] = {}
        self._call_indexes: dict[Future[CallResult], int] = {}
        self._stopped = False
        self._on_stop: list[Callable[[], None]] = []
        self._numbering = Numbering()
        self._spent: list[Spent] = []
        self._deferred: tuple[int, Any] | None = None
        """The index and value of a step that is recorded before the run does anything else."""

    def call(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> Future[CallResult]:
        """Send a call at once; a run that starts over finds the same call."""
        fields = _request(target, message, timeout, subflow, progress=progress)
        fingerprint = derived_id("call", target.user, target.endpoint, target.instance, _sorted(fields["data"]))
        call_index, result = self._call(Call(**fields, fingerprint=fingerprint))
        pending: Future[CallResult] = Future()
        pending.set_running_or_notify_cancel()
        with self._lock:
            self._call_indexes[pending] = call_index
        result.add_done_callback(lambda result: _resolve(pending, result))
        return pending

    def wait(self, pending: Future[CallResult], timeout: float | None) -> CallResult:
        """Block until the answer is there, without holding a slot.

        Raises:
            DeadlinePassed: the timeout has passed; the call stays open.
            UsageError: it would block all async flows of this worker.
        """
        self._record_deferred()
        if pending.done():
            return pending.result()
        if self._host.in_loop():
            raise UsageError(
                "An async flow that blocks while it waits stops all async flows of its worker.",
                "Write: await self.subflows[key].get_reply_future(message)",
            )
        with self._host.parked(self._task, is_timed=timeout is not None):
            try:
                return pending.result(timeout)
            except TimeoutError:
                raise too_late(timeout) from None

    async def wait_async(self, pending: Future[CallResult], timeout: float | None) -> CallResult:  # noqa: ASYNC109 - the port's
        """Await the answer without blocking the event loop.

        Raises:
            DeadlinePassed: the timeout has passed; the call stays open.
        """
        self._record_deferred()
        if pending.done():
            return pending.result()
        with self._host.parked(self._task, is_timed=timeout is not None):
            try:
                return await asyncio.wait_for(asyncio.shield(asyncio.wrap_future(pending)), timeout)
            except TimeoutError:
                raise too_late(timeout) from None

    def cancel(self, pending: Future[CallResult]) -> bool:
        """Withdraw a call.

        Returns:
            Whether it was still unanswered.
        """
        if pending.done():
            return False
        with self._lock:
            call_index = self._call_indexes[pending]
        self._ask(-1 - call_index, CancelCall(call=call_index))
        return True

    def call_back(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> None:
        """Send a call when this run ends well; its answer enters `run` of this instance as a message."""
        fields = _request(target, message, timeout, subflow, progress=progress)
        self._add_sent(CallBack(**fields, subflow=subflow, packaged=message.message_id))

    def post(self, target: Target, message: FlowMessage) -> None:
        """Send a message that wants no answer when this run ends well."""
        self._add_sent(Post(**_request(target, message, None, message.src_flow)))

    def reply(self, request: str, data: dict[str, Any], error: CallError | None = None) -> None:
        """Answer a request, of this run or an earlier one, when this run ends well."""
        info = None if error is None else ErrorInfo(error.kind, error.message, error.hint)
        # Quicker than `_plain`; the message holds plain JSON already.
        written = _checked(lambda: strict_json.dumps_finite(data), ANSWER)
        self._add_sent(Reply(request=request, data=JsonObject(from_json(written), written), error=info))

    def step(self, compute: Callable[[], Any], *, is_deferred: bool = False) -> Any:
        """Compute something once and record its JSON result; a run that starts over gets what was recorded."""
        call_index, record = self._next_record(_STEP)
        if record is None:
            value = _plain(compute(), "The result of a step")
            if is_deferred:
                self._deferred = (call_index, value)
                return value
            return self._record(call_index, value)
        return _step_value(record.result or self._wait_for(call_index, Step(value=None, fingerprint=_STEP)).result())

    @property
    def wants_progress(self) -> bool:
        """Whether the caller listens to progress."""
        return self._task.spec.progress

    def progress(self, data: dict[str, Any]) -> None:
        """Send data to the caller before the answer, if the caller listens; it may be lost."""
        if not self.wants_progress:
            return
        plain = self._numbering.number(_plain(data, "Progress"))
        if len(_sorted(plain)) > MAX_PROGRESS_BYTES:
            what = f"Progress may have {MAX_PROGRESS_BYTES:,} bytes at a time."
            raise FlowFailed(what, "Its author can let it report in parts.")
        self._host.progress(self._task, plain)

    def note_spent(self, spent: Spent) -> None:
        """Note what a request to a model took; it travels with the step inside which that was, else with the result."""
        with self._lock:
            self._spent.append(spent)

    def _return_spent(self, spent: Iterable[Spent]) -> None:
        with self._lock:
            self._spent.extend(spent)

    def take_spent(self) -> tuple[Spent, ...]:
        """Take what was spent since the last call."""
        with self._lock:
            spent, self._spent = self._spent, []
        return add_up(spent)

    def time_left(self) -> float:
        """Seconds until the deadline.

        Raises:
            Cancelled: the run was withdrawn.
        """
        with self._lock:
            if self._stopped:
                raise self._why_stopped()
        return max(0.0, self._task.spec.expires_s - time.time())

    @contextlib.contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Call a function, from another thread, if the run is stopped inside the block."""
        with self._lock:
            if self._stopped:
                raise self._why_stopped()
            self._on_stop.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._on_stop.remove(stop)

    # Called by the worker.

    def deliver(self, call_index: int, result: AskResult) -> None:
        """Take the result of an ask."""
        with self._lock:
            future = self._open.pop(call_index, None)
        if future is not None:
            future.set_result(result)

    def stop(self) -> None:
        """End the run, as it was withdrawn or suspended: everything that it waits for ends."""
        with self._lock:
            self._stopped = True
            futures, self._open = list(self._open.values()), {}
            on_stop = list(self._on_stop)
        for stop in on_stop:
            stop()
        for future in futures:
            future.set_exception(self._why_stopped())

    def _why_stopped(self) -> BaseException:
        return Suspended() if self._task.suspended is not None else _withdrawn()

    def _call(self, call: Call) -> tuple[int, Future[AskResult]]:
        call_index, record = self._next_record(call.fingerprint)
        if record is None or record.result is None:
            return call_index, self._wait_for(call_index, call)
        future: Future[AskResult] = Future()
        future.set_result(record.result)
        return call_index, future

    def _next_record(self, fingerprint: str) -> tuple[int, Record | None]:
        """The index of the next call or step, and what an earlier attempt has recorded under it.

        Raises:
            FlowFailed: it is one too many, or the earlier attempt asked for something else.
        """
        self._record_deferred()
        with self._lock:
            call_index, self._count = self._count, self._count + 1
        if call_index >= MAX_RECORDS:
            raise FlowFailed(f"One run made more than {MAX_RECORDS:,} calls and steps.")
        record = self._task.spec.records.get(call_index)
        if record is not None and record.fingerprint != fingerprint:
            raise replay_diverged(calling_line())
        return call_index, record

    def _wait_for(self, call_index: int, content: Call | Step) -> Future[AskResult]:
        future: Future[AskResult] = Future()
        self._ask(call_index, content, future)
        return future

    def _record(self, call_index: int, value: Any) -> Any:
        """Have the daemon record the value of a step; return what it has recorded."""
        spent = self.take_spent()
        try:
            return _step_value(self._wait_for(call_index, Step(value=value, fingerprint=_STEP, spent=spent)).result())
        except BaseException:
            self._return_spent(spent)  # the daemon may not have got the step
            raise

    def _record_deferred(self) -> None:
        with self._lock:
            deferred, self._deferred = self._deferred, None
        if deferred is not None:
            self._record(*deferred)

    def _ask(self, call_index: int, content: Call | Step | CancelCall, future: Future[AskResult] | None = None) -> None:
        with self._lock:
            if self._stopped:
                raise self._why_stopped()
            if future is not None:
                self._open[call_index] = future
        self._host.ask(Ask(self._task.spec.id, call_index, content))

    def _add_sent(self, sent: Sent) -> None:
        if self.instance is None:
            raise UsageError(
                "A plain function cannot send what leaves with its state, as it has none.",
                "Make it a class of AtomicFlow, or call and wait.",
            )
        self.out.append(sent)


class _RequestFields(TypedDict):
    user: str
    endpoint: str
    instance: str | None
    data: dict[str, Any]
    source: str
    timeout: float | None
    progress: bool


def _request(
    target: Target, message: FlowMessage, timeout: float | None, subflow: str, *, progress: bool = False
) -> _RequestFields:
    if timeout is not None and not 0 < timeout <= MAX_TIMEOUT_S:
        raise UsageError("The timeout is not between 0 seconds and 30 days.", "Give it in seconds.")
    return {
        "user": target.user,
        "endpoint": target.endpoint,
        "instance": target.instance,
        "data": _plain(message.sendable(), f"The message to the subflow {subflow!r}" if subflow else "A message"),
        "source": subflow[:MAX_SOURCE_CHARS],
        "timeout": timeout if timeout is None else float(timeout),
        "progress": progress,
    }


def _resolve(pending: Future[CallResult], result: Future[AskResult]) -> None:
    """Pass the result of a call on to the flow that waits for it."""
    try:
        settled = result.result()
    except (CallError, Suspended) as error:
        pending.set_exception(error)
        return
    match settled:
        case CallReply(message, sender, data):
            pending.set_result(CallResult(message, sender, with_files(data)))
        case CallFailed(_, message, sender):
            pending.set_result(CallResult(message, sender, {}, settled.as_error()))
        case StepValue():
            pending.set_result(CallResult("", "", {}))


def _step_value(result: AskResult) -> Any:
    """Return the recorded value of a step.

    Raises:
        CallError: it could not be recorded.
    """
    if isinstance(result, CallFailed):
        raise result.as_error()
    return result.value if isinstance(result, StepValue) else None


def _plain(value: Any, what: str = "That") -> Any:
    """A copy of a value as JSON has it.

    Args:
        value: what the run sends, or keeps in its records.
        what: what it is, for the error.

    Raises:
        FlowFailed: JSON cannot hold it, or no message can. It is no `TooLarge`: the caller has not sent it.
    """
    return json.loads(_checked(lambda: strict_json.compact_finite(value).encode(), what))


def _checked(write: Callable[[], bytes], what: str) -> bytes:
    """The JSON of a value, if a message can hold it; the arguments and errors are those of `_plain`."""
    try:
        written = write()
        strict_json.check_levels(written)
    except (TypeError, ValueError, RecursionError) as error:
        raise FlowFailed(
            f"That cannot be sent or kept as JSON: {error}.", "Use plain objects, lists, texts and numbers."
        ) from error
    if len(written) > MAX_BODY_BYTES:
        raise too_large(what, written)
    return written


def too_large(what: str, written: bytes) -> FlowFailed:
    """The error of a flow that says or keeps more than a message can hold.

    Args:
        what: what it is, as the beginning of a sentence.
        written: the JSON of it.
    """
    return FlowFailed(
        f"{what} is too large: it has {len(written):,} bytes, over the {MAX_BODY_BYTES:,} allowed.",
        f"Its author can let it {'answer' if what == ANSWER else 'do'} with less, or with a reference.",
    )


def _sorted(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))


def _withdrawn() -> Cancelled:
    return Cancelled("The run was withdrawn while it waited.")
