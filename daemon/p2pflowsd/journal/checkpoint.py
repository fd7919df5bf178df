"""Copies the journal's log into its database, beside the connection that writes.

SQLite does that itself inside a commit once the log has 1,000 pages, which holds up everybody for 25 ms and more: it
writes the pages and syncs two files. A second connection can do it on another thread, while commits go on
(https://sqlite.org/wal.html#ckpt). But those commits add to the log, and only a log that is copied whole is used from
its beginning again. So the writer copies the little that is left when the log gets long.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

MAX_CHANGES = 1_000
"""After so many changed rows the log is copied."""
LOG_BYTES = 4_000_000
"""The size to which the log is cut when it begins anew."""
MAX_LOG_BYTES = 2 * LOG_BYTES
"""At this size the log is copied, however few rows have changed."""
LONG_LOG_BYTES = 4 * LOG_BYTES
"""From this size on the writer copies what is left."""
MAX_LEFT = 100
"""If more rows have changed meanwhile, the other thread goes on before the writer copies what is left."""


class Checkpoint:
    """Copies the log of an open journal.

    Args:
        path: the database.
        writer: the connection that writes. It makes no checkpoints by itself any more.
    """

    def __init__(self, path: Path, writer: sqlite3.Connection) -> None:
        self._writer = writer
        self._beside = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._beside.execute("PRAGMA synchronous = FULL")
        self._beside.execute("PRAGMA user_version").fetchone()  # before it has read something, it knows of no log
        self._noted_changes = writer.total_changes
        writer.execute("PRAGMA wal_autocheckpoint = 0").fetchone()
        writer.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}").fetchone()

    def is_due(self, log_bytes: int) -> bool:
        """Return whether the log is to be copied."""
        return self.left >= MAX_CHANGES or (log_bytes >= MAX_LOG_BYTES and self.left > 0)

    def begin(self) -> None:
        """Note that a copy begins, from the thread of the writer."""
        self._noted_changes = self._writer.total_changes

    @property
    def left(self) -> int:
        """How many rows have changed since the last copy began."""
        return self._writer.total_changes - self._noted_changes

    def run_beside(self) -> None:
        """Copy what is in the log, on any thread."""
        _copy(self._beside)

    def finish(self) -> None:
        """Copy what is left, on the thread of the writer, which must have no open transaction."""
        _copy(self._writer)

    def close(self) -> None:
        """Close the connection; `run_beside` must have returned."""
        self._beside.close()


def _copy(db: sqlite3.Connection) -> None:
    with contextlib.suppress(sqlite3.Error):  # the log stays as it is, and the next commits say what is wrong
        db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
