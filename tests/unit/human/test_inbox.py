"""The inbox: typed questions, remarks, and answers that come too late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import BadInput, DeadlinePassed, P2pflowsError, TooLarge, UsageError
from p2pflows.forms.wire import MAX_REMARK_CHARS
from p2pflowsd.api import views
from p2pflowsd.human.inbox import Answer, Typed, Value
from p2pflowsd.lifecycle import PromptState

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
    note = alice.sends("User", {"text": "A note"}, type="post")

    def progress() -> list[Any]:
        desk.passes(0.05)
        return [line for notice in alice._heard("_notice") for line in notice.get("progress", [])]

    assert progress() == []
    for _ in range(2):
        desk.do(lambda: desk.node.inbox.note_shown(desk.journal.prompts.open()))
    assert progress() == [[request, {"human": "shown"}]]
    until = desk.clock.now() + 60_000
    for prompt in (request, note):
        desk.do(lambda prompt=prompt: desk.node.inbox.snooze(prompt, 60_000))  # type: ignore[misc]
    assert progress()[1:] == [[request, {"human": "snoozed", "until": until}]]
    for prompt in (request, note):
        desk.do(lambda prompt=prompt: desk.node.inbox.snooze(prompt, 0))  # type: ignore[misc]
    assert progress()[2:] == []
    desk.do(lambda: desk.node.inbox.note_shown(desk.journal.prompts.open()))
    assert progress()[2:] == [[request, {"human": "shown"}]]
    late = alice.sends("User", YES_OR_NO)
    answer(desk, late, Typed("yes"))
    desk.do(lambda: desk.node.inbox.note_shown(desk.journal.prompts.all()))
    assert progress()[3:] == []


# What ends a question, and what the asker hears of it.


def test_a_program_answers_a_question_without_a_form(desk: Desk, alice: Neighbour) -> None:
    """With text, as a person would."""
    request = alice.sends("User", {"text": "How are you?"})
    answer(desk, request, Value("well"))
    assert alice.hears(request) == [{"human_input": "well"}]


def test_an_answer_that_fits_into_no_message_is_refused_where_it_is_typed(desk: Desk, alice: Neighbour) -> None:
    """And the question stays open."""
    request = alice.sends("User", {"text": "How are you?"})
    assert isinstance(refusal(desk, request, Typed("ä" * 60_000)), TooLarge)
    assert [row.id for row in desk.journal.prompts.open()] == [request]


def test_a_note_is_not_answered(desk: Desk, alice: Neighbour) -> None:
    """Its sender waits for nothing; the error says how to write back."""
    note = alice.sends("User", {"text": "I am home."}, type="post")
    error = refusal(desk, note, Typed("fine"))
    assert "p2pflows send alice/User" in error.hint
    assert [row.id for row in desk.journal.prompts.open()] == [note]


def test_who_asks_too_much_is_refused(desk: Desk, alice: Neighbour) -> None:
    """Until some of their questions have ended; others may ask."""
    desk.node.inbox._max_open_of_peer = 2
    first = alice.sends("User", {"text": "1"})
    alice.sends("User", {"text": "2"}, type="post")
    third = alice.sends("User", {"text": "3"})
    assert alice.hears_error(third) == "not_allowed"
    Neighbour(desk, 9, "carol").sends("User", {"text": "4"})
    answer(desk, first, Typed("yes"))
    alice.sends("User", {"text": "5"})
    assert [row.text for row in desk.journal.prompts.open()] == ["2", "4", "5"]


def test_nobody_asks_under_the_id_of_another_question(desk: Desk, alice: Neighbour) -> None:
    """The answer to one would be given to the other."""
    request = alice.sends("User", {"text": "Shall I pay?"})
    mallory = Neighbour(desk, 9, "mallory")
    mallory.sends("User", {"text": "Shall I have it all?"}, id=request)
    assert mallory.hears_error(request) == "bad_input"
    assert [row.text for row in desk.journal.prompts.all()] == ["Shall I pay?"]


def test_a_past_question_is_shown_by_its_id_and_an_ambiguous_one_is_not(desk: Desk, alice: Neighbour) -> None:
    """Looking at a question takes no part of an id that stands for two."""
    first, second = (alice.sends("User", {"text": "?"}, id=f"aaaa{number}" + "b" * 27) for number in (1, 2))
    answer(desk, first, Typed("yes"))
    assert desk.do(lambda: desk.node.inbox.find(first)).state == "answered"
    answer(desk, second, Typed("yes"))
    for part in ("aaaa", "cccc"):
        assert isinstance(desk.do(lambda part=part: desk.node.inbox.find(part)), UsageError)  # type: ignore[misc]


@pytest.mark.parametrize("reason", ["", "I am away"])
def test_the_asker_hears_why_it_is_declined(desk: Desk, alice: Neighbour, reason: str) -> None:
    """A reason is optional."""
    request = alice.sends("User", {"text": "Tea?"})
    desk.do(lambda: desk.node.inbox.decline(request, reason))
    desk.passes(0.05)
    assert alice.hears(request)[0]["message"] == (reason or "The human declined to answer.")
    assert desk.journal.prompts.all()[0].answer == (reason or None)


@pytest.mark.parametrize("why", ["", "she knows"])
def test_the_asker_hears_why_it_is_passed_on(desk: Desk, alice: Neighbour, why: str) -> None:
    """A reason is optional, and no page of text."""
    carol, request = Neighbour(desk, 9, "carol"), alice.sends("User", {"text": "Tea?"})
    assert isinstance(desk.do(lambda: desk.node.inbox.delegate(request, carol.user, "x" * 1_001)), TooLarge)
    desk.do(lambda: desk.node.inbox.delegate(request, carol.user, why))
    desk.passes(0.05)
    end = f": {why}" if why else "."
    assert alice.hears(request)[0]["message"] == f"Your question was passed on to user {carol.user}{end}"


@pytest.mark.parametrize(("why", "said"), [("", "."), ("solved", ": solved"), ("x" * 5_000, ": xxx")])
def test_a_question_that_its_asker_withdraws(desk: Desk, alice: Neighbour, why: str, said: str) -> None:
    """Whoever answers it later reads why, cut to the length of a remark; one that was answered is not withdrawn."""
    requests = [alice.sends("User", {"text": "Tea?"}) for _ in range(2)]
    answer(desk, requests[1], Typed("yes"))
    rows = desk.journal.prompts.all()
    events: list[str] = []
    desk.node.inbox._on_prompt = lambda prompt: events.append(prompt.state)
    for row_id in (*(row.row_id for row in rows), 999):
        desk.do(lambda row_id=row_id: desk.node.inbox.withdraw(row_id, PromptState.CANCELLED, why))  # type: ignore[misc]
    assert events == ["cancelled"]
    first, second = desk.journal.prompts.all()
    assert (first.state, first.answer, second.state) == ("cancelled", why[:MAX_REMARK_CHARS] or None, "answered")
    assert f"is already cancelled{said}" in refusal(desk, requests[0], Typed("yes")).message
    assert refusal(desk, requests[1], Typed("yes")).message == f"Prompt {requests[1][-8:]} is already answered."
