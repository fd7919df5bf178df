"""`call --lines` and `send --lines`: JSON Lines in, one line out for each, in the order of the input.

Memory stays the same however long the input is: stdin is read only as fast as its lines are taken, at most
`IN_FLIGHT` requests are with the daemon, and at most `WINDOW` lines wait to be printed behind a slow one.
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
from p2pflows.cli.arguments import decode, parse_object
from p2pflows.cli.output import Interrupted, document, is_terminal
from p2pflows.client import MAX_REQUEST_BYTES, AsyncClient
from p2pflows.errors import DaemonNotRunning, P2pflowsError, TooLarge, UsageError, from_kind

MAX_IN_FLIGHT = 256
WINDOW = 4096

_CHUNK_BYTES = 65_536
_PROGRESS_INTERVAL_S = 0.2
_DONE = {"call": "are answered", "send": "were accepted (their ids are printed)"}


def run(method: str, given: dict[str, Any], *, as_json: bool) -> None:
    """Make one request of each line of stdin, and print what comes of each.

    Args:
        method: `call` or `send`.
        given: the parameters that all lines share.
        as_json: whether what is sent is told as an object, not as an id; an answer to a call is JSON anyway.

    Raises:
        P2pflowsError: some lines failed, the daemon went away, or somebody pressed Ctrl-C.
    """
    tally = _Tally()
    try:
        asyncio.run(_Pump(method, given, tally, as_json).run())
    except KeyboardInterrupt:
        raise tally.interrupted() from None
    if tally.lost:
        raise tally.daemon_lost(method)
    if tally.failed:
        raise tally.lines_failed()


@dataclass(slots=True)
class _Tally:
    """How far it has come."""

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
        """Some lines failed: with the exit code of the first, unless they have several."""
        kind = self.first_failure.kind if self.first_failure and not self.is_mixed else ""
        return from_kind(kind, f"{self.failed:,} of {self.done:,} lines failed; each has its error in its place.")

    def daemon_lost(self, method: str) -> P2pflowsError:
        """The daemon went away in the middle."""
        good = f"{self.done - self.failed:,} lines {_DONE[method]}"
        unsure = f"of lines {self.lost[0]} to {self.lost[-1]}, {len(self.lost):,} may be or not"
        return DaemonNotRunning(
            f"The daemon went away: {good}, {self.failed:,} failed, and {unsure}.",
            f"Start it with: p2pflows up. {self._rest()}",
        )

    def interrupted(self) -> Interrupted:
        """Somebody pressed Ctrl-C."""
        more = f"{self.sent - self.done:,} more were sent and go on without you"
        return Interrupted(f"You stopped after {self.done:,} lines; {more}.", self._rest())

    def _rest(self) -> str:
        return f"Lines from {self.next_line} on were not sent: tail -n +{self.next_line}"


class _Pump:
    """Lines in, requests under way, lines out."""

    def __init__(self, method: str, given: dict[str, Any], tally: _Tally, as_json: bool) -> None:
        self._method = method
        self._given = given
        self._tally = tally
        self._as_json = as_json
        self._in_flight = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._room = asyncio.Semaphore(WINDOW)
        self._window: asyncio.Queue[tuple[int, asyncio.Future[Any]] | None] = asyncio.Queue()

    async def run(self) -> None:
        """Print what comes of each line, in order, until the input ends or the daemon goes away."""
        async with p2pflows.connect_async() as me:
            feeding = asyncio.create_task(self._feed(me))
            showing = asyncio.create_task(self._show_progress())
            try:
                while (item := await self._window.get()) is not None:
                    if not await self._print(*item, me):
                        feeding.cancel()
                    self._room.release()
                await asyncio.wait([feeding])
                if not feeding.cancelled():
                    feeding.result()
            finally:
                showing.cancel()
                await asyncio.wait([showing])

    async def _feed(self, me: AsyncClient) -> None:
        number = 0
        try:
            async for line in _stdin_lines():
                number += 1
                if line.strip():
                    await self._room.acquire()
                    await self._in_flight.acquire()
                    if me.is_closed:
                        return
                    future = self._begin(me, number, line)
                    future.add_done_callback(lambda _: self._in_flight.release())
                    self._window.put_nowait((number, future))
                    self._tally.sent += 1
                self._tally.next_line = number + 1
        finally:
            self._window.put_nowait(None)

    def _begin(self, me: AsyncClient, number: int, line: bytes) -> asyncio.Future[Any]:
        try:
            if len(line) > MAX_REQUEST_BYTES:
                raise TooLarge("It has more bytes than one message can hold.", "Send it in parts.")
            data = parse_object(decode(line))
        except P2pflowsError as error:
            future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            future.set_exception(type(error)(f"Line {number} of the input: {error.message}", error.hint))
            return future
        return me.begin(self._method, **self._given, data=data)

    async def _print(self, number: int, future: asyncio.Future[Any], me: AsyncClient) -> bool:
        """Print one line; False when there is no daemon any more."""
        try:
            result = await future
        except P2pflowsError as error:
            document({"error": error.as_json()})
            if me.is_closed and isinstance(error, DaemonNotRunning):
                self._tally.lost.append(number)
                return False
            self._tally.fail(error)
        else:
            if self._method == "call":
                document(result["data"])
            elif self._as_json:
                document({"id": result["id"]})
            else:
                click.echo(result["id"])
        self._tally.done += 1
        return True

    async def _show_progress(self) -> None:
        """Talk about how it goes, if a person can see it and the lines are not there to see."""
        if is_terminal() or sys.stderr is None or not sys.stderr.isatty():
            return
        start = time.monotonic()
        try:
            while True:
                await asyncio.sleep(_PROGRESS_INTERVAL_S)
                done, under_way = self._tally.done, self._tally.sent - self._tally.done
                rate = done / (time.monotonic() - start)
                click.echo(
                    f"\r{done:,} done, {under_way:,} under way, {rate:,.0f} a second\x1b[K",
                    err=True,
                    nl=False,
                )
        finally:
            click.echo("\r\x1b[K", err=True, nl=False)


async def _stdin_lines() -> AsyncIterator[bytes]:
    """The lines of stdin as they come; of a line that no message can hold, only so much that this is seen.

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
                return  # the loop has ended without us

    # A daemon thread, because a read from a terminal or an idle pipe cannot be interrupted.
    threading.Thread(target=read, daemon=True).start()
    rest = b""
    while chunk := await chunks.get():
        if isinstance(chunk, OSError):
            raise UsageError(f"Stdin cannot be read: {chunk.strerror}.", "Pipe JSON Lines in.")
        wanted.release()
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        rest = rest[: MAX_REQUEST_BYTES + 1]
    if rest:
        yield rest
