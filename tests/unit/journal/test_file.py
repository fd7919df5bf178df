"""Other programs may move, remove or overwrite the files of an open journal; nothing that was accepted is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflows.protocol.message import Message
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.lifecycle import IncomingState

ANN, CYD = "a" * 64, "c" * 64
NOW = 1_800_000_000_000
MANY = 400
"""Rows that make the file grow, so that some pages are only in the log and others only in the database."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the journal is."""
    return tmp_path / "home" / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """An open journal, changed since it was opened."""
    path.parent.mkdir()
    opened = Journal(path, ANN, NoFaults())
    put(opened, "first", "kept")
    yield opened
    opened.close()


def message(created: int, *, sender: str) -> Message:
    """Return a message of ann or to her."""
    number = f"{created:032x}"
    recipient = ANN if sender == CYD else CYD
    return Message.model_validate(
        {
            "id": number, "type": "call", "from": sender, "to": recipient, "endpoint": "x", "conversation": number,
            "created": created, "expires": created + 60_000,
        }
    )  # fmt: skip


def put(journal: Journal, key: str, value: str) -> None:
    """Commit a fact, as the tick of a daemon does."""
    with journal.work():
        journal.meta.set(key, value)
        for number in range(MANY):
            journal.meta.set(f"{key} {number}", value * 20)
    journal.commit(count_now=True)


def facts(path: Path) -> dict[str, str]:
    """Return what a lone file says, after a check of it."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return dict(db.execute("SELECT key, value FROM meta WHERE key NOT LIKE '% %'"))


def back_up(journal: Journal, copy: Path) -> None:
    """Copy a journal that is in use."""
    with contextlib.closing(sqlite3.connect(copy)) as target:
        journal._db.backup(target)


def fails(journal: Journal, words: str = "removed or replaced") -> None:
    """Check that a journal takes nothing more."""
    with pytest.raises(JournalError, match=words):
        put(journal, "late", "x")


def descriptors_of(path: Path) -> list[str]:
    """Return the files of a journal that this process has open, once for each descriptor."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(descriptor.readlink()))
    return sorted(Path(file).name for file in found if file.startswith(str(path)))


def test_a_file_that_was_moved_has_everything(journal: Journal, path: Path, tmp_path: Path) -> None:
    """Nothing is committed to a file that was moved, and what was in its log is in it then."""
    moved = path.rename(tmp_path / "moved.sqlite3")
    fails(journal)
    assert facts(moved)["first"] == "kept"
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.reopened()
    moved.rename(path)
    again = journal.reopened()
    assert (again.meta.get("first"), again.meta.get("late"), again.older_copy) == ("kept", None, None)
    again.close()


def test_a_file_that_was_removed(journal: Journal, path: Path) -> None:
    """A journal that is gone is not begun anew, and can still be read."""
    for file in path.parent.glob("journal*"):
        file.unlink()
    fails(journal)
    with pytest.raises(JournalError, match="removed or replaced"):
        journal.reopened()
    assert journal.meta.get("first") == "kept"
    assert not path.exists()


@pytest.mark.parametrize("pattern", ["*-wal", "*-shm", "*-*"])
def test_a_log_that_was_removed(pattern: str, journal: Journal, path: Path) -> None:
    """Nothing is committed to a log that was removed; what was in it goes into the database."""
    for file in path.parent.glob(f"journal{pattern}"):
        file.unlink()
    if pattern != "*-shm":  # the shared memory of a lone daemon is in its process, whatever becomes of the file
        fails(journal, "journal.sqlite3-wal was removed")
        assert facts(path)["first"] == "kept"
    again = journal.reopened()
    put(again, "second", "kept")
    journal.close()
    again.close()
    assert facts(path).items() >= {"first": "kept", "second": "kept"}.items()
    assert "late" not in facts(path)


def test_a_log_that_was_replaced(journal: Journal, path: Path, tmp_path: Path) -> None:
    """Nothing is committed to the log that was there before, which nobody would find again."""
    Path(shutil.copy(f"{path}-wal", tmp_path)).rename(f"{path}-wal")
    fails(journal, "journal.sqlite3-wal was removed or replaced")


@pytest.mark.parametrize("replace", [shutil.copyfile, os.replace], ids=["overwritten", "replaced"])
def test_an_older_copy_put_in_its_place(
    replace: Callable[[Path, Path], object], journal: Journal, path: Path, tmp_path: Path
) -> None:
    """A copy that is put in the journal's place is not mixed with the log of what was there; its age is noticed."""
    copy = tmp_path / "copy.sqlite3"
    back_up(journal, copy)
    put(journal, "second", "lost with the copy")
    journal._db.execute("PRAGMA wal_checkpoint").fetchall()
    put(journal, "third", "lost with the copy")
    replace(copy, path)
    fails(journal)
    again = journal.reopened()
    assert again.older_copy is not None
    assert (again.meta.get("first"), again.meta.get("second"), again.meta.get("third")) == ("kept", None, None)
    put(again, "fourth", "kept")
    journal.close()
    again.close()
    assert facts(path).items() >= {"first": "kept", "fourth": "kept"}.items()
    after = Journal(path, ANN, NoFaults())
    assert after.older_copy is None
    after.close()


def test_a_vacuumed_copy_of_a_moment_ago(journal: Journal, path: Path, tmp_path: Path) -> None:
    """A copy with other pages is not mixed with the log, even if it is newer than the database without the log."""
    copy = tmp_path / "copy.sqlite3"
    journal._db.execute("VACUUM INTO ?", (str(copy),))
    put(journal, "second", "lost with the copy")
    shutil.copyfile(copy, path)
    fails(journal)
    again = journal.reopened()
    assert again.older_copy is not None
    assert (again.meta.get("first"), again.meta.get("second")) == ("kept", None)
    journal.close()
    again.close()
    assert facts(path)["first"] == "kept"


def test_a_copy_of_a_moment_ago(journal: Journal, path: Path, tmp_path: Path) -> None:
    """A copy with the same pages, newer than the database without the log, does no harm: the log has what differs."""
    copy = tmp_path / "copy.sqlite3"
    back_up(journal, copy)
    put(journal, "second", "kept")
    shutil.copyfile(copy, path)
    put(journal, "third", "kept")
    journal.close()
    assert facts(path).items() >= {"first": "kept", "second": "kept", "third": "kept"}.items()


def test_an_older_copy_before_the_first_commit(journal: Journal, path: Path, tmp_path: Path) -> None:
    """A copy that is put over a journal that was opened just now is noticed, and not mixed with its log."""
    copy = tmp_path / "copy.sqlite3"
    back_up(journal, copy)
    put(journal, "second", "lost with the copy")
    journal._db.execute("PRAGMA wal_checkpoint").fetchall()
    again = journal.reopened()
    shutil.copyfile(copy, path)
    fails(again)
    journal.close()
    again.close()
    assert facts(path).get("first") == "kept"


@pytest.mark.parametrize("is_copied", [False, True])
@pytest.mark.parametrize("replace", [shutil.copyfile, os.replace], ids=["overwritten", "replaced"])
def test_an_older_copy_with_a_log_of_its_own(
    replace: Callable[[Path, Path], object], is_copied: bool, journal: Journal, path: Path, tmp_path: Path
) -> None:
    """Of a copy that is put over a journal in use together with its log, the log has everything that was in it."""
    for value in ("database", "database", "log"):
        journal._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        put(journal, "second", f"{value:10}")
    database, log = (shutil.copy(file, tmp_path) for file in (path, f"{path}-wal"))
    for value in ("later", "last"):
        journal._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
        put(journal, "second", f"{value:10}")  # as long as before, so that the files fit together by their size
    if is_copied:  # SQLite removes a log of which everything is in the database when it closes that
        journal._db.execute("PRAGMA wal_checkpoint").fetchall()
    replace(Path(database), path)
    Path(log).rename(f"{path}-wal")
    fails(journal)
    again = journal.reopened()
    assert again.meta.get("second") == f"{'log':10}"
    journal.close()
    again.close()


@pytest.mark.parametrize("content", [bytes(5_000), b"SQLite format 3\0" + bytes(4)])
def test_a_log_stays_beside_what_is_no_journal(content: bytes, journal: Journal, path: Path, tmp_path: Path) -> None:
    """Only an older copy of the journal is told apart from its log; what is no journal has no age."""
    put(journal, "second", "in the database")
    journal._db.execute("PRAGMA wal_checkpoint(RESTART)").fetchall()
    put(journal, "third", "in the log")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in (path, Path(f"{path}-wal"), path.parent / "last_change"):
        shutil.copy(file, killed)
    (killed / path.name).write_bytes(content)
    with pytest.raises((UsageError, JournalError)):
        Journal(killed / path.name, ANN, NoFaults())
    assert not (killed / "journal.sqlite3-wal.unused").exists()


@pytest.mark.parametrize("has_own_log", [False, True])
def test_an_older_copy_beside_the_log_of_a_killed_daemon(
    has_own_log: bool, journal: Journal, path: Path, tmp_path: Path
) -> None:
    """The log of a killed daemon is not mixed with an older copy of its database; the log of a copy is used."""
    checkpoint = "PRAGMA wal_checkpoint(RESTART)"
    journal._db.execute(checkpoint).fetchall()
    put(journal, "second", "in the log of the copy")
    copies = [Path(shutil.copy(file, tmp_path)) for file in path.parent.glob("journal*") if not file.match("*-shm")]
    journal._db.execute(checkpoint).fetchall()
    put(journal, "third", "lost with the copy")
    journal._db.execute(checkpoint).fetchall()
    put(journal, "fourth", "lost with the copy")
    killed = tmp_path / "killed"
    killed.mkdir()
    for file in (*path.parent.glob("journal*"), path.parent / "last_change"):
        shutil.copy(file, killed)
    for copy in copies:
        if has_own_log or not copy.match("*-wal"):
            shutil.copy(copy, killed)
    again = Journal(killed / path.name, ANN, NoFaults())
    assert again._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert again.older_copy is not None
    second = "in the log of the copy" if has_own_log else None
    assert [again.meta.get(key) for key in ("first", "second", "third", "fourth")] == ["kept", second, None, None]
    assert (killed / "journal.sqlite3-wal.unused").exists() is not has_own_log
    again.close()


@pytest.mark.parametrize("content", [b"", b"short", b"no database" * 1_000])
def test_a_file_that_was_overwritten_with_something_else(content: bytes, journal: Journal, path: Path) -> None:
    """What is no journal is told at the next commit, and stays as it is."""
    path.write_bytes(content)
    fails(journal)
    if content:
        with pytest.raises(UsageError, match="damaged"):
            journal.reopened()
        assert path.read_bytes() == content
    journal.close()


@pytest.mark.parametrize("has_wal", [False, True])
def test_an_older_copy_at_the_start(has_wal: bool, journal: Journal, path: Path, tmp_path: Path) -> None:
    """A copy that was put back while no daemon ran is noticed, and so is an empty journal in place of a used one."""
    copy = tmp_path / "copy.sqlite3"
    back_up(journal, copy)
    put(journal, "second", "lost with the copy")
    journal.close()
    for file in path.parent.glob("journal*"):
        file.unlink()
    if has_wal:
        copy.rename(path)
    again = Journal(path, ANN, NoFaults())
    assert again.older_copy is not None
    assert again.older_copy.changed > 0
    again.close()


@pytest.mark.parametrize("newest", ["received", "created", "boot"])
def test_the_age_of_an_older_copy(newest: str, journal: Journal, path: Path, tmp_path: Path) -> None:
    """It is as old as what was received, sent or started last, and no other fact counts."""
    later, copy = NOW + 1_000, tmp_path / "copy.sqlite3"
    with journal.transaction():
        journal.meta.set("boot", str(later if newest == "boot" else NOW))
        journal.meta.set("a", str(NOW + 9_000_000))
        request = message(later + 500, sender=CYD)
        journal.incoming.add(request, b"{}", 0, later if newest == "received" else NOW, IncomingState.READY)
        journal.outgoing.add(message(later if newest == "created" else NOW, sender=ANN), b"{}")
    back_up(journal, copy)
    put(journal, "second", "lost with the copy")
    journal.close()
    for file in path.parent.glob("journal*"):
        file.unlink()
    copy.rename(path)
    again = Journal(path, ANN, NoFaults())
    assert again.older_copy is not None
    assert again.older_copy.until == later
    again.close()


def test_the_note_of_another_user_says_nothing(journal: Journal, path: Path) -> None:
    """Whoever makes a new identity in an old home has no older copy."""
    put(journal, "second", "x")
    journal.close()
    for file in path.parent.glob("journal*"):
        file.unlink()
    again = Journal(path, CYD, NoFaults())
    assert again.older_copy is None
    again.close()


def test_a_new_home_has_no_older_copy(journal: Journal, path: Path) -> None:
    """Neither a new journal nor one that is opened again is an older copy, even if the last change is noted nowhere."""
    assert journal.older_copy is None
    journal.close()
    for note in ("keep", "remove", "spoil"):
        if note == "remove":
            (path.parent / "last_change").unlink()
        if note == "spoil":
            (path.parent / "last_change").write_bytes(b"\xff" * 5_000)
        again = Journal(path, ANN, NoFaults())
        assert again.older_copy is None
        put(again, note, "kept")
        again.close()


def test_an_idle_daemon_writes_nothing(journal: Journal, path: Path) -> None:
    """A tick in which nothing has happened costs neither a sync nor a note, and a commit between ticks no note."""
    journal.count("accepted")
    put(journal, "second", "x")
    note, (generation,) = path.parent / "last_change", journal._db.execute("PRAGMA application_id").fetchone()
    note.unlink()
    written = Path(f"{path}-wal").stat().st_size, journal._db.total_changes
    journal.commit(count_now=True)
    assert (Path(f"{path}-wal").stat().st_size, journal._db.total_changes) == written
    assert journal._db.execute("PRAGMA application_id").fetchone() == (generation,)
    with journal.transaction():
        journal.meta.set("third", "x")
    assert not note.exists()


def test_a_closed_journal_leaves_no_file_open(journal: Journal, path: Path) -> None:
    """However often it was opened again, or closed."""
    again = journal.reopened()
    assert journal.meta.get("first") == "kept"  # it can still be read
    assert len(descriptors_of(path)) > 3
    for _ in range(2):
        again.close()
        put(journal, "second", "x")
    journal.close()
    assert descriptors_of(path) == []


def test_the_connection_for_checkpoints_is_closed(tmp_path: Path) -> None:
    """A daemon that opens its journal again and again does not run out of files."""
    path = tmp_path / "other.sqlite3"
    for _ in range(2):
        Journal(path, ANN, NoFaults(), has_thread=True).close()
    assert descriptors_of(path) == []


@pytest.mark.parametrize("statement", ["PRAGMA user_version = 999", "DROP TABLE meta"])
def test_a_refused_journal_leaves_no_file_open(statement: str, journal: Journal, path: Path) -> None:
    """Neither one of a newer release nor one without an owner; a daemon tries again and again to open it."""
    journal._db.execute(statement)
    journal.close()
    with pytest.raises(UsageError) as refused:
        Journal(path, ANN, NoFaults())
    assert descriptors_of(path) == [], refused


def test_a_program_that_reads_the_journal_leaves_its_log(journal: Journal, path: Path) -> None:
    """The locks on the file hold after one of two journals was closed: the last reader of a file removes its log."""
    again = journal.reopened()
    journal.close()
    put(again, "second", "kept")
    reading = (
        "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); print(db.execute('PRAGMA user_version').fetchone())"
    )
    subprocess.run([sys.executable, "-c", reading + "; db.close()", str(path)], check=True, capture_output=True)
    put(again, "third", "kept")
    again.close()
    assert facts(path).items() >= {"first": "kept", "second": "kept", "third": "kept"}.items()
