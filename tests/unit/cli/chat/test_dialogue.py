"""To what a typed text belongs: the question under which it was begun, or nobody's question."""

from __future__ import annotations

from typing import Any

from p2pflows.cli.chat.dialogue import Decline, Dialogue, End, NotSent, Send, Show, Target

FIRST, SECOND = {"id": "1", "text": "Tea?"}, {"id": "2", "text": "Delete PRODUCTION?"}
NOTE = Target("note")


def dialogue(*questions: dict[str, Any], takes_notes: bool = True) -> tuple[Dialogue, list[str]]:
    """Return a dialogue with questions, and the list of those that it shows again."""
    shown: list[str] = []
    talk = Dialogue(takes_notes=takes_notes, show=lambda question: shown.append(question["id"]))
    for question in questions:
        talk.asked(question)
    talk.go_on()
    return talk, shown


def test_a_text_answers_the_question_that_is_asked() -> None:
    """The oldest one first; once it is answered, the next is shown again."""
    talk, shown = dialogue(FIRST, SECOND)
    talk.typed("y")
    assert talk.target == Target("answer", "1")
    assert talk.enter("yes") == Send(Target("answer", "1"), "yes")
    assert talk.ended("1") is None
    talk.go_on()
    assert shown == ["1", "2"]
    assert talk.question == SECOND


def test_without_a_question_it_is_a_note() -> None:
    """Also if a question arrives before it is entered; the next text answers that question."""
    talk, _ = dialogue()
    talk.typed("Hello")
    talk.asked(SECOND)
    talk.go_on()
    assert talk.enter("Hello there") == Send(NOTE, "Hello there")
    assert talk.enter("no") == Send(Target("answer", "2"), "no")
    talk, _ = dialogue(takes_notes=False)
    assert talk.enter("Hello") == NotSent("no question is open")


def test_an_answer_never_goes_to_a_later_question() -> None:
    """`yes` typed under a question that expires is discarded, and not the answer to the next."""
    talk, _ = dialogue(FIRST, SECOND)
    talk.typed("yes")
    assert talk.ended("1") == "yes"
    talk.go_on()
    assert talk.question == SECOND
    assert talk.enter("") is None
    talk.typed("no")
    assert talk.enter("no") == Send(Target("answer", "2"), "no")


def test_what_is_typed_before_the_next_question_is_shown_answers_nothing() -> None:
    """A second pasted line is discarded when the next question is shown, or refused if it is entered before."""
    talk, _ = dialogue(FIRST, SECOND)
    talk.enter("yes")
    talk.typed("no")
    assert talk.target == Target("early")
    assert talk.enter("no") == NotSent("it was typed before the next question was shown")
    talk.typed("abso")
    assert talk.go_on() is None
    talk.ended("1")
    assert talk.go_on() == "abso"
    assert talk.question == SECOND


def test_what_is_entered_with_an_answer_is_no_answer() -> None:
    """A second line is a note if nothing else is asked."""
    talk, _ = dialogue(FIRST)
    assert isinstance(talk.enter("yes"), Send)
    assert talk.enter("more") == Send(NOTE, "more")
    talk.ended("1")
    assert talk.enter("more") == Send(NOTE, "more")


def test_an_answer_that_is_not_taken_can_be_typed_on() -> None:
    """The text is back, and still belongs to its question."""
    talk, shown = dialogue(FIRST)
    sent = talk.enter("maybe")
    assert isinstance(sent, Send)
    talk.failed(sent.target)
    talk.begin_again(sent.text, sent.target)
    talk.go_on()
    assert talk.enter("yes") == Send(Target("answer", "1"), "yes")
    assert shown == []


def test_commands() -> None:
    """/decline and /skip are about the question under which they were begun; an unknown one is refused and kept."""
    talk, _ = dialogue(FIRST, SECOND)
    assert talk.enter("/skip") is None
    talk.go_on()
    assert talk.question == SECOND
    assert talk.enter("/decline not now") == Decline("2", "not now")
    talk.ended("2")
    talk.go_on()
    assert talk.question is None
    assert talk.open_questions == [FIRST]
    assert talk.enter("/skip") == NotSent("no question is asked here")
    assert (talk.enter("/who"), talk.enter("/help"), talk.enter("/end")) == (Show("who"), Show("help"), End())
    refused = talk.enter("/usr/bin")
    assert isinstance(refused, NotSent)
    assert refused.is_kept
    assert "/decline, /skip, /who, /end, /help" in refused.why
    assert talk.enter("//usr/bin") == Send(NOTE, "/usr/bin")
