"""Conversations as the journal remembers them: whom with, which way, what was said last, and what still waits."""

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
    """Where the journal is."""
    return tmp_path / "journal.sqlite3"


@pytest.fixture
def journal(path: Path) -> Iterator[Journal]:
    """Ann's journal, with a transaction open."""
    journal = Journal(path, ANN, NoFaults())
    with journal.transaction():
        yield journal
    journal.close()


def message(number: int, **more: Any) -> Message:
    """A call of one minute; later numbers are later."""
    fields = {
        "id": f"{number:032x}", "type": Type.CALL, "from": ANN, "to": BOB, "endpoint": "User", "conversation": TALK,
        "epoch": 1, "seq": number, "created": NOW + number, "expires": NOW + 60_000, **more,
    }  # fmt: skip
    return Message.model_validate(fields)


def call(journal: Journal, number: int, text: str = "Hello?", *, origin: str | None = None, **more: Any) -> str:
    """Ann calls; gives the id."""
    sent = message(number, data={"text": text}, **more)
    journal.outgoing.add(sent, sent.to_bytes(), origin)
    return sent.id


def ends(journal: Journal, message_id: str, state: OutgoingState, **answer: Any) -> None:
    """A call of ann's has its end."""
    assert journal.outgoing.move(message_id, state, NOW, json.dumps(answer).encode())


def ask(journal: Journal, number: int, text: str = "Tea?", label: str = "", **more: Any) -> int:
    """Ann is asked; gives the number of the prompt."""
    sent = message(number, **{"from": BOB, "to": ANN, **more})
    row = journal.incoming.add(sent, b"{}", 0, NOW + number, IncomingState.READY)
    assert row is not None
    journal.prompts.add(row, text, "{}", label)
    return row.row_id


def test_a_call_shows_its_text_until_there_is_an_answer(journal: Journal) -> None:
    """What waits is named, so that `wait` finds it; then the answer is what was said last, or an error, by nobody."""
    first = call(journal, 1)
    (shown,) = newest(journal, 10)
    assert (shown.way, shown.user, shown.endpoint, shown.conversation) == ("asking", BOB, "User", TALK)
    assert (shown.text, shown.by, shown.waiting, shown.at) == ("Hello?", "me", first, NOW + 1)
    journal.outgoing.mark_stored([first], [], [], NOW)
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.waiting) == ("", "me", first)
    ends(journal, first, OutgoingState.DONE, human_input="Hi!")
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.waiting) == ("Hi!", "them", None)
    ends(journal, call(journal, 2), OutgoingState.FAILED, kind="declined", message="No.")
    (shown,) = newest(journal, 10)
    assert (shown.text, shown.by, shown.at) == ("No.", None, NOW + 2)


def test_an_answer_without_a_text_is_shown_as_json(journal: Journal) -> None:
    """All of it, or as much as fits."""
    ends(journal, call(journal, 1), OutgoingState.DONE, sum="x" * MAX_TEXT_CHARS)
    (shown,) = newest(journal, 10)
    assert shown.text.startswith('{"sum": "xxx')
    assert len(shown.text) == MAX_TEXT_CHARS


def test_what_flows_and_daemons_ask_is_no_conversation_of_ours(journal: Journal) -> None:
    """Calls of a run, posts, and what the daemon asks others' daemons stay out."""
    call(journal, 1, origin="{}")
    call(journal, 2, endpoint="_instances")
    call(journal, 3, type=Type.POST)
    assert newest(journal, 10) == []


def test_prompts_are_told_apart_by_who_asks_and_as_whom(journal: Journal) -> None:
    """Two labels in one conversation are two talks; open ones are counted, and the newest talk comes first."""
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
    """What ann said last is hers; a prompt that she declined stays theirs."""
    journal.prompts.end(ask(journal, 1), PromptState.ANSWERED, NOW, "Yes, please")
    journal.prompts.end(ask(journal, 2, conversation="8" * 32), PromptState.DECLINED, NOW, "never")
    assert [(each.text, each.by) for each in newest(journal, 10)] == [("Tea?", "them"), ("Yes, please", "me")]


def test_only_so_much_is_looked_at(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long journal costs no more than a short one."""
    monkeypatch.setattr(conversations, "MAX_ROWS_READ", 3)
    for number in range(9):
        call(journal, number, conversation=f"{number:032x}")
    assert [each.conversation for each in newest(journal, 10)] == [f"{number:032x}" for number in (8, 7, 6)]


def test_prompts_from_before_there_were_labels_have_none(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal of an earlier release is brought up to date with its prompts in it."""
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
