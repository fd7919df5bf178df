"""What a process owes to the terminal that it was started in: streams that are closed, and the terminal's own end."""

from __future__ import annotations

import os
import signal
from collections.abc import Coroutine
from typing import TypeVar

T = TypeVar("T")

TERMINAL_CLOSED = "The terminal was closed (SIGHUP), so this process stops. To go on without one: p2pflows up --detach"


def hold_interrupts() -> None:
    """Let Ctrl-C wait until the program that replaces this process calls `begin_quietly`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])


def begin_quietly() -> None:
    """Let Ctrl-C end this process without a traceback while it imports what it needs; it has done nothing yet."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def end_quiet_start() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again; undoes `begin_quietly`."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def run_interruptible(main: Coroutine[object, object, T]) -> T:
    """Run a coroutine as `asyncio.run` does, but let Ctrl-C wait until the event loop is complete.

    `asyncio.run` makes its loop before it handles Ctrl-C. One that came in between left half a loop behind, which
    Python then complained about in the user's terminal.

    Raises:
        KeyboardInterrupt: the user pressed Ctrl-C; the coroutine was cancelled.
    """
    import asyncio

    async def run() -> T:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        return await main

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return asyncio.run(run())
    finally:
        main.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def open_closed_streams() -> None:
    """Open `/dev/null` in place of stdin, stdout and stderr where they are closed.

    Else the next file or socket takes their place, and what is printed goes there. `sys.stdin` stays None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a process properly; SIGHUP unless it is ignored, as under nohup."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignores_hangup else [signal.SIGHUP])]
