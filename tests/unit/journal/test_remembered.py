"""Of a request that has ended only its id is left, and of a call whose answer was fetched nothing; that suffices."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.usage import check_usage

from p2pflows.protocol.message import Message, Type
from p2pflows.settings.retention import DEFAULT_RETENTION, Retention
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, pruning, remembered
from p2pflowsd.journal.migrations import STEPS, _ended_requests_take_less
from p2pflowsd.journal.outgoing import MAX_KEPT_ANSWER_BYTES
from p2pflowsd.journal.rows import RecordRow
from p2pflowsd.lifecycle import IncomingState, OutgoingState

ME, ANN, CYD = "b" * 64, "a" * 64, "c" * 64
NOW = 1_800_000_000_000
MINUTE, DAY = 60_000, 24 * 3_600_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the journal."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Journal]:
    """Bob's journal, which keeps hardly more than ids."""
    monkeypatch.setattr(pruning, "KEPT_REQUESTS", 1)
    monkeypatch.setattr(pruning, "KEPT_MESSAGES", 1)
    journal = Journal(path, ME, NoFaults())
    yield journal
    journal.close()


def message(number: int, sender: str, recipient: str, **fields: object) -> Message:
    """Return a call."""
    return Message.model_validate(
        {
            "id": f"{number:032x}", "type": "call", "from": sender, "to": recipient, "endpoint": "echo",
            "conversation": f"{number:032x}", "epoch": 1, "seq": number % 2**32, "created": NOW,
            "expires": NOW + MINUTE, **fields,
        }
    )  # fmt: skip


def receive(journal: Journal, number: int, state: IncomingState, sender: str = ANN, **fields: object) -> int:
    """Store a request, and let it move on to a state; return its number."""
    sent = message(number, sender, ME, **fields)
    row = journal.incoming.add(sent, sent.to_bytes(), 0, NOW, IncomingState.READY)
    assert row is not None
    if state != IncomingState.READY:
        assert journal.incoming.move(row.row_id, state)
    return row.row_id


def send(journal: Journal, number: int, origin: str | None = None, **fields: object) -> str:
    """Store a message to be sent; return its id."""
    sent = message(number, ME, ANN, **fields)
    journal.outgoing.add(sent, sent.to_bytes(), origin)
    return sent.id


def prune(journal: Journal, now: int = NOW, retention: Retention = DEFAULT_RETENTION) -> None:
    """Prune some slices of every table."""
    for _ in range(3):
        with journal.transaction():
            journal.prune(now, retention)


def count(journal: Journal, table: str) -> int:
    """Return how many rows a table has."""
    return int(journal._db.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608 - a test's table


# What others have asked.


@pytest.mark.parametrize("end", [IncomingState.DONE, IncomingState.FAILED, IncomingState.EXPIRED])
def test_a_copy_of_what_has_ended_has_no_effect(journal: Journal, path: Path, end: IncomingState) -> None:
    """The id is known, also after a restart, until no clock can take a copy for valid; another sender's is not."""
    with journal.transaction():
        receive(journal, 1, end)
        receive(journal, 2, IncomingState.READY)
    prune(journal)
    assert (count(journal, "incoming"), count(journal, "remembered")) == (1, 1)
    journal.close()
    again = Journal(path, ME, NoFaults())
    copy = message(1, ANN, ME)
    for _ in range(2):
        assert again.incoming.knows(ANN, copy.id)
        assert again.incoming.add(copy, b"{}", 0, NOW, IncomingState.READY) is None
        prune(again, NOW + 11 * MINUTE)
    assert not again.incoming.knows(CYD, copy.id)
    prune(again, NOW + 11 * MINUTE + 1)
    assert not again.incoming.knows(ANN, copy.id)
    assert (count(again, "remembered"), count(again, "senders")) == (0, 0)
    check_usage(again)
    again.close()


def test_what_is_remembered_is_counted(journal: Journal) -> None:
    """The quota of a sender counts an id as it counts the row that it was."""
    with journal.transaction():
        for number, sender in enumerate((ANN, ANN, CYD, ANN, CYD)):
            receive(journal, number, IncomingState.DONE, sender)
    prune(journal)
    assert count(journal, "remembered") == 4
    check_usage(journal)
    assert journal.usage.of(ANN).remembered == 3
    prune(journal, NOW + DAY)
    assert journal.usage.of(ANN).remembered == journal.usage.of(CYD).remembered == 0


def test_what_is_still_needed_stays_whole(journal: Journal) -> None:
    """Open requests, dead letters, questions, mounts, and what answers are awaited for are kept as they are."""
    with journal.transaction():
        for number, state in enumerate((IncomingState.READY, IncomingState.ASKED, IncomingState.DEAD)):
            receive(journal, number, state)
        receive(journal, 3, IncomingState.DONE, endpoint="_instances")
        asked = journal.incoming.get(receive(journal, 4, IncomingState.DONE))
        assert asked is not None
        journal.prompts.add(asked, "Yes?", "{}")
        awaits_call, awaits_run = (receive(journal, number, IncomingState.DONE) for number in (5, 6))
        send(journal, 90, f'{{"instance":"i","endpoint":"echo","root":{awaits_call},"subflow":"s","packaged":"p"}}')
        journal.incoming.add_answer(
            "9" * 32, peer=ANN, kind=Type.REPLY, endpoint="echo", conversation="9" * 32, body=b"{}", now=NOW,
            expires=NOW + DAY, instance="i", root_request=awaits_run,
        )  # fmt: skip
        receive(journal, 7, IncomingState.DONE)
        receive(journal, 8, IncomingState.DONE)  # the newest, which stays whole, too
    prune(journal)
    assert (count(journal, "incoming"), count(journal, "remembered")) == (9, 1)
    assert journal.remembered.has(ANN, f"{7:032x}")


def test_until_when_ids_were_forgotten_is_known(journal: Journal) -> None:
    """Only what is gone counts: a message that comes later must not be taken for a copy of nothing."""
    with journal.transaction():
        receive(journal, 1, IncomingState.DONE)
        receive(journal, 2, IncomingState.DONE)  # the newest, which is removed as a whole
    prune(journal)
    assert (count(journal, "incoming"), count(journal, "remembered")) == (1, 1)
    assert journal.remembered.forgotten_until == 0
    with journal.transaction():
        journal._db.execute("DELETE FROM remembered")
    later = NOW + 11 * MINUTE + 1
    prune(journal, later)
    assert (count(journal, "incoming"), journal.remembered.forgotten_until) == (0, later - 10 * MINUTE)
    prune(journal, later + DAY)
    assert journal.remembered.forgotten_until == later - 10 * MINUTE


def test_senders_without_ids_are_forgotten_slice_by_slice(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call looks at the next few, and one that was kept goes when the round comes there again."""
    monkeypatch.setattr(remembered, "MAX_PRUNED", 2)
    senders = [f"{number:064x}" for number in range(5)]
    with journal.transaction():
        journal.remembered.add((user, "1" * 32, NOW + DAY * (user == senders[0])) for user in senders)

    def left(now: int) -> list[int]:
        with journal.transaction():
            journal.remembered.prune(now)
        return [senders.index(user) for (user,) in journal._db.execute("SELECT user FROM senders ORDER BY n")]

    assert left(NOW + 1) == [0, 2, 3, 4]
    assert [user for user in senders if journal.remembered.has_any(user)] == senders[:1]
    assert left(NOW + 2 * DAY) == [0, 4]
    assert [left(NOW + 2 * DAY) for _ in range(3)] == [[0], [0], []]


def test_ids_are_forgotten_slice_by_slice(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call looks at the next ids, of one sender after the other, and every id is reached."""
    monkeypatch.setattr(remembered, "MAX_PRUNED", 4)
    monkeypatch.setattr(remembered, "_END_OF_SLICE", remembered._END_OF_SLICE.replace("OFFSET 999", "OFFSET 3"))
    with journal.transaction():
        journal.remembered.add((sender, f"{number:032x}", NOW) for sender in (ANN, CYD) for number in range(5))
    left = []
    for _ in range(4):
        with journal.transaction():
            journal.remembered.prune(NOW + 1)
        left.append(count(journal, "remembered"))
    assert left == [6, 2, 0, 0]
    check_usage(journal)
    with journal.transaction():
        journal.remembered.add((ANN, f"{number:032x}", NOW + DAY) for number in range(9))
        journal.remembered.add([(CYD, "1" * 32, NOW)])
        for _ in range(4):  # it comes behind those that stay
            journal.remembered.prune(NOW + 1)
    assert count(journal, "remembered") == 9


def test_an_id_takes_less_than_100_bytes(journal: Journal, path: Path) -> None:
    """20,000 finished requests of three contacts leave a small file."""
    with journal.transaction():
        for number in range(20_000):
            receive(journal, NOW * 2**64 + number, IncomingState.DONE, (ANN, CYD, "d" * 64)[number % 3])
            if number % 200 == 0:
                journal.prune(NOW)
    prune_all(journal)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    assert count(journal, "remembered") == 19_999
    assert path.stat().st_size < 100 * 20_000


def prune_all(journal: Journal) -> None:
    """Prune until nothing is left to remove, and no page to give back."""
    for _ in range(1_000):
        with journal.transaction():
            more = journal.prune(NOW)
        if not more and not journal._db.execute("PRAGMA freelist_count").fetchone()[0]:
            return


def test_pruning_keeps_up_while_requests_come(journal: Journal) -> None:
    """What is over goes while new rows are added at every step, and not only once there is a pause."""
    for first in range(0, 6_000, 200):
        with journal.transaction():
            for number in range(first, first + 200):
                receive(journal, number, IncomingState.DONE)
            journal.prune(NOW)
    assert count(journal, "incoming") < 2_500


# What this user has sent.


def test_a_call_whose_answer_was_fetched_goes(journal: Journal) -> None:
    """So do withdrawals, posts that arrived, and calls of runs that have ended; unread answers and failures stay."""
    run, ended_run = '{"n":1,"k":0}', '{"n":2,"k":0}'
    with journal.transaction():
        for number, (origin, is_fetched, kind, end) in enumerate(
            (
                (None, True, "call", OutgoingState.DONE),
                (None, False, "call", OutgoingState.DONE),
                (None, False, "call", OutgoingState.FAILED),
                (None, False, "post", OutgoingState.DONE),
                (None, False, "post", OutgoingState.FAILED),
                (None, False, "cancel", OutgoingState.DONE),
                (None, False, "reply", OutgoingState.EXPIRED),
                (run, False, "call", OutgoingState.DONE),
                (ended_run, False, "call", OutgoingState.DONE),
                ('{"question":1}', False, "call", OutgoingState.DONE),
            )
        ):
            cause = "0" * 32 if kind in ("cancel", "reply") else None
            sent = send(journal, number, origin, type=kind, cause=cause)
            journal.outgoing.move(sent, end, NOW, b"{}", is_fetched=is_fetched)
        journal.records.add(RecordRow(1, 0, "call", "m", f"{7:032x}", None))
        send(journal, 99)
    prune(journal)
    left = [int(row[0], 16) for row in journal._db.execute("SELECT id FROM outgoing ORDER BY n")]
    assert left == [1, 2, 4, 7, 9, 99]
    prune(journal, NOW + DAY + 1)
    assert [int(row[0], 16) for row in journal._db.execute("SELECT id FROM outgoing ORDER BY n")] == [7, 99]


def test_a_large_answer_goes_once_it_was_fetched(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays for a moment in case that the program has died, and as long as others if nobody has got it."""
    monkeypatch.setattr(pruning, "KEPT_MESSAGES", 100)
    large, small = b"x" * (MAX_KEPT_ANSWER_BYTES + 1), b"x" * MAX_KEPT_ANSWER_BYTES
    with journal.transaction():
        for number, answer, is_fetched in ((1, large, True), (2, large, False), (3, small, True)):
            journal.outgoing.move(send(journal, number), OutgoingState.DONE, NOW, answer, is_fetched=is_fetched)
    kept = Retention(fetched_answers=60)
    prune(journal, NOW + 60_000, kept)
    assert sizes(journal) == [len(large), len(large), len(small)]
    prune(journal, NOW + 60_001, kept)
    assert sizes(journal) == [None, len(large), len(small)]
    late = journal.outgoing.find(f"{2:032x}")
    assert late is not None
    with journal.transaction():
        journal.outgoing.mark_fetched(late)
    prune(journal, NOW + 60_001, kept)
    assert sizes(journal) == [None, None, len(small)]


def sizes(journal: Journal) -> list[int | None]:
    """Return the size of the answer to each message."""
    found = [journal.outgoing.get(number) for number in (1, 2, 3)]
    return [None if row is None or row.answer is None else len(row.answer) for row in found]


# Older journals.


def test_ended_requests_of_an_older_journal_shrink(journal: Journal, path: Path) -> None:
    """A file of the release before has no ids of its own table; its requests move there, and keep their effect."""
    with journal.transaction():
        for number in range(300):
            receive(journal, number, IncomingState.DONE)
    journal.close()
    old = path.with_name("old.sqlite3")
    db = sqlite3.connect(old)
    version = STEPS.index(_ended_requests_take_less)
    for step in STEPS[:version]:
        step(db)
    db.execute(f"PRAGMA user_version = {version}")
    db.execute("ATTACH ? AS new", (str(path),))
    for table in ("incoming", "usage", "meta"):
        columns = ", ".join(name for _, name, *_ in db.execute(f"PRAGMA main.table_info({table})"))
        db.execute(f"INSERT INTO main.{table} ({columns}) SELECT {columns} FROM new.{table}")  # noqa: S608 - our tables
    db.execute("UPDATE incoming SET bundle = 1")
    db.commit()
    db.close()
    old.replace(path)
    again = Journal(path, ME, NoFaults())
    prune(again)
    assert (count(again, "incoming"), count(again, "remembered")) == (1, 299)
    assert again.incoming.knows(ANN, f"{7:032x}")
    check_usage(again)
    again.close()
