"""The questions of one user: one outcome each, whatever comes, and in the journal before anybody hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour, control_of

from p2pflows.errors import BadInput, NotAllowed, P2pflowsError, TooLarge, UsageError
from p2pflows.forms import Form
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.message import Type
from p2pflowsd.api import asked_views
from p2pflowsd.api.parameters import NoParameters
from p2pflowsd.api.questions import AskedParameters, asked, clear_asked
from p2pflowsd.asking import questions as module
from p2pflowsd.asking.question import Wish
from p2pflowsd.asking.questions import Answerer
from p2pflowsd.journal.rows import QuestionRow
from p2pflowsd.lifecycle import QuestionState

YES_OR_NO = {"type": "boolean"}
NOTICE = BundleKind.NOTICE


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon; here he is the one who asks."""
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """The one who is asked."""
    return Neighbour(desk, 8, "alice")


@pytest.fixture
def mallory(desk: Desk) -> Neighbour:
    """Another contact."""
    return Neighbour(desk, 9, "mallory")


def wish(schema: Any = None, *, seconds: float = 60, **more: Any) -> Wish:
    """What the asker wants."""
    return Wish.with_form(Form.read(schema), life_ms=int(seconds * 1000), **more)


def ask(desk: Desk, person: Neighbour, wanted: Wish, text: str = "Drop the table?") -> str:
    """Ask, and let the question be sent; returns its id."""
    outcome = desk.do(lambda: desk.node.questions.ask(text, [Answerer(person.user, "User")], wanted))
    assert isinstance(outcome, str), outcome
    desk.passes(0.05)
    return outcome


def refused(desk: Desk, person: Neighbour, wanted: Wish, text: str = "Drop the table?") -> P2pflowsError:
    """Ask, and return the error."""
    outcome = desk.do(lambda: desk.node.questions.ask(text, [Answerer(person.user, "User")], wanted))
    assert isinstance(outcome, P2pflowsError), outcome
    return outcome


def reply(person: Neighbour, question: str, data: dict[str, Any], kind: Type = Type.REPLY) -> None:
    """Answer a question."""
    person.sends("_reply", data, type=kind, cause=question, epoch=0, seq=0)


def shown(desk: Desk, question: str) -> dict[str, Any]:
    """A question as the control API shows it."""
    row = desk.node.questions.find(question)
    assert row is not None
    return asked_views.question(desk.node, row)


def test_an_answer_is_kept_with_who_gave_it(desk: Desk, alice: Neighbour) -> None:
    """The call carries the form, and the outcome the value, the remark, the user and the time."""
    question = ask(desk, alice, wish(YES_OR_NO))
    (call,) = alice.gets("User")
    assert (call["id"], call["data"]) == (question, {"api_output": "Drop the table?", "answer_schema": YES_OR_NO})
    reply(alice, question, {"human_input": "yes", "value": True, "remark": "after 18:00"})
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["answer"]) == ("answered", True, "yes")
    assert (found["remark"], found["by"], found["name"], found["error"]) == ("after 18:00", alice.user, "alice", None)
    assert found["at"]


def test_the_text_of_an_older_daemon_is_checked(desk: Desk, alice: Neighbour) -> None:
    """It knows no forms: its text is read by the schema, and one that does not fit is no answer."""
    first, second = ask(desk, alice, wish(YES_OR_NO)), ask(desk, alice, wish(YES_OR_NO))
    reply(alice, first, {"human_input": "Y"})
    reply(alice, second, {"human_input": "well, perhaps"})
    assert (shown(desk, first)["outcome"], shown(desk, first)["value"]) == ("answered", True)
    found = shown(desk, second)
    assert (found["outcome"], found["value"], found["error"]["code"]) == ("failed", None, "bad_answer")


@pytest.mark.parametrize("value", ["yes", 1, None, [True]])
def test_a_forged_yes_is_no_yes(desk: Desk, alice: Neighbour, value: Any) -> None:
    """A value that the form does not allow never counts, whatever its text says."""
    question = ask(desk, alice, wish(YES_OR_NO))
    reply(alice, question, {"human_input": "yes", "value": value})
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["error"]["code"]) == ("failed", None, "bad_answer")


def test_nobody_answers_for_another(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """An answer counts only from the one who was asked."""
    question = ask(desk, alice, wish(YES_OR_NO))
    reply(mallory, question, {"human_input": "yes", "value": True})
    assert shown(desk, question)["outcome"] == "open"
    reply(alice, question, {"human_input": "no", "value": False})
    assert (shown(desk, question)["outcome"], shown(desk, question)["value"]) == ("answered", False)


def test_only_the_first_answer_counts(desk: Desk, alice: Neighbour) -> None:
    """A second one, or an error after it, changes nothing."""
    question = ask(desk, alice, wish(YES_OR_NO))
    reply(alice, question, {"human_input": "no", "value": False})
    reply(alice, question, {"human_input": "yes", "value": True})
    reply(alice, question, {"kind": "declined", "message": "No."}, Type.ERROR)
    assert (shown(desk, question)["outcome"], shown(desk, question)["value"]) == ("answered", False)


def test_a_late_yes_is_no_yes(desk: Desk, alice: Neighbour) -> None:
    """The deadline decides, also when the answer has a longer one."""
    question = ask(desk, alice, wish(YES_OR_NO, seconds=5))
    desk.timeline.sleep(6)  # nothing has marked the question as expired yet
    reply(alice, question, {"human_input": "yes", "value": True})
    desk.passes(1)
    found = shown(desk, question)
    assert found["outcome"] in ("expired", "failed")
    assert (found["value"], found["error"]["code"]) == (None, "unreachable")


def test_silence_is_no_answer(desk: Desk, alice: Neighbour) -> None:
    """The question was received and not answered: expired."""
    question = ask(desk, alice, wish(YES_OR_NO, seconds=5))
    alice.publishes("_notice", b'{"to":"%s","received":["%s"]}' % (desk.user.encode(), question.encode()), kind=NOTICE)
    assert shown(desk, question)["where"] == "arrived"
    desk.passes(6)
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["error"]["code"]) == ("expired", None, "deadline")


def test_a_default_holds_only_when_nobody_answers(desk: Desk, alice: Neighbour) -> None:
    """And the outcome says that it was one; a no, or a refusal to answer, stays what it is."""
    silent, declined = (ask(desk, alice, wish(YES_OR_NO, seconds=5, default=[False])) for _ in range(2))
    reply(alice, declined, {"kind": "declined", "message": "Not me."}, Type.ERROR)
    desk.passes(6)
    found = shown(desk, silent)
    assert (found["outcome"], found["value"], found["by"], found["error"]) == ("defaulted", False, "", None)
    assert shown(desk, declined)["outcome"] == "declined"
    assert shown(desk, declined)["value"] is None


def test_where_a_question_is_comes_from_the_one_who_was_asked(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """Sent, arrived, held, shown; others cannot say so."""
    question = ask(desk, alice, wish())
    assert shown(desk, question)["where"] == "sent; they are offline"
    to, name = desk.user.encode(), question.encode()
    mallory.publishes("_notice", b'{"to":"%s","held":["%s"]}' % (to, name), kind=NOTICE)
    assert shown(desk, question)["where"] == "sent; they are offline"
    alice.publishes("_notice", b'{"to":"%s","held":["%s"]}' % (to, name), kind=NOTICE)
    assert shown(desk, question)["where"] == "waits to be allowed"
    alice.publishes("_notice", b'{"to":"%s","received":["%s"]}' % (to, name), kind=NOTICE)
    line = b'{"to":"%s","progress":[["%s",{"human":"shown"}]]}' % (to, name)
    mallory.publishes("_notice", line, kind=NOTICE)
    assert shown(desk, question)["where"] == "arrived"
    alice.publishes("_notice", line, kind=NOTICE)
    assert shown(desk, question)["where"] == "shown to them"
    for until in (b"1767225600000", b'"soon"', b"-1", b"true", b"9007199254740991"):
        line = b'{"to":"%s","progress":[["%s",{"human":"snoozed","until":%s}]]}' % (to, name, until)
        alice.publishes("_notice", line, kind=NOTICE)
        assert shown(desk, question)["where"] == "put off until 2026-01-01T00:00:00.000Z"


def test_a_withdrawn_question_is_withdrawn_there_too(desk: Desk, alice: Neighbour) -> None:
    """And no answer after it counts; withdrawing twice says so."""
    question = ask(desk, alice, wish(YES_OR_NO))
    row = desk.node.questions.find(question[-8:])
    assert row is not None
    desk.do(lambda: desk.node.questions.cancel(row))
    desk.passes(0.05)
    assert [message["cause"] for message in alice.gets("User") if message["type"] == "cancel"] == [question]
    reply(alice, question, {"human_input": "yes", "value": True})
    assert shown(desk, question)["outcome"] == "cancelled"
    again = desk.node.questions.find(question)
    assert again is not None
    assert isinstance(desk.do(lambda: desk.node.questions.cancel(again)), BadInput)


def test_whoever_waits_hears_of_the_end_once_after_the_commit(desk: Desk, alice: Neighbour) -> None:
    """Also one who begins to wait after it."""
    question = ask(desk, alice, wish())
    row = desk.node.questions.find(question)
    assert row is not None
    heard: list[QuestionRow] = []
    desk.do(lambda: desk.node.questions.wait(row, heard.append))
    desk.do(lambda: desk.node.questions.wait(row, heard.append))
    reply(alice, question, {"human_input": "Yes"})
    assert [ended.state for ended in heard] == [QuestionState.ANSWERED] * 2
    ended = desk.node.questions.find(question)
    assert ended is not None
    desk.do(lambda: desk.node.questions.wait(ended, heard.append))
    assert len(heard) == 3
    reply(alice, question, {"human_input": "No"})
    assert len(heard) == 3


@pytest.mark.parametrize(
    ("text", "wanted", "error"),
    [
        ("  ", wish(), BadInput),
        ("x" * 100_001, wish(), TooLarge),
        ("half a pair: \ud83d", wish(), BadInput),
        ("Hm?", wish({"type": "string", "pattern": "(?=x)"}), BadInput),
        ("Hm?", wish(YES_OR_NO, default=["yes"]), BadInput),
        ("Hm?", wish(default=[5]), BadInput),
        ("Hm?", wish(default=["\ud83d"]), BadInput),
        ("Hm?", wish(source="\ud83d"), BadInput),
    ],
)
def test_what_cannot_be_asked_is_refused_at_once(
    desk: Desk, alice: Neighbour, text: str, wanted: Wish, error: type[P2pflowsError]
) -> None:
    """Nothing is stored or sent of it, and the daemon goes on."""
    assert isinstance(refused(desk, alice, wanted, text), error)
    desk.passes(0.05)
    assert alice.gets("User") == []
    assert desk.journal.questions.open(9) == []
    assert ask(desk, alice, wish())


def test_open_questions_have_a_limit(desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one is refused until another has ended."""
    monkeypatch.setattr(module, "MAX_OPEN", 2)
    first, _ = ask(desk, alice, wish()), ask(desk, alice, wish())
    assert isinstance(refused(desk, alice, wish()), NotAllowed)
    reply(alice, first, {"human_input": "Yes"})
    assert ask(desk, alice, wish())


def listed(desk: Desk, **params: Any) -> list[dict[str, Any]]:
    """Return what the method `asked` lists."""
    found: list[dict[str, Any]] = asyncio.run(asked(control_of(desk), AskedParameters.parse(params)))["asked"]
    return found


def test_the_list_has_open_ones_first_and_can_be_cleared(desk: Desk, alice: Neighbour) -> None:
    """Questions, calls, and posts that failed; not what flows or the daemon itself send."""
    answered, waiting = ask(desk, alice, wish(), "One?"), ask(desk, alice, wish(), "Two?")
    sends = desk.node.messages.send
    call = desk.do(lambda: sends(Type.CALL, alice.user, "echo", {"text": "Hello"}, life_ms=60_000))
    desk.do(lambda: sends(Type.CALL, alice.user, "_flows", {}, life_ms=60_000))
    note = desk.do(lambda: sends(Type.POST, alice.user, "log", {"text": "Note"}, life_ms=5_000))
    reply(alice, answered, {"human_input": "Yes"})
    desk.passes(6)
    found = listed(desk)
    assert [(each["id"], each["kind"], each["outcome"]) for each in found] == [
        (call, "call", "open"),
        (waiting, "question", "open"),
        (note, "note", "failed"),
        (answered, "question", "answered"),
    ]
    assert [each["text"] for each in found] == ["Hello", "Two?", "Note", "One?"]
    assert [each["id"] for each in listed(desk, limit=1)] == [call]
    assert [each["id"] for each in listed(desk, limit=2, offset=1)] == [waiting, note]
    assert [each["id"] for each in listed(desk, open=True)] == [call, waiting]
    assert asyncio.run(clear_asked(control_of(desk), NoParameters())) == {"cleared": 2}
    assert [each["id"] for each in listed(desk)] == [call, waiting]


def test_ended_questions_are_forgotten_beyond_a_limit(
    desk: Desk, alice: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go; open ones stay."""
    waiting = ask(desk, alice, wish(), "Waiting?")
    asked = [ask(desk, alice, wish()) for _ in range(4)]
    for question in asked:
        reply(alice, question, {"human_input": "Yes"})
    monkeypatch.setattr("p2pflowsd.journal.questions.MAX_KEPT", 2)
    desk.do(desk.journal.questions.prune)
    assert [row.id for row in desk.journal.questions.ended(9)] == asked[:1:-1]
    assert [row.id for row in desk.journal.questions.open(9)] == [waiting]


def test_a_request_that_is_repeated_asks_once(desk: Desk, alice: Neighbour) -> None:
    """A client that does not know whether its question was taken asks again under the same id."""
    wanted, people = wish(), [Answerer(alice.user, "User")]
    question = "0198" + "a" * 28
    for _ in range(2):
        assert desk.do(lambda: desk.node.questions.ask("Tea?", people, wanted, question)) == question
        desk.restart()
    desk.passes(5)
    assert [message["id"] for message in alice.gets("User") if message["type"] == "call"] == [question]
    note = desk.do(lambda: desk.node.messages.send(Type.POST, alice.user, "User", {"text": "Hi"}, life_ms=60_000))
    error = desk.do(lambda: desk.node.questions.ask("Milk?", people, wanted, str(note)))
    assert isinstance(error, UsageError)
