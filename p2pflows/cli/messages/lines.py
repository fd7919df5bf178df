"""`call --lines` and `send --lines`: for each JSON object on stdin, print one line, in the order of the input.

Memory use does not depend on the length of the input. Stdin is read only as fast as its lines are sent, at most
`MAX_IN_FLIGHT` requests are with the daemon, and at most `MAX_WINDOW` lines wait to be printed after a slow one.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import click

import p2pflows
from p2pflows.cli.input.arguments import decode, parse_object
from p2pflows.cli.printing.output import Interrupted, print_json, stdout_is_terminal
from p2pflows.client.async_client import AsyncClient
from p2pflows.client.control_lines import MAX_REQUEST_BYTES
from p2pflows.errors import DaemonNotRunning, P2pflowsError, TooLarge, UsageError, from_kind
from p2pflows.terminal import run_interruptible

MAX_IN_FLIGHT = 256
MAX_WINDOW = 4096

_CHUNK_BYTES = 65_536
_PROGRESS_INTERVAL_S = 0.2
_SUCCEEDED = {"call": "are answered", "send": "were accepted (their ids are printed)"}


def run(method: str, params: dict[str, Any], *, as_json: bool) -> None:
    """Make one request of each line of stdin, and print its result.

    Args:
        method: `call` or `send`.
        params: the parameters that all requests share.
        as_json: whether to print the id of a sent message as a JSON object; answers to calls are JSON anyway.

    Raises:
        P2pflowsError: some lines failed, the daemon went away, or the user pressed Ctrl-C.
    """
    tally = _Tally()
    try:
        run_interruptible(_Pipeline(method, params, tally, as_json).run())
    except KeyboardInterrupt:
        raise tally.interrupted() from None
    if tally.lost:
        raise tally.daemon_lost(method)
    if tally.failed:
        raise tally.lines_failed()


@dataclass(slots=True)
class _Tally:
    """Counts of lines, and the error that reports them."""

    sent: int = 0
    done: int = 0
    failed: int = 0
    lost: list[int] = field(default_factory=list)
    next_line: int = 1
    first_failure: P2pflowsError | None = None
    is_mixed: bool = False

    def fail(self, error: P2pflowsError) -> None:
        """Count a line that failed."""
        self.failed += 1
        self.first_failure = self.first_failure or error
        self.is_mixed |= error.exit_code != self.first_failure.exit_code

    def lines_failed(self) -> P2pflowsError:
        """Return the error for failed lines, of the kind of the first if all have its exit code."""
        kind = self.first_failure.kind if self.first_failure and not self.is_mixed else ""
        return from_kind(kind, f"{self.failed:,} of {self.done:,} lines failed; the output has their errors.")

    def daemon_lost(self, method: str) -> P2pflowsError:
        """Return the error for a daemon that went away."""
        succeeded = f"{self.done - self.failed:,} lines {_SUCCEEDED[method]}"
        unknown = f"of lines {self.lost[0]} to {self.lost[-1]}, {len(self.lost):,} have unknown results"
        return DaemonNotRunning(
            f"The daemon went away: {succeeded}, {self.failed:,} failed, and {unknown}.",
            f"Start it with: p2pflows up. {self._unsent()}",
        )

    def interrupted(self) -> Interrupted:
        """Return the error for Ctrl-C."""
        more = f"{self.sent - self.done:,} more were sent and continue without you"
        return Interrupted(f"You stopped after {self.done:,} lines; {more}.", self._unsent())

    def _unsent(self) -> str:
        return f"Lines from {self.next_line} on were not sent: tail -n +{self.next_line}"


class _Pipeline:
    """Reads lines, sends requests, and prints results in order, all at the same time."""

    def __init__(self, method: str, params: dict[str, Any], tally: _Tally, as_json: bool) -> None:
        self._method = method
        self._params = params
        self._tally = tally
        self._as_json = as_json
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._window_slots = asyncio.Semaphore(MAX_WINDOW)
        self._window: asyncio.Queue[tuple[int, asyncio.Future[Any]] | None] = asyncio.Queue()

    async def run(self) -> None:
        """Print the result of each line, in order, until the input ends or the daemon goes away."""
        async with p2pflows.connect_async() as me:
            feeding = asyncio.create_task(self._send_lines(me))
            showing = asyncio.create_task(self._show_progress())
            try:
                while (item := await self._window.get()) is not None:
                    if not await self._print(*item, me):
                        feeding.cancel()
                    self._window_slots.release()
                await asyncio.wait([feeding])
                if not feeding.cancelled():
                    feeding.result()
            finally:
                showing.cancel()
                await asyncio.wait([showing])

    async def _send_lines(self, me: AsyncClient) -> None:
        number = 0
        try:
            async for line in _stdin_lines():
                number += 1
                if line.strip():
                    await self._window_slots.acquire()
                    await self._in_flight.acquire()
                    if me.is_closed:
                        return
                    future = self._send_line(me, number, line)
                    future.add_done_callback(lambda _: self._in_flight.release())
                    self._window.put_nowait((number, future))
                    self._tally.sent += 1
                self._tally.next_line = number + 1
        finally:
            self._window.put_nowait(None)

    def _send_line(self, me: AsyncClient, number: int, line: bytes) -> asyncio.Future[Any]:
        try:
            if len(line) > MAX_REQUEST_BYTES:
                raise TooLarge("It has more bytes than a message can hold.", "Send it in parts.")
            data = parse_object(decode(line))
        except P2pflowsError as error:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(type(error)(f"Line {number} of the input: {error.message}", error.hint))
            return future
        return me.begin(self._method, **self._params, data=data)

    async def _print(self, number: int, future: asyncio.Future[Any], me: AsyncClient) -> bool:
        """Print the result of one line; return False if the daemon has gone."""
        try:
            result = await future
        except P2pflowsError as error:
            print_json({"error": error.as_json()})
            if me.is_closed and isinstance(error, DaemonNotRunning):
                self._tally.lost.append(number)
                return False
            self._tally.fail(error)
        else:
            if self._method == "call":
                print_json(result["data"])
            elif self._as_json:
                print_json({"id": result["id"]})
            else:
                click.echo(result["id"])
        self._tally.done += 1
        return True

    async def _show_progress(self) -> None:
        """Show progress on stderr, if that is a terminal and stdout is not."""
        if stdout_is_terminal() or sys.stderr is None or not sys.stderr.isatty():
            return
        start = time.monotonic()
        try:
            while True:
                await asyncio.sleep(_PROGRESS_INTERVAL_S)
                done, in_flight = self._tally.done, self._tally.sent - self._tally.done
                rate = done / (time.monotonic() - start)
                click.echo(
                    f"\r{done:,} done, {in_flight:,} in flight, {rate:,.0f} per second\x1b[K",
                    err=True,
                    nl=False,
                )
        finally:
            click.echo("\r\x1b[K", err=True, nl=False)


async def _stdin_lines() -> AsyncIterator[bytes]:
    """Yield the lines of stdin as they arrive; of a line that is too long for a message, only the beginning.

    Raises:
        UsageError: stdin cannot be read.
    """
    if sys.stdin is None:
        raise UsageError("There is no stdin to read.", "Pipe something in.")
    handle = sys.stdin.fileno()
    loop = asyncio.get_running_loop()
    chunks: asyncio.Queue[bytes | OSError] = asyncio.Queue()
    wanted = threading.Semaphore(2)

    def read() -> None:
        chunk: bytes | OSError = b"..."
        while chunk and isinstance(chunk, bytes):
            wanted.acquire()
            try:
                chunk = os.read(handle, _CHUNK_BYTES)
            except OSError as error:
                chunk = error
            try:
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)
            except RuntimeError:
                return  # the loop has ended

    # A daemon thread, as a read from a terminal or an idle pipe cannot be interrupted.
    threading.Thread(target=read, daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise UsageError(f"Cannot read stdin: {chunk.strerror}.", "Pipe JSON Lines in.")
        wanted.release()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        rest = rest[: MAX_REQUEST_BYTES + 1]
    if rest:
        yield rest
