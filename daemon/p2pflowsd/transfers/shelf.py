"""The files that are kept: their bytes on the disk together with what the journal lists of them."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from p2pflows.errors import JournalFailed, P2pflowsError
from p2pflows.protocol.file_reference import ANY_TYPE, FileReference, as_file_name
from p2pflows.protocol.ids import new_id
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.lifecycle import FileState
from p2pflowsd.node import Node
from p2pflowsd.steps import Submit, run_step
from p2pflowsd.transfers.store import Store

MAX_PUTTING = 2
"""How many files are copied at a time."""
RETRY_JOURNAL_S = 2.0


class Shelf:
    """Keeps files, and removes those that are not needed.

    Args:
        folder: where the bytes are.
        node: returns the current node.
        submit: runs a step inside the node's next batch.
        pool: runs what blocks.
        clock: the time.
        entropy: random bytes.

    Attributes:
        store: the bytes on the disk.
    """

    def __init__(
        self,
        folder: Path,
        *,
        node: Callable[[], Node],
        submit: Submit,
        pool: Executor,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self.store = Store(folder)
        self._node = node
        self._submit = submit
        self._pool = pool
        self._clock = clock
        self._entropy = entropy
        self._putting = asyncio.Semaphore(MAX_PUTTING)
        self._kept_bytes = asyncio.Lock()
        """Held from keeping bytes to listing them, so that nobody removes them in between as unused."""

    async def put(self, path: Path, name: str = "", media_type: str = "") -> FileReference:
        """Copy a file into the store, so that messages can refer to it.

        Raises:
            P2pflowsError: it cannot be read, is too large, there is no room, or the disk is full.
        """
        node = self._node()
        async with self._putting:
            loop = asyncio.get_running_loop()

            def check(size: int) -> None:
                asyncio.run_coroutine_threadsafe(self._check_room(size), loop).result()

            last = 0

            def check_now_and_then(size: int) -> None:
                nonlocal last
                if not last or size - last > node.files.limits.max_size // 8:
                    last = size
                    check(size)

            try:
                found = await loop.run_in_executor(self._pool, self.store.put, path, check_now_and_then)
            except OSError as error:
                raise disk_error(error) from error
            reference = FileReference(
                new_id(self._clock.now(), self._entropy(10)),
                found.sha256,
                found.size,
                as_file_name(name or path.name),
                media_type or ANY_TYPE,
            )
            try:
                async with self._kept_bytes:
                    await loop.run_in_executor(self._pool, self.store.keep, found.name, found.sha256)
                    await run_step(self._submit, lambda: self._node().files.put(reference))
            except P2pflowsError:
                await self._remove_unused(found.sha256)
                raise
            except OSError as error:
                raise disk_error(error) from error
            finally:
                await loop.run_in_executor(self._pool, self.store.forget_partial, found.name)
        return reference

    async def keep(self, row: FileRow) -> None:
        """Keep the bytes of a file that is whole, and list it.

        Raises:
            OSError: the disk is full or fails.
        """
        async with self._kept_bytes:
            await asyncio.get_running_loop().run_in_executor(self._pool, self.store.keep, row.id, row.sha256)
            await self.record(lambda: self._node().files.arrived(row.id))

    async def remove(self, row: FileRow) -> None:
        """Remove what is here of a file that is not listed any more, unless another one has the same bytes."""
        await asyncio.get_running_loop().run_in_executor(self._pool, self.store.forget_partial, row.id)
        if row.state == FileState.HERE:
            await self._remove_unused(row.sha256)

    async def record(self, step: Callable[[], None]) -> None:
        """Run a step inside the node's next batch; again until the journal can be written."""
        while True:
            try:
                await run_step(self._submit, step)
            except JournalFailed:
                await asyncio.sleep(RETRY_JOURNAL_S)
            else:
                return

    async def _check_room(self, size: int) -> None:
        await run_step(self._submit, lambda: self._node().files.ensure_room_for_own(size), reads_only=True)

    async def _remove_unused(self, sha256: str) -> None:
        """Remove bytes from the disk that no file has any more."""
        async with self._kept_bytes:
            if not await run_step(self._submit, lambda: self._node().journal.files.has_bytes(sha256), reads_only=True):
                await asyncio.get_running_loop().run_in_executor(self._pool, self.store.remove, sha256)


def disk_error(error: OSError) -> P2pflowsError:
    """Return what an error of the disk means for a file."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JournalFailed("The disk is full, so the file cannot be kept.", "Make room on the disk.")
    return JournalFailed(f"The file cannot be kept: {error.strerror or error}.", "Look at the disk.")
