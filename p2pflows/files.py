"""Files written as a whole, private from their first byte and durable; and lock files."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

PRIVATE = 0o600


def replace(path: Path, text: str | bytes, mode: int = PRIVATE) -> None:
    """Write a file atomically: after a crash it holds the old content or the new, and once this returns the new.

    Args:
        path: the file; its folder must exist.
        text: the new content; a text is written in UTF-8.
        mode: the permission bits that the file has from its first byte, less those that the umask takes away.
    """
    with _draft(path, text, mode) as draft:
        draft.replace(path)


def create(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Write a new file atomically, as `replace` does, but never touch one that exists.

    Raises:
        FileExistsError: the path is taken, if only by a dangling link.
    """
    with _draft(path, text, mode) as draft:
        os.link(draft, path)


@contextlib.contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold a lock file; other holders wait, in this process and in others."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Private, as whoever can open it can hold it for ever.
    with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE), "w") as file:
        with contextlib.suppress(PermissionError):  # an older release made it readable; a project's may be shared
            os.fchmod(file.fileno(), PRIVATE)
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def _draft(path: Path, text: str | bytes, mode: int) -> Iterator[Path]:
    """Yield a complete file beside `path`, to be moved or linked there; sync the folder, and leave no draft.

    Raises:
        OSError: it cannot be written; the error names `path`.
    """
    draft = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    try:
        try:
            with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                file.write(text if isinstance(text, bytes) else text.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:  # a failed write names no file, and nobody knows the draft
            raise OSError(error.errno, error.strerror, str(path)) from error
        yield draft
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make the names of a folder's files durable, as fsync of a file does not."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
