"""Why a journal fails, and what its owner can do about it."""

from __future__ import annotations

import errno
import os
import sqlite3

from p2pflows.errors import UsageError

_FULL = "Free some disk space"
_READ_ONLY = "Make the file system writable again"
_FAILING = "Check the disk and the system's log"
_DAMAGED = "Stop the daemon. Put back your copy of the journal, or move it away to start an empty one"
_REPLACED = "Put the file back, as everything accepted before is in it"
_REMOVED = "Let nothing but the daemon remove it"

_REMEDIES = {
    sqlite3.SQLITE_FULL: _FULL,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
}
_REMEDIES_OF_SYSTEM = {errno.ENOSPC: _FULL, errno.EDQUOT: _FULL, errno.EROFS: _READ_ONLY, errno.EIO: _FAILING}
PASSING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
"""Codes of failures that say nothing against the file: the user must not move it away."""


class JournalError(Exception):
    """The disk or the file failed; nothing of the current transaction was kept.

    Args:
        reason: what failed, as the end of a sentence.
        remedy: what the owner can do, as a sentence without a full stop.
    """

    def __init__(self, reason: str, remedy: str = _FAILING) -> None:
        super().__init__(reason)
        self.remedy = remedy

    @property
    def advice(self) -> str:
        """What the owner of a running daemon can do, as a sentence."""
        return f"{self.remedy}." if self.remedy == _DAMAGED else f"{self.remedy}; the daemon goes on by itself."


def from_sqlite(error: sqlite3.Error) -> JournalError:
    """The JournalError for an error of SQLite (https://sqlite.org/rescode.html)."""
    code = primary_code(error)
    reason = "it is damaged" if _REMEDIES.get(code) == _DAMAGED else str(error)
    return JournalError(reason, _REMEDIES.get(code, _FAILING))


def from_system(error: OSError) -> JournalError | None:
    """The JournalError for an error of the operating system; None if the disk is not to blame."""
    number = error.errno or 0
    remedy = _REMEDIES_OF_SYSTEM.get(number)
    return None if remedy is None else JournalError(os.strerror(number), remedy)


def from_opening(error: UsageError) -> JournalError:
    """The JournalError for what keeps a running daemon from opening its journal again."""
    if isinstance(error.__cause__, sqlite3.Error):
        return from_sqlite(error.__cause__)
    return JournalError(error.message.rstrip("."), error.hint.rstrip("."))


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
