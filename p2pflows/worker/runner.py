"""Runs what the lanes let start: functions and commands in threads, async functions on a loop of their own.

Whoever has ended a task takes the next one itself, so that a busy worker hands nothing from thread to thread.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from p2pflows.errors import BY_KIND, CallError, Cancelled, DeadlinePassed, FlowFailed, TooLarge, UsageError
from p2pflows.function import FlowFunction, to_data, to_json
from p2pflows.worker import loading
from p2pflows.worker.frames import Result, Task
from p2pflows.worker.lanes import Lanes
from p2pflows.worker.shell import OUTPUT_LIMIT, Command, Run

_LONGEST_MESSAGE = 2000
_TOO_LATE = "It was not started before its deadline."

_log = logging.getLogger(__name__)


class Runner:
    """Threads, and one with an event loop for async flows: no flow can keep the worker from its heartbeats.

    Args:
        lanes: says what may start.
        lock: held around each use of the lanes, by whoever uses them.
        slots: how many tasks may run at once.
        on_result: called from any thread once the lanes have a result.
    """

    def __init__(self, lanes: Lanes, lock: threading.Lock, slots: int, on_result: Callable[[], None]) -> None:
        self._lanes = lanes
        self._lock = lock
        self._on_result = on_result
        self._loader = loading.Loader()
        self._handed: queue.SimpleQueue[Task] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._coroutines: set[asyncio.Task[None]] = set()
        # Daemon threads: a flow that never returns must not keep the process from its exit.
        threading.Thread(target=self._turn_loop, name="async flows", daemon=True).start()
        for number in range(slots):
            threading.Thread(target=self._work, name=f"flow {number}", daemon=True).start()

    def start(self) -> None:
        """Start what may start; from any thread but the async flows' own."""
        coroutines = self._hand_out()
        if coroutines:
            self._loop.call_soon_threadsafe(self._begin, coroutines)

    def _hand_out(self) -> list[tuple[Task, FlowFunction]]:
        """Hand what may start to the threads; gives what is for the loop."""
        coroutines = []
        while (task := self._take()) is not None:
            function = self._known_async(task)
            if function is None:
                self._handed.put(task)
            else:
                coroutines.append((task, function))
        return coroutines

    def _work(self) -> None:
        """A thread: runs what it is handed, then whatever else may start, then waits again."""
        try:
            while True:
                task: Task | None = self._handed.get()
                while task is not None:
                    self._run(task)
                    task = self._take()
        except BaseException as error:  # noqa: BLE001 - flows cannot get here: it is a fault of ours
            _end_process(error)

    def _take(self) -> Task | None:
        with self._lock:
            return self._lanes.take()

    def _finish(self, task: Task, data: bytes, error: BaseException | None) -> None:
        result = Result(task.id, None if error is None else _as_json(task, error), data)
        with self._lock:
            self._lanes.finish(task, result)
        self._on_result()

    def _run(self, task: Task) -> None:
        try:
            if time.time() >= task.expires:
                raise DeadlinePassed(_TOO_LATE)  # noqa: TRY301 - it ends like what a flow raises
            if task.op == "load":
                data = to_json(loading.describe(self._loader.load(task.endpoint, task.revision, task.target)))
            else:
                loaded = self._loaded(task)
                if isinstance(loaded, FlowFunction) and loaded.is_async:
                    self._loop.call_soon_threadsafe(self._begin, [(task, loaded)])
                    return
                data = _command(task, loaded) if isinstance(loaded, Command) else _call(task, loaded)
        except BaseException as error:  # noqa: BLE001 - a flow may raise anything, SystemExit too
            self._finish(task, b"null", error)
        else:
            self._finish(task, data, None)

    def _known_async(self, task: Task) -> FlowFunction | None:
        loaded = self._loader.known(task.endpoint, task.revision) if task.op == "run" else None
        return loaded if isinstance(loaded, FlowFunction) and loaded.is_async else None

    def _loaded(self, task: Task) -> loading.Loaded:
        known = self._loader.known(task.endpoint, task.revision)
        if known is not None:
            return known
        try:
            return self._loader.load(task.endpoint, task.revision, task.target)
        except UsageError as error:
            # The caller has no way to mend it: for them the flow failed.
            raise FlowFailed(f"Its worker cannot load it: {error.message}") from error

    def _turn_loop(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                _log.error("A background task of an async flow wanted to end the worker.", exc_info=error)

    def _begin(self, coroutines: list[tuple[Task, FlowFunction]]) -> None:
        for task, function in coroutines:
            running = self._loop.create_task(self._run_async(task, function))
            self._coroutines.add(running)  # the loop itself would let it be collected
            running.add_done_callback(self._ended)

    def _ended(self, running: asyncio.Task[None]) -> None:
        self._coroutines.discard(running)
        error = None if running.cancelled() else running.exception()
        if error is not None:
            _end_process(error)

    async def _run_async(self, task: Task, function: FlowFunction) -> None:
        current = asyncio.current_task()
        if current is not None:
            task.stop = functools.partial(_cancel, self._loop, current)
        try:
            data = await _await(task, function)
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


def _call(task: Task, function: FlowFunction) -> bytes:
    return _fitting(to_json(to_data(function.invoke(task.data))))


async def _await(task: Task, function: FlowFunction) -> bytes:
    if task.dropped:
        raise Cancelled("It was cancelled before it started.")
    left = task.expires - time.time()
    if left <= 0:
        raise DeadlinePassed(_TOO_LATE)
    patience = asyncio.timeout(left)
    try:
        async with patience:
            value = await function.invoke(task.data)
    except TimeoutError:
        if patience.expired():
            raise DeadlinePassed("It was stopped at its deadline.") from None
        raise
    return _fitting(to_json(to_data(value)))


def _command(task: Task, command: Command) -> bytes:
    run = Run(
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
    return _fitting(to_json(run.reply(task.data, task.expires - time.time())))


def _fitting(data: bytes) -> bytes:
    if len(data) > OUTPUT_LIMIT:
        raise TooLarge(f"The reply has {len(data)} bytes, over the {OUTPUT_LIMIT} allowed.")
    return data


def _as_json(task: Task, error: BaseException) -> dict[str, str]:
    """An error as the daemon is told it; what nobody raised on purpose goes to the log in full."""
    if isinstance(error, UsageError) and task.op == "load":
        return {"kind": error.kind, "message": _sendable(error.message)}
    if isinstance(error, CallError) and error.kind in BY_KIND:
        return {"kind": error.kind, "message": _sendable(error.message)}
    _log.error("%s raised on message %s:", task.endpoint, task.message, exc_info=error)
    name = type(error).__name__
    message = f"{name}: {_text(error)}".removesuffix(": ")
    return {"kind": FlowFailed.kind, "message": _sendable(message), "type": name}


def _sendable(message: str) -> str:
    """A message that a frame can carry: not too long, and without the half characters that file names may hold."""
    return message[:_LONGEST_MESSAGE].encode(errors="replace").decode()


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is a stranger's __str__
        return ""
