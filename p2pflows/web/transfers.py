"""The bytes of files between a browser and the disk, piece by piece: no file is held in memory."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO

from aiohttp import web

from p2pflows.errors import TooLarge, UsageError
from p2pflows.web.file_links import HEAD_BYTES, MAX_PICTURE_BYTES, FileHere, picture_type
from p2pflows.web.guard import Refused

MAX_DOWNLOADS = 16
MAX_UPLOADS = 2
STALL_TIMEOUT_S = 30.0
"""How long a browser may take for the next piece."""
UPLOAD_TIMEOUT_S = 3_600.0
_PIECE_BYTES = 256 * 1024
_RETRY_S = 5


class Transfers:
    """Sends files to browsers, and takes files from them.

    Args:
        folder: where a file is that is on its way from a browser to the daemon; nobody else can read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._downloads = 0
        self._uploads = 0

    async def send(self, request: web.Request, file: FileHere) -> web.StreamResponse:
        """Send a file; a browser that takes nothing for a while is hung up on.

        Raises:
            Refused: too many are sent already, or the file cannot be read.
        """
        if self._downloads >= MAX_DOWNLOADS:
            raise Refused(429, "busy", "Too many files are downloaded at the same time.", "Try again soon.", _RETRY_S)
        self._downloads += 1
        try:
            with await asyncio.to_thread(_open, file.path, file.name) as content:
                response = web.StreamResponse(headers=file.headers)
                await response.prepare(request)
                try:
                    await _copy(content, response)
                except OSError:  # the status is sent, so hanging up is all that can still be said
                    if request.transport is not None:
                        request.transport.abort()
                return response
        finally:
            self._downloads -= 1

    @contextlib.asynccontextmanager
    async def receive(self, request: web.Request, max_bytes: int) -> AsyncIterator[Path]:
        """Take the file that a request holds; yield where it lies for the time of the block.

        Args:
            request: its content is the file.
            max_bytes: how large it may be.

        Raises:
            TooLarge: it is larger.
            Refused: too many are taken already, or it does not come in time.
            UsageError: the disk is full, or fails.
        """
        if (request.content_length or 0) > max_bytes:
            raise _too_large(max_bytes)
        if self._uploads >= MAX_UPLOADS:
            raise Refused(429, "busy", "Too many files are sent at the same time.", "Try again soon.", _RETRY_S)
        self._uploads += 1
        try:
            try:
                with _private_file(self._folder) as (path, handle):
                    await _write(request, handle, max_bytes)
                    yield path
            except OSError as error:
                raise _disk_error(error) from error
        finally:
            self._uploads -= 1

    def clear(self) -> None:
        """Remove what a server that was killed has left; what another one writes at the moment stays."""
        for path in self._folder.glob("*"):
            with contextlib.suppress(OSError), path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)


def look_at(name: str, size: int, path: Path) -> FileHere:
    """Return a file that is here, with what kind of picture it is.

    Raises:
        Refused: it cannot be read, as after it was removed.
    """
    with _open(path, name) as content:
        picture = picture_type(content.read(HEAD_BYTES)) if size <= MAX_PICTURE_BYTES else ""
    return FileHere(name, size, path, picture)


def _open(path: Path, name: str) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise Refused(
            410, "no_file", f"The file {name!r} cannot be read: {error.strerror}.", "Ask for it again."
        ) from error


async def _copy(content: BinaryIO, response: web.StreamResponse) -> None:
    """Send a file.

    Raises:
        OSError: the browser is gone, or takes nothing (`TimeoutError`); or the disk fails.
    """
    while piece := await asyncio.to_thread(content.read, _PIECE_BYTES):
        async with asyncio.timeout(STALL_TIMEOUT_S):
            await response.write(piece)


async def _write(request: web.Request, handle: int, max_bytes: int) -> None:
    """Write the content of a request to a file."""
    size = 0
    try:
        async with asyncio.timeout(UPLOAD_TIMEOUT_S):
            while True:
                async with asyncio.timeout(STALL_TIMEOUT_S):
                    piece = await request.content.readany()
                if not piece:
                    return
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                await asyncio.to_thread(_write_all, handle, piece)
    except TimeoutError:
        raise Refused(408, "usage", "The file did not come in time.", "Try again.") from None


def _write_all(handle: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(handle, left) :]


@contextlib.contextmanager
def _private_file(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield a new file that only the user can read, and remove it afterwards; its lock says that it is in use."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / secrets.token_hex(16)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield path, handle
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)


def _too_large(max_bytes: int) -> TooLarge:
    return TooLarge(f"A file may have {max_bytes:,} bytes.", "Send a smaller one.")


def _disk_error(error: OSError) -> UsageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError("The disk is full, so the file was not sent.", "Make room on the disk.")
    return UsageError(f"The file cannot be kept: {error.strerror or error}.", "Look at the disk of your daemon.")
