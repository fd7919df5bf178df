"""States change only by the moves of the table: in memory, and in the SQL of the journal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import QuestionRow
from p2pflowsd.lifecycle import (
    MOVES,
    OPEN_INCOMING,
    OPEN_OUTGOING,
    IncomingState,
    OutgoingState,
    PromptState,
    QuestionState,
    may_become,
)

ANN, BOB = "a" * 64, "b" * 64
KINDS: tuple[type[StrEnum], ...] = (IncomingState, OutgoingState, PromptState, QuestionState)
FIRST: dict[type[StrEnum], StrEnum] = {
    IncomingState: IncomingState.BLOCKED,
    OutgoingState: OutgoingState.PENDING,
    PromptState: PromptState.OPEN,
    QuestionState: QuestionState.OPEN,
}
OPEN: dict[type[StrEnum], frozenset[Any]] = {
    IncomingState: OPEN_INCOMING,
    OutgoingState: OPEN_OUTGOING,
    PromptState: frozenset({PromptState.OPEN}),
    QuestionState: frozenset({QuestionState.OPEN}),
}


class Item:
    """One row in each table of a new journal."""

    def __init__(self, folder: Path) -> None:
        self.journal = Journal(folder / "journal.sqlite3", ANN, NoFaults())
        fields = {
            "id": "0" * 32,
            "type": Type.CALL,
            "from": BOB,
            "to": ANN,
            "endpoint": "echo",
            "conversation": "0" * 32,
        }
        message = Message.model_validate({**fields, "created": 1, "expires": 2})
        with self.journal.transaction():
            row = self.journal.incoming.add(message, b"{}", 0, 1, IncomingState.BLOCKED)
            assert row is not None
            self.journal.outgoing.add(message, b"{}")
            self.journal.prompts.add(row, "shall we?", "{}")
            self.journal.questions.add(QuestionRow(0, message.id, "?", "{}", "[]", 1, 2, None, "open", None, None))
        self.message_id = message.id

    def put(self, state: StrEnum) -> None:
        """Set a state directly, whether or not the move is legal."""
        tables = {"Incoming": "incoming", "Outgoing": "outgoing", "Prompt": "prompts", "Question": "questions"}
        table = tables[type(state).__name__.removesuffix("State")]
        self.journal._db.execute(f"UPDATE {table} SET state = ?", (state,))  # noqa: S608 - a test's table
        self.journal.incoming.load()

    def move(self, state: StrEnum) -> bool:
        """Ask for a move; return whether it was made."""
        match state:
            case IncomingState():
                return self.journal.incoming.move(1, state)
            case OutgoingState():
                return self.journal.outgoing.move(self.message_id, state, 1)
            case PromptState():
                return self.journal.prompts.end(1, state, 1)
            case QuestionState():
                return self.journal.questions.end(1, state, "{}", "[]", 1)
        raise AssertionError(state)

    def state(self, kind: type[StrEnum]) -> StrEnum:
        """Return the state in the journal."""
        row = {
            IncomingState: self.journal.incoming.get(1),
            OutgoingState: self.journal.outgoing.find(self.message_id),
            PromptState: self.journal.prompts.get(1),
            QuestionState: self.journal.questions.get(1),
        }[kind]
        assert row is not None
        return kind(row.state)


@pytest.fixture(scope="module")
def item() -> Iterator[Item]:
    """The rows to move."""
    with tempfile.TemporaryDirectory() as folder:
        item = Item(Path(folder))
        yield item
        item.journal.close()


@pytest.mark.parametrize("kind", KINDS)
def test_the_table_is_closed(kind: type[StrEnum]) -> None:
    """Every state is in the table, every move leads to another state of the same kind."""
    assert set(MOVES[kind]) == set(kind)
    for state, moves in MOVES[kind].items():
        assert {type(new) for new in moves} <= {kind}
        assert state not in moves


@pytest.mark.parametrize("kind", KINDS)
def test_every_open_state_can_end(kind: type[StrEnum]) -> None:
    """Moves lead from every open state to a final one, and from the first state to every other."""

    def reachable(start: StrEnum) -> set[StrEnum]:
        found, todo = {start}, [start]
        while todo:
            new = MOVES[kind][todo.pop()] - found
            found |= new
            todo += new
        return found

    assert reachable(FIRST[kind]) == set(kind)
    for state in OPEN[kind]:
        assert reachable(state) - OPEN[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_final_states_stay(kind: type[StrEnum]) -> None:
    """A final state stays, except for a dead letter that runs again, and a stored post that fails later."""
    after_final = {state: MOVES[kind][state] for state in set(kind) - OPEN[kind] if MOVES[kind][state]}
    assert (
        after_final
        == {
            IncomingState: {IncomingState.DEAD: {IncomingState.READY}},
            OutgoingState: {OutgoingState.DONE: {OutgoingState.FAILED}},
            PromptState: {},
            QuestionState: {},
        }[kind]
    )


@given(st.data(), st.sampled_from(KINDS))
def test_walks_stay_in_the_table(data: st.DataObject, kind: type[StrEnum]) -> None:
    """A random walk along the moves stays in the table, and `may_become` is the inverse of the table."""
    state = FIRST[kind]
    for _ in range(data.draw(st.integers(0, 8))):
        if not MOVES[kind][state]:
            break
        new: StrEnum = data.draw(st.sampled_from(sorted(MOVES[kind][state])))
        assert state in may_become(new)  # type: ignore[arg-type]
        state = new
    assert state in kind


@pytest.mark.parametrize(("old", "new"), [(old, new) for kind in KINDS for old in kind for new in kind])
def test_sql_makes_the_moves_of_the_table(old: StrEnum, new: StrEnum, item: Item) -> None:
    """The journal makes exactly the moves of the table, and refuses all others."""
    legal = new in MOVES[type(old)][old]
    item.put(old)
    assert item.move(new) == legal
    assert item.state(type(old)) == (new if legal else old)


@settings(max_examples=50)
@given(st.lists(st.sampled_from([state for kind in KINDS for state in kind]), max_size=30))
def test_random_requests_make_only_legal_moves(item: Item, requests: list[StrEnum]) -> None:
    """Random requests to move lead each row along legal moves only."""
    now = dict(FIRST)
    for state in now.values():
        item.put(state)
    for state in requests:
        kind = type(state)
        if item.move(state):
            assert state in MOVES[kind][now[kind]]
            now[kind] = state
        assert item.state(kind) == now[kind]
