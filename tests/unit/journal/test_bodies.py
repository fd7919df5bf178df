"""Long bodies and answers lie apart from the rows of their messages, are written once, and go with them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.bodies import MAX_INLINE_BYTES
from p2pflowsd.lifecycle import IncomingState, OutgoingState

ANN, BOB = "a" * 64, "b" * 64
NOW = 1_800_000_000_000
LONG = b"x" * 300_000
SHORT = b"y" * MAX_INLINE_BYTES


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


def message(number: int, kind: Type = Type.CALL) -> Message:
    """Return a message from Bob to Ann."""
    return Message.model_validate(
        {
            "id": f"{number:032x}",
            "type": kind,
            "from": BOB,
            "to": ANN,
            "endpoint": "echo",
            "conversation": f"{number:032x}",
            "cause": f"{number:032x}",
            "seq": number,
            "created": NOW,
            "expires": NOW + 60_000,
        }
    )


def receive(journal: Journal, number: int, body: bytes) -> int:
    """Store a request; return its number."""
    row = journal.incoming.add(message(number), body, 0, NOW, IncomingState.READY)
    assert row is not None
    return row.row_id


def send(journal: Journal, number: int, body: bytes, kind: Type = Type.CALL) -> str:
    """Store a message to be sent; return its id."""
    journal.outgoing.add(message(number, kind), body)
    return message(number).id


def log_size(path: Path) -> int:
    """Return how many bytes the journal's log has."""
    return path.with_name(f"{path.name}-wal").stat().st_size


def kept(journal: Journal) -> int:
    """Return how many long bodies and answers the journal has."""
    (count,) = journal._db.execute("SELECT count(*) FROM bodies").fetchone()
    return int(count)


@pytest.mark.parametrize("body", [SHORT, SHORT + b"y", LONG], ids=["short", "longer", "long"])
def test_a_body_is_read_as_it_was_written(body: bytes, journal: Journal, path: Path) -> None:
    """In the transaction that stores it, after the commit, and when the journal is opened again."""

    def check(opened: Journal) -> None:
        assert opened.incoming.body(request) == body
        assert opened.incoming.bodies([request]) == {request: body}
        assert opened.incoming.sizes([request]) == {request: len(body)}
        row = opened.outgoing.find(sent)
        assert row is not None
        assert (row.size, row.answer) == (len(body), body)
        assert opened.outgoing.body(sent) == body
        assert opened.outgoing.bodies([row.row_id]) == {}  # it is not pending any more
        assert opened.outgoing.bodies([row.row_id + 1]) == {row.row_id + 1: body}

    with journal.transaction():
        request = receive(journal, 1, body)
        sent = send(journal, 2, body)
        send(journal, 3, body)
        journal.outgoing.move(sent, OutgoingState.FAILED, NOW, body)
        check(journal)
    check(journal)
    again = Journal(path, ANN, NoFaults())
    check(again)
    again.close()


def test_a_long_call_is_not_written_again_when_it_is_stored_and_answered(journal: Journal, path: Path) -> None:
    """A row is written whole when it moves, and its body does not lie in it."""
    with journal.transaction():
        sent = send(journal, 1, LONG)
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with journal.transaction():
        journal.outgoing.mark_stored([sent], [], [], NOW)
    with journal.transaction():
        journal.outgoing.move(sent, OutgoingState.DONE, NOW, b'{"result":1}')
    assert log_size(path) < len(LONG) / 4


def test_a_request_that_is_answered_before_the_commit_is_not_written(journal: Journal, path: Path) -> None:
    """Nothing needs its body any more, so no byte of it reaches the disk."""
    journal._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    with journal.transaction():
        request = receive(journal, 1, LONG)
        assert journal.incoming.body(request) == LONG
        journal.incoming.move(request, IncomingState.DONE)
        assert journal.incoming.body(request) == b"{}"
    assert log_size(path) < len(LONG) / 4
    assert kept(journal) == 0


def test_an_illegal_move_keeps_the_body_of_a_request(journal: Journal) -> None:
    """A request that is held is not done, whatever its worker says."""
    row = journal.incoming.add(message(1), LONG, 0, NOW, IncomingState.HELD)
    assert row is not None
    assert not journal.incoming.move(row.row_id, IncomingState.DONE)
    journal.commit()
    assert journal.incoming.body(row.row_id) == LONG


def test_a_body_of_a_transaction_that_failed_is_forgotten(journal: Journal) -> None:
    """The number of its row may be given to another request."""

    def break_off() -> None:
        with journal.work():
            receive(journal, 1, LONG)
            raise ValueError

    with pytest.raises(ValueError):  # noqa: PT011 - the one above
        break_off()
    with journal.transaction():
        request = receive(journal, 2, SHORT)
    assert journal.incoming.body(request) == SHORT
    assert kept(journal) == 0


def test_bodies_go_when_their_messages_no_longer_need_them(journal: Journal) -> None:
    """Requests that have ended, calls that are answered, and answers that their callers have."""
    with journal.transaction():
        request, sent = receive(journal, 1, LONG), send(journal, 2, LONG)
        answer = send(journal, 3, LONG, Type.REPLY)
    assert kept(journal) == 3
    with journal.transaction():
        journal.incoming.move(request, IncomingState.FAILED, "flow_failed")
        journal.outgoing.move(sent, OutgoingState.DONE, NOW, b"{}")
        journal.outgoing.mark_stored([], [], [answer], NOW)
    assert kept(journal) == 0
    assert journal.incoming.body(request) == b"{}"
    assert journal.outgoing.body(sent) is None


def test_answers_go_with_the_calls_that_are_forgotten(journal: Journal) -> None:
    """A day after their end, answers are pruned with their calls."""
    with journal.transaction():
        sent = send(journal, 1, LONG)
        journal.outgoing.move(sent, OutgoingState.DONE, NOW, LONG)
    assert kept(journal) == 1
    with journal.transaction():
        journal.prune(NOW + 2 * 24 * 3_600_000)
    assert journal.outgoing.find(sent) is None
    assert kept(journal) == 0


def test_an_error_takes_the_place_of_a_long_answer(journal: Journal) -> None:
    """What is short lies in the row again."""
    with journal.transaction():
        sent = send(journal, 1, SHORT)
        journal.outgoing.move(sent, OutgoingState.DONE, NOW, LONG)
        journal.outgoing.move(sent, OutgoingState.FAILED, NOW, b"{}")
    row = journal.outgoing.find(sent)
    assert row is not None
    assert row.answer == b"{}"
    assert kept(journal) == 0


def test_a_long_message_gets_other_times(journal: Journal) -> None:
    """Its body has the new times, and takes the place of the old one."""
    long = message(1).model_copy(update={"data": {"text": "x" * 5_000}})
    with journal.transaction():
        row_id = journal.outgoing.add(long, long.to_bytes())
        later = long.model_copy(update={"created": NOW + 1})
        journal.outgoing.restamp(row_id, later)
    assert journal.outgoing.body(long.id) == later.to_bytes()
    assert kept(journal) == 1
