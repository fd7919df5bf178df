"""The journal: sole owner of the SQLite file in which a daemon's promises are kept.

WAL with synchronous=FULL: a commit that returned survives power loss (https://sqlite.org/wal.html, section 3;
https://sqlite.org/pragma.html#pragma_synchronous). One connection, one writer, used from one thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from p2pflows.errors import UsageError
from p2pflowsd.faults import Faults
from p2pflowsd.journal.incoming import IncomingTable
from p2pflowsd.journal.instances import InstanceTable
from p2pflowsd.journal.log import LogTable
from p2pflowsd.journal.migrations import migrate
from p2pflowsd.journal.outgoing import OutgoingTable
from p2pflowsd.journal.prompts import PromptTable
from p2pflowsd.journal.records import RecordTable
from p2pflowsd.journal.streams import StreamTable

__all__ = ["Journal", "JournalError"]

MAX_PRUNED_ROWS = 5_000
"""Rows of a table that one pruning looks at."""


class JournalError(Exception):
    """The disk or the file failed; nothing of the current transaction was kept."""


class Journal:
    """One open journal file.

    Args:
        path: the file, made private if it does not exist.
        user: whose journal it is; another user's is refused.
        faults: told of every commit.

    Raises:
        UsageError: the file is damaged, of another user, or of a newer release.
        JournalError: the disk is full or fails.
    """

    def __init__(self, path: Path, user: str, faults: Faults) -> None:
        self._faults = faults
        hint = f"Move {path} away to start an empty journal, or put back your copy of it."
        try:
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            self._db = sqlite3.connect(path, isolation_level=None, cached_statements=256)
            for pragma in ("journal_mode = WAL", "synchronous = FULL", "busy_timeout = 5000", "cache_size = -16000"):
                self._db.execute(f"PRAGMA {pragma}")
            migrate(self._db)
            self.counters: dict[str, int] = dict(self._db.execute("SELECT name, value FROM counters"))
            owner = self.meta("user")
        except OSError as error:
            raise UsageError(f"The journal cannot be opened: {error}.", f"Check who owns {path}.") from error
        except ValueError as error:
            raise UsageError(
                f"The journal cannot be used: {error}.", "Install the newer release of p2pflows."
            ) from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
                raise JournalError(str(error)) from error  # the file is good, and must not be moved away
            raise UsageError(f"The journal {path} cannot be used: {error}.", hint) from error
        self.incoming = IncomingTable(self._db)
        self.outgoing = OutgoingTable(self._db)
        self.prompts = PromptTable(self._db)
        self.streams = StreamTable(self._db)
        self.instances = InstanceTable(self._db)
        self.records = RecordTable(self._db)
        self.log = LogTable(self._db)
        self._saved_counters = dict(self.counters)
        self._pruned: dict[str, int] = {}
        if owner is None:
            with self.transaction():
                self.set_meta("user", user)
        elif owner != user:
            self.close()
            raise UsageError(
                f"The journal {path} belongs to user {owner}, not to {user}.",
                "Put the matching key and journal together.",
            )

    @contextlib.contextmanager
    def work(self) -> Iterator[None]:
        """What happens inside belongs to the open transaction, or begins one; nothing is committed yet.

        Raises:
            JournalError: the disk or the file failed; the transaction is gone.
        """
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN")
            yield
        except sqlite3.Error as error:
            self._roll_back()
            raise JournalError(str(error)) from error
        except BaseException:
            self._roll_back()
            raise

    def commit(self, *, count_now: bool = False) -> None:
        """Keep the open transaction; one in which nothing changed costs no fsync.

        Args:
            count_now: keep the counters, too; they are no promise, so not every commit needs to pay for them.

        Raises:
            JournalError: the disk or the file failed; the transaction is gone.
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
        """All that happens inside is kept together, or not at all.

        Raises:
            JournalError: the disk or the file failed.
        """
        with self.work():
            yield
        self.commit()

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter; kept with one of the next commits."""
        self.counters[name] = self.counters.get(name, 0) + by

    def meta(self, key: str) -> str | None:
        """A remembered fact."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return str(row[0]) if row else None

    def set_meta(self, key: str, value: str) -> None:
        """Remember a fact."""
        self._db.execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
        )

    def served(self) -> dict[str, str]:
        """What is served: endpoint to its JSON record."""
        return dict(self._db.execute("SELECT endpoint, record FROM served"))

    def serve(self, endpoint: str, record: str) -> None:
        """Keep what is served under an endpoint."""
        self._db.execute(
            "INSERT INTO served VALUES (?, ?) ON CONFLICT (endpoint) DO UPDATE SET record = excluded.record",
            (endpoint, record),
        )

    def unserve(self, endpoint: str) -> None:
        """Forget what is served under an endpoint."""
        self._db.execute("DELETE FROM served WHERE endpoint = ?", (endpoint,))

    def prune(self, now: int) -> None:
        """Drop what no promise needs any more, in slices, so that no call takes long.

        Ids of incoming messages are remembered until they expire and ten minutes more, for clock skew; ended outgoing
        messages and prompts stay for a day, so that `wait` still finds the answer.
        """
        skew, day = now - 600_000, now - 24 * 3_600_000
        for table, condition, limit in (
            (
                "incoming",
                # A prompt has the number of its request, which must not be given to another while the prompt is here.
                "expires < ? AND state IN ('done', 'failed', 'expired') AND n NOT IN (SELECT n FROM prompts)",
                skew,
            ),
            ("bundles", "expires < ?", skew),
            # What a run has called stays as long as the run, which may have to take it back.
            ("outgoing", "ended < ? AND id NOT IN (SELECT message FROM records WHERE message IS NOT NULL)", day),
            ("prompts", "ended < ?", day),
        ):
            start = self._pruned.get(table, 0)
            (end,) = self._db.execute(
                f"SELECT max(n) FROM (SELECT n FROM {table} WHERE n > ? ORDER BY n LIMIT {MAX_PRUNED_ROWS})", (start,)
            ).fetchone()
            if end is not None:
                self._db.execute(f"DELETE FROM {table} WHERE n > ? AND n <= ? AND {condition}", (start, end, limit))
            self._pruned[table] = end or 0

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _save_counters(self) -> None:
        changed = [(name, value) for name, value in self.counters.items() if self._saved_counters.get(name) != value]
        if changed:
            self._db.executemany(
                "INSERT INTO counters VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", changed
            )
            self._saved_counters.update(changed)
