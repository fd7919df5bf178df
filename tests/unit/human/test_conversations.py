"""Conversations, as composed from the journal: the other side, the last text, and what still waits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.human import conversations
from p2pflowsd.human.conversations import MAX_TEXT_CHARS, newest
from p2pflowsd.journal import Journal, migrations
from p2pflowsd.lifecycle import IncomingState, OutgoingState, PromptState

ANN, BOB, CAROL = "a" * 64, "b" * 64, "c" * 64
NOW = 1_800_000_000_000
TALK = "7" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the journal."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Ann's journal, with a transaction open."""
    journal = Journal(path, ANN, NoFaults())
    with journal.transaction():
        yield journal
    journal.close()


def message(number: int, **more: Any) -> Message:
    """Return a call with a deadline in a minute; higher numbers are created later."""
    fields = {
        "id": f"{number:032x}", "type": Type.CALL, "from": ANN, "to": BOB, "endpoint": "User", "conversation": TALK,
        "epoch": 1, "seq": number, "created": NOW + number, "expires": NOW + 60_000, **more,
    }  # fmt: skip
    return Message.model_validate(fields)


def call(journal: Journal, number: int, text: str = "Hello?", *, origin: str | None = None, **more: Any) -> str:
    """Let Ann call Bob; return the message id."""
    sent = message(number, data={"text": text}, **more)
    journal.outgoing.add(sent, sent.to_bytes(), origin)
    return sent.id


def ends(journal: Journal, message_id: str, state: OutgoingState, **answer: Any) -> None:
    """End a call of Ann's."""
    assert journal.outgoing.move(message_id, state, NOW, json.dumps(answer).encode())


def ask(journal: Journal, number: int, text: str = "Tea?", label: str = "", **more: Any) -> int:
    """Let Bob ask Ann; return the number of the prompt."""
    sent = message(number, **{"from": BOB, "to": ANN, **more})
    row = journal.incoming.add(sent, b"{}", 0, NOW + number, IncomingState.READY)
    assert row is not None
    journal.prompts.add(row, text, "{}", label)
    return row.row_id


def test_a_call_shows_its_text_until_there_is_an_answer(journal: Journal) -> None:
    """The id of an open call is shown, so that `wait` finds it; then the answer or error is the last text."""
    first = call(journal, 1)
    (shown,) = newest(journal, 10)
    assert (shown.way, shown.user, shown.endpoint, shown.conversation) == ("asking", BOB, "User", TALK)
    assert (shown.text, shown.by, shown.waiting, shown.at) == ("Hello?", "me", first, NOW + 1)
    journal.outgoing.mark_stored([first], [], [], NOW)
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.waiting) == ("Hello?", "me", first)
    ends(journal, first, OutgoingState.DONE, human_input="Hi!")
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.waiting) == ("Hi!", "them", None)
    ends(journal, call(journal, 2), OutgoingState.FAILED, kind="declined", message="No.")
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.at) == ("No.", None, NOW + 2)


def test_an_answer_without_a_text_is_shown_as_json(journal: Journal) -> None:
    """The JSON is cut to the maximum length."""
    ends(journal, call(journal, 1), OutgoingState.DONE, sum="x" * MAX_TEXT_CHARS)
    (shown,) = newest(journal, 10)
    assert shown.text.startswith('{"sum": "xxx')
    assert len(shown.text) == MAX_TEXT_CHARS


def test_calls_of_flows_and_daemons_are_no_conversations(journal: Journal) -> None:
    """Calls of runs, posts, and calls of the daemon itself are not shown."""
    call(journal, 1, origin="{}")
    call(journal, 2, endpoint="_instances")
    call(journal, 3, type=Type.POST)
    assert newest(journal, 10) == []


def test_prompts_with_different_users_or_labels_are_different_conversations(journal: Journal) -> None:
    """Two labels under one id are two conversations; open prompts are counted, and the newest comes first."""
    first = ask(journal, 1, label="User1")
    ask(journal, 2, "Milk?", label="User1")
    ask(journal, 3, "Sugar?", label="User2")
    ask(journal, 4, "Who?", **{"from": CAROL})
    call(journal, 5)
    found = newest(journal, 10)
    assert [(each.way, each.user, each.label, each.open, each.text) for each in found] == [
        ("asking", BOB, "", 0, "Hello?"),
        ("asked", CAROL, "", 1, "Who?"),
        ("asked", BOB, "User2", 1, "Sugar?"),
        ("asked", BOB, "User1", 2, "Milk?"),
    ]
    journal.prompts.end(first, PromptState.DECLINED, NOW)
    assert next(each.open for each in newest(journal, 10) if each.label == "User1") == 1
    assert newest(journal, 2) == found[:2]


def test_an_answered_prompt_shows_the_answer(journal: Journal) -> None:
    """An answer is the last text, by Ann; after she declined, the question stays the last text."""
    journal.prompts.end(ask(journal, 1), PromptState.ANSWERED, NOW, "Yes, please")
    journal.prompts.end(ask(journal, 2, conversation="8" * 32), PromptState.DECLINED, NOW, "never")
    assert [(each.text, each.by) for each in newest(journal, 10)] == [("Tea?", "them"), ("Yes, please", "me")]


def test_the_number_of_rows_read_is_limited(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long journal takes no more time than a short one."""
    monkeypatch.setattr(conversations, "MAX_ROWS_READ", 3)
    for number in range(9):
        call(journal, number, conversation=f"{number:032x}")
    assert [each.conversation for each in newest(journal, 10)] == [f"{number:032x}" for number in (8, 7, 6)]


def test_prompts_of_an_earlier_release_have_no_label(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of a release without labels is brought up to date, and its prompts stay."""
    with monkeypatch.context() as older:
        older.setattr(migrations, "STEPS", migrations.STEPS[:3])
        db = sqlite3.connect(path, isolation_level=None)
        migrations.migrate(db)
    db.execute(
        "INSERT INTO prompts (n, id, peer, type, endpoint, conversation, text, data, received, expires, state) "
        "VALUES (1, 'x', ?, 'call', 'User', ?, 'Tea?', '{}', 1, 2, 'open')",
        (BOB, TALK),
    )
    db.close()
    journal = Journal(path, ANN, NoFaults())
    assert [(prompt.text, prompt.label) for prompt in journal.prompts.open()] == [("Tea?", "")]
    journal.close()
