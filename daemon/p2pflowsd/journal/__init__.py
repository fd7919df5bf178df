"""The journal: the SQLite file in which a daemon keeps what it promised. No other module opens this file.

WAL with synchronous=FULL: a commit that has returned survives power loss (https://sqlite.org/wal.html, section 3;
https://sqlite.org/pragma.html#pragma_synchronous). There is one connection that reads and writes, and one thread uses
it. Another connection may copy the log into the database meanwhile, on another thread; see `Checkpoint`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from p2pflows.errors import UsageError
from p2pflows.settings.retention import DEFAULT_RETENTION, Retention
from p2pflowsd.faults import Faults
from p2pflowsd.journal.bodies import BodyTable
from p2pflowsd.journal.checkpoint import Checkpoint
from p2pflowsd.journal.errors import (
    PASSING,
    JournalError,
    damaged,
    from_opening,
    from_sqlite,
    from_system,
    primary_code,
    replaced,
)
from p2pflowsd.journal.file import JournalFile, set_aside_foreign_log
from p2pflowsd.journal.files import AwaitedTable, FileGrantTable, FileTable
from p2pflowsd.journal.incoming import IncomingTable
from p2pflowsd.journal.instances import InstanceTable
from p2pflowsd.journal.invitations import IntroductionTable, InvitationTable, MeetingTable, WishTable
from p2pflowsd.journal.key_values import KeyValueTable
from p2pflowsd.journal.last_change import FILE_NAME, LastChange, OlderCopy
from p2pflowsd.journal.lines import LineTable
from p2pflowsd.journal.log import LogTable
from p2pflowsd.journal.migrations import migrate
from p2pflowsd.journal.outgoing import OutgoingTable
from p2pflowsd.journal.prompts import PromptTable
from p2pflowsd.journal.pruning import Pruner
from p2pflowsd.journal.questions import QuestionTable
from p2pflowsd.journal.records import RecordTable
from p2pflowsd.journal.remembered import RememberedTable
from p2pflowsd.journal.spending import SpendingTable
from p2pflowsd.journal.streams import StreamTable
from p2pflowsd.journal.usage import UsageTable
from p2pflowsd.journal.worker_tokens import WorkerTokenTable

__all__ = ["Journal", "JournalError", "from_opening", "from_system"]

MAX_CHECKED_BYTES = 64_000_000
"""Size of a file that is checked whole when it is opened, which takes about 0.1 s."""
_NEWEST = """
SELECT max(coalesce((SELECT received FROM incoming ORDER BY n DESC LIMIT 1), 0),
           coalesce((SELECT created FROM outgoing ORDER BY n DESC LIMIT 1), 0),
           coalesce((SELECT CAST(value AS INTEGER) FROM meta WHERE key = 'boot'), 0))
"""
"""When something was last added to a journal."""
_INCREMENTAL = 2
"""The value of `auto_vacuum` (https://sqlite.org/pragma.html#pragma_auto_vacuum)."""
_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "busy_timeout = 5000",
    "cache_size = -16000",
    "secure_delete = FAST",
)
"""FAST: some builds of SQLite write zeros over every page that becomes free, which is each long body once more."""


class Journal:
    """An open journal file: its tables, and its transactions.

    Args:
        path: the file; it is created, readable by its owner alone, if it does not exist.
        user: the user id of the owner; the journal of another user is refused.
        faults: notified before and after every commit.
        has_thread: whether the caller makes the checkpoints, on another thread; otherwise commits make them.

    Attributes:
        checkpoint: makes the checkpoints if commits do not.
        meta: facts about this journal, such as its owner.
        titles: the names that the user has given to conversations, by the conversation's id.
        served: what is served, as JSON by endpoint.
        counters: how often something happened, by name.
        older_copy: set if this file has replaced a newer one; None if nothing shows that.

    Raises:
        UsageError: the file is damaged, of another user, or of a newer release.
        JournalError: the disk is full or fails.
    """

    checkpoint: Checkpoint | None = None

    def __init__(self, path: Path, user: str, faults: Faults, *, has_thread: bool = False) -> None:
        self._path, self._user, self._faults = path, user, faults
        self._last_change = LastChange(path.with_name(FILE_NAME), user)
        self._noted = self._last_change.read()
        self._db, self._file = _open(path, 0 if self._noted is None else self._noted.without_log)
        self._reading, self._work = _Reading(), _Work(self._db, self._roll_back)
        self._noted_changes = self._noted_generation = -1
        self.usage = UsageTable(self._db)
        self._bodies = BodyTable(self._db)
        self.remembered = RememberedTable(self._db, self.usage)
        self.incoming = IncomingTable(self._db, self.usage, self._bodies, self.remembered)
        self.outgoing = OutgoingTable(self._db, self.usage, self._bodies)
        self.prompts = PromptTable(self._db, self.usage)
        self.lines = LineTable(self._db)
        self.questions, self.instances = QuestionTable(self._db), InstanceTable(self._db)
        self.streams = StreamTable(self._db, self.remembered)
        self.worker_tokens = WorkerTokenTable(self._db)
        self.spending = SpendingTable(self._db)
        self.files, self.file_grants = FileTable(self._db), FileGrantTable(self._db)
        self.records, self.awaited = RecordTable(self._db), AwaitedTable(self._db)
        self.log = LogTable(self._db)
        self.invitations = InvitationTable(self._db)
        self.meetings = MeetingTable(self._db)
        self.introductions = IntroductionTable(self._db)
        self.wishes = WishTable(self._db)
        self.meta = KeyValueTable[str](self._db, "meta", "key", "value")
        self.titles = KeyValueTable[str](self._db, "titles", "conversation", "title")
        self.served = KeyValueTable[str](self._db, "served", "endpoint", "record")
        self._counter_table = KeyValueTable[int](self._db, "counters", "name", "value")
        self._pruner = Pruner(self._db, self.usage, self.remembered)
        try:
            with _opening(path):
                self.check_file()
                self.incoming.load()
                self.outgoing.load()
                self.counters = self._counter_table.all()
                owner = self.meta.get("user")
                (self._generation,) = self._db.execute("PRAGMA application_id").fetchone()
                self.older_copy = self._find_older_copy()
                if has_thread:
                    self.checkpoint = Checkpoint(path, self._db)
        except BaseException:
            self.close()
            raise
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

    def work(self) -> AbstractContextManager[None]:
        """Add what happens inside to the open transaction, or to a new one; `commit` keeps it.

        Raises:
            JournalError: the disk or the file failed; the transaction is rolled back.
        """
        return self._work

    def reading(self) -> AbstractContextManager[None]:
        """Read outside a transaction; this works on a full or read-only disk, too.

        Raises:
            JournalError: the disk or the file failed.
        """
        return self._reading

    def reopened(self) -> Journal:
        """Open the file again, after it has failed.

        This one can still be read until its successor is open; but not if other programs have changed the files, since
        the two would meet in files that do not fit together.

        Raises:
            UsageError: the file is damaged, of another user, or of a newer release.
            JournalError: the file is gone, or the disk still fails.
        """
        if not self._path.exists():  # no new journal takes the place of one that was in use
            raise replaced()
        if self._file.change is not None:
            self.close()
        return Journal(self._path, self._user, self._faults, has_thread=self.checkpoint is not None)

    def check_file(self) -> None:
        """Check that no other program has moved, removed or overwritten the journal's files.

        Raises:
            JournalError: one has.
        """
        self._file.check()

    @property
    def in_transaction(self) -> bool:
        """Whether there is something that no commit has kept yet."""
        return self._db.in_transaction

    @property
    def log_bytes(self) -> int:
        """The size of the `-wal` file at the last commit."""
        return self._file.log_bytes

    def commit(self, *, count_now: bool = False) -> None:
        """Keep the open transaction. One in which nothing changed costs no fsync.

        Args:
            count_now: write the counters and a new generation too; they are no promise, so not every commit has to
                pay for them.

        Raises:
            JournalError: the disk or the file failed; the transaction is rolled back.
        """
        with self.work():
            self.streams.save()
            self._bodies.save()
            self.incoming.save()
            self.usage.save()
            if count_now:
                self._save_counters()
                self._next_generation()
            self.check_file()
            self._faults.reach("journal.before_commit")
            self._db.execute("COMMIT")
        if self._generation != self._noted_generation:
            self._last_change.write(self._generation, self._file.generation)
            self._noted_generation = self._generation
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

    def prune(self, now: int, retention: Retention = DEFAULT_RETENTION) -> bool:
        """Remove some of the rows that no promise needs any more; return whether to do so again soon; see `Pruner`."""
        return self._pruner.prune(now, retention)

    @property
    def shrinks(self) -> bool:
        """Whether the file gets smaller when its rows are gone; larger files of some earlier releases do not."""
        return _shrinks(self._db)

    def compact(self) -> None:
        """Write the file anew, as small as it can be; for a large one it takes some time, and as much of free disk.

        Raises:
            JournalError: the disk is full or fails; the file is as it was.
        """
        with self.reading():
            _compact(self._db)

    def close(self) -> None:
        """Close the file; no checkpoint may run."""
        if self.checkpoint is not None:
            self.checkpoint.close()
        self._file.close(self._db)

    def _roll_back(self) -> None:
        self._bodies.forget_unsaved()
        self.instances.forget()
        with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled it back already
            self._db.execute("ROLLBACK")
        self._file.salvage(self._db)

    def _next_generation(self) -> None:
        """Give the file a higher number, if it has changed since it got the last one."""
        if self._db.total_changes != self._noted_changes:
            self._generation += 1
            self._db.execute(f"PRAGMA application_id = {self._generation}")
            self._noted_changes = self._db.total_changes

    def _find_older_copy(self) -> OlderCopy | None:
        """Compare the file with the note of its last change; its own generation goes on from there."""
        if self._noted is None or self._noted.generation <= self._generation:
            return None
        self._generation = self._noted.generation
        (until,) = self._db.execute(_NEWEST).fetchone()
        return OlderCopy(until, self._noted.at)

    def _save_counters(self) -> None:
        for name, value in self.counters.items():
            if self._saved_counters.get(name) != value:
                self._counter_table.set(name, value)
                self._saved_counters[name] = value


class _Reading(AbstractContextManager[None]):
    """Turns what SQLite raises into a JournalError; no generator, as each batch enters several of these."""

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, sqlite3.Error):
            raise from_sqlite(error) from error


class _Work(_Reading):
    """Begins a transaction if none is open, and undoes it after any error."""

    def __init__(self, db: sqlite3.Connection, roll_back: Callable[[], None]) -> None:
        self._db = db
        self._roll_back = roll_back

    def __enter__(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN")  # which neither reads nor writes, so that it has nothing that fails

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self._roll_back()
        super().__exit__(_kind, error, _traceback)


def _open(path: Path, generation: int) -> tuple[sqlite3.Connection, JournalFile]:
    """Connect to a journal file, which may have a log of that generation, and bring its schema up to date."""
    with _opening(path):
        _ensure_file(path)
        set_aside_foreign_log(path, generation)
        db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
        try:
            _prepare(db, path)
            return db, JournalFile(path)
        except BaseException:
            db.close()
            raise


def _ensure_file(path: Path) -> None:
    """Make the file, readable by its owner alone, if it does not exist.

    One that exists is not opened here: it may be in use by this process, and to close it would end the locks on it.
    """
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
    elif not os.access(path, os.R_OK | os.W_OK):
        number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise OSError(number, os.strerror(number), str(path))


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    """Set up a connection, bring the schema of its file up to date, and check a file that is not large."""
    if path.stat().st_size == 0:  # in a file with tables it has no effect
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    for pragma in _PRAGMAS:
        db.execute(f"PRAGMA {pragma}")
    migrate(db)
    if path.stat().st_size <= MAX_CHECKED_BYTES:
        (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(verdict)
        if not _shrinks(db):
            with contextlib.suppress(sqlite3.OperationalError):  # the disk may be full; it is tried at the next start
                _compact(db)


def _shrinks(db: sqlite3.Connection) -> bool:
    """Return whether pages that are not used any more can be given back to the disk one by one."""
    (mode,) = db.execute("PRAGMA auto_vacuum").fetchone()
    return int(mode) == _INCREMENTAL


def _compact(db: sqlite3.Connection) -> None:
    """Write the file anew, without holes, and so that it shrinks by itself from then on."""
    db.execute("PRAGMA auto_vacuum = INCREMENTAL")
    db.execute("VACUUM")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


@contextlib.contextmanager
def _opening(path: Path) -> Iterator[None]:
    """Turn whatever keeps a journal from being opened into an error that says what to do."""
    try:
        yield
    except OSError as error:
        if (passing := from_system(error)) is not None:
            raise passing from error
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
