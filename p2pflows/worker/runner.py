"""Runs the tasks that the lanes let start: functions and commands in threads, async functions on an event loop.

A thread that has ended a task takes the next one itself, so that a busy worker hands nothing from thread to thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import logging
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from p2pflows.errors import (
    BY_KIND,
    CallError,
    Cancelled,
    DeadlinePassed,
    FlowFailed,
    P2pflowsError,
    UsageError,
)
from p2pflows.flows.function import FlowFunction, to_data, to_json
from p2pflows.flows.run import set_current
from p2pflows.foreign_text import quote
from p2pflows.protocol.asks import Ask
from p2pflows.protocol.file_reference import may_refer
from p2pflows.protocol.instance_tasks import InstanceTask
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.protocol.spent import Spent
from p2pflows.protocol.worker_frames import ErrorInfo, Progress, TaskResult, TaskSpec
from p2pflows.sent_files import files_of, with_paths
from p2pflows.worker import loading
from p2pflows.worker.instance_run import InstanceRun
from p2pflows.worker.lanes import HeldTask, Lanes, SettledAsk
from p2pflows.worker.pending_progress import PendingProgress
from p2pflows.worker.shell import Command, ShellRun
from p2pflows.worker.task_run import ANSWER, TaskRun, too_large

if TYPE_CHECKING:
    from p2pflows.models.keyring import Keyring

Begin = Callable[[], Awaitable[bytes]]
"""Begins what the event loop has to run, and returns the JSON of its result."""

_MAX_MESSAGE_CHARS = 2000
_TOO_LATE = "It was not started before its deadline."

_log = logging.getLogger(__name__)


class Runner:
    """Threads for flows, one of them with an event loop for async flows, so that no flow can delay a heartbeat.

    Args:
        lanes: decide which task may start.
        lock: held around each use of the lanes.
        slots: how many tasks may run at once.
        request_send: called from any thread when there is something to send to the daemon.
        request_report: the same, when there is only progress, which may wait for more.
        user: the user id of the daemon's owner.
        keyring: API keys for the flows; they stay in this object.
        home: the home folder of the daemon, from which flows get files; None if it is on another machine.
    """

    def __init__(
        self,
        lanes: Lanes,
        lock: threading.Lock,
        slots: int,
        request_send: Callable[[], None],
        request_report: Callable[[], None],
        *,
        user: str,
        keyring: Keyring | None = None,
        home: Path | None = None,
    ) -> None:
        self._lanes = lanes
        self._lock = lock
        self._request_send = request_send
        self._request_report = request_report
        self._user = user
        self._keyring = keyring
        self._home = home
        self._runs: dict[str, TaskRun] = {}
        self._slots = slots
        self._waiting_threads = 0
        self._threads = slots
        self._progress = PendingProgress()
        self._loader = loading.Loader()
        self._closed = False
        self._queue: queue.SimpleQueue[HeldTask | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._loop_thread = 0
        self._coroutines: set[asyncio.Task[None]] = set()
        # Daemon threads: a flow that never returns must not keep the process from its exit.
        threading.Thread(target=self._run_loop, name="async flows", daemon=True).start()
        for number in range(slots):
            threading.Thread(target=self._work, name=f"flow {number}", daemon=True).start()

    def start(self) -> None:
        """Start the tasks that may start; callable from any thread."""
        while (load := self._take_load()) is not None:
            # A thread of its own: to import a module may take for ever.
            threading.Thread(target=self._load, args=(load,), name=f"load {load.spec.endpoint}", daemon=True).start()
        coroutines = self._hand_out()
        if coroutines:
            self._loop.call_soon_threadsafe(self._begin, coroutines)

    def close(self) -> None:
        """Start nothing more, and let each thread end once its task has ended."""
        self._closed = True
        for _ in range(self._threads):
            self._queue.put(None)
        self._loop.call_soon_threadsafe(self._end_loop)

    def _hand_out(self) -> list[tuple[HeldTask, Begin]]:
        """Queue the tasks that may start for the threads.

        Returns:
            Those that are for the event loop.
        """
        coroutines = []
        while (task := self._take()) is not None:
            spec = task.spec
            loaded = self._loader.known(spec.endpoint, spec.revision) if spec.op == "run" else None
            if isinstance(loaded, FlowFunction) and loaded.is_async:
                coroutines.append((task, self._asynchronously(task, loaded)))
            else:
                self._queue.put(task)
        return coroutines

    # Called by runs (task_run.Host), from any thread.

    def ask(self, ask: Ask) -> None:
        """Send an ask to the daemon until it has a result."""
        with self._lock:
            self._lanes.add_ask(ask)
        self._request_send()

    @contextlib.contextmanager
    def parked(self, task: HeldTask, *, is_timed: bool) -> Iterator[None]:
        """Free the slot of a task while the block waits; another thread replaces the one that waits here."""
        in_thread = not self.in_loop()
        with self._lock:
            self._lanes.park(task, is_timed=is_timed)
            self._waiting_threads += in_thread
            is_short = self._slots + self._waiting_threads > self._threads
            self._threads += is_short
        if is_short:
            threading.Thread(target=self._work, name="flow", daemon=True).start()
        self.start()
        self._request_send()  # the daemon has to know that the slot is free
        try:
            yield
        finally:
            with self._lock:
                self._lanes.unpark(task)
                self._waiting_threads -= in_thread

    def in_loop(self) -> bool:
        """Whether this is the thread that runs all async flows."""
        return threading.get_ident() == self._loop_thread

    def progress(self, task: HeldTask, data: dict[str, Any]) -> None:
        """Send data to the caller before the answer."""
        with self._lock:
            self._progress.add(task.spec.id, data)
        self._request_report()

    # Called by the worker.

    def deliver(self, settled: SettledAsk) -> None:
        """Hand the result of an ask to its run."""
        run = self._runs.get(settled.task)
        if run is not None:
            run.deliver(settled.call_index, settled.result)

    def take_progress(self, ended: Collection[str] | None = None) -> list[Progress]:
        """Take what runs have reported since the last call; the caller holds the lock.

        Args:
            ended: the tasks whose reports have to leave, as their results do; None for all tasks.
        """
        return self._progress.take() if ended is None else self._progress.take_of(ended)

    def _work(self) -> None:
        """Run a task from the queue, then all others that may start, and wait for the next one."""
        try:
            with files_of(self._home):
                self._work_on()
        except BaseException as error:  # noqa: BLE001 - flows cannot get here: it is a fault of ours
            _end_process(error)

    def _work_on(self) -> None:
        while not self._is_surplus():
            task = self._queue.get()
            if task is None:
                return
            while task is not None:
                self._run(task)
                task = self._take()

    def _load(self, task: HeldTask) -> None:
        """Load a flow: this needs no slot, so it never waits for a run."""
        try:
            self._run(task)
        except BaseException as error:  # noqa: BLE001 - flows cannot get here: it is a fault of ours
            _end_process(error)

    def _is_surplus(self) -> bool:
        """Whether this thread was needed only while another one waited; it is counted out then."""
        with self._lock:
            is_surplus = self._threads > self._slots + self._waiting_threads
            self._threads -= is_surplus
        return is_surplus

    def _take(self) -> HeldTask | None:
        with self._lock:
            task = self._lanes.take()
        if task is not None:
            task.started_s = time.monotonic()
        return task

    def _take_load(self) -> HeldTask | None:
        with self._lock:
            return self._lanes.take_load()

    def _finish(self, task: HeldTask, data: bytes) -> None:
        self._end(task, TaskResult(task.spec.id, None, data, _took_ms(task), self._take_spent(task)))

    def _fail(self, task: HeldTask, error: BaseException) -> None:
        info = None if task.suspended is not None else _error_info(task, error)
        self._end(task, TaskResult(task.spec.id, info, b"null", _took_ms(task), self._take_spent(task)))

    def _take_spent(self, task: HeldTask) -> tuple[Spent, ...]:
        run = self._runs.get(task.spec.id)
        return () if run is None else run.take_spent()

    def _end(self, task: HeldTask, result: TaskResult) -> None:
        with self._lock:
            self._lanes.finish(task, result)
            self._runs.pop(task.spec.id, None)
        self._request_send()

    def _run(self, task: HeldTask) -> None:
        try:
            if time.time() >= task.spec.expires_s:
                raise DeadlinePassed(_TOO_LATE)  # noqa: TRY301 - it ends like what a flow raises
            data = self._execute(task)
            if not isinstance(data, bytes):
                self._loop.call_soon_threadsafe(self._begin, [(task, data)])
                return
            _check_size(data)
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything, SystemExit too
            self._fail(task, error)
        else:
            self._finish(task, data)

    def _execute(self, task: HeldTask) -> bytes | Begin:
        """Run a task in this thread.

        Returns:
            The JSON of its result, or what the event loop has to run for it.
        """
        spec = task.spec
        if spec.op == "load":
            loaded = self._loader.load(spec.endpoint, spec.revision, spec.target)
            return to_json({**loading.describe(loaded), "release": loading.release_of(loaded)})
        loaded = self._loaded(spec)
        match loaded:
            case Command():
                return _run_command(task, loaded)
            case FlowFunction(is_async=True):
                return self._asynchronously(task, loaded)
            case FlowFunction():
                with set_current(self._open(task, None)):
                    return to_json(to_data(loaded.invoke(spec.data)))
        instance_task = InstanceTask.read(spec.data)
        run = self._open(task, instance_task.instance)
        with set_current(run):
            instance_run = InstanceRun(spec, loaded, instance_task, run, self._keyring)
            rest = instance_run.begin()
        if rest is None:
            return instance_run.result()

        async def finish() -> bytes:
            with set_current(run):
                return await instance_run.finish(rest)

        return finish

    def _asynchronously(self, task: HeldTask, function: FlowFunction) -> Begin:
        async def reply() -> bytes:
            with set_current(self._open(task, None)):
                return to_json(to_data(await function.invoke(task.spec.data)))

        return reply

    def _open(self, task: HeldTask, instance: str | None) -> TaskRun:
        """A run that can be stopped from now on."""
        run = TaskRun(task, self._user, instance, self)
        with self._lock:
            self._runs[task.spec.id] = run
            if task.stop is None:
                task.stop = run.stop
        if task.cancelled:
            run.stop()
        return run

    def _loaded(self, spec: TaskSpec) -> loading.Loaded:
        known = self._loader.known(spec.endpoint, spec.revision)
        if known is not None:
            return known
        try:
            return self._loader.load(spec.endpoint, spec.revision, spec.target)
        except UsageError as error:
            # The caller cannot mend it: for them the flow failed.
            raise FlowFailed(f"Its worker cannot load it: {error.message}") from error

    def _end_loop(self) -> None:
        for running in self._coroutines:
            running.cancel()
        ended = asyncio.gather(*self._coroutines, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.stop())

    def _run_loop(self) -> None:
        self._loop_thread = threading.get_ident()
        asyncio.set_event_loop(self._loop)
        while not self._closed:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                _log.error("A background task of an async flow wanted to end the worker.", exc_info=error)
        self._loop.close()

    def _begin(self, coroutines: list[tuple[HeldTask, Begin]]) -> None:
        for task, begin in coroutines:
            running = self._loop.create_task(self._run_async(task, begin))
            self._coroutines.add(running)  # the loop itself would let it be collected
            running.add_done_callback(self._on_coroutine_done)

    def _on_coroutine_done(self, coroutine: asyncio.Task[None]) -> None:
        self._coroutines.discard(coroutine)
        error = None if coroutine.cancelled() else coroutine.exception()
        if error is not None:
            _end_process(error)

    async def _run_async(self, task: HeldTask, begin: Begin) -> None:
        current = asyncio.current_task()
        if current is not None:
            task.stop = functools.partial(_cancel, self._loop, current)
        try:
            with files_of(self._home):
                data = await _await(task, begin)
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything, SystemExit too
            self._fail(task, error)
        else:
            self._finish(task, data)
        self._begin(self._hand_out())


def _cancel(loop: asyncio.AbstractEventLoop, coroutine: asyncio.Task[None]) -> None:
    loop.call_soon_threadsafe(coroutine.cancel)


def _end_process(error: BaseException) -> NoReturn:
    """End loudly: a thread that died in silence would keep its lane for ever, and the heartbeats would hide it."""
    _log.critical("The worker has a fault and ends; its tasks go to another.", exc_info=error)
    logging.shutdown()
    os._exit(1)


async def _await(task: HeldTask, begin: Begin) -> bytes:
    if task.cancelled:
        raise Cancelled("It was cancelled before it started.")
    left = task.spec.expires_s - time.time()
    if left <= 0:
        raise DeadlinePassed(_TOO_LATE)
    timeout = asyncio.timeout(left)
    try:
        async with timeout:
            data = await begin()
    except TimeoutError:
        if timeout.expired():
            raise DeadlinePassed("It was stopped at its deadline.") from None
        raise
    _check_size(data)
    return data


def _run_command(task: HeldTask, command: Command) -> bytes:
    spec = task.spec
    run = ShellRun(
        command,
        {
            "P2PFLOWS_MESSAGE_ID": spec.message,
            "P2PFLOWS_FROM": spec.sender,
            "P2PFLOWS_FROM_NAME": spec.sender_name,
            "P2PFLOWS_ENDPOINT": spec.endpoint,
            "P2PFLOWS_CONVERSATION": spec.conversation,
        },
    )
    task.stop = run.stop
    if task.cancelled:
        run.stop()
    data = spec.data
    if may_refer(data):
        data = to_json(with_paths(json.loads(data)))
    return to_json(run.reply(data, spec.expires_s - time.time()))


def _took_ms(task: HeldTask) -> int:
    """How long a task has run, in milliseconds; 0 if it is a load."""
    return int((time.monotonic() - task.started_s) * 1000) if task.started_s else 0


def _check_size(data: bytes) -> None:
    """See that a message can carry a reply.

    Raises:
        FlowFailed: it cannot.
    """
    if len(data) > MAX_BODY_BYTES:
        raise too_large(ANSWER, data)


def _error_info(task: HeldTask, error: BaseException) -> ErrorInfo:
    """An error as it is sent to the daemon, even if its class lacks what errors of its kind have."""
    try:
        return _describe(task, error)
    except Exception as wrong:  # noqa: BLE001 - a flow's own class of errors may do anything
        _log.error(
            "%s raised an error that cannot be described, on message %s:",
            task.spec.endpoint,
            task.spec.message,
            exc_info=wrong,
        )
        return ErrorInfo(FlowFailed.kind, type(error).__name__)


def _describe(task: HeldTask, error: BaseException) -> ErrorInfo:
    """An error as it is sent to the daemon; one that nobody raised on purpose is logged in full."""
    spec = task.spec
    if isinstance(error, UsageError) and spec.op == "load":
        return ErrorInfo(error.kind, _sendable(error.message), _sendable(error.hint))
    if isinstance(error, CallError) and error.kind in BY_KIND:
        return _with_hint(error.kind, error)
    if task.cancelled and isinstance(error, asyncio.CancelledError):
        return ErrorInfo(Cancelled.kind, "It was withdrawn.")
    if isinstance(error, UsageError):  # the author's mistake, in plain words; the line is in the log
        _log.error("%s failed on message %s:", spec.endpoint, spec.message, exc_info=error)
        return _with_hint(FlowFailed.kind, error)
    _log.error("%s raised on message %s:", spec.endpoint, spec.message, exc_info=error)
    name = type(error).__name__
    message = f"{name}: {_text(error)}".removesuffix(": ")
    return ErrorInfo(FlowFailed.kind, _sendable(message), type=name)


def _with_hint(kind: str, error: P2pflowsError) -> ErrorInfo:
    if error.user:  # a subflow of another user failed: its words stay theirs, and are no advice of ours
        return ErrorInfo(kind, _sendable(quote(f"User {error.user[:8]}…", error.message, error.hint)))
    if error.details:
        _log.error("%s", error.details)
    return ErrorInfo(kind, _sendable(error.message), _sendable(error.hint), details=_sendable(error.details))


def _sendable(message: str) -> str:
    """A message that a frame can carry: not too long, and without the half characters that file names may hold."""
    return message[:_MAX_MESSAGE_CHARS].encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is a stranger's __str__
        return ""
