"""What other programs do to the journal's files while the daemon runs, which SQLite does not notice.

A commit to a file that was removed or moved is lost for whoever opens the path next, and so is one to a removed log
(`-wal`). A file that was overwritten in place no longer fits to the log (https://sqlite.org/howtocorrupt.html).
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from enum import Enum, auto
from pathlib import Path

from p2pflowsd.journal.errors import removed, replaced

_MAGIC = b"SQLite format 3\0"
_GENERATION = slice(68, 72)
"""Where a SQLite file has its `application_id` (https://sqlite.org/fileformat.html#the_database_header).

A journal has there a number that grows while it changes, so an older copy has a lower one.
"""
_FORMAT = slice(18, 20)
_WITH_LOG = b"\2\2"
"""What a SQLite file has there while it is used with a log; copies made with `VACUUM INTO` have not."""
_HEADER_BYTES = 100
_LOG_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24

Identity = tuple[int, int]


class Change(Enum):
    """What happened to the files."""

    MOVED = auto()
    """The path leads to another file, or to none."""
    LOG_REMOVED = auto()
    """The path of the log leads to another file, or to none."""
    OVERWRITTEN = auto()
    """The file has an older content."""


class _Headers:
    """The files of this process that are open for reading their headers.

    Closing any descriptor of a file ends all locks of this process on it, those of SQLite too (POSIX, fcntl). So each
    file has one, which is closed after its last connection.
    """

    def __init__(self) -> None:
        self._open: dict[Identity, tuple[int, int]] = {}

    def open(self, path: Path) -> tuple[Identity, int]:
        """Return what identifies a file, and a descriptor that reads it."""
        identity = _identity_of(path.stat())
        if identity not in self._open:
            self._open[identity] = os.open(path, os.O_RDONLY | os.O_CLOEXEC), 0
        descriptor, users = self._open[identity]
        self._open[identity] = descriptor, users + 1
        return identity, descriptor

    def close(self, identity: Identity) -> None:
        """Stop using the descriptor of a file; it is closed after its last user."""
        descriptor, users = self._open.pop(identity)
        if users > 1:
            self._open[identity] = descriptor, users - 1
        else:
            os.close(descriptor)


_headers = _Headers()


def set_aside_foreign_log(path: Path, generation: int) -> None:
    """Rename a log that belongs to another database, because SQLite would mix the two.

    That is so if somebody has put an older copy of the database in its place after its daemon was killed.

    Args:
        path: the database; no connection is open.
        generation: the last known generation of the database to which the log may belong.
    """
    log = _log_of(path)
    identity, descriptor = _headers.open(path)
    try:
        here = _generation(os.pread(descriptor, _HEADER_BYTES, 0))
    finally:
        _headers.close(identity)
    if here is not None and here < generation <= _generation_of_log(log):
        log.rename(log.with_name(f"{log.name}.unused"))


class JournalFile:
    """The files of an open journal.

    Args:
        path: the database; its connection is open, and has read something.

    Attributes:
        change: what `check` has found.
        generation: the generation of the database without its log.
        log_bytes: the size of the log at the last `check`; it may begin with what is in the database already.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._log = _log_of(path)
        self._log_descriptor = os.open(self._log, os.O_RDWR | os.O_CLOEXEC)
        self._log_identity = _identity_of(os.fstat(self._log_descriptor))
        self._identity, self._descriptor = _headers.open(path)
        self._is_closed = False
        self.generation = self.log_bytes = 0
        self.change: Change | None = None

    def check(self) -> None:
        """Check that the paths still lead to the open files, and that the database is not older than before.

        Raises:
            JournalError: they do not, or it is.
        """
        if _identity(self._path) != self._identity:
            self.change = Change.MOVED
            raise replaced()
        header = os.pread(self._descriptor, _HEADER_BYTES, 0)
        generation = _generation(header)
        if generation is None or generation < self.generation or header[_FORMAT] != _WITH_LOG:
            self.change = Change.OVERWRITTEN
            raise replaced()
        self.generation = generation
        found = _stat(self._log)
        if found is None or _identity_of(found) != self._log_identity:
            self.change = Change.LOG_REMOVED
            raise removed(self._log.name)
        self.log_bytes = found.st_size

    def salvage(self, db: sqlite3.Connection) -> None:
        """Bring the files into a state in which they can be opened again, after `check` has failed.

        The database that the connection has open gets what is in its log. But if it was overwritten, that log is
        emptied, because it would damage what is there now; SQLite writes it into the database when it is closed.
        """
        match self.change:
            case Change.MOVED | Change.LOG_REMOVED:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            case Change.OVERWRITTEN:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._log_descriptor, 0)
            case None:
                pass

    def close(self, db: sqlite3.Connection) -> None:
        """Close the connection, and stop watching.

        SQLite then removes the log by its name, even if another log has that name by now, which came with another
        database. So that one has another name meanwhile.
        """
        if self._is_closed:
            return
        self._is_closed = True
        is_foreign = _identity(self._log) not in (None, self._log_identity)
        aside = self._log.with_name(f"{self._log.name}.new") if is_foreign else self._log
        with contextlib.suppress(OSError):
            self._log.rename(aside)
        db.close()
        with contextlib.suppress(OSError):
            aside.rename(self._log)
        os.close(self._log_descriptor)
        _headers.close(self._identity)


def _log_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _generation_of_log(log: Path) -> int:
    """Return the last generation in a log; 0 if there is none (https://sqlite.org/fileformat.html#the_wal_file)."""
    found = 0
    with contextlib.suppress(OSError), log.open("rb") as file:
        header = file.read(_LOG_HEADER_BYTES)
        size = int.from_bytes(header[8:12], "big")
        frame = file.read(_FRAME_HEADER_BYTES)
        while len(frame) == _FRAME_HEADER_BYTES and frame[8:16] == header[16:24]:
            found = _generation(file.read(size)) or found  # only the first page of a database has it
            frame = file.read(_FRAME_HEADER_BYTES)
    return found


def _identity(path: Path) -> Identity | None:
    """What tells one file from another at the same path; None if there is none."""
    found = _stat(path)
    return None if found is None else _identity_of(found)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None


def _identity_of(stat: os.stat_result) -> Identity:
    return stat.st_dev, stat.st_ino


def _generation(header: bytes) -> int | None:
    """Return the generation in the header of a journal; None if it is not the header of a SQLite file."""
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        return None
    return int.from_bytes(header[_GENERATION], "big")
