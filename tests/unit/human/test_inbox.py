"""The inbox: typed questions, remarks, and answers that come too late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import BadInput, DeadlinePassed, P2pflowsError, TooLarge, UsageError
from p2pflowsd.api import views
from p2pflowsd.human.inbox import Answer, Typed, Value

YES_OR_NO = {"api_output": "Drop the table?", "answer_schema": {"type": "boolean"}}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon with his human."""
    desk = Desk(tmp_path)
    desk.serves("User", "", kind="human")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact."""
    return Neighbour(desk, 8, "alice")


def answer(desk: Desk, request: str, given: Answer, remark: str = "") -> Any:
    """Answer, and let the answer be sent; returns the prompt or the error."""
    outcome = desk.do(lambda: desk.node.inbox.answer(request, given, remark))
    desk.passes(0.05)
    return outcome


def refusal(desk: Desk, request: str, given: Answer, remark: str = "") -> P2pflowsError:
    """Answer, and return the error."""
    error = answer(desk, request, given, remark)
    assert isinstance(error, P2pflowsError), error
    return error


def test_a_typed_question_is_answered_with_a_value(desk: Desk, alice: Neighbour) -> None:
    """The asker gets the text as before, and beside it the value and the remark."""
    request = alice.sends("User", YES_OR_NO)
    answer(desk, request, Typed("y"), "after 18:00")
    assert alice.hears(request) == [{"human_input": "yes", "value": True, "remark": "after 18:00"}]


def test_a_program_answers_with_a_value(desk: Desk, alice: Neighbour) -> None:
    """It is checked as what a person types is."""
    request = alice.sends("User", YES_OR_NO)
    assert isinstance(refusal(desk, request, Value("yes")), BadInput)
    answer(desk, request, Value(False))
    assert alice.hears(request) == [{"human_input": "no", "value": False}]


def test_a_wrong_answer_stays_with_the_one_who_types_it(desk: Desk, alice: Neighbour) -> None:
    """Nothing is sent, and the question stays open."""
    request = alice.sends("User", YES_OR_NO)
    error = refusal(desk, request, Typed("maybe"))
    assert (error.kind, error.message) == ("bad_input", "The answer must be yes or no.")
    assert alice.hears(request) == []
    assert [prompt.id for prompt in desk.journal.prompts.open()] == [request]


def test_a_question_without_a_form_takes_text(desk: Desk, alice: Neighbour) -> None:
    """Its answer has no value, as before."""
    request = alice.sends("User", {"api_output": "How are you?"})
    assert isinstance(refusal(desk, request, Value(5)), BadInput)
    answer(desk, request, Typed(["quite", "well"]))
    assert alice.hears(request) == [{"human_input": "quite well"}]


@pytest.mark.parametrize("schema", [{}, 7, {"$ref": "http://127.0.0.1/x"}, {"type": "string", "pattern": "x" * 500}])
def test_a_schema_that_cannot_be_shown_never_reaches_the_human(desk: Desk, alice: Neighbour, schema: Any) -> None:
    """Its sender gets the error."""
    request = alice.sends("User", {"api_output": "Hm?", "answer_schema": schema})
    assert alice.hears_error(request) == "bad_input"
    assert desk.journal.prompts.open() == []


def test_a_late_answer_is_told_so_and_not_sent(desk: Desk, alice: Neighbour) -> None:
    """The moment of answering counts, also if nothing has marked the question as expired yet."""
    now = desk.clock.now()
    request = alice.sends("User", YES_OR_NO, expires=now + 1_000)
    desk.timeline.sleep(2)  # no batch runs meanwhile
    outcome = refusal(desk, request, Typed("yes"))
    assert isinstance(outcome, DeadlinePassed)
    assert outcome.message == f"Too late: prompt {request[-8:]} has expired, so nothing was sent."
    desk.passes(1)
    assert isinstance(refusal(desk, request, Typed("yes")), DeadlinePassed)
    assert isinstance(desk.do(lambda: desk.node.inbox.decline(request, "")), DeadlinePassed)
    assert alice.hears(request) == []


def test_the_second_answer_is_refused(desk: Desk, alice: Neighbour) -> None:
    """Of two terminals, one answers, and the other reads that it is answered already."""
    request = alice.sends("User", YES_OR_NO)
    answer(desk, request, Typed("yes"))
    error = refusal(desk, request, Typed("no"))
    assert isinstance(error, UsageError)
    assert "already answered" in error.message
    assert len(alice.hears(request)) == 1


def test_remarks_have_a_limit(desk: Desk, alice: Neighbour) -> None:
    """A remark is a sentence or two."""
    request = alice.sends("User", YES_OR_NO)
    assert isinstance(refusal(desk, request, Typed("yes"), "x" * 5_000), TooLarge)


def test_all_that_the_asker_says_is_shown(desk: Desk, alice: Neighbour) -> None:
    """Fields beside the text are not hidden from the one who answers."""
    alice.sends("User", {**YES_OR_NO, "options": ["drop", "keep"], "text": "another text"})
    (row,) = desk.journal.prompts.open()
    shown = views.prompt(desk.node, row)
    assert shown["about"] == {"options": ["drop", "keep"], "text": "another text"}
    assert shown["form"]["expects"] == "yes or no"


def test_the_asker_hears_once_that_the_question_is_shown_and_that_it_is_put_off(desk: Desk, alice: Neighbour) -> None:
    """Of a note, nobody hears anything."""
    request = alice.sends("User", YES_OR_NO)
    alice.sends("User", {"text": "A note"}, type="post")

    def progress() -> list[Any]:
        desk.passes(0.05)
        return [line for notice in alice._heard("_notice") for line in notice.get("progress", [])]

    assert progress() == []
    for _ in range(2):
        desk.do(lambda: desk.node.inbox.note_shown(desk.journal.prompts.open()))
    assert progress() == [[request, {"human": "shown"}]]
    until = desk.clock.now() + 60_000
    desk.do(lambda: desk.node.inbox.snooze(request, 60_000))
    assert progress()[1:] == [[request, {"human": "snoozed", "until": until}]]
    desk.do(lambda: desk.node.inbox.note_shown(desk.journal.prompts.open()))
    assert progress()[2:] == [[request, {"human": "shown"}]]
