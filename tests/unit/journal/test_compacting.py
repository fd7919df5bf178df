"""Journals that an earlier release began give room back to the disk, too."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from p2pflowsd import journal as module
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError

ME = "a" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with holes, as an earlier release has left it."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path, ME, NoFaults())
    with journal.transaction():
        for number in range(500):
            journal.meta.set(f"{number}", "x" * 2_000)
        journal.meta.set("kept", "value")
    journal.close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = DELETE")
    db.execute("DELETE FROM meta WHERE key BETWEEN '0' AND '9a'")
    db.commit()
    db.execute("PRAGMA auto_vacuum = NONE")
    db.execute("VACUUM")
    db.execute("CREATE TABLE hole AS SELECT randomblob(1000000)")
    db.execute("DROP TABLE hole")
    db.close()
    return path


def test_a_small_file_is_written_anew_when_it_is_opened(path: Path) -> None:
    """From then on it shrinks by itself; its content, owner and generation are as before."""
    before = path.stat().st_size
    journal = Journal(path, ME, NoFaults())
    assert journal.shrinks
    assert journal.meta.get("kept") == "value"
    assert path.stat().st_size < before / 2
    journal.close()
    again = Journal(path, ME, NoFaults())
    assert (again.shrinks, again.older_copy) == (True, None)
    again.close()


def test_a_large_file_is_written_anew_when_the_owner_wants_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening it takes no longer than before; `compact` does what opening a small one does."""
    monkeypatch.setattr(module, "MAX_CHECKED_BYTES", 1_000)
    journal = Journal(path, ME, NoFaults())
    before = path.stat().st_size
    assert not journal.shrinks
    journal.compact()
    assert journal.shrinks
    assert path.stat().st_size < before / 2
    assert journal.meta.get("kept") == "value"
    journal.close()


def test_a_full_disk_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an error with the reason, and the journal is used as it is."""
    monkeypatch.setattr(module, "MAX_CHECKED_BYTES", 1_000)
    journal = Journal(path, ME, NoFaults())
    journal._db.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError):
        journal.compact()
    journal._db.execute("PRAGMA query_only = 0")
    with journal.transaction():
        journal.meta.set("later", "value")
    journal.close()
