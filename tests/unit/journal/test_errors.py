"""What the owner of a journal reads when it fails: whose fault it is, and what to do."""

from __future__ import annotations

import errno
import os
import sqlite3

import pytest

from p2pflows.errors import UsageError
from p2pflowsd.journal import errors


def of_sqlite(code: int, message: str) -> sqlite3.Error:
    """Return an error of SQLite with a code."""
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


def test_a_daemon_whose_journal_is_damaged_does_not_wait_for_it() -> None:
    """The owner must act; a failure that passes says that the daemon goes on, and how SQLite calls it."""
    damaged = errors.from_sqlite(of_sqlite(sqlite3.SQLITE_CORRUPT, "database disk image is malformed"))
    assert str(damaged) == "it is damaged"
    assert damaged.advice.startswith("Stop the daemon. Put back your copy")
    assert "goes on by itself" not in damaged.advice
    full = errors.from_sqlite(of_sqlite(sqlite3.SQLITE_FULL, "database or disk is full"))
    assert str(full) == "database or disk is full"
    assert full.advice == "Free some disk space; the daemon goes on by itself."


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "Free some disk space"),
        (errno.EDQUOT, "Free some disk space"),
        (errno.EROFS, "Make the file system writable again"),
        (errno.EIO, "Check the disk and the system's log"),
    ],
)
def test_the_disk_is_to_blame(number: int, advice: str) -> None:
    """An error of the system about the disk says what to do with the disk."""
    failure = errors.from_system(OSError(number, os.strerror(number)))
    assert failure is not None
    assert (str(failure), failure.advice) == (os.strerror(number), f"{advice}; the daemon goes on by itself.")


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "denied"), OSError("without a number")])
def test_the_disk_is_not_to_blame(error: OSError) -> None:
    """Nobody looks for a broken disk because a file has another owner."""
    assert errors.from_system(error) is None


def test_a_journal_that_cannot_be_opened_again_says_why() -> None:
    """By what SQLite says of it, if SQLite does; by what opening it says otherwise."""
    opening = UsageError("The journal is damaged or no journal: file is not a database.", "Move it away.")
    opening.__cause__ = of_sqlite(sqlite3.SQLITE_NOTADB, "file is not a database")
    assert str(errors.from_opening(opening)) == "it is damaged"
    failure = errors.from_opening(UsageError("The journal belongs to user b.", "Put both together."))
    assert str(failure) == "The journal belongs to user b"
    assert failure.advice == "Put both together; the daemon goes on by itself."
