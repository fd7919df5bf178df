"""The journal: the SQLite file in which a daemon keeps what it promised. No other module opens this file.

WAL with synchronous=FULL: a commit that has returned survives power loss (https://sqlite.org/wal.html, section 3;
https://sqlite.org/pragma.html#pragma_synchronous). There is one connection, and one thread uses it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from p2pflows.errors import UsageError
from p2pflowsd.faults import Faults
from p2pflowsd.journal.errors import PASSING, JournalError, from_sqlite, primary_code, replaced
from p2pflowsd.journal.incoming import IncomingTable
from p2pflowsd.journal.instances import InstanceTable
from p2pflowsd.journal.invitations import IntroductionTable, InvitationTable, MeetingTable, WishTable
from p2pflowsd.journal.key_values import KeyValueTable
from p2pflowsd.journal.lines import LineTable
from p2pflowsd.journal.log import LogTable
from p2pflowsd.journal.migrations import migrate
from p2pflowsd.journal.outgoing import OutgoingTable
from p2pflowsd.journal.prompts import PromptTable
from p2pflowsd.journal.pruning import Pruner
from p2pflowsd.journal.questions import QuestionTable
from p2pflowsd.journal.records import RecordTable
from p2pflowsd.journal.streams import StreamTable

__all__ = ["Journal", "JournalError"]

MAX_CHECKED_BYTES = 64_000_000
"""Size of a file that is checked whole when it is opened, which takes about 0.1 s."""
_PRAGMAS = ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "cache_size = -16000")


class Journal:
    """An open journal file: its tables, and its transactions.

    Args:
        path: the file; it is created, readable by its owner alone, if it does not exist.
        user: the user id of the owner; the journal of another user is refused.
        faults: notified before and after every commit.
        must_exist: do not make a new file; for a daemon that has used this file before.

    Attributes:
        meta: facts about this journal, such as its owner.
        titles: the names that the user has given to conversations, by the conversation's id.
        served: what is served, as JSON by endpoint.
        counters: how often something happened, by name.

    Raises:
        UsageError: the file is damaged, of another user, or of a newer release.
        JournalError: the disk is full or fails.
    """

    def __init__(self, path: Path, user: str, faults: Faults, *, must_exist: bool = False) -> None:
        self._faults = faults
        self._path = path
        self._db = _open(path, must_exist=must_exist)
        self._file = _identity(path)
        self.incoming = IncomingTable(self._db)
        self.outgoing = OutgoingTable(self._db)
        self.prompts = PromptTable(self._db)
        self.lines = LineTable(self._db)
        self.questions = QuestionTable(self._db)
        self.streams = StreamTable(self._db)
        self.instances = InstanceTable(self._db)
        self.records = RecordTable(self._db)
        self.log = LogTable(self._db)
        self.invitations = InvitationTable(self._db)
        self.meetings = MeetingTable(self._db)
        self.introductions = IntroductionTable(self._db)
        self.wishes = WishTable(self._db)
        self.meta = KeyValueTable[str](self._db, "meta", "key", "value")
        self.titles = KeyValueTable[str](self._db, "titles", "conversation", "title")
        self.served = KeyValueTable[str](self._db, "served", "endpoint", "record")
        self._counter_table = KeyValueTable[int](self._db, "counters", "name", "value")
        self._pruner = Pruner(self._db)
        with _opening(path):
            self.counters = self._counter_table.all()
            owner = self.meta.get("user")
        self._saved_counters = dict(self.counters)
        if owner is None:
            with self.transaction():
                self.meta.set("user", user)
        elif owner != user:
            self.close()
            raise UsageError(
                f"The journal {path} belongs to user {owner}, not to {user}.",
                "Put the matching key and journal together.",
            )

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """Add what happens inside to the open transaction, or to a new one; `commit` keeps it.

        Raises:
            JournalError: the disk or the file failed; the transaction is rolled back.
        """
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            self._roll_back()
            raise from_sqlite(error) from error
        except BaseException:
            self._roll_back()
            raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Read outside a transaction; this works on a full or read-only disk, too.

        Raises:
            JournalError: the disk or the file failed.
        """
        try:
            yield
        except sqlite3.Error as error:
            raise from_sqlite(error) from error

    def check_file(self) -> None:
        """Check that the path still leads to the open file: commits to a removed file are lost with the process.

        Raises:
            JournalError: it does not.
        """
        if _identity(self._path) != self._file:
            raise replaced()

    def commit(self, *, count_now: bool = False) -> None:
        """Keep the open transaction. One in which nothing changed costs no fsync.

        Args:
            count_now: write the counters too; they are no promise, so not every commit has to pay for them.

        Raises:
            JournalError: the disk or the file failed; the transaction is rolled back.
        """
        with self.work():
            self.streams.save()
            if count_now:
                self._save_counters()
            self._faults.reach("journal.before_commit")
            self._db.execute("COMMIT")
        self._faults.reach("journal.after_commit")

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Keep everything that happens inside, or nothing of it.

        Raises:
            JournalError: the disk or the file failed.
        """
        with self.work():
            yield
        self.commit()

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter; one of the next commits writes it."""
        self.counters[name] = self.counters.get(name, 0) + by

    def prune(self, now: int) -> bool:
        """Remove some of the rows that no promise needs any more; return whether to do so again soon; see `Pruner`."""
        return self._pruner.prune(now)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def _save_counters(self) -> None:
        for name, value in self.counters.items():
            if self._saved_counters.get(name) != value:
                self._counter_table.set(name, value)
                self._saved_counters[name] = value


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells one file from another at the same path; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _open(path: Path, *, must_exist: bool) -> sqlite3.Connection:
    """Connect to a journal file, and bring its schema up to date."""
    if must_exist and not path.exists():
        raise replaced()
    with _opening(path):
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        if path.stat().st_size == 0:  # in a file with tables it has no effect
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        for pragma in _PRAGMAS:
            db.execute(f"PRAGMA {pragma}")
        migrate(db)
        if path.stat().st_size <= MAX_CHECKED_BYTES:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict)
        return db


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turn whatever keeps a journal from being opened into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EIO):
            raise JournalError(os.strerror(error.errno)) from error
        raise UsageError(f"The journal cannot be opened: {error}.", f"Check who owns {path}.") from error
    except ValueError as error:
        raise UsageError(f"The journal cannot be used: {error}.", "Install the newer release of p2pflows.") from error
    except sqlite3.Error as error:
        if primary_code(error) in PASSING:
            raise from_sqlite(error) from error
        raise UsageError(
            f"The journal {path} is damaged or no journal: {error}.",
            f"Put back your copy of it. Move {path} away to start an empty journal.",
        ) from error
