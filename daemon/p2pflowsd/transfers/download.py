"""Fetches one file: asks its holder for pieces, and appends them to the part on the disk."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from enum import Enum, auto
from typing import Any, TypeVar

from p2pflows.protocol.file_frames import Piece, Want
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.transfers.store import Partial, Store
from p2pflowsd.transfers.window import Window

T = TypeVar("T")

MAX_UNWRITTEN_BYTES = 4_000_000
"""How many bytes may wait for the disk; meanwhile nothing is asked for."""
MAX_WRONG = 3
"""How often a file is fetched from its beginning because its hash was wrong."""
STALLED_TIMEOUTS = 4
"""After how many time-outs in a row other files have their turn."""


class Outcome(Enum):
    """How an attempt to fetch a file ended."""

    HERE = auto()
    STALLED = auto()
    """Its holder does not answer; it is tried again later."""
    NOT_THERE = auto()
    """Its holder does not have it for us."""
    WRONG = auto()
    """What its holder sends is another file."""


class Download:
    """Fetches one file.

    Args:
        row: the file.
        store: where it is kept.
        pool: runs what blocks.
        send: sends a want to the file's holder.
        clock: returns the time in seconds.
    """

    def __init__(
        self, row: FileRow, *, store: Store, pool: Executor, send: Callable[[Want], None], clock: Callable[[], float]
    ) -> None:
        self.row = row
        self._store = store
        self._pool = pool
        self._send = send
        self._clock = clock
        self._changed = asyncio.Event()
        self._ready: list[bytes] = []
        self._ready_bytes = 0
        self._window: Window | None = None
        self._is_gone = False
        self.written = 0

    async def run(self) -> Outcome:
        """Fetch the file, as far as its holder answers.

        Raises:
            OSError: the disk is full or fails; what is here stays.
        """
        for _ in range(MAX_WRONG):
            outcome = await self._attempt()
            if outcome is not Outcome.WRONG:
                return outcome
        return Outcome.WRONG

    def on_piece(self, piece: Piece, content: bytes) -> bool:
        """Take a piece that has arrived; return whether it was asked for."""
        if self._window is None:
            return True
        taken = self._window.take(piece.start, content, piece.n, self._clock())
        if taken is None:
            return False
        if taken:
            self._ready.append(taken)
            self._ready_bytes += len(taken)
        self._changed.set()
        return True

    def on_not_there(self) -> None:
        """Give up, as the holder does not have the file for us."""
        self._is_gone = True
        self._changed.set()

    def retry_now(self) -> None:
        """Ask again at once, as the way to the holder works again."""
        if self._window is not None:
            self._window.retry_now()
            self._changed.set()

    async def _attempt(self) -> Outcome:
        partial: Partial = await self._in_thread(self._store.begin, self.row.id, self.row.size)
        try:
            self.written = partial.size
            self._window = window = Window(self.row.size, partial.size)
            self._ready, self._ready_bytes = [], 0
            while not window.is_complete or self._ready:
                if self._is_gone:
                    return Outcome.NOT_THERE
                if window.timeouts >= STALLED_TIMEOUTS:
                    return Outcome.STALLED
                if self._ready_bytes < MAX_UNWRITTEN_BYTES:
                    for start, end, n in window.wants(self._clock()):
                        self._send(Want(file=self.row.id, start=start, end=end, n=n))
                if self._ready:
                    await self._write(partial)
                else:
                    await self._wait(window)
            is_right = await self._in_thread(partial.finish, self.row.sha256)
            return Outcome.HERE if is_right else Outcome.WRONG
        finally:
            self._window = None
            partial.close()

    async def _write(self, partial: Partial) -> None:
        content, self._ready, self._ready_bytes = b"".join(self._ready), [], 0
        await self._in_thread(partial.append, content)
        self.written = partial.size

    async def _wait(self, window: Window) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(window.wait_s(self._clock()) + 0.001):
                await self._changed.wait()
        self._changed.clear()

    async def _in_thread(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *args)
