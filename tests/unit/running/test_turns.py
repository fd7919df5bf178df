"""Turns: an instance works on one request after the other, in their order, also after a restart."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_daemon import HOUR_MS

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.running.origin import CallBackOrigin
from p2pflowsd.running.turns import Turns

ME, ALICE = "b" * 64, "a" * 64
TREE, OTHER = "1" * 32, "2" * 32
NOW = 1_800_000_000_000


class Scene:
    """A journal with requests for instances."""

    def __init__(self, path: Path) -> None:
        self.journal = Journal(path, ME, NoFaults())
        self.numbers = itertools.count(1)

    def _message(self, sender: str, recipient: str, instance: str | None = None) -> Message:
        name = f"{next(self.numbers):032x}"
        return Message.model_validate(
            {
                "id": name, "type": "call", "from": sender, "to": recipient, "endpoint": "tree", "conversation": name,
                "created": NOW, "expires": NOW + HOUR_MS, "instance": instance,
            }
        )  # fmt: skip

    def request(self, instance: str = TREE) -> IncomingRow:
        """Store a request for an instance."""
        message = self._message(ALICE, ME, instance)
        with self.journal.transaction():
            row = self.journal.incoming.add(message, b"{}", 0, NOW, IncomingState.READY)
        assert row is not None
        return row

    def move(self, row: IncomingRow, state: IncomingState) -> None:
        """Let a request go on to a state."""
        with self.journal.transaction():
            assert self.journal.incoming.move(row.row_id, state)

    def calls_for(self, row: IncomingRow) -> str:
        """Store a call that a run made for a request, and whose answer runs the instance again; return its id."""
        message = self._message(ME, ALICE)
        origin = CallBackOrigin(row.instance or "", "tree", row.row_id, "one", "p").to_json()
        with self.journal.transaction():
            self.journal.outgoing.add(message, b"{}", origin)
        return message.id

    def end_call(self, call: str) -> None:
        """Let such a call end."""
        with self.journal.transaction():
            self.journal.outgoing.move(call, OutgoingState.DONE, NOW, b"{}")

    def answer_for(self, row: IncomingRow) -> IncomingRow:
        """Store an answer that runs the instance again for a request."""
        name = f"{next(self.numbers):032x}"
        with self.journal.transaction():
            answer = self.journal.incoming.add_answer(
                name, peer=ALICE, kind=Type.REPLY, endpoint="tree", conversation=name, body=b"{}", now=NOW,
                expires=NOW + HOUR_MS, instance=row.instance or "", root_request=row.row_id,
            )  # fmt: skip
        assert answer is not None
        return answer


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Scene]:
    """The scene."""
    scene = Scene(tmp_path / "journal.sqlite3")
    yield scene
    scene.journal.close()


def next_of(turns: Turns) -> list[int]:
    """The requests whose turn has come."""
    return [row.row_id for row in turns.next_rows()]


def test_each_instance_works_on_one_request_at_a_time(bob: Scene) -> None:
    """The others wait in their order, and what has ended or is forgotten meanwhile is left out."""
    turns = Turns(bob.journal)
    rows = [bob.request() for _ in range(6)]
    assert [turns.enter(row) for row in rows] == [True, *[False] * 5]
    assert turns.enter(rows[0]), "it goes on with its own"
    assert turns.enter(bob.request(OTHER)), "another instance has turns of its own"
    assert turns.waiting() == [row.row_id for row in rows[1:]]
    turns.touch(TREE)
    assert next_of(turns) == []
    bob.move(rows[1], IncomingState.EXPIRED)
    with bob.journal.transaction():
        bob.journal._db.execute("DELETE FROM incoming WHERE n = ?", (rows[2].row_id,))
    for ended, following in itertools.pairwise((rows[0], *rows[3:])):
        bob.move(ended, IncomingState.DONE)
        assert next_of(turns) == [], "nobody has said that one has ended"
        turns.touch(TREE)
        turns.touch(None)
        turns.touch("f" * 32)
        assert next_of(turns) == [following.row_id]
    bob.move(rows[-1], IncomingState.DONE)
    turns.touch(TREE)
    assert (next_of(turns), turns.waiting()) == ([], [])
    assert not turns._waiting
    assert list(turns._open) == [OTHER]
    assert turns.enter(bob.request())


def test_a_request_is_open_as_long_as_something_is_under_way_for_it(bob: Scene) -> None:
    """A call that was made for it, or an answer that is still to be run; what is forgotten is open no more."""
    turns = Turns(bob.journal)
    first, second, third = (bob.request() for _ in range(3))
    assert [turns.enter(row) for row in (first, second, third)] == [True, False, False]
    call = bob.calls_for(first)
    bob.move(first, IncomingState.AWAITING_REPLY)

    def touched() -> list[int]:
        turns.touch(TREE)
        return next_of(turns)

    assert touched() == []
    answer = bob.answer_for(first)
    bob.end_call(call)
    assert touched() == []
    bob.move(answer, IncomingState.DONE)
    assert touched() == [second.row_id], "one that is kept without asking anything is answered by a later one"
    bob.calls_for(second)
    bob.move(second, IncomingState.AWAITING_REPLY)
    assert touched() == []
    bob.move(second, IncomingState.EXPIRED)
    with bob.journal.transaction():
        bob.journal._db.execute("DELETE FROM incoming WHERE n = ?", (second.row_id,))
    assert touched() == [third.row_id]


@pytest.mark.parametrize("how", ["kept", "answer", "call", "new", "other"])
def test_a_restart_goes_on_with_the_same_request(bob: Scene, how: str) -> None:
    """It is the one that is kept, or for which an answer is to be run, or a call is open; a new one waits."""
    first = bob.request(OTHER if how == "other" else TREE)
    if how in ("kept", "other"):
        bob.move(first, IncomingState.AWAITING_REPLY)
    elif how == "answer":
        bob.answer_for(first)
    elif how == "call":
        bob.calls_for(first)
    turns = Turns(bob.journal)
    second = bob.request()
    assert turns.enter(second) is (how in ("new", "other"))
    assert turns.enter(first) is (how != "new")
