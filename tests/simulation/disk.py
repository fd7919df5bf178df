"""A disk under the journals of a test: it records what SQLite writes and syncs, and fails when a test wants it to.

A daemon opens its journal with the `sqlite3` module of Python, which cannot be given a VFS: the layer of SQLite that
reads and writes files (https://sqlite.org/vfs.html). `Disk.install` lets `sqlite3.connect` make connections of APSW
instead, which has its own copy of SQLite and VFSs in Python. So the code of the journal is the real one, with its
pragmas, transactions and checkpoints, and so is SQLite; only the thin module between them is another. `DiskConnection`
has the part of its interface that the journal uses. (A VFS in the SQLite that `sqlite3` is linked with would need C,
and a file system of one's own needs root.) Whoever opens a file through a Disk must open it so everywhere in the
process, because two copies of SQLite in one process remove each other's locks (https://sqlite.org/howtocorrupt.html,
section 2.2.1).
"""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_WAL
RECORDED = JOURNALS | apsw.SQLITE_OPEN_MAIN_DB
_NAMES = (f"test-disk-{number}" for number in itertools.count())


@dataclass(frozen=True, slots=True)
class Write:
    """Bytes were written into a file."""

    path: str
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Truncate:
    """A file was cut or extended to a size."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Sync:
    """Everything that was done to the bytes of a file before is on the disk."""

    path: str


@dataclass(frozen=True, slots=True)
class Create:
    """A file came into being."""

    path: str


@dataclass(frozen=True, slots=True)
class Delete:
    """A file was removed."""

    path: str


@dataclass(frozen=True, slots=True)
class SyncFolder:
    """Every Create and Delete before is on the disk."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something happened elsewhere, such as an acknowledgement."""

    what: Any


Event = Write | Truncate | Sync | Create | Delete | SyncFolder | Mark


INPUT_OUTPUT_ERROR = {
    "write": apsw.SQLITE_IOERR_WRITE,
    "sync": apsw.SQLITE_IOERR_FSYNC,
    "truncate": apsw.SQLITE_IOERR_TRUNCATE,
    "delete": apsw.SQLITE_IOERR_DELETE,
    "open": apsw.SQLITE_CANTOPEN,
}
FULL = {"write": apsw.SQLITE_FULL}
READ_ONLY = dict.fromkeys(("write", "truncate", "delete"), apsw.SQLITE_READONLY)
UNREADABLE = {"read": apsw.SQLITE_IOERR_READ}
DAMAGED = {"read": apsw.SQLITE_CORRUPT}
"""Ways in which disks fail: SQLite's result code for each operation that does."""


@dataclass(slots=True)
class Failure:
    """Which operations fail, and how.

    Args:
        codes: SQLite's result code for each kind of operation; others are neither counted nor fail.
        first: the number of the first operation that fails, from 1.
        count: how many fail.
        within: the beginning of the paths of the files that it is about.
    """

    codes: Mapping[str, int]
    first: int = 1
    count: int = 1
    within: str = ""
    seen: int = 0

    def of(self, operation: str, path: str) -> int | None:
        """Count an operation; return the result code with which it fails, or None if it does not."""
        if operation not in self.codes or not path.startswith(self.within):
            return None
        self.seen += 1
        return self.codes[operation] if self.first <= self.seen < self.first + self.count else None


class Disk:
    """A disk for the journals of a test, as two VFSs on top of the system's own: one for daemons, one for observers.

    The shared memory of a journal (`-shm`) is no file to SQLite but mapped memory, so it is not recorded: nobody syncs
    it, and after a power cut it may hold anything.

    Args:
        checkpoint_pages: after how many pages in its log SQLite moves them into the database; by default as usual.

    Attributes:
        events: what happened to the journals, in order.
        failed: how many operations have failed.
    """

    def __init__(self, checkpoint_pages: int = 1_000) -> None:
        self._checkpoint_pages = checkpoint_pages
        self.events: list[Event] = []
        self.failed = 0
        self._failure: Failure | None = None
        self._for_daemons = _Files(self, can_fail=True)
        self._for_observers = _Files(self, can_fail=False)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        """Let every file that `sqlite3.connect` opens from now on lie on this disk."""
        patch.setattr(sqlite3, "connect", self.connect)

    def connect(self, path: Path | str, **options: Any) -> DiskConnection:
        """Open a database on this disk; the arguments are those of `sqlite3.connect`."""
        files = self._for_daemons if "cached_statements" in options else self._for_observers
        with _as_of_sqlite3():
            db = apsw.Connection(str(path), vfs=files.name)
            db.set_wal_hook(self._checkpoint)
            return DiskConnection(db)

    def _checkpoint(self, db: apsw.Connection, name: str, pages: int) -> int:
        """Move the pages of a log into its database once they are enough.

        This is what SQLite does after a commit by default, failures ignored. But APSW would report them for the commit.
        """
        if pages >= self._checkpoint_pages:
            with contextlib.suppress(apsw.Error):
                db.wal_checkpoint(name)
        return apsw.SQLITE_OK

    def mark(self, what: Any) -> None:
        """Note among the events that something happened."""
        self.events.append(Mark(what))

    def fail(self, failure: Failure) -> None:
        """Let some operations of daemons fail from now on, until `work_again`."""
        self._failure = failure

    def work_again(self) -> None:
        """Let no operation fail any more."""
        self._failure = None

    def check(self, operation: str, path: str) -> None:
        """Begin an operation on a file.

        Raises:
            apsw.Error: it fails.
        """
        if self._failure is not None and (code := self._failure.of(operation, path)) is not None:
            self.failed += 1
            error = apsw.exception_for(code)
            error.args = (f"the test lets {operation} fail",)
            raise error


class _Files(apsw.VFS):
    """The files of a disk, as SQLite opens and removes them."""

    def __init__(self, disk: Disk, *, can_fail: bool) -> None:
        self.name = next(_NAMES)
        self._disk = disk
        self._check = disk.check if can_fail else _pass
        super().__init__(self.name, "")

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - SQLite's name
        """Open a file."""
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        if not flags[0] & RECORDED:
            return apsw.VFSFile("", name, flags)
        self._check("open", path)
        is_new = not Path(path).exists() or not Path(path).stat().st_size  # a journal makes its file before SQLite does
        file = _File(self._disk, self._check, path, name, flags)
        if is_new:
            self._disk.events.append(Create(path))
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802 - SQLite's name
        """Remove a file."""
        self._check("delete", filename)
        super().xDelete(filename, syncdir)
        self._disk.events.append(Delete(filename))
        if syncdir:
            self._disk.events.append(SyncFolder())


class _File(apsw.VFSFile):
    """An open file of a disk."""

    def __init__(
        self,
        disk: Disk,
        check: Callable[[str, str], None],
        path: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        self._disk = disk
        self._check = check
        self._path = path
        # The first sync of a new journal syncs its folder, too (`UNIXFILE_DIRSYNC` in SQLite's os_unix.c).
        self._syncs_folder = bool(flags[0] & JOURNALS) and not Path(path).exists()
        super().__init__("", name, flags)

    def xRead(self, amount: int, offset: int) -> bytes:  # noqa: N802 - SQLite's name
        """Read bytes."""
        self._check("read", self._path)
        return super().xRead(amount, offset)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        """Write bytes; when that fails, the first half of them is written."""
        try:
            self._check("write", self._path)
        except apsw.Error:
            data = data[: len(data) // 2]
            super().xWrite(data, offset)
            self._disk.events.append(Write(self._path, offset, bytes(data)))
            raise
        super().xWrite(data, offset)
        self._disk.events.append(Write(self._path, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        """Cut the file."""
        self._check("truncate", self._path)
        super().xTruncate(newsize)
        self._disk.events.append(Truncate(self._path, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802 - SQLite's name
        """Sync the file."""
        self._check("sync", self._path)
        super().xSync(flags)
        self._disk.events.append(Sync(self._path))
        if self._syncs_folder:
            self._disk.events.append(SyncFolder())
            self._syncs_folder = False


class DiskConnection:
    """A connection of APSW with the interface of `sqlite3.Connection`, as far as journals and simulations use it."""

    def __init__(self, db: apsw.Connection) -> None:
        self._db = db

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open."""
        return self._db.in_transaction

    @property
    def total_changes(self) -> int:
        """How many rows were changed through this connection."""
        return self._db.total_changes()

    def execute(self, statement: str, values: Sequence[Any] | dict[str, Any] = ()) -> DiskCursor:
        """Run a statement."""
        with _as_of_sqlite3():
            cursor = self._db.execute(statement, _plain(values))
        return DiskCursor(self._db, cursor)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run a statement for each of some rows."""
        with _as_of_sqlite3():
            self._db.executemany(statement, [_plain(row) for row in rows])

    def create_function(
        self, name: str, narg: int, function: Callable[..., Any], *, deterministic: bool = False
    ) -> None:
        """Let statements use a function of Python."""
        self._db.create_scalar_function(name, function, narg, deterministic=deterministic)

    def commit(self) -> None:
        """Do nothing, as a statement outside of a transaction is one by itself."""

    def close(self) -> None:
        """Close the file."""
        with _as_of_sqlite3():
            self._db.close()


class DiskCursor:
    """The rows of a statement that was run."""

    def __init__(self, db: apsw.Connection, cursor: apsw.Cursor) -> None:
        self._cursor = cursor
        self.rowcount = db.changes()
        self.lastrowid = db.last_insert_rowid()

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        while (row := self.fetchone()) is not None:
            yield row

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row; None after the last one."""
        with _as_of_sqlite3():
            row: tuple[Any, ...] | None = next(self._cursor, None)
            return row

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return the rows that are left."""
        return list(self)


@contextlib.contextmanager
def _as_of_sqlite3() -> Iterator[None]:
    """Turn an error of APSW into the one that the `sqlite3` module would raise."""
    try:
        yield
    except apsw.ConstraintError as error:
        raise _sqlite3_error(sqlite3.IntegrityError, error) from error
    except apsw.Error as error:
        raise _sqlite3_error(sqlite3.OperationalError, error) from error


def _sqlite3_error(kind: type[sqlite3.Error], error: apsw.Error) -> sqlite3.Error:
    known = kind(str(error))
    known.sqlite_errorcode = getattr(error, "extendedresult", 0)
    return known


def _plain(values: Sequence[Any] | dict[str, Any]) -> Sequence[Any] | dict[str, Any]:
    """Return values without subclasses of str, which APSW would not take."""
    if isinstance(values, dict):
        return {name: _plain_value(value) for name, value in values.items()}
    return [_plain_value(value) for value in values]


def _plain_value(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _pass(_operation: str, _path: str) -> None:
    """Let an operation succeed."""
