"""What the user and other people say to each other: one order, whoever began, and what becomes of each line."""

from __future__ import annotations

from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.human import transcript
from p2pflowsd.human.conversations import newest
from p2pflowsd.human.inbox import Typed
from p2pflowsd.journal.rows import LineRow

LAST = 2**62


def say(desk: Desk, to: Neighbour, text: str, kind: Type = Type.POST, endpoint: str = "User") -> str:
    """Let Bob send a note or a question; return its id."""
    message: str = desk.do(lambda: desk.node.messages.send(kind, to.user, endpoint, {"text": text}, life_ms=60_000))
    desk.passes(0.1)
    return message


def replies(alice: Neighbour, to: str, **data: Any) -> None:
    """Let alice answer a question of Bob's; with a kind of error if data has one."""
    alice.sends(topics.REPLY, data, type="error" if "kind" in data else "reply", cause=to, epoch=0, seq=0)


def said(desk: Desk, user: Neighbour) -> list[tuple[str, str, str, str]]:
    """What was said with somebody, oldest first: by whom, as what, the text, and what became of it."""
    rows = reversed(desk.journal.lines.with_peer(user.user, 100, LAST))
    return [("bob" if row.by_me else "alice", row.kind, row.text, row.state) for row in rows]


def test_both_sides_are_in_one_order(desk: Desk, alice: Neighbour) -> None:
    """Notes, questions and answers of both, whoever began."""
    alice.sends("User", {"text": "Hello"}, type="post")
    say(desk, alice, "Hi!")
    asked = alice.sends("User", {"text": "Tea?"})
    question = say(desk, alice, "Milk?", Type.CALL)
    desk.do(lambda: desk.node.inbox.answer(asked, Typed("Yes")))
    replies(alice, question, human_input="No")
    assert said(desk, alice) == [
        ("alice", "note", "Hello", "open"),
        ("bob", "note", "Hi!", "sent"),
        ("alice", "question", "Tea?", "answered"),
        ("bob", "question", "Milk?", "answered"),
        ("bob", "answer", "Yes", "sent"),
        ("alice", "answer", "No", "answered"),
    ]


def test_each_line_says_what_became_of_it(desk: Desk, alice: Neighbour) -> None:
    """Delivered, held, declined, expired, withdrawn or refused; also after a restart."""
    note = say(desk, alice, "note")
    held, declined, refused, expired, cancelled = (say(desk, alice, text, Type.CALL) for text in "abcde")
    desk.node.outbox.confirm_stored(alice.user, [note])
    desk.restart()
    desk.do(lambda: desk.node.outbox.confirm_stored(alice.user, [held], "held"))
    replies(alice, declined, kind="declined", message="Not now.")
    replies(alice, refused, kind="not_allowed", message="No.")
    desk.do(lambda: desk.node.messages.cancel(cancelled))
    states = {text: state for _, _, text, state in said(desk, alice)}
    assert [states[text] for text in ("note", "a", "b", "c", "e")] == [
        "sent", "held", "declined", "not_allowed", "cancelled",
    ]  # fmt: skip
    assert said(desk, alice)[-1] == ("alice", "declined", "Not now.", "answered")
    desk.do(lambda: desk.node.outbox.confirm_stored(alice.user, [held]))
    desk.passes(61)
    states = {text: state for _, _, text, state in said(desk, alice)}
    assert (states["a"], states["d"]) == ("expired", "expired")
    assert expired


def test_an_answer_says_whether_it_was_delivered(desk: Desk, alice: Neighbour) -> None:
    """As notes do, over a restart; what they are not there to take in time has expired."""
    answered, declined, late = (alice.sends("User", {"text": text}) for text in ("Tea?", "Milk?", "Sugar?"))
    desk.do(lambda: desk.node.inbox.answer(answered, Typed("Yes")))
    desk.do(lambda: desk.node.inbox.decline(declined, "No."))
    desk.do(lambda: desk.node.inbox.answer(late, Typed("Two")))
    mallory = Neighbour(desk, 2, "mallory")
    replies_of = {message["cause"]: message["id"] for message in alice.gets(topics.REPLY)}
    desk.do(lambda: desk.node.outbox.confirm_stored(mallory.user, [replies_of[answered]]))
    assert [line[3] for line in said(desk, alice)[3:]] == ["sent", "sent", "sent"]
    desk.do(lambda: desk.node.outbox.confirm_stored(alice.user, [replies_of[answered]]))
    desk.restart()
    desk.do(lambda: desk.node.outbox.confirm_stored(alice.user, [replies_of[declined]]))
    desk.passes(3_601)
    assert [line[1:] for line in said(desk, alice)[3:]] == [
        ("answer", "Yes", "delivered"),
        ("declined", "No.", "delivered"),
        ("answer", "Two", "expired"),
    ]


def test_nobody_confirms_a_line_to_another(desk: Desk, alice: Neighbour) -> None:
    """Only the person to whom a line was sent can say that it has arrived."""
    mallory = Neighbour(desk, 2, "mallory")
    note = say(desk, alice, "Hello")
    desk.do(lambda: desk.node.outbox.confirm_stored(mallory.user, [note]))
    assert said(desk, alice)[0][3] == "sent"
    desk.do(lambda: desk.node.outbox.confirm_stored(alice.user, [note]))
    assert said(desk, alice)[0][3] == "delivered"


def test_calls_of_flows_are_no_talk(desk: Desk, alice: Neighbour) -> None:
    """Only what goes to a person is; an endpoint with another name is a person's once a chat has said so."""
    say(desk, alice, "to a flow", Type.CALL, "echo")
    say(desk, alice, "not known yet", Type.POST, "Alice")
    desk.do(lambda: desk.node.transcript.note_human(alice.user, "Alice"))
    say(desk, alice, "Hello", Type.POST, "Alice")
    desk.restart()
    say(desk, alice, "Hello again", Type.POST, "Alice")
    assert [text for _, _, text, _ in said(desk, alice)] == ["Hello", "Hello again"]


def test_what_is_remembered_is_limited(desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest lines go first: those with one person, or with all."""
    monkeypatch.setattr(transcript, "MAX_LINES_OF_PEER", 3)
    monkeypatch.setattr(transcript, "MAX_LINES", 5)
    monkeypatch.setattr(transcript, "MAX_CHARS", 10)
    carol = Neighbour(desk, 2, "carol")
    for number in range(5):
        alice.sends("User", {"text": f"{number}" * 20}, type="post")
    assert [text for _, _, text, _ in said(desk, alice)] == ["2" * 10, "3" * 10, "4" * 10]
    desk.restart()
    for number in range(3):
        carol.sends("User", {"text": f"{number}"}, type="post")
    assert [text[0] for _, _, text, _ in said(desk, alice)] == ["3", "4"]
    assert len(said(desk, carol)) == 3


def test_changes_are_announced_after_the_commit(desk: Desk, alice: Neighbour) -> None:
    """Each line when it is said, and again when something became of it."""
    announced: list[LineRow] = []
    desk.node.transcript._on_line = announced.append
    asked = alice.sends("User", {"text": "Tea?"})
    desk.do(lambda: desk.node.inbox.decline(asked, "No."))
    assert [(line.kind, line.text, line.state) for line in announced] == [
        ("question", "Tea?", "open"),
        ("question", "Tea?", "declined"),
        ("declined", "No.", "sent"),
    ]


def test_notes_are_listed_as_conversations(desk: Desk, alice: Neighbour) -> None:
    """Those of one conversation once, with the last text; a conversation with questions is listed as such."""
    alice.sends("User", {"text": "one"}, type="post", conversation="a" * 32)
    alice.sends("User", {"text": "two"}, type="post", conversation="a" * 32)
    asked = alice.sends("User", {"text": "Tea?"})
    say(desk, alice, "Hello")
    found = newest(desk.journal, 10)
    assert sorted((each.text, each.by) for each in found) == [("Hello", "me"), ("Tea?", "them"), ("two", "them")]
    assert asked in {each.conversation for each in found}
