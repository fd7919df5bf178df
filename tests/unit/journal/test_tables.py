"""Each statement of the journal reads, changes and removes the rows that it names, and no others."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.usage import check_usage

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, pruning, questions, remembered, spending, streams, usage
from p2pflowsd.journal import outgoing as sent
from p2pflowsd.journal.bodies import MAX_INLINE_BYTES
from p2pflowsd.journal.invitations import MAX_ENDPOINTS_CHARS
from p2pflowsd.journal.prompts import Page
from p2pflowsd.journal.rows import (
    InstanceRow,
    IntroductionRow,
    InvitationRow,
    LineRow,
    MeetingRow,
    QuestionRow,
    RecordRow,
    SpendingRow,
    WorkerTokenRow,
)
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState, OutgoingState, PromptState, QuestionState, may_become

ME, ANN, CYD = "b" * 64, "a" * 64, "c" * 64
ONE, TWO = "1" * 32, "2" * 32
NOW = 1_800_000_000_000
LAST = 2**62
TABLES = (
    "incoming", "outgoing", "prompts", "instances", "records", "bundles", "streams", "log", "invitations", "meetings",
    "introductions", "wishes", "questions", "lines",
)  # fmt: skip


class Rows:
    """A journal in which every peer has rows of every kind in every state."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.numbers = itertools.count(1)
        self.requests: dict[tuple[str, str, IncomingState], int] = {}
        self.sent: dict[tuple[str, str, Type, OutgoingState], str] = {}
        for peer, endpoint in itertools.product((ANN, CYD), ("x", "y")):
            for state in IncomingState:
                self.requests[peer, endpoint, state] = self._request(peer, endpoint, state)
            for kind, end in itertools.product((Type.CALL, Type.POST, Type.REPLY), OutgoingState):
                self.sent[peer, endpoint, kind, end] = self._message(peer, endpoint, kind, end)

    def _fields(self, sender: str, recipient: str, endpoint: str, kind: Type) -> Message:
        number = next(self.numbers)
        return Message.model_validate(
            {
                "id": f"{number:032x}", "type": kind, "from": sender, "to": recipient, "endpoint": endpoint,
                "conversation": f"{number:032x}", "cause": "0" * 32, "data": {"n": number},
                "epoch": 1, "seq": number, "created": NOW + number,
                "expires": NOW + 1_000 * number,
            }
        )  # fmt: skip

    def _request(self, peer: str, endpoint: str, state: IncomingState) -> int:
        message = self._fields(peer, ME, endpoint, Type.CALL)
        bundle = self.journal.incoming.add_bundle(peer, b"proof", NOW)
        row = self.journal.incoming.add(message, message.to_bytes(), bundle, NOW, state)
        assert row is not None
        return row.row_id

    def _message(self, peer: str, endpoint: str, kind: Type, state: OutgoingState) -> str:
        message = self._fields(ME, peer, endpoint, kind)
        self.journal.outgoing.add(message, message.to_bytes(), "{}" if endpoint == "y" else None)
        if state != OutgoingState.PENDING:
            self.journal.outgoing.move(message.id, state, NOW)
        return message.id

    def changed_by(self, change: Callable[[], object]) -> list[tuple[str, Any]]:
        """Return the table and key of each row that is not what it was before."""
        before = self._all()
        change()
        after = self._all()
        return sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))

    def _all(self) -> dict[tuple[str, Any], Any]:
        self.journal.streams.save()
        found = {}
        for table in TABLES:
            cursor = self.journal._db.execute(f"SELECT * FROM {table}")  # noqa: S608 - a table of the test
            names = [column[0] for column in cursor.description]
            keys = {"records": ("n", "k"), "streams": ("way", "peer", "endpoint")}.get(
                table, ("id",) if table in ("instances", "outgoing") else ("n",)
            )
            for values in cursor:
                row = dict(zip(names, values, strict=True))
                found[table, "/".join(str(row[key]) for key in keys)] = row
        return found


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """Bob's journal, in one open transaction."""
    journal = Journal(tmp_path / "journal.sqlite3", ME, NoFaults())
    with journal.transaction():
        yield journal
    journal.close()


@pytest.fixture
def rows(journal: Journal) -> Rows:
    """Its rows."""
    return Rows(journal)


# Requests.


def test_a_request_is_found_by_sender_and_id(rows: Rows) -> None:
    """Two senders may use one id, and each gets its own."""
    incoming = rows.journal.incoming
    row = incoming.get(rows.requests[ANN, "x", IncomingState.READY])
    assert row is not None
    assert incoming.find(ANN, row.id) == row
    assert incoming.find(CYD, row.id) is None
    assert incoming.find(ANN, "f" * 32) is None


@pytest.mark.parametrize(
    "change",
    [
        lambda table, row: table.move(row, IncomingState.DONE),
        lambda table, row: table.set_instance(row, ONE),
        lambda table, row: table.count_attempt(row),
        lambda table, row: table.record_failure(row, "disk"),
    ],
    ids=["move", "instance", "attempt", "failure"],
)
def test_one_request_is_changed(rows: Rows, change: Callable[[Any, int], object]) -> None:
    """A change of a request leaves all others as they are."""
    row = rows.requests[ANN, "x", IncomingState.READY]
    assert rows.changed_by(lambda: change(rows.journal.incoming, row)) == [("incoming", str(row))]


def test_attempts_are_counted_for_each_request(rows: Rows) -> None:
    """Attempts grow one by one, and start again at zero, for one request alone."""
    incoming, row = rows.journal.incoming, rows.requests[ANN, "x", IncomingState.READY]
    other = rows.requests[CYD, "x", IncomingState.READY]
    incoming.count_attempt(other)
    assert [incoming.count_attempt(row), incoming.count_attempt(row)] == [1, 2]
    assert rows.changed_by(lambda: incoming.reset_attempts(row)) == [("incoming", str(row))]


def test_the_first_failure_stays(rows: Rows) -> None:
    """A second failure of one request is not stored."""
    incoming, row = rows.journal.incoming, rows.requests[ANN, "x", IncomingState.DONE]
    assert incoming.record_failure(row, "first")
    assert not incoming.record_failure(row, "second")
    found = incoming.get(row)
    assert found is not None
    assert found.error == "first"


def test_only_a_dead_request_is_run_again(rows: Rows) -> None:
    """A request in another state keeps its deadline, and one dead letter leaves the others dead."""
    incoming = rows.journal.incoming
    dead, done = rows.requests[ANN, "x", IncomingState.DEAD], rows.requests[ANN, "x", IncomingState.DONE]
    assert incoming.count_dead() == 4
    assert rows.changed_by(lambda: incoming.requeue_dead(done, NOW + 5)) == []
    assert rows.changed_by(lambda: incoming.requeue_dead(dead, NOW + 5)) == [("incoming", str(dead))]
    assert incoming.count_dead() == 3


def test_one_proof_is_dropped_or_kept(rows: Rows) -> None:
    """The proof of a bundle without requests goes, and no other; the proof of one that lives longer stays longer."""
    bundle = rows.journal.incoming.add_bundle(ANN, b"proof", NOW)
    assert bundle > 0
    keep = rows.changed_by(lambda: rows.journal.incoming.keep_bundle(bundle, NOW + 5))
    assert keep == [("bundles", str(bundle))]
    assert rows.changed_by(lambda: rows.journal.incoming.drop_bundle(bundle)) == [("bundles", str(bundle))]


def test_what_is_blocked_is_read_by_stream_and_by_peer(rows: Rows) -> None:
    """Blocked requests of another stream, or in another state, are not among them."""
    incoming = rows.journal.incoming
    mine = rows.requests[ANN, "x", IncomingState.BLOCKED]
    assert [row.row_id for row in incoming.blocked(ANN, "x", limit=9)] == [mine]
    assert {row.row_id for row in incoming.blocked_by(ANN)} == {mine, rows.requests[ANN, "y", IncomingState.BLOCKED]}
    assert sorted(incoming.blocked_streams()) == [(peer, end, 1) for peer in (ANN, CYD) for end in ("x", "y")]


def test_what_is_held_is_read_by_peer(rows: Rows) -> None:
    """Held requests of one sender are read, counted and listed without those of others."""
    incoming = rows.journal.incoming
    held = {rows.requests[ANN, end, IncomingState.HELD] for end in ("x", "y")}
    assert {row.row_id for row in incoming.held_by(ANN)} == held
    assert (incoming.count_held(ANN), incoming.count_held()) == (2, 4)
    assert incoming.held_peers() == {ANN, CYD}


def test_what_is_open_is_read_by_peer_and_by_instance(rows: Rows) -> None:
    """Ended requests and those of others are not among the open ones."""
    incoming = rows.journal.incoming
    is_open = {
        IncomingState.BLOCKED,
        IncomingState.HELD,
        IncomingState.READY,
        IncomingState.ASKED,
        IncomingState.AWAITING_REPLY,
    }
    mine = {row for (peer, _, state), row in rows.requests.items() if peer == ANN and state in is_open}
    assert set(incoming.open_of_peer(ANN)) == mine
    assert incoming.open_peers() == {ANN, CYD}
    for (peer, _, _), row in rows.requests.items():
        incoming.set_instance(row, ONE if peer == ANN else TWO)
    found = {row.row_id for row in incoming.open_of(ONE)}
    assert found == {
        rows.requests[ANN, e, s] for e in ("x", "y") for s in (IncomingState.READY, IncomingState.AWAITING_REPLY)
    }
    assert set(incoming.unanswered_of(ONE)) == {rows.requests[ANN, e, IncomingState.AWAITING_REPLY] for e in ("x", "y")}


def test_answers_that_still_have_to_run_are_known_by_their_request(rows: Rows) -> None:
    """An answer that waits belongs to one request; one that has run does not count."""
    incoming = rows.journal.incoming
    first, second = rows.requests[ANN, "x", IncomingState.READY], rows.requests[ANN, "y", IncomingState.READY]
    row = incoming.add_answer(
        "e" * 32, peer=ANN, kind="reply", endpoint="x", conversation=ONE, body=b"{}", now=NOW, expires=NOW + 1,
        instance=ONE, root_request=first,
    )  # fmt: skip
    assert row is not None
    assert (incoming.has_answers_for(first), incoming.has_answers_for(second)) == (True, False)
    incoming.move(row.row_id, IncomingState.DONE)
    assert not incoming.has_answers_for(first)


def test_deadlines_of_open_requests(rows: Rows) -> None:
    """Only open requests expire, each at its own time."""
    incoming = rows.journal.incoming
    first = min(rows.requests.values())
    row = incoming.get(first)
    assert row is not None
    assert incoming.next_expiry() == row.expires
    assert [each.row_id for each in incoming.expired(row.expires, 9)] == [first]
    assert incoming.expired(row.expires - 1, 9) == []


def test_the_only_open_request_has_the_first_deadline(journal: Journal) -> None:
    """A journal without open requests has no deadline, and one with a single request has its deadline."""
    assert journal.incoming.next_expiry() is None
    assert journal.outgoing.next_expiry() is None
    message = Message.model_validate(
        {
            "id": ONE, "type": "call", "from": ANN, "to": ME, "endpoint": "x", "conversation": ONE, "created": NOW,
            "expires": NOW + 5,
        }
    )  # fmt: skip
    journal.incoming.add(message, b"{}", 1, NOW, IncomingState.READY)
    assert journal.incoming.next_expiry() == NOW + 5


def test_bodies_and_sizes_of_some_requests(rows: Rows) -> None:
    """Bodies are read for the numbers that are named; those without one are left out."""
    incoming = rows.journal.incoming
    ready, done = rows.requests[ANN, "x", IncomingState.READY], rows.requests[ANN, "y", IncomingState.READY]
    incoming.move(done, IncomingState.DONE)
    assert incoming.bodies([]) == {}
    assert incoming.sizes([]) == {}
    assert incoming.bodies([ready, done]) == {ready: incoming.body(ready)}
    assert incoming.sizes([ready, done]) == {ready: len(incoming.body(ready))}
    assert incoming.data(ready)["n"] > 0
    assert incoming.body(done) == b"{}"
    assert incoming.data(done) == {}
    asked = rows.requests[CYD, "x", IncomingState.READY]
    incoming.move(asked, IncomingState.ASKED)
    assert incoming.sizes([ready, asked]) == {ready: len(incoming.body(ready))}


def test_a_proof_stays_as_long_as_a_body_that_it_proves(rows: Rows) -> None:
    """Also if the first request of a bundle has lost its body before the second one was stored."""
    incoming = rows.journal.incoming
    bundle = incoming.add_bundle(ANN, b"proof", NOW)
    first, second = (
        incoming.add(message, message.to_bytes(), bundle, NOW, IncomingState.READY)
        for message in (rows._fields(ANN, ME, "x", Type.POST) for _ in range(2))
    )
    assert first is not None
    assert second is not None

    def proofs() -> int:
        rows.journal.commit()
        return int(rows.journal._db.execute("SELECT count(*) FROM bundles WHERE n = ?", (bundle,)).fetchone()[0])

    incoming.move(first.row_id, IncomingState.ASKED)
    assert proofs() == 1
    incoming.load()  # as after a restart
    incoming.move(first.row_id, IncomingState.DONE)
    assert proofs() == 1
    incoming.move(second.row_id, IncomingState.DONE)
    assert proofs() == 0


def test_a_request_that_has_ended_cannot_go_on(rows: Rows) -> None:
    """Each request is where legal moves have brought it, and those that have ended take no memory."""
    incoming = rows.journal.incoming
    for (_, _, state), row_id in rows.requests.items():
        for to in IncomingState:
            is_legal = state in may_become(to)
            assert incoming.move(row_id, to) is is_legal
            state = to if is_legal else state  # noqa: PLW2901 - it moves on
        found = incoming.get(row_id)
        assert found is not None
        assert found.state == state
    live = {row.row_id for state in (*OPEN_INCOMING, IncomingState.DEAD) for row in incoming.in_state(state)}
    assert set(incoming._live) == live


@pytest.mark.parametrize("peers", [1, 100])
def test_what_each_peer_fills_is_counted_at_each_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, peers: int
) -> None:
    """Whatever becomes of requests, answers and questions, over restarts, and when memory has room for few peers."""
    monkeypatch.setattr(usage, "_MAX_CACHED_PEERS", peers)
    journal = Journal(tmp_path / "journal.sqlite3", ME, NoFaults())
    with journal.transaction():
        rows = Rows(journal)
        for (_, _, state), row_id in rows.requests.items():
            row = journal.incoming.get(row_id)
            assert row is not None
            if state == IncomingState.ASKED:
                journal.prompts.add(row, "Tea?", "{}")
    check_usage(journal)
    again = journal.reopened()
    journal.close()
    check_usage(again)
    for number, row_id in enumerate(rows.requests.values()):
        for to in list(IncomingState)[number % 3 :]:
            again.incoming.move(row_id, to)
        again.prompts.end(row_id, PromptState.ANSWERED, NOW, "yes")
        check_usage(again)
    for (*_, kind, _), message_id in rows.sent.items():
        found = again.outgoing.find(message_id)
        assert found is not None
        longer = rows._fields(ME, found.peer, found.endpoint, kind).model_copy(
            update={"id": message_id, "data": {"text": "x" * 3_000}}
        )
        again.outgoing.restamp(found.row_id, longer)
        check_usage(again)
        for end in OutgoingState:
            again.outgoing.move(message_id, end, NOW)
            check_usage(again)
    again.commit()
    for now in (NOW + 3_600_000, *[NOW + 400 * 24 * 3_600_000] * 3):
        with again.transaction():
            again.prune(now)
            again.usage.forget_idle()
        check_usage(again)
    assert again.usage.all() == []
    for number in range(9):
        again.usage.of(f"{number:064x}")
    assert (len(again.usage._counts) == 1) is (peers == 1)
    again.close()


def test_past_questions_of_one_peer_make_room(rows: Rows) -> None:
    """The oldest ones of that peer go; open ones and those of others stay."""
    journal = rows.journal
    asked = {}
    for (peer, endpoint, _), row_id in list(rows.requests.items()):
        row = journal.incoming.get(row_id)
        assert row is not None
        asked[peer, endpoint] = journal.prompts.add(row, "Tea?", "{}").row_id
    for peer in (ANN, CYD):
        journal.prompts.end(asked[peer, "x"], PromptState.ANSWERED, NOW, "yes")
    gone = rows.changed_by(lambda: journal.usage.forget_ended_questions(ANN, 9))
    assert [row for table, row in gone if table == "prompts"] == [str(asked[ANN, "x"])]


# Messages.


@pytest.mark.parametrize(
    "change",
    [
        lambda table, message: table.move(message, OutgoingState.CANCELLED, NOW),
        lambda table, message: table.mark_stored([message], [], [], NOW),
        lambda table, message: table.mark_stored([], [message], [], NOW),
        lambda table, message: table.set_note(message, ANN, "waiting"),
    ],
    ids=["move", "stored", "done", "note"],
)
def test_one_message_is_changed(rows: Rows, change: Callable[[Any, str], object]) -> None:
    """A change of a message leaves all others as they are."""
    message = rows.sent[ANN, "x", Type.CALL, OutgoingState.PENDING]
    assert rows.changed_by(lambda: change(rows.journal.outgoing, message)) == [("outgoing", message)]


def test_a_confirmed_answer_is_removed(rows: Rows) -> None:
    """Its row goes, and those of other answers stay, also of those that have ended."""
    outgoing = rows.journal.outgoing
    pending, ended = (rows.sent[ANN, "x", Type.REPLY, state] for state in (OutgoingState.PENDING, OutgoingState.FAILED))
    assert rows.changed_by(lambda: outgoing.mark_stored([], [], [pending, ended], NOW)) == [("outgoing", pending)]


def test_a_note_is_only_for_an_open_message_of_that_recipient(rows: Rows) -> None:
    """What somebody else says, or what comes after the end, is not stored."""
    outgoing = rows.journal.outgoing
    message = rows.sent[ANN, "x", Type.CALL, OutgoingState.PENDING]
    ended = rows.sent[ANN, "x", Type.CALL, OutgoingState.DONE]
    assert rows.changed_by(lambda: outgoing.set_note(message, CYD, "held")) == []
    assert rows.changed_by(lambda: outgoing.set_note(ended, ANN, "held")) == []


def test_a_stored_call_is_reopened_alone(rows: Rows) -> None:
    """A call that its recipient misses is pending again, without a note."""
    outgoing = rows.journal.outgoing
    stored, other = (rows.sent[peer, "x", Type.CALL, OutgoingState.STORED] for peer in (ANN, CYD))
    for message in (stored, other):
        row = outgoing.find(message)
        assert row is not None
        outgoing.set_note(message, row.peer, "waiting")
    assert rows.changed_by(lambda: outgoing.reopen([stored])) == [("outgoing", stored)]
    row = outgoing.find(stored)
    assert row is not None
    assert (row.state, row.note) == (OutgoingState.PENDING, "")


def test_only_a_pending_message_gets_other_times(rows: Rows) -> None:
    """Times and places of a message that is stored or has ended stay."""
    outgoing = rows.journal.outgoing
    for state in OutgoingState:
        message_id = rows.sent[ANN, "x", Type.POST, state]
        row = outgoing.find(message_id)
        assert row is not None
        message = Message.model_validate(
            {
                "id": message_id, "type": "post", "from": ME, "to": ANN, "endpoint": "x", "conversation": ONE,
                "epoch": 9, "seq": 9, "created": 9, "expires": 9,
            }
        )  # fmt: skip
        changed = rows.changed_by(lambda row=row, message=message: outgoing.restamp(row.row_id, message))  # type: ignore[misc]
        assert changed == ([("outgoing", message_id)] if state == OutgoingState.PENDING else [])
        long = message.model_copy(update={"data": {"text": "x" * MAX_INLINE_BYTES}})
        outgoing.restamp(row.row_id, long)
        bodies = rows.journal._db.execute("SELECT count(*) FROM bodies").fetchone()
        assert bodies == (1 if state == OutgoingState.PENDING else 0,)
        rows.journal._db.execute("DELETE FROM bodies")
        outgoing.restamp(row.row_id, message)
        assert rows.journal._db.execute("SELECT count(*) FROM bodies").fetchone() == (0,)


def test_messages_are_listed_by_state_and_kind(rows: Rows) -> None:
    """Each list has all messages of its kind, and no others."""
    outgoing = rows.journal.outgoing

    def ids(found: list[Any]) -> set[str]:
        return {row.id for row in found}

    def of(kinds: set[Type], states: set[OutgoingState], endpoints: str = "xy") -> set[str]:
        return {
            message
            for (_, endpoint, kind, state), message in rows.sent.items()
            if kind in kinds and state in states and endpoint in endpoints
        }

    every = {Type.CALL, Type.POST, Type.REPLY}
    pending, stored = {OutgoingState.PENDING}, {OutgoingState.STORED}
    assert ids(outgoing.pending()) == of(every, pending)
    assert ids(outgoing.stored()) == of(every, stored)
    assert ids(outgoing.own(LAST, 99, is_open=True)[0]) == of({Type.CALL}, pending | stored, "x")
    assert ids(outgoing.newest_calls(99)) == of({Type.CALL}, set(OutgoingState), "x")
    row = outgoing.find(rows.sent[CYD, "y", Type.CALL, OutgoingState.PENDING])
    assert row is not None
    later = {each.id for each in outgoing.pending() if each.created > row.created}
    assert ids(outgoing.created_after(row.created, 99)) == later
    assert outgoing.next_expiry() == min(each.expires for each in [*outgoing.pending(), *outgoing.stored()])
    first = min([*outgoing.pending(), *outgoing.stored()], key=lambda each: each.expires)
    assert ids(outgoing.expired(first.expires, 9)) == {first.id}
    assert ids(outgoing.open_to(ANN, "x")) == {
        rows.sent[ANN, "x", kind, state]
        for kind, state in itertools.product(every, (OutgoingState.PENDING, OutgoingState.STORED))
    }


def test_what_the_users_programs_asked_is_cleared_once_it_has_ended(rows: Rows) -> None:
    """Open calls stay, as do posts that arrived, and what flows have sent."""
    outgoing = rows.journal.outgoing
    ended = {OutgoingState.DONE, OutgoingState.FAILED, OutgoingState.EXPIRED, OutgoingState.CANCELLED}
    listed = {rows.sent[peer, "x", Type.CALL, state] for peer, state in itertools.product((ANN, CYD), ended)}
    failed = (OutgoingState.FAILED, OutgoingState.EXPIRED)
    listed |= {rows.sent[peer, "x", Type.POST, state] for peer, state in itertools.product((ANN, CYD), failed)}
    assert {row.id for row in outgoing.own(LAST, 99, is_open=False)[0]} == listed
    gone = rows.changed_by(lambda: outgoing.clear_own(LAST))
    assert {message for table, message in gone if table == "outgoing"} == listed


def test_no_call_looks_at_many_messages(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is listed, or cleared, is in a slice; the next one goes on below it, down to the first message."""
    end = sent._END_OF_LOOK
    monkeypatch.setattr(sent, "_END_OF_LOOK", end.replace(f"LIMIT {sent.MAX_LOOKED}", "LIMIT 5"))
    assert end != sent._END_OF_LOOK
    outgoing = rows.journal.outgoing
    newest = outgoing._value("SELECT max(n) FROM outgoing")
    slices: dict[int, list[str]] = {}
    before = LAST
    while True:
        some, after = outgoing.own(before, 99, is_open=False)
        if after is None:
            break
        assert all(after <= row.row_id < before for row in some)
        slices[before] = [row.id for row in some]
        before = after
    assert some == []
    assert len(slices) == -(-newest // 5)
    assert sum(map(len, slices.values())) == 12
    assert outgoing.clear_own(1) == (0, None)
    before = sorted(slices, key=lambda each: len(slices[each]))[-2]
    gone = rows.changed_by(lambda: outgoing.clear_own(before))
    assert {message for table, message in gone if table == "outgoing"} == set(slices[before]) != set()


def test_own_calls_are_found_slice_by_slice(rows: Rows) -> None:
    """Each look goes on below the last one, also after a page that is full in the middle of a slice."""
    outgoing = rows.journal.outgoing
    whole = outgoing.own(LAST, 99, is_open=False)[0]
    found: list[Any] = []
    before: int | None = LAST
    while before is not None:
        some, before = outgoing.own(before, 2, is_open=False)
        found += some
    assert found == whole
    assert [row.row_id for row in whole] == sorted((row.row_id for row in whole), reverse=True)


def test_dead_letters_have_pages_and_short_ids(rows: Rows) -> None:
    """A page of them, and one by its id or a part of it; requests in other states are not meant."""
    incoming = rows.journal.incoming
    dead = [row for (_, _, state), row in rows.requests.items() if state == IncomingState.DEAD]
    assert [row.row_id for row in incoming.dead(99)] == dead
    assert [row.row_id for row in incoming.dead(2, 1)] == dead[1:3]
    first = incoming.get(dead[0])
    assert first is not None
    assert incoming.dead_matching(first.id) == incoming.dead_matching(first.id[-8:]) == [first]
    other = incoming.get(rows.requests[ANN, "x", IncomingState.DONE])
    assert other is not None
    assert incoming.dead_matching(other.id) == incoming.dead_matching("no") == []


def test_a_message_is_found_by_a_part_of_its_id(rows: Rows) -> None:
    """Calls and posts are, by their beginning, their end or as a whole; answers are not."""
    outgoing = rows.journal.outgoing
    name = "abcd" + "0" * 20 + "12345678"
    for each in (name, "d" * 32):
        outgoing.add(rows._fields(ME, ANN, "x", Type.POST).model_copy(update={"id": each}), b"{}")
    for part in (name[:4], name[:9], name[-8:], name):
        assert {row.id for row in outgoing.matching(part)} == {name}
    for part in ("%", "abce", "ffff", name[:-1] + "9", rows.sent[ANN, "x", Type.REPLY, OutgoingState.DONE]):
        assert outgoing.matching(part) == []


def test_a_call_without_an_answer_is_fetched_too(rows: Rows) -> None:
    """Whoever reads that a call was cancelled has got all that there is, and the other calls are as they were."""
    outgoing = rows.journal.outgoing
    row = outgoing.find(rows.sent[ANN, "x", Type.CALL, OutgoingState.CANCELLED])
    assert row is not None
    assert row.answer is None
    assert rows.changed_by(lambda: outgoing.mark_fetched(row)) == [("outgoing", row.id)]


def test_bodies_of_pending_messages(rows: Rows) -> None:
    """Bodies of messages that are not sent any more are not read for sending."""
    outgoing = rows.journal.outgoing
    pending, ended = (
        outgoing.find(rows.sent[ANN, "x", Type.POST, s]) for s in (OutgoingState.PENDING, OutgoingState.EXPIRED)
    )
    assert pending is not None
    assert ended is not None
    assert outgoing.bodies([pending.row_id, ended.row_id]) == {pending.row_id: outgoing.body(pending.id)}
    assert outgoing.get(pending.row_id) == pending


def test_calls_of_runs_are_known_by_root_and_instance(journal: Journal) -> None:
    """Open calls that a run made are found by the request that it answers, and by its instance."""
    rows = Rows(journal)
    origin = f'{{"instance": "{ONE}", "root": 7}}'
    message = rows._fields(ME, ANN, "z", Type.CALL)
    journal.outgoing.add(message, b"{}", origin)
    ended = rows._fields(ME, ANN, "z", Type.CALL)
    journal.outgoing.add(ended, b"{}", origin.replace("7", "8"))
    journal.outgoing.move(ended.id, OutgoingState.DONE, NOW)
    for part in (f'{{"instance": "{TWO}"}}', '{"root": 9}'):
        journal.outgoing.add(rows._fields(ME, ANN, "z", Type.CALL), b"{}", part)
    assert [row.id for row in journal.outgoing.of_root(7)] == [message.id]
    assert [row.id for row in journal.outgoing.of_instance(ONE)] == [message.id]
    assert journal.outgoing.has_open_of_root(7)
    assert not journal.outgoing.has_open_of_root(8)
    assert journal.outgoing.open_roots() == {(ONE, 7)}


def test_what_is_open_for_an_instance_is_known_after_a_restart(tmp_path: Path) -> None:
    """Which of its requests are open, which answers are to be run, and which calls its runs have made."""
    path = tmp_path / "journal.sqlite3"
    journal = Journal(path, ME, NoFaults())
    with journal.transaction():
        rows = Rows(journal)
        for (peer, _, _), row in rows.requests.items():
            journal.incoming.set_instance(row, ONE if peer == ANN else TWO)
        answer = journal.incoming.add_answer(
            "e" * 32, peer=ANN, kind="reply", endpoint="x", conversation=ONE, body=b"{}", now=NOW, expires=NOW + 1,
            instance=ONE, root_request=5,
        )  # fmt: skip
        assert answer is not None
        call = rows._fields(ME, ANN, "z", Type.CALL)
        origin = f'{{"instance":"{ONE}","endpoint":"x","root":7,"subflow":"s","packaged":"p"}}'
        journal.outgoing.add(call, b"{}", origin)

    def known() -> list[Any]:
        incoming, outgoing = journal.incoming, journal.outgoing
        return [
            *([row.row_id for row in incoming.open_of(each)] for each in (ONE, TWO, "3" * 32)),
            *(incoming.unanswered_of(each) for each in (ONE, TWO, "3" * 32)),
            [number for number in range(100) if incoming.has_answers_for(number)],
            [number for number in range(100) if outgoing.has_open_of_root(number)],
            [[row.id for row in outgoing.of_instance(each)] for each in (ONE, TWO)],
            [incoming.state(number) for number in range(60)],
        ]

    before = known()
    assert before[6:9] == [[5], [7], [[call.id], []]]
    journal.close()
    journal = Journal(path, ME, NoFaults())
    assert known() == before
    with journal.transaction():
        journal.incoming.move(answer.row_id, IncomingState.DONE)
        journal.outgoing.move(call.id, OutgoingState.CANCELLED, NOW)
    assert known()[6:9] == [[], [], [[], []]]
    journal.close()


# Instances and records.


def instance(name: str, endpoint: str, client: str, *, explicit: int = 0, used: int = NOW) -> InstanceRow:
    """Return an instance."""
    return InstanceRow(name, endpoint, client, explicit, "{}", "{}", None, '{"n":1}', None, NOW, used)


@pytest.mark.parametrize(
    "change",
    [
        lambda table: table.save(ONE, '{"n":2}', NOW + 1),
        lambda table: table.restore(ONE, '{"n":3}'),
        lambda table: table.reset(ONE),
        lambda table: table.remove(instance(ONE, "x", ANN)),
    ],
    ids=["save", "restore", "reset", "remove"],
)
def test_one_instance_is_changed(rows: Rows, change: Callable[[Any], object]) -> None:
    """A change of an instance leaves all others as they are."""
    table = rows.journal.instances
    table.add(instance(ONE, "x", ANN))
    table.add(instance(TWO, "x", ANN))
    found = table.get(TWO)
    assert found is not None
    assert found.id == TWO
    assert rows.changed_by(lambda: change(table)) == [("instances", ONE)]
    at_hand = table.get(ONE), table.get(TWO)
    table.forget()
    assert (table.get(ONE), table.get(TWO)) == at_hand


def test_instances_at_hand_take_a_bounded_memory(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that were used last are not read again; what is found is the same as before, and so is what is missing."""
    table = journal.instances
    monkeypatch.setattr("p2pflowsd.journal.instances._MAX_AT_HAND", 3)
    monkeypatch.setattr("p2pflowsd.journal.instances._MAX_AT_HAND_CHARS", 2_000)
    for number in range(5):
        table.add(instance(f"{number:032x}", "x", ANN))
        assert table.get("f" * 32) is None
    assert [*table._at_hand] == [f"{3:032x}", f"{4:032x}", "f" * 32]
    assert [row.id for number in range(5) if (row := table.get(f"{number:032x}"))] == [f"{n:032x}" for n in range(5)]
    assert table.get(f"{2:032x}")
    assert [*table._at_hand] == [f"{3:032x}", f"{4:032x}", f"{2:032x}"]
    for length in (1_500, 1_000, 3_000):
        table.save(f"{2:032x}", "1" * length, NOW)
        table.save(f"{3:032x}", "1" * 900, NOW)
        assert table._at_hand_chars == sum(len(row.state or "") + 4 for row in table._at_hand.values() if row)
        assert table._at_hand_chars <= 2_000
        found = table.get(f"{2:032x}")
        assert found is not None
        assert found.state == "1" * length
    table.add(instance("f" * 32, "x", ANN))
    assert table.get("f" * 32)


def test_what_a_rolled_back_transaction_did_to_an_instance_is_forgotten(tmp_path: Path) -> None:
    """The journal can still be read then."""
    journal = Journal(tmp_path / "journal.sqlite3", ME, NoFaults())
    with journal.transaction():
        journal.instances.add(instance(ONE, "x", ANN))
    with contextlib.suppress(KeyError), journal.transaction():
        journal.instances.save(ONE, '{"n":2}', NOW + 1)
        journal.instances.add(instance(TWO, "x", ANN))
        assert journal.instances.count("x", ANN) == 2
        raise KeyError
    assert journal.instances.get(ONE) == instance(ONE, "x", ANN)
    assert journal.instances.get(TWO) is None
    assert journal.instances.count("x", ANN) == 1
    journal.close()


def test_instances_are_counted_by_endpoint_and_client(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Instances of another flow, or of another client, do not count; what was counted takes a bounded memory."""
    table = journal.instances
    for number, (endpoint, client) in enumerate([("x", ANN), ("x", ANN), ("x", CYD), ("y", ANN)]):
        table.add(instance(f"{number:032x}", endpoint, client, used=NOW - number))
    table.add(instance("f" * 32, "x", ANN, explicit=1, used=NOW - 100))
    assert (table.count("x", ANN), table.count("x", CYD), table.count("y", CYD)) == (3, 1, 0)
    assert table.counts("x") == {ANN: 3, CYD: 1}
    assert list(table.oldest_conversations("x", ANN, 9)) == [f"{1:032x}", f"{0:032x}"]
    for _ in range(2):  # what is not there is not counted again
        for row in table.of("x", CYD):
            table.remove(row)
    table.add(instance("e" * 32, "x", ANN))
    assert (table.count("x", ANN), table.count("x", CYD)) == (4, 0)
    table.remove(instance(f"{0:032x}", "x", ANN))
    table.remove(instance(f"{0:032x}", "x", ANN))
    assert table.count("x", ANN) == 3
    assert [row.id for row in table.idle(NOW - 2, 9)] == [f"{3:032x}"]
    monkeypatch.setattr("p2pflowsd.journal.instances._MAX_COUNTS", 2)
    for number in range(9):
        assert table.count("x", f"{number:064x}") == 0
        assert len(table._counts) <= 2


def test_one_record_is_changed(rows: Rows) -> None:
    """Records of another run, or with another index, stay; an answer that is stored stays, too."""
    table = rows.journal.records
    for row_id, index in itertools.product((1, 2), (0, 1)):
        table.add(RecordRow(row_id, index, "call", "m", None, None))
    assert rows.changed_by(lambda: table.set_value(1, 0, "first")) == [("records", "1/0")]
    assert not table.set_value(1, 0, "second")
    assert not table.set_value(3, 0, "nothing")
    assert [(row.row_id, row.call_index) for row in table.of(1)] == [(1, 0), (1, 1)]
    found, other = table.get(1, 0), table.get(2, 0)
    assert found is not None
    assert other is not None
    assert (found.value, other.row_id) == ("first", 2)
    assert table.get(1, 5) is None
    assert table.runs() == {1, 2}
    assert rows.changed_by(lambda: table.remove_one(1, 0)) == [("records", "1/0")]
    assert rows.changed_by(lambda: table.remove(2)) == [("records", "2/0"), ("records", "2/1")]


# Questions.


def question(name: str, **fields: Any) -> QuestionRow:
    """Return a question to somebody."""
    return QuestionRow(0, name, "Tea?", "{}", "[]", NOW, NOW + 100, None, "open", None, None)._replace(**fields)


def test_one_question_to_others_is_changed(rows: Rows) -> None:
    """What becomes of those who are asked, and its end, are that of one question; it ends once."""
    table = rows.journal.questions
    first, second = (table.add(question(name)) for name in (ONE, TWO))
    assert rows.changed_by(lambda: table.set_people(first, "[1]", NOW + 5)) == [("questions", str(first))]
    assert (table.next_due(), [row.id for row in table.due(NOW + 5)], table.due(NOW + 4)) == (NOW + 5, [ONE], [])
    end = QuestionState.ANSWERED
    assert rows.changed_by(lambda: table.end(first, end, "{}", "[2]", NOW)) == [("questions", str(first))]
    assert not table.end(first, QuestionState.CANCELLED, "{}", "[]", NOW)
    assert (table.next_due(), table.due(NOW + 5), table.count_open()) == (None, [], 1)
    found = table.get(first)
    assert found is not None
    assert (found.people, found.state, found.due) == ("[2]", "answered", None)
    assert [row.id for row in table.open(9)] == [TWO]
    assert rows.changed_by(lambda: table.set_claim(second, "carol", NOW, 1)) == [("questions", str(second))]
    assert table.matching("%") == []
    assert table.matching(TWO[:8]) == table.matching(TWO) == [table.get(second)]
    assert table.ended(9) == [found]


def test_only_questions_that_have_ended_are_forgotten(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest beyond a limit, or all on request; those that are open stay."""
    monkeypatch.setattr(questions, "MAX_KEPT", 1)
    table = rows.journal.questions
    numbers = [table.add(question(f"{number:032x}")) for number in range(4)]
    for number in numbers[:3]:
        table.end(number, QuestionState.EXPIRED, "{}", "[]", NOW)
    assert rows.changed_by(table.prune) == [("questions", str(number)) for number in numbers[:2]]
    assert table.clear() == 1
    assert [row.row_id for row in table.open(9)] == numbers[3:]


def test_lines_are_those_of_one_person_or_conversation(rows: Rows) -> None:
    """A page has the lines before a number; an answer is found by the question that it answers, and by who asked it."""
    table = rows.journal.lines

    def line(
        peer: str, talk: str, by: int, kind: str, message: str, *, text: str = "Hi", state: str = "sent"
    ) -> LineRow:
        return table.add(LineRow(0, peer, by, kind, message, "User", talk, "", text, NOW, state))

    asked = line(ANN, ONE, 1, "question", "a" * 32)
    line(ANN, ONE, 0, "answer", "a" * 32)
    theirs = line(CYD, TWO, 0, "question", "a" * 32, state="open")
    passed = line(ANN, TWO, 0, "delegated", "a" * 32, text=f"{CYD} I am away")
    note = line(CYD, ONE, 1, "note", "b" * 32, state="delivered")
    assert table.of_message("b" * 32, by_me=True) == note
    end = note.row_id
    assert [row.row_id for row in table.with_peer(ANN, 9, end)] == [4, 2, 1]
    assert [row.row_id for row in table.with_peer(ANN, 9, passed.row_id)] == [2, 1]
    assert [row.row_id for row in table.of_conversation(ONE, 9, end + 1)] == [5, 2, 1]
    assert [row.row_id for row in table.of_conversation(ONE, 9, end)] == [2, 1]
    assert [row.row_id for row in table.newest(9, end)] == [4, 3, 2, 1]
    assert table.of_message("a" * 32, by_me=True) == asked
    assert table.of_message("a" * 32, by_me=False) == theirs
    assert table.delegate_of("a" * 32) == (CYD, "I am away")
    assert table.delegate_of("b" * 32) is None
    assert [row.row_id for row in table.under_way()] == [1, 5]
    assert table.human_endpoints() == {(ANN, "User"), (CYD, "User")}
    assert rows.changed_by(lambda: table.set_state(end, "read")) == [("lines", "5")]
    assert rows.changed_by(lambda: table.remove_first(CYD)) == [("lines", "3")]
    assert rows.changed_by(table.remove_first) == [("lines", "1")]
    assert table.counts() == {ANN: 2, CYD: 1}
    assert table.remove_first("e" * 64) is None
    assert table.remove_before(NOW, 9) == []
    assert rows.changed_by(lambda: table.remove_before(NOW + 1, 1)) == [("lines", "2")]


def test_what_was_spent_long_ago_is_forgotten(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Days beyond the limit go, and the first ones if there are too many rows, but never today."""
    table, today = journal.spending, 20_000

    def days() -> list[int]:
        return [row.day for row in table.since(0)]

    for day in (today - spending.KEPT_DAYS, today - 3, today - 2, today - 1, today):
        table.add(SpendingRow(day, "x", ANN, "m", 1, 1, 1, 1, 0, 0))
    assert [row.day for row in table.since(today - 1)] == [today - 1, today]
    table.tidy(today)
    assert days() == [today - 3, today - 2, today - 1, today]
    monkeypatch.setattr(spending, "MAX_ROWS", 2)
    table.tidy(today)
    assert days() == [today - 1, today]
    monkeypatch.setattr(spending, "MAX_ROWS", 0)
    table.tidy(today)
    assert days() == [today]


def test_ids_are_those_of_one_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has none left is forgotten, and until when ids were forgotten is known over a restart."""
    monkeypatch.setattr(remembered, "_MAX_CACHED_SENDERS", 1)
    journal = Journal(tmp_path / "journal.sqlite3", ME, NoFaults())
    table = journal.remembered
    with journal.transaction():
        table.add([(ANN, ONE, NOW + 5), (CYD, TWO, NOW + 9)])
    assert [table.has(peer, name) for peer in (ANN, CYD, ME) for name in (ONE, TWO)] == [
        True, False, False, True, False, False,
    ]  # fmt: skip
    assert [table.has_any(peer) for peer in (ANN, CYD, ME)] == [True, True, False]
    assert len(table._numbers) == 1
    with journal.transaction():
        assert not table.prune(NOW + 5)
        assert table.forgotten_until == 0
        assert table.prune(NOW + 6)
        table.note_forgotten(NOW)
        for _ in range(2):  # the round of the senders comes to its begin again
            table.prune(NOW)
    assert [table.has_any(peer) for peer in (ANN, CYD)] == [False, True]
    assert journal._db.execute("SELECT user FROM senders").fetchall() == [(CYD,)]
    again = journal.reopened()
    journal.close()
    assert again.remembered.forgotten_until == NOW + 6
    again.close()


def test_one_worker_token_is_revoked_or_removed(rows: Rows) -> None:
    """The others of that point stay good."""
    table = rows.journal.worker_tokens
    for number in range(3):
        table.add(WorkerTokenRow(f"t{number}", "gpu", "", NOW + number, None, None))
    found = table.get("t1")
    assert found is not None
    assert found.id == "t1"
    table.revoke("t1", NOW + 9)
    assert [row.revoked for row in table.all()] == [None, NOW + 9, None]
    table.remove("t0")
    assert [row.id for row in table.all()] == ["t1", "t2"]


def test_questions_are_found_by_id_and_number(rows: Rows) -> None:
    """An id that no question has is free, and each question ends alone."""
    prompts, incoming = rows.journal.prompts, rows.journal.incoming
    asked = []
    for peer in (ANN, CYD):
        row = incoming.get(rows.requests[peer, "x", IncomingState.ASKED])
        assert row is not None
        asked.append(prompts.add(row, "Yes?", "{}"))
    first, second = asked
    assert prompts.get(first.row_id) == first
    assert prompts.has_id(second.id)
    assert not prompts.has_id("f" * 32)
    assert [row.row_id for row in prompts.open_of(ANN, 9)] == [first.row_id]
    ended = rows.changed_by(lambda: prompts.end(first.row_id, PromptState.ANSWERED, NOW, "yes"))
    assert ended == [("prompts", str(first.row_id))]
    assert not prompts.end(first.row_id, PromptState.DECLINED, NOW)
    assert not prompts.snooze(first.row_id, NOW + 5)
    assert rows.changed_by(lambda: prompts.snooze(second.row_id, NOW + 5)) == [("prompts", str(second.row_id))]
    assert prompts.snoozed() == [prompts.get(second.row_id)]
    assert rows.changed_by(lambda: prompts.set_claim(second.row_id, ANN, NOW)) == [("prompts", str(second.row_id))]
    assert [row.row_id for row in prompts.open()] == [second.row_id]


def test_questions_are_listed_in_the_order_of_asking(rows: Rows) -> None:
    """A question that arrived first but was asked later, because its sender was a stranger, comes later."""
    prompts, incoming = rows.journal.prompts, rows.journal.incoming
    asked = []
    for endpoint in ("y", "x"):
        row = incoming.get(rows.requests[ANN, endpoint, IncomingState.ASKED])
        assert row is not None
        asked.append(prompts.add(row, "Yes?", "{}"))
    assert asked[0].row_id > asked[1].row_id
    for page in (Page(9), Page(9, peer=ANN), Page(9, is_open=False)):
        assert prompts.page(page) == asked


# How people meet.


def invitation(name: str, **fields: Any) -> InvitationRow:
    """Return an invitation."""
    usual = InvitationRow(0, name, b"secret", "", "", 1, 0, NOW, NOW + 10, 0)
    return usual._replace(**fields)


def test_invitations_are_used_and_revoked_alone(rows: Rows) -> None:
    """A use, or a revocation, is that of one invitation; ended ones cannot be used."""
    table = rows.journal.invitations
    for row in (invitation(ONE, uses=2), invitation(TWO), invitation("3" * 32, expires=NOW)):
        table.add(row)
    first, second = table.find(ONE), table.find(TWO)
    assert first is not None
    assert second is not None
    assert (first.id, second.id) == (ONE, TWO)
    assert table.count_open(NOW) == 2
    assert rows.changed_by(lambda: table.use(first.row_id)) == [("invitations", str(first.row_id))]
    assert rows.changed_by(lambda: table.revoke(second.row_id, NOW)) == [("invitations", str(second.row_id))]
    assert table.count_open(NOW) == 1


def test_meetings_are_those_of_one_invitation_and_one_user(rows: Rows) -> None:
    """A user uses an invitation once; what is noted of one meeting leaves the others as they are."""
    table = rows.journal.meetings
    found = [
        table.add(MeetingRow(0, which, peer, "", "", "invited", NOW)) for which in (ONE, TWO) for peer in (ANN, CYD)
    ]
    numbers = [row.row_id for row in found if row is not None]
    assert len(set(numbers)) == 4
    assert table.add(MeetingRow(0, ONE, ANN, "again", "", "invited", NOW)) is None
    assert [table.get(number) for number in numbers] == found
    assert table.find(TWO, ANN) == found[2]
    assert table.find("3" * 32, ANN) is None
    assert table.of(ONE) == found[:2]
    changed = rows.changed_by(lambda: table.set_added(numbers[0], "ann"))
    assert changed == [("meetings", str(numbers[0]))]
    assert rows.changed_by(lambda: table.set_words(numbers[0], "one two")) == [("meetings", str(numbers[0]))]
    assert not table.set_words(numbers[0], "three four")
    assert [row.row_id for row in table.unfinished()] == numbers[1:]


def test_introductions_of_one_contact_make_room_for_theirs(rows: Rows) -> None:
    """The oldest introduction of a contact goes when they have made as many as one may, and no other."""
    table = rows.journal.introductions
    for number, by in enumerate((ANN, ANN, CYD, ANN)):
        table.add(IntroductionRow(0, f"{number:064x}", by, "", NOW + number), 2)
    assert [row.peer for row in table.all()] == [f"{number:064x}" for number in (3, 2, 1)]
    table.remove(f"{2:064x}")
    assert [row.peer for row in table.all()] == [f"{number:064x}" for number in (3, 1)]


def test_wishes_are_those_of_one_stranger(rows: Rows) -> None:
    """A wish that is repeated grows by what else is wished for, up to a length; others stay."""
    table = rows.journal.wishes
    for peer in (ANN, CYD):
        table.note(peer, "x", NOW)
    first, other = table.find(ANN), table.find(CYD)
    assert first is not None
    assert other is not None
    assert rows.changed_by(lambda: table.note(ANN, "y", NOW + 1)) == [("wishes", str(first.row_id))]
    table.note(ANN, "y", NOW + 2)
    first = table.find(ANN)
    assert first is not None
    assert (first.endpoints, first.first, first.last) == ('["x", "y"]', NOW, NOW + 2)
    assert table.peers() == {ANN, CYD}
    assert table.oldest() == other
    for number in range(1_000):
        table.note(ANN, f"endpoint-{number}", NOW + 3)
    first = table.find(ANN)
    assert first is not None
    assert len(first.endpoints) < MAX_ENDPOINTS_CHARS + 100
    assert table.remove(CYD)
    assert not table.remove(CYD)
    assert table.peers() == {ANN}


# Streams and the log.


def test_streams_are_known_by_direction_peer_and_endpoint(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """A position is that of one stream alone, also when more streams are used than memory keeps."""
    monkeypatch.setattr(streams, "_MAX_CACHED_STREAMS", 3)
    table = rows.journal.streams
    keys = list(itertools.product(Direction, (ANN, CYD), ("x", "y")))
    for number, key in enumerate(keys):
        assert table.get(*key) is None
        table.set(*key, Position(1, number))
    assert [table.get(*key) for key in keys] == [Position(1, number) for number in range(len(keys))]
    assert len(table._cached) <= 4
    assert table.has_any(Direction.OUTGOING, ANN)
    assert not table.has_any(Direction.OUTGOING, ME)
    table.set(Direction.INCOMING, ME, "x", Position(1, 1))
    table.save()
    assert not table.has_any(Direction.OUTGOING, ME)


def test_a_sender_has_so_many_streams(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that others send, and those that are sent to them, do not count; nor does one twice."""
    monkeypatch.setattr(streams, "MAX_STREAMS_OF_PEER", 2)
    monkeypatch.setattr(streams, "_MAX_COUNTED_PEERS", 2)
    table = journal.streams
    for direction, peer, endpoint in ((Direction.INCOMING, CYD, "x"), (Direction.OUTGOING, ANN, "x")):
        table.set(direction, peer, endpoint, Position(1, 1))
    found = []
    for direction, endpoint in (
        (Direction.INCOMING, "x"), (Direction.INCOMING, "x"), (Direction.OUTGOING, "y"), (Direction.INCOMING, "y"),
    ):  # fmt: skip
        assert table.has_room(ANN)
        table.set(direction, ANN, endpoint, Position(1, 2))
        found.append(table.has_room(ANN))
    assert found == [True, True, True, False]
    for peer in (CYD, ME, "d" * 64):
        assert table.has_room(peer)
    assert len(table._incoming_of) <= 2
    assert not table.has_room(ANN)


def test_a_position_that_is_not_written_yet_is_known(journal: Journal) -> None:
    """A stream is where it was moved last, whether the file says so already or not."""
    table, key = journal.streams, (Direction.INCOMING, ANN, "x")
    table.set(*key, Position(1, 1))
    table.save()
    table.set(*key, Position(1, 2))
    assert table.get(*key) == Position(1, 2)


def test_each_call_looks_at_the_next_streams(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that stay do not keep those behind them from being looked at."""
    monkeypatch.setattr(streams, "_MAX_CHECKED_STREAMS", 2)
    table = rows.journal.streams
    for peer in (ANN, CYD, "d" * 64):
        table.set(Direction.INCOMING, peer, "x", Position(1, 1))
    table.save()
    assert rows.changed_by(lambda: table.forget_strangers(set().__contains__)) == []
    assert rows.changed_by(lambda: table.forget_strangers(set().__contains__)) == [("streams", f"in/{'d' * 64}/x")]


def test_only_streams_of_strangers_without_requests_are_forgotten(journal: Journal) -> None:
    """Streams to others, those of contacts, and those of strangers who have a request here stay."""
    rows = Rows(journal)
    table, stranger = journal.streams, "d" * 64
    remembered_one = "f" * 64
    journal.remembered.add([(remembered_one, ONE, NOW)])
    for direction, peer in itertools.product(Direction, (ANN, stranger, "e" * 64, remembered_one)):
        table.set(direction, peer, "x", Position(1, 1))
        table.set(direction, peer, "y", Position(1, 1))
    gone = rows.changed_by(lambda: table.forget_strangers({"e" * 64}.__contains__))
    assert gone == [("streams", f"in/{stranger}/x"), ("streams", f"in/{stranger}/y")]
    assert table.get(Direction.INCOMING, stranger, "x") is None
    assert rows.changed_by(lambda: table.forget_strangers({"e" * 64}.__contains__)) == []


def test_the_log_is_read_from_an_entry_on(journal: Journal) -> None:
    """Entries are long at most, and a reader asks for those after the last that it knows."""
    for number in range(3):
        journal.log.add(NOW, "refused", ANN, "x", f"{number}" + "x" * 1_000)
    entries = journal.log.newest(9)
    assert [entry.detail[0] for entry in entries] == ["0", "1", "2"]
    assert max(len(entry.detail) for entry in entries) == 500
    assert journal.log.newest(9, after=entries[1].row_id) == entries[2:]
    journal.log.prune(NOW)
    assert journal.log.newest(9) == entries
    journal.log.prune(NOW + 1)
    assert journal.log.newest(9) == []


def test_one_of_many_requests_of_an_instance_is_found_at_once(journal: Journal) -> None:
    """A run answers a request by its id, however many others the instance has."""
    instance = "f" * 32
    for number in range(1_000):
        message = Message.model_validate(
            {
                "id": f"{number:032x}", "type": "call", "from": ANN, "to": ME, "endpoint": "x", "instance": instance,
                "conversation": "0" * 32, "epoch": 1, "seq": number, "created": NOW, "expires": NOW + 1_000,
            }
        )  # fmt: skip
        assert journal.incoming.add(message, b"{}", 0, NOW, IncomingState.READY) is not None
    instructions = itertools.count()
    journal._db.set_progress_handler(lambda: next(instructions) and 0, 1)
    found = journal.incoming.open_of(instance, f"{500:032x}")
    journal._db.set_progress_handler(None, 0)
    assert [row.id for row in found] == [f"{500:032x}"]
    assert next(instructions) < 200
    assert len(journal.incoming.open_of(instance)) == 1_000


def test_the_calls_of_one_instance_are_found_at_once(journal: Journal) -> None:
    """An instance can be deleted in the same time however many calls wait for the answers of others."""
    rows = Rows(journal)
    for number in range(1_000):
        message = rows._fields(ME, ANN, "x", Type.CALL)
        origin = f'{{"instance":"{number}","endpoint":"x","root":1,"subflow":"s","packaged":"p"}}'
        journal.outgoing.add(message, message.to_bytes(), origin)
    instructions = itertools.count()
    journal._db.set_progress_handler(lambda: next(instructions) and 0, 1)
    found = journal.outgoing.of_instance("500")
    journal._db.set_progress_handler(None, 0)
    assert [row.origin is not None and '"500"' in row.origin for row in found] == [True]
    assert next(instructions) < 200


# Pruning.


def test_only_what_is_over_for_long_is_pruned(rows: Rows) -> None:
    """Ended requests go ten minutes after their deadline, and messages a day after their end; open ones stay."""
    journal = rows.journal
    kept = journal.incoming.get(rows.requests[ANN, "x", IncomingState.DONE])
    assert kept is not None
    journal.prompts.add(kept, "Yes?", "{}")
    call = rows._fields(ME, ANN, "x", Type.CALL)
    journal.outgoing.add(call, call.to_bytes(), '{"n":1,"k":0}')
    journal.outgoing.move(call.id, OutgoingState.DONE, NOW)
    journal.records.add(RecordRow(1, 0, "call", "m", call.id, None))
    over = {IncomingState.DONE, IncomingState.FAILED, IncomingState.EXPIRED}
    gone = rows.changed_by(lambda: journal.prune(NOW + 30 * 24 * 3_600_000))
    assert {key for table, key in gone if table == "incoming"} == {
        str(row) for (_, _, state), row in rows.requests.items() if state in over and row != kept.row_id
    }
    ended = {OutgoingState.DONE, OutgoingState.FAILED, OutgoingState.EXPIRED, OutgoingState.CANCELLED}
    assert {key for table, key in gone if table == "outgoing"} == {
        message for (*_, state), message in rows.sent.items() if state in ended
    }


def test_a_call_looks_at_one_slice_of_the_requests(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """So no call takes long, however many requests have ended."""
    monkeypatch.setattr(pruning, "MAX_PRUNED_ROWS", 4)
    rows = Rows.__new__(Rows)
    rows.journal, rows.numbers = journal, itertools.count(1)
    for _ in range(10):
        rows._request(ANN, "x", IncomingState.DONE)
    left = []
    for now in (NOW, *[NOW + 24 * 3_600_000] * 4):
        journal.prune(now)
        left.append([number for (number,) in journal._db.execute("SELECT n FROM incoming ORDER BY n")])
    assert left == [list(range(1, 11)), [1, 2, 3, 4, 9, 10], [1, 2, 3, 4], [], []]


def test_a_call_looks_at_one_slice(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """What can go in a slice that was looked at before goes when the round comes there again."""
    monkeypatch.setattr(pruning, "MAX_PRUNED_ROWS", 4)
    for _ in range(10):
        journal.incoming.add_bundle(ANN, b"proof", NOW)
    left = []
    for now in (NOW, *[NOW + 24 * 3_600_000] * 4):
        journal.prune(now)
        left.append([number for (number,) in journal._db.execute("SELECT n FROM bundles ORDER BY n")])
    first, second, third = list(range(1, 5)), list(range(5, 9)), [9, 10]
    assert left == [[*first, *second, *third], [*first, *third], first, [], []]


def test_a_call_gives_back_some_pages(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that has much room gives it back bit by bit, so that no call takes long."""
    monkeypatch.setattr(pruning, "MAX_FREED_PAGES", 3)
    bundle = journal.incoming.add_bundle(ANN, b"x" * 400_000, NOW)
    journal.incoming.drop_bundle(bundle)
    journal.commit()

    def free() -> int:
        return int(journal._db.execute("PRAGMA freelist_count").fetchone()[0])

    before = free()
    assert before > 50
    with journal.transaction():
        assert journal.prune(NOW)
    assert free() == before - 3
    monkeypatch.setattr(pruning, "MAX_FREED_PAGES", 100)
    with journal.transaction():
        assert not journal.prune(NOW)
    assert free() == 0
