"""What the programs of all peers share: they read cases as JSON lines from stdin, and print what they measured.

First a program prints `{"processes": {NAME: PID}, ...}`, once all that it needs is running. Then it answers each line
`{"size", "in_flight", "exchanges"}` with `{"times", "seconds"}`: how long each exchange took if they were made one at a
time, and how long all of them took together, in seconds. It ends when stdin ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

WARM_UP = 50
MAX_CASE_S = 10.0
"""After so many seconds no more exchanges of a case begin, so that a slow peer is measured by fewer of them."""


def text_of(size: int) -> str:
    """Return the text of so many bytes that each exchange carries there and back."""
    return "x" * size


def say(**fields: Any) -> None:
    """Print one line of JSON."""
    print(json.dumps(fields), flush=True)


def cases() -> Iterator[tuple[int, int, int]]:
    """Yield size, exchanges in flight and count of each case."""
    for line in sys.stdin:
        case = json.loads(line)
        yield case["size"], case["in_flight"], case["exchanges"]


async def measure(exchange: Callable[[str], Awaitable[Any]], size: int, in_flight: int, count: int) -> None:
    """Make the exchanges of one case, and print the result.

    Args:
        exchange: sends a text, and returns once the same text has come back.
        size: bytes of the text.
        in_flight: how many exchanges are under way at a time.
        count: how many there are in all.
    """
    text = text_of(size)
    for _ in range(WARM_UP):
        await exchange(text)
    times: list[float] = []
    left = count

    async def one_after_another() -> None:
        nonlocal left
        while left > 0 and time.perf_counter() < ends:
            left -= 1
            began = time.perf_counter()
            await exchange(text)
            times.append(time.perf_counter() - began)

    began = time.perf_counter()
    ends = began + MAX_CASE_S
    await asyncio.gather(*(one_after_another() for _ in range(in_flight)))
    say(times=times, seconds=time.perf_counter() - began)


async def serve(exchange: Callable[[str], Awaitable[Any]], **processes: int) -> None:
    """Say that all is running, then measure case after case.

    Args:
        exchange: sends a text, and returns once the same text has come back.
        processes: the processes that take part, beside this one.
    """
    say(processes=processes)
    lines = iter(cases())
    while (case := await asyncio.to_thread(next, lines, None)) is not None:
        await measure(exchange, *case)


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(*command: str, port: int | None = None, **options: Any) -> Iterator[subprocess.Popen[Any]]:
    """Run a program, and end it; with a port, wait until it listens there; else, until it has printed a line."""
    quiet = {"stdout": subprocess.PIPE if port is None else subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, text=True, **{**quiet, **options})
    try:
        if port is None:
            assert process.stdout is not None
            process.stdout.readline()
        else:
            _wait_for_port(port)
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()


def _wait_for_port(port: int) -> None:
    for _ in range(200):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
            return
        time.sleep(0.05)
    sys.exit(f"Nothing listens on port {port}.")
