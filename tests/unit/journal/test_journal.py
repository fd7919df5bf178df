"""The journal stores exactly what was committed, and refuses files that it cannot use."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from p2pflows.errors import UsageError
from p2pflows.protocol.message import Message, Type
from p2pflowsd import journal as module
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError, migrations, pruning
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import IncomingState, OutgoingState, PromptState

ANN, BOB = "a" * 64, "b" * 64
NOW = 1_800_000_000_000
MINUTE, DAY = 60_000, 24 * 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the journal."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Ann's journal."""
    journal = Journal(path, ANN, NoFaults())
    yield journal
    journal.close()


def message(number: int, *, life: int = MINUTE, kind: Type = Type.CALL) -> Message:
    """Return a message from Bob to Ann."""
    fields = {
        "id": f"{number:032x}",
        "type": kind,
        "from": BOB,
        "to": ANN,
        "endpoint": "echo",
        "conversation": f"{number:032x}",
    }
    return Message.model_validate({**fields, "epoch": 1, "seq": number, "created": NOW, "expires": NOW + life})


def receive(journal: Journal, number: int, *, life: int = MINUTE) -> int:
    """Store a request; return its number."""
    row = journal.incoming.add(message(number, life=life), b"{}", 0, NOW, IncomingState.READY)
    assert row is not None
    return row.row_id


def send(journal: Journal, number: int) -> str:
    """Store a message to be sent; return its id."""
    journal.outgoing.add(message(number), b"{}")
    return message(number).id


def numbers(path: Path, table: str) -> list[int]:
    """Return the numbers of the rows that another process sees in a table."""
    db = sqlite3.connect(path)
    found = [row[0] for row in db.execute(f"SELECT n FROM {table} ORDER BY n")]  # noqa: S608 - a test's table
    db.close()
    return found


# Durability.


def test_commits_survive_power_loss(journal: Journal) -> None:
    """The file is in WAL mode and every commit waits for the disk; any other setting loses acknowledged rows."""
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)


def test_only_the_owner_reads_it(journal: Journal, path: Path) -> None:
    """Only the owner can read the files of the journal."""
    with journal.transaction():
        receive(journal, 1)
    for file in path.parent.glob(f"{path.name}*"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


def test_a_transaction_is_kept_as_a_whole(journal: Journal, path: Path) -> None:
    """Other processes see nothing of a transaction before its commit, and all of it afterwards."""
    with journal.transaction():
        receive(journal, 1)
        send(journal, 2)
        assert numbers(path, "incoming") == numbers(path, "outgoing") == []
    assert numbers(path, "incoming") == numbers(path, "outgoing") == [1]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_broken_transaction_leaves_nothing(error: type[BaseException], journal: Journal, path: Path) -> None:
    """An exception rolls the transaction back, and the next one does not contain it."""

    def break_off() -> None:
        with journal.transaction():
            receive(journal, 1)
            raise error

    with pytest.raises(error):
        break_off()
    with journal.transaction():
        receive(journal, 2)
    assert numbers(path, "incoming") == [1]
    assert journal.incoming.find(BOB, message(1).id) is None


def test_work_is_kept_at_the_commit(journal: Journal, path: Path) -> None:
    """Several blocks of work make one transaction, which ends with the commit."""
    for number in (1, 2):
        with journal.work():
            receive(journal, number)
    assert numbers(path, "incoming") == []
    journal.commit()
    assert numbers(path, "incoming") == [1, 2]


def test_work_that_is_not_committed_is_gone(journal: Journal, path: Path) -> None:
    """A process that ends before the commit leaves the file as it was."""
    with journal.work():
        receive(journal, 1)
    journal.close()
    again = Journal(path, ANN, NoFaults())
    assert numbers(path, "incoming") == []
    again.close()


def test_an_error_of_sqlite_is_a_journal_error(journal: Journal) -> None:
    """The daemon acknowledges nothing after a JournalError."""
    with pytest.raises(JournalError), journal.transaction():
        journal._db.execute("INSERT INTO nowhere VALUES (1)")


# Opening.


def test_damage_is_told_apart_from_a_full_disk(journal: Journal, path: Path) -> None:
    """A file whose pages were overwritten is refused as damaged, with what its owner can do."""
    with journal.transaction():
        for number in range(200):
            receive(journal, number + 1)
    journal.close()
    with path.open("r+b") as file:
        file.seek(8_192)
        file.write(b"x" * 16_384)
    with pytest.raises(UsageError, match="damaged") as refused:
        Journal(path, ANN, NoFaults())
    assert "Put back your copy" in refused.value.hint


@pytest.mark.parametrize(
    ("statement", "advice"), [("PRAGMA query_only = 1", "Make the file system writable"), ("", "Free some disk space")]
)
def test_the_advice_fits_the_failure(journal: Journal, statement: str, advice: str) -> None:
    """A read-only file system and a full disk are different troubles."""
    journal._db.execute(statement or "PRAGMA max_page_count = 1")
    with pytest.raises(JournalError) as failed, journal.transaction():
        journal.meta.set("key", "x" * 100_000)
    assert failed.value.advice.startswith(advice)


def test_pruned_rows_give_their_pages_back(journal: Journal, path: Path) -> None:
    """The file shrinks once its rows have gone."""
    with journal.transaction():
        for number in range(2_000):
            receive(journal, number + 1)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    before = path.stat().st_size
    with journal.transaction():
        journal._db.execute("DELETE FROM incoming")
    for _ in range(5):
        with journal.transaction():
            journal.prune(NOW)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert path.stat().st_size < before / 2


def test_a_disk_that_cannot_be_written_can_be_read(journal: Journal) -> None:
    """Reading needs no transaction, and works after a commit has failed."""
    with journal.transaction():
        receive(journal, 1)
    journal._db.execute("PRAGMA query_only = 1")
    with pytest.raises(JournalError), journal.transaction():
        receive(journal, 2)
    with journal.reading():
        assert len(journal.incoming.in_state(IncomingState.READY)) == 1


def test_it_is_opened_again(journal: Journal, path: Path) -> None:
    """Facts, positions and counters are there after a restart."""
    with journal.transaction():
        journal.meta.set("key", "value")
        journal.streams.set(Direction.INCOMING, BOB, "echo", Position(7, 3))
        journal.streams.set(Direction.OUTGOING, BOB, "echo", Position(8, 4))
    journal.count("accepted", 2)
    journal.count("accepted")
    journal.commit(count_now=True)
    journal.close()
    again = Journal(path, ANN, NoFaults())
    assert again.meta.get("key") == "value"
    assert again.streams.get(Direction.INCOMING, BOB, "echo") == Position(7, 3)
    assert again.streams.get(Direction.OUTGOING, BOB, "echo") == Position(8, 4)
    assert again.streams.get(Direction.OUTGOING, ANN, "echo") is None
    assert again.counters == {"accepted": 3}
    again.close()


@pytest.mark.parametrize("has_thread", [False, True])
def test_it_is_opened_again_as_it_was(path: Path, has_thread: bool) -> None:
    """Whoever makes the checkpoints of a journal makes those of its successor."""
    journal = Journal(path, ANN, NoFaults(), has_thread=has_thread)
    again = journal.reopened()
    assert [each.checkpoint is not None for each in (journal, again)] == [has_thread] * 2
    journal.close()
    again.close()


def test_counters_are_written_on_request(journal: Journal, path: Path) -> None:
    """Counters are no promise: they are written when asked for, not with every commit."""
    with journal.transaction():
        journal.count("refused.malformed")
    db = sqlite3.connect(path)
    assert db.execute("SELECT count(*) FROM counters").fetchone() == (0,)
    journal.commit(count_now=True)
    assert db.execute("SELECT * FROM counters").fetchall() == [("refused.malformed", 1)]
    db.close()


def test_the_journal_of_another_user_is_refused(journal: Journal, path: Path) -> None:
    """The journal of another user stays as it is."""
    journal.close()
    before = path.read_bytes()
    with pytest.raises(UsageError, match="belongs to user"):
        Journal(path, BOB, NoFaults())
    assert path.read_bytes() == before
    Journal(path, ANN, NoFaults()).close()


@pytest.mark.parametrize("content", [b"no database at all" * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_refused(content: bytes, path: Path) -> None:
    """The error for a file that is not a journal says what to do, and the file stays as it is."""
    path.write_bytes(content)
    with pytest.raises(UsageError) as refused:
        Journal(path, ANN, NoFaults())
    assert "Move" in refused.value.hint
    assert path.read_bytes() == content


def test_a_file_of_a_newer_release_is_refused(journal: Journal, path: Path) -> None:
    """This release would misread a newer schema."""
    journal._db.execute("PRAGMA user_version = 999")
    journal.close()
    with pytest.raises(UsageError, match="schema 999") as refused:
        Journal(path, ANN, NoFaults())
    assert "newer release" in refused.value.hint


def damage_rows(path: Path) -> None:
    """Overwrite what only a check of the whole file finds: a page with rows that nothing reads at the start."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE not_read AS SELECT value, randomblob(500) FROM json_each('[1,2,3,4,5,6,7,8,9,10]')")
        db.commit()
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'not_read'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(b"x" * 4_096)


def test_damage_in_any_row_is_found_at_the_start(journal: Journal, path: Path) -> None:
    """A daemon does not go on with a damaged file until somebody asks for what is lost."""
    journal.close()
    damage_rows(path)
    with pytest.raises(UsageError, match="damaged"):
        Journal(path, ANN, NoFaults())


def test_a_large_file_is_not_read_whole_at_the_start(
    journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon with a year of messages starts as fast as a new one."""
    journal.close()
    damage_rows(path)
    monkeypatch.setattr(module, "MAX_CHECKED_BYTES", 10_000)
    Journal(path, ANN, NoFaults()).close()


def test_a_log_that_cannot_be_opened_says_nothing_against_the_file(journal: Journal, path: Path) -> None:
    """Its owner must not move the journal away because of another trouble."""
    journal.close()
    Path(f"{path}-wal").mkdir()
    with pytest.raises(JournalError, match="unable to open"):
        Journal(path, ANN, NoFaults())


@pytest.mark.parametrize(
    ("flags", "error", "words"),
    [(os.ST_RDONLY, JournalError, "Read-only file system"), (0, UsageError, "cannot be opened.*Permission denied")],
)
def test_a_file_that_must_not_be_written(
    journal: Journal, monkeypatch: pytest.MonkeyPatch, flags: int, error: type[Exception], words: str
) -> None:
    """A read-only file system passes; for a file of somebody else, its owner must do something."""
    monkeypatch.setattr(os, "access", lambda *_: False)  # the superuser may write everything
    monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_flag=flags))
    with pytest.raises(error, match=words):
        journal.reopened()


def test_an_error_while_reading_is_a_journal_error(journal: Journal) -> None:
    """Whoever only reads hears of a failing file, too."""
    with pytest.raises(JournalError), journal.reading():
        journal._db.execute("SELECT * FROM nowhere")


def test_a_missing_folder_is_an_error(path: Path) -> None:
    """The error for a journal that cannot be created says why."""
    with pytest.raises(UsageError, match="cannot be opened"):
        Journal(path / "no" / "journal.sqlite3", ANN, NoFaults())


# Migrations.


@pytest.mark.parametrize("steps", range(len(migrations.STEPS)))
def test_every_older_schema_is_brought_up_to_date(
    steps: int, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file with any older schema gets the schema of a new file."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:steps])
        db = sqlite3.connect(path, isolation_level=None)
        migrations.migrate(db)
        assert db.execute("PRAGMA user_version").fetchone() == (steps,)
        db.close()
    Journal(path, ANN, NoFaults()).close()
    Journal(tmp_path / "fresh.sqlite3", ANN, NoFaults()).close()
    old, fresh = sqlite3.connect(path), sqlite3.connect(tmp_path / "fresh.sqlite3")
    schema = "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
    assert old.execute(schema).fetchall() == fresh.execute(schema).fetchall()
    assert old.execute("PRAGMA user_version").fetchone() == (len(migrations.STEPS),)
    old.close()
    fresh.close()


def test_strangers_who_waited_under_an_older_release_keep_their_wish(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their held requests become wishes, which outlive them."""
    step = next(number for number, each in enumerate(migrations.STEPS) if each.__name__ == "_people_meet")
    insert = (
        "INSERT INTO incoming (id, peer, type, endpoint, epoch, seq, conversation, received, expires, state)"
        " VALUES (?, ?, 'call', ?, 0, 0, 'c', ?, 10, ?)"
    )
    rows = [
        ("a", BOB, "x", 3, "held"),
        ("b", BOB, "y", 5, "held"),
        ("c", BOB, "x", 4, "held"),
        ("d", ANN, "x", 1, "done"),
    ]
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:step])
        db = sqlite3.connect(path, isolation_level=None)
        migrations.migrate(db)
        db.executemany(insert, rows)
        db.close()
    journal = Journal(path, ANN, NoFaults())
    (wish,) = journal.wishes.all()
    assert (wish.peer, sorted(json.loads(wish.endpoints)), wish.first, wish.last) == (BOB, ["x", "y"], 3, 5)
    journal.close()


def test_a_migration_that_fails_leaves_the_file_as_it_was(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is committed together with the schema version, or not at all; the next start tries it again."""

    def breaks(db: sqlite3.Connection) -> None:
        db.execute("CREATE TABLE half (n INTEGER)")
        raise ValueError("broken")

    known = len(migrations.STEPS)
    Journal(path, ANN, NoFaults()).close()
    with monkeypatch.context() as newer:
        newer.setattr(migrations, "STEPS", (*migrations.STEPS, breaks))
        with pytest.raises(UsageError):
            Journal(path, ANN, NoFaults())
    journal = Journal(path, ANN, NoFaults())
    assert journal._db.execute("PRAGMA user_version").fetchone() == (known,)
    assert journal._db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'half'").fetchone() == (0,)
    journal.close()


# Pruning.


def prune(journal: Journal, now: int) -> None:
    """Prune all slices of every table; two calls are enough for small tables."""
    for _ in range(2):
        with journal.transaction():
            journal.prune(now)


def test_an_id_is_remembered_as_long_as_it_is_valid(journal: Journal, path: Path) -> None:
    """A request is removed ten minutes after its deadline, when no clock can consider it valid."""
    with journal.transaction():
        for number, end in enumerate((IncomingState.DONE, IncomingState.FAILED, IncomingState.EXPIRED), start=1):
            journal.incoming.move(receive(journal, number), end)
    prune(journal, NOW + MINUTE + 10 * MINUTE)
    assert numbers(path, "incoming") == [1, 2, 3]
    assert journal.incoming.add(message(2), b"{}", 0, NOW, IncomingState.READY) is None
    prune(journal, NOW + MINUTE + 10 * MINUTE + 1)
    assert numbers(path, "incoming") == []


def test_open_messages_are_never_removed(journal: Journal, path: Path) -> None:
    """Open requests, dead letters and open messages stay, however old they are."""
    with journal.transaction():
        for number, state in enumerate(
            (IncomingState.READY, IncomingState.HELD, IncomingState.ASKED, IncomingState.DEAD), start=1
        ):
            journal.incoming.move(receive(journal, number), state)
        send(journal, 5)
        journal.outgoing.move(send(journal, 6), OutgoingState.STORED, NOW)
    prune(journal, NOW + 1000 * DAY)
    assert numbers(path, "incoming") == [1, 2, 3, 4]
    assert numbers(path, "outgoing") == [1, 2]


def test_answers_are_remembered_for_a_day(journal: Journal, path: Path) -> None:
    """Ended messages and prompts stay for a day, so that a late `wait` still finds the answer."""
    with journal.transaction():
        journal.outgoing.move(send(journal, 1), OutgoingState.DONE, NOW, b"{}")
        row = journal.incoming.get(receive(journal, 2))
        assert row is not None
        journal.prompts.add(row, "shall we?", "{}")
        journal.prompts.end(row.row_id, PromptState.ANSWERED, NOW, "yes")
        journal.incoming.move(row.row_id, IncomingState.DONE)
    prune(journal, NOW + DAY)
    assert (numbers(path, "outgoing"), numbers(path, "prompts")) == ([1], [1])
    prune(journal, NOW + DAY + 1)
    assert (numbers(path, "outgoing"), numbers(path, "prompts")) == ([], [])


def test_no_request_gets_the_number_of_a_prompt(journal: Journal) -> None:
    """While a prompt is stored, no new request gets its number."""
    with journal.transaction():
        row = journal.incoming.get(receive(journal, 1))
        assert row is not None
        journal.prompts.add(row, "shall we?", "{}")
        journal.prompts.end(row.row_id, PromptState.ANSWERED, NOW, "yes")
        journal.incoming.move(row.row_id, IncomingState.DONE)
    prune(journal, NOW + DAY)
    with journal.transaction():
        assert receive(journal, 2) != row.row_id


def test_pruning_reaches_every_row(journal: Journal, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call looks at one slice of a table and removes some of it, and a few calls look at all of it."""
    monkeypatch.setattr(pruning, "MAX_PRUNED_ROWS", 50)
    monkeypatch.setattr(pruning, "MAX_REMOVED_ROWS", 30)
    with journal.transaction():
        for number in range(110):
            journal.incoming.move(receive(journal, number), IncomingState.DONE)
    for left, has_more in ((80, True), (50, True), (20, True), (0, False)):
        with journal.transaction():
            assert journal.prune(NOW + DAY) == has_more
        assert len(numbers(path, "incoming")) == left


# Bodies.


def test_bodies_are_removed_when_nothing_needs_them(journal: Journal) -> None:
    """A message keeps its body while it can run, or be sent again by the user."""
    with journal.transaction():
        kept = {
            state: receive(journal, number) for number, state in enumerate((IncomingState.HELD, IncomingState.DEAD))
        }
        for state, n in kept.items():
            journal.incoming.move(n, state)
        done = receive(journal, 9)
        journal.incoming.move(done, IncomingState.DONE)
        sent = {
            state: send(journal, number)
            for number, state in enumerate(
                (OutgoingState.STORED, OutgoingState.DONE, OutgoingState.FAILED, OutgoingState.EXPIRED)
            )
        }
        for end, message_id in sent.items():
            journal.outgoing.move(message_id, end, NOW)
    assert set(journal.incoming.bodies([*kept.values(), done])) == set(kept.values())
    assert {end for end, message_id in sent.items() if journal.outgoing.body(message_id)} == {
        OutgoingState.STORED,
        OutgoingState.FAILED,
        OutgoingState.EXPIRED,
    }


def test_tokens_of_an_earlier_release_are_listed(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of the release before has one worker token for each point at which something is served; a new none."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:9])
        db = sqlite3.connect(path, isolation_level=None)
        migrations.migrate(db)
        db.execute("INSERT INTO meta VALUES ('user', ?)", (ANN,))
        for endpoint, point in (("a", "gpu"), ("b", "gpu"), ("c", "default"), ("User", "")):
            db.execute("INSERT INTO served VALUES (?, json_object('dispatch_point', ?))", (endpoint, point))
        db.close()
    journal = Journal(path, ANN, NoFaults())
    assert [(row.id, row.point) for row in journal.worker_tokens.all()] == [
        ("old-default", "default"),
        ("old-gpu", "gpu"),
    ]
    assert journal.meta.get("old_worker_tokens") == "accepted"
    journal.close()
    fresh = Journal(tmp_path / "fresh.sqlite3", ANN, NoFaults())
    assert fresh.worker_tokens.all() == []
    assert fresh.meta.get("old_worker_tokens") is None
    fresh.close()
