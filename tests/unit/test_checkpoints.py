"""Checkpoints: the journal's log is copied beside the loop, and stays short however much is written."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mqtt_peer import wait_until

from p2pflowsd.checkpoints import Checkpoints
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.checkpoint import LONG_LOG_BYTES, MAX_CHANGES, MAX_LOG_BYTES

ME = "a" * 64
_numbers = itertools.count()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """A journal whose commits make no checkpoints."""
    journal = Journal(path, ME, NoFaults(), has_thread=True)
    yield journal
    journal.close()


def write(journal: Journal, rows: int, size: int = 10) -> None:
    """Store some new values in one transaction."""
    value = f"{next(_numbers):010}" * (size // 10)
    with journal.transaction():
        for number in range(rows):
            journal.meta.set(f"{number}", value)


def log_of(path: Path) -> int:
    """Return the size of the log."""
    return path.with_name(f"{path.name}-wal").stat().st_size


def changed(path: Path) -> int:
    """Return when a file was changed last."""
    return path.stat().st_mtime_ns


def test_a_commit_copies_nothing(journal: Journal, path: Path) -> None:
    """However long the log is, a commit only adds to it."""
    before = path.stat()
    for _ in range(20):
        write(journal, 100, 10_000)
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert journal.log_bytes > LONG_LOG_BYTES


async def test_small_rows_and_large_ones_are_copied(journal: Journal, path: Path) -> None:
    """A checkpoint begins after many changes, or when the log is large."""
    checkpoints = Checkpoints()
    for rows, size in ((MAX_CHANGES, 10), (1, MAX_LOG_BYTES)):
        write(journal, rows, size)
        write(journal, 1)  # a commit notes how long the log was before
        before = changed(path)
        checkpoints.after_batch(journal)
        await wait_until(lambda: checkpoints._running is None)
        assert changed(path) != before
    checkpoints.close()


def test_a_long_log_is_copied_once(journal: Journal) -> None:
    """While nothing changes, there is nothing to copy, though the file of the log is as long as before."""
    assert journal.checkpoint is not None
    write(journal, 1)
    assert journal.checkpoint.is_due(MAX_LOG_BYTES)
    journal.checkpoint.begin()
    assert not journal.checkpoint.is_due(MAX_LOG_BYTES)


async def test_a_few_changes_wait(journal: Journal) -> None:
    """A copy syncs two files, so it is not made for each commit."""
    checkpoints = Checkpoints()
    write(journal, MAX_CHANGES - 100)
    checkpoints.after_batch(journal)
    assert checkpoints._running is None
    checkpoints.close()


async def test_the_log_stays_short_while_commits_go_on(journal: Journal, path: Path) -> None:
    """Each copy misses what is committed meanwhile; still the log begins anew, and its file is cut then."""
    checkpoints = Checkpoints()
    longest = written = 0
    while written < 8 * LONG_LOG_BYTES:
        write(journal, 40, 10_000)
        written += 400_000
        checkpoints.after_batch(journal)
        longest = max(longest, log_of(path))
        await asyncio.sleep(0)
    checkpoints.close()
    assert longest < 4 * LONG_LOG_BYTES


async def test_nothing_is_copied_into_an_open_transaction(journal: Journal) -> None:
    """What a long log has left waits for the end of the batch that is not committed yet."""
    checkpoints = Checkpoints()
    checkpoints._may_finish = True
    with journal.work():
        journal.meta.set("key", "value")
    checkpoints.after_batch(journal)
    assert checkpoints._may_finish
    journal.commit()
    checkpoints.after_batch(journal)
    assert not checkpoints._may_finish
    checkpoints.close()


async def test_everything_is_there_after_a_copy(journal: Journal, path: Path) -> None:
    """The file alone, without its log, has what was committed before the copy."""
    checkpoints = Checkpoints()
    write(journal, MAX_CHANGES)
    checkpoints.after_batch(journal)
    checkpoints.close()
    db = sqlite3.connect(shutil.copy(path, path.with_name("copy")))
    assert db.execute("SELECT count(*) FROM meta").fetchone()[0] >= MAX_CHANGES
    db.close()


async def test_an_opened_journal_takes_over(journal: Journal) -> None:
    """After a failure another journal is used; no copy of the old one goes on."""
    checkpoints = Checkpoints()
    write(journal, MAX_CHANGES)
    checkpoints.after_batch(journal)
    checkpoints.wait()
    again = journal.reopened()
    journal.close()
    await asyncio.sleep(0)
    write(again, MAX_CHANGES)
    checkpoints.after_batch(again)
    checkpoints.close()
    assert again.checkpoint is not None
    again.close()
