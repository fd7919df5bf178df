"""Runs what the lanes let start: functions and commands in threads, async functions on a loop of their own.

Whoever has ended a task takes the next one itself, so that a busy worker hands nothing from thread to thread.
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
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

from p2pflows.errors import (
    BY_KIND,
    CallError,
    Cancelled,
    DeadlinePassed,
    FlowFailed,
    P2pflowsError,
    TooLarge,
    UsageError,
)
from p2pflows.flows.function import FlowFunction, to_data, to_json
from p2pflows.flows.run import set_current
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.worker import loading
from p2pflows.worker.frames import Answer, Ask, Result, Task
from p2pflows.worker.instance_run import InstanceRun
from p2pflows.worker.lanes import Lanes
from p2pflows.worker.shell import Command, ShellRun
from p2pflows.worker.task_run import TaskRun

if TYPE_CHECKING:
    from p2pflows.models.keyring import Keyring

Begin = Callable[[], Awaitable[bytes]]
"""Begins what the event loop has to run; gives the result's JSON."""

_MAX_MESSAGE_CHARS = 2000
_TOO_LATE = "It was not started before its deadline."

_log = logging.getLogger(__name__)


class Runner:
    """Threads, and one with an event loop for async flows: no flow can keep the worker from its heartbeats.

    Args:
        lanes: says what may start.
        lock: held around each use of the lanes, by whoever uses them.
        slots: how many tasks may run at once.
        on_result: called from any thread once the lanes have something to tell the daemon.
        user: whose daemon this worker serves.
        keyring: keys for the flows that want some; they stay in this object.
    """

    def __init__(
        self,
        lanes: Lanes,
        lock: threading.Lock,
        slots: int,
        on_result: Callable[[], None],
        *,
        user: str,
        keyring: Keyring | None = None,
    ) -> None:
        self._lanes = lanes
        self._lock = lock
        self._on_result = on_result
        self._user = user
        self._keyring = keyring
        self._runs: dict[str, TaskRun] = {}
        self._slots = slots
        self._waiting_threads = 0
        self._threads = slots
        self._progress: list[tuple[str, dict[str, Any]]] = []
        self._loader = loading.Loader()
        self._closed = False
        self._handed: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._loop_thread = 0
        self._coroutines: set[asyncio.Task[None]] = set()
        # Daemon threads: a flow that never returns must not keep the process from its exit.
        threading.Thread(target=self._turn_loop, name="async flows", daemon=True).start()
        for number in range(slots):
            threading.Thread(target=self._work, name=f"flow {number}", daemon=True).start()

    def start(self) -> None:
        """Start what may start; from any thread."""
        coroutines = self._hand_out()
        if coroutines:
            self._loop.call_soon_threadsafe(self._begin, coroutines)

    def close(self) -> None:
        """Let the threads end, each once what it runs has ended; nothing is started any more."""
        self._closed = True
        for _ in range(self._threads):
            self._handed.put(None)
        self._loop.call_soon_threadsafe(self._end_loop)

    def _hand_out(self) -> list[tuple[Task, Begin]]:
        """Hand what may start to the threads; gives what is for the loop."""
        coroutines = []
        while (task := self._take()) is not None:
            loaded = self._loader.known(task.endpoint, task.revision) if task.op == "run" else None
            if isinstance(loaded, FlowFunction) and loaded.is_async:
                coroutines.append((task, self._asynchronously(task, loaded)))
            else:
                self._handed.put(task)
        return coroutines

    # What runs ask (task_run.Host), from any thread.

    def ask(self, ask: Ask) -> None:
        """Have the daemon keep something."""
        with self._lock:
            self._lanes.ask(ask)
        self._on_result()

    @contextlib.contextmanager
    def parked(self, task: Task) -> Iterator[None]:
        """While the block waits, the task holds no slot; another thread takes over from the one that waits here."""
        in_thread = not self.in_loop()
        with self._lock:
            self._lanes.park(task)
            self._waiting_threads += in_thread
            fresh = self._slots + self._waiting_threads > self._threads
            self._threads += fresh
        if fresh:
            threading.Thread(target=self._work, name="flow", daemon=True).start()
        self.start()
        self._on_result()  # its slot is free: the daemon has to know
        try:
            yield
        finally:
            with self._lock:
                self._lanes.unpark(task)
                self._waiting_threads -= in_thread

    def in_loop(self) -> bool:
        """Whether this is the thread that runs all async flows."""
        return threading.get_ident() == self._loop_thread

    def progress(self, task: Task, data: dict[str, Any]) -> None:
        """Tell the caller something."""
        with self._lock:
            self._progress.append((task.id, data))
        self._on_result()

    # What the worker tells.

    def answered(self, answer: Answer) -> None:
        """The daemon has answered something that a run asked."""
        run = self._runs.get(answer.task)
        if run is not None:
            run.answered(answer.k, answer.value)

    def take_progress(self) -> list[tuple[str, dict[str, Any]]]:
        """What runs have to tell before their end; the lock is held."""
        told, self._progress = self._progress, []
        return told

    def _work(self) -> None:
        """A thread: runs what it is handed, then whatever else may start, then waits again."""
        try:
            while not self._too_many():
                task = self._handed.get()
                if task is None:
                    return
                while task is not None:
                    self._run(task)
                    task = self._take()
        except BaseException as error:  # noqa: BLE001 - flows cannot get here: it is a fault of ours
            _end_process(error)

    def _too_many(self) -> bool:
        """Whether this thread was needed only while another one waited."""
        with self._lock:
            over = self._threads > self._slots + self._waiting_threads
            self._threads -= over
        return over

    def _take(self) -> Task | None:
        with self._lock:
            return self._lanes.take()

    def _finish(self, task: Task, data: bytes, error: BaseException | None) -> None:
        result = Result(task.id, None if error is None else _told(task, error), data)
        with self._lock:
            self._lanes.finish(task, result)
            self._runs.pop(task.id, None)
        self._on_result()

    def _run(self, task: Task) -> None:
        try:
            if time.time() >= task.expires:
                raise DeadlinePassed(_TOO_LATE)  # noqa: TRY301 - it ends like what a flow raises
            data = self._do(task)
            if not isinstance(data, bytes):
                self._loop.call_soon_threadsafe(self._begin, [(task, data)])
                return
            data = _fitting(data)
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything, SystemExit too
            self._finish(task, b"null", error)
        else:
            self._finish(task, data, None)

    def _do(self, task: Task) -> bytes | Begin:
        """Run a task in this thread; gives its result, or what the loop has to go on with."""
        if task.op == "load":
            return to_json(loading.describe(self._loader.load(task.endpoint, task.revision, task.target)))
        loaded = self._loaded(task)
        match loaded:
            case Command():
                return _command(task, loaded)
            case FlowFunction(is_async=True):
                return self._asynchronously(task, loaded)
            case FlowFunction():
                with set_current(self._open(task, None)):
                    return to_json(to_data(loaded.invoke(task.data)))
        order = json.loads(task.data)
        run = self._open(task, order["instance"])
        with set_current(run):
            turn = InstanceRun(task, loaded, order, run, self._keyring)
            going_on = turn.begin()
        if going_on is None:
            return turn.result()

        async def rest() -> bytes:
            with set_current(run):
                return await turn.go_on(going_on)

        return rest

    def _asynchronously(self, task: Task, function: FlowFunction) -> Begin:
        async def reply() -> bytes:
            with set_current(self._open(task, None)):
                return to_json(to_data(await function.invoke(task.data)))

        return reply

    def _open(self, task: Task, instance: str | None) -> TaskRun:
        """A run that can be stopped from here on."""
        run = TaskRun(task, self._user, instance, self)
        with self._lock:
            self._runs[task.id] = run
            if task.stop is None:
                task.stop = run.stop
        if task.dropped:
            run.stop()
        return run

    def _loaded(self, task: Task) -> loading.Loaded:
        known = self._loader.known(task.endpoint, task.revision)
        if known is not None:
            return known
        try:
            return self._loader.load(task.endpoint, task.revision, task.target)
        except UsageError as error:
            # The caller has no way to mend it: for them the flow failed.
            raise FlowFailed(f"Its worker cannot load it: {error.message}") from error

    def _end_loop(self) -> None:
        for running in self._coroutines:
            running.cancel()
        ended = asyncio.gather(*self._coroutines, return_exceptions=True)
        ended.add_done_callback(lambda _: self._loop.stop())

    def _turn_loop(self) -> None:
        self._loop_thread = threading.get_ident()
        asyncio.set_event_loop(self._loop)
        while not self._closed:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                _log.error("A background task of an async flow wanted to end the worker.", exc_info=error)
        self._loop.close()

    def _begin(self, coroutines: list[tuple[Task, Begin]]) -> None:
        for task, begin in coroutines:
            running = self._loop.create_task(self._run_async(task, begin))
            self._coroutines.add(running)  # the loop itself would let it be collected
            running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._coroutines.discard(running)
        error = None if running.cancelled() else running.exception()
        if error is not None:
            _end_process(error)

    async def _run_async(self, task: Task, begin: Begin) -> None:
        current = asyncio.current_task()
        if current is not None:
            task.stop = functools.partial(_cancel, self._loop, current)
        try:
            data = await _await(task, begin)
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything, SystemExit too
            self._finish(task, b"null", error)
        else:
            self._finish(task, data, None)
        self._begin(self._hand_out())


def _cancel(loop: asyncio.AbstractEventLoop, running: asyncio.Task[None]) -> None:
    loop.call_soon_threadsafe(running.cancel)


def _end_process(error: BaseException) -> NoReturn:
    """End loudly: a thread that died in silence would keep its lane for ever, and the heartbeats would hide it."""
    _log.critical("The worker has a fault and ends; its tasks go to another.", exc_info=error)
    logging.shutdown()
    os._exit(1)


async def _await(task: Task, begin: Begin) -> bytes:
    if task.dropped:
        raise Cancelled("It was cancelled before it started.")
    left = task.expires - time.time()
    if left <= 0:
        raise DeadlinePassed(_TOO_LATE)
    patience = asyncio.timeout(left)
    try:
        async with patience:
            return _fitting(await begin())
    except TimeoutError:
        if patience.expired():
            raise DeadlinePassed("It was stopped at its deadline.") from None
        raise


def _command(task: Task, command: Command) -> bytes:
    run = ShellRun(
        command,
        {
            "P2PFLOWS_MESSAGE_ID": task.message,
            "P2PFLOWS_FROM": task.sender,
            "P2PFLOWS_FROM_NAME": task.name,
            "P2PFLOWS_ENDPOINT": task.endpoint,
            "P2PFLOWS_CONVERSATION": task.conversation,
        },
    )
    task.stop = run.stop
    if task.dropped:
        run.stop()
    return to_json(run.reply(task.data, task.expires - time.time()))


def _fitting(data: bytes) -> bytes:
    if len(data) > MAX_BODY_BYTES:
        raise TooLarge(f"The reply has {len(data)} bytes, over the {MAX_BODY_BYTES} allowed.")
    return data


def _told(task: Task, error: BaseException) -> dict[str, str]:
    """An error as the daemon is told it, also of a class that does not keep what errors of its kind have."""
    try:
        return _as_json(task, error)
    except Exception as wrong:  # noqa: BLE001 - a flow's own class of errors may do anything
        _log.error("%s raised what cannot be told on message %s:", task.endpoint, task.message, exc_info=wrong)
        return {"kind": FlowFailed.kind, "message": type(error).__name__}


def _as_json(task: Task, error: BaseException) -> dict[str, str]:
    """An error as the daemon is told it; what nobody raised on purpose goes to the log in full."""
    if isinstance(error, UsageError) and task.op == "load":
        return {"kind": error.kind, "message": _sendable(error.message)}
    if isinstance(error, CallError) and error.kind in BY_KIND:
        return _with_hint(error.kind, error)
    if task.dropped and isinstance(error, asyncio.CancelledError):
        return Cancelled("It was withdrawn.").as_told()
    if isinstance(error, UsageError):  # the author's mistake, told by us in plain words; the line is in the log
        _log.error("%s went wrong on message %s:", task.endpoint, task.message, exc_info=error)
        return _with_hint(FlowFailed.kind, error)
    _log.error("%s raised on message %s:", task.endpoint, task.message, exc_info=error)
    name = type(error).__name__
    message = f"{name}: {_text(error)}".removesuffix(": ")
    return {"kind": FlowFailed.kind, "message": _sendable(message), "type": name}


def _with_hint(kind: str, error: P2pflowsError) -> dict[str, str]:
    told = {"kind": kind, "message": _sendable(error.message)}
    return {**told, "hint": _sendable(error.hint)} if error.hint else told


def _sendable(message: str) -> str:
    """A message that a frame can carry: not too long, and without the half characters that file names may hold."""
    return message[:_MAX_MESSAGE_CHARS].encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is a stranger's __str__
        return ""
