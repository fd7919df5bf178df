"""Why a journal fails, and what its owner can do about it."""

from __future__ import annotations

import errno
import os
import sqlite3

from p2pflows.errors import UsageError

_FULL = "Free some disk space; the daemon goes on by itself."
_READ_ONLY = "Make the file system writable again; the daemon goes on by itself."
_FAILING = "Check the disk and the system's log; the daemon goes on by itself once the disk works."
_DAMAGED = "Stop the daemon. Put back your copy of the journal, or move it away to start an empty one."
_REPLACED = "Put the file back, as everything accepted before is in it; the daemon goes on by itself."
_REMOVED = "Remove only copies of it; the daemon goes on by itself."

_ADVICE = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_ADVICE_OF_SYSTEM = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _READ_ONLY, errno.EIO: _FAILING}
PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
"""Codes of failures that say nothing against the file: the user must not move it away."""


class JournalError(Exception):
    """The disk or the file failed; nothing of the current transaction was kept.

    Args:
        reason: what failed, as the end of a sentence.
        advice: what the owner can do.
    """

    def __init__(self, reason: str, advice: str = _FAILING) -> None:
        super().__init__(reason)
        self.advice = advice


def from_sqlite(error: sqlite3.Error) -> JournalError:
    """The JournalError for an error of SQLite (https://sqlite.org/rescode.html)."""
    code = primary_code(error)
    reason = "it is damaged" if _ADVICE.get(code) == _DAMAGED else str(error)
    return JournalError(reason, _ADVICE.get(code, _FAILING))


def from_system(error: OSError) -> JournalError | None:
    """The JournalError for an error of the operating system; None if the disk is not to blame."""
    advice = _ADVICE_OF_SYSTEM.get(error.errno or 0)
    return None if advice is None else JournalError(os.strerror(error.errno or 0), advice)


def from_opening(error: UsageError) -> JournalError:
    """The JournalError for what keeps a running daemon from opening its journal again."""
    if isinstance(error.__cause__, sqlite3.Error):
        return from_sqlite(error.__cause__)
    return JournalError(error.message.rstrip("."), error.hint)


def damaged(verdict: str) -> sqlite3.DatabaseError:
    """The error of SQLite for a file in which a check has found damage."""
    error = sqlite3.DatabaseError(verdict)
    error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    return error


def replaced() -> JournalError:
    """The JournalError for a file that is gone, or is another one, while the daemon runs."""
    return JournalError("the file was removed or replaced while the daemon ran", _REPLACED)


def removed(name: str) -> JournalError:
    """The JournalError for a file beside the journal that is gone, or is another one, while the daemon runs."""
    return JournalError(f"{name} was removed or replaced while the daemon ran", _REMOVED)


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 if there is none."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF
