"""Questions to several people: whose answer decides, who is asked later, and when."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import BadInput
from p2pflows.forms import Form
from p2pflows.protocol.message import Type
from p2pflowsd.api import asked_views
from p2pflowsd.asking.question import Need, Wish
from p2pflowsd.asking.questions import Answerer

YES_OR_NO = {"type": "boolean"}
YES: dict[str, Any] = {"human_input": "yes", "value": True}
NO: dict[str, Any] = {"human_input": "no", "value": False}
DECLINED: dict[str, Any] = {"kind": "declined", "message": "Not me."}
HOUR_S = 3_600.0


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon; here he is the one who asks."""
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.fixture
def team(desk: Desk) -> list[Neighbour]:
    """Five contacts."""
    return [Neighbour(desk, 10 + number, f"member{number}") for number in range(5)]


def ask(desk: Desk, team: Sequence[Neighbour], need: Need, *, seconds: float = HOUR_S, **more: Any) -> str:
    """Ask for a yes or no; returns the id of the question."""
    wish = Wish.with_form(Form.read(YES_OR_NO), life_ms=int(seconds * 1000), need=need, **more)
    people = [Answerer(member.user, "User") for member in team]
    found = desk.do(lambda: desk.node.questions.ask("Deploy?", people, wish))
    assert isinstance(found, str), found
    desk.passes(0.05)
    return found


def reply(member: Neighbour, data: dict[str, Any]) -> None:
    """Answer the question that a member was asked."""
    (call,) = [message for message in member.gets("User") if message["type"] == "call"]
    kind = Type.ERROR if "kind" in data else Type.REPLY
    member.sends("_reply", data, type=kind, cause=call["id"], epoch=0, seq=0)
    member.desk.passes(0.05)


def shown(desk: Desk, question: str) -> dict[str, Any]:
    """A question as the control API shows it."""
    row = desk.node.questions.find(question)
    assert row is not None
    return asked_views.question(desk.node, row)


def withdrawn(member: Neighbour) -> list[dict[str, Any]]:
    """What a member is told when the question is withdrawn."""
    return [message.get("data", {}) for message in member.gets("User") if message["type"] == "cancel"]


def was_asked(member: Neighbour) -> bool:
    """Whether a member was asked."""
    return any(message["type"] == "call" for message in member.gets("User"))


def test_the_first_answer_settles_it(desk: Desk, team: list[Neighbour]) -> None:
    """The others are told so, whoever declined before; a later answer of theirs changes nothing."""
    question = ask(desk, team, Need.FIRST)
    reply(team[0], DECLINED)
    assert shown(desk, question)["outcome"] == "open"
    assert shown(desk, question)["where"] == "0 of 5 have answered"
    reply(team[3], NO)
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["by"]) == ("answered", False, team[3].user)
    settled = [{"reason": "It is settled."}]
    assert [withdrawn(member) for member in team] == [[], settled, settled, [], settled]
    reply(team[1], YES)
    assert shown(desk, question)["value"] is False
    outcomes = [person["outcome"] for person in shown(desk, question)["people"]]
    assert outcomes == ["declined", "cancelled", "cancelled", "answered", "cancelled"]


def test_all_are_waited_for(desk: Desk, team: list[Neighbour]) -> None:
    """The value is a list, in the order in which they were named."""
    question = ask(desk, team[:3], Need.ALL)
    for member, data in zip(team, [YES, NO, YES], strict=False):
        assert shown(desk, question)["outcome"] == "open"
        reply(member, data)
    assert (shown(desk, question)["outcome"], shown(desk, question)["value"]) == ("answered", [True, False, True])


def test_one_who_declines_leaves_all_without_an_answer(desk: Desk, team: list[Neighbour]) -> None:
    """But the answers of the others are there."""
    question = ask(desk, team[:3], Need.ALL)
    for member, data in zip(team, [YES, DECLINED, YES], strict=False):
        reply(member, data)
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["error"]["code"]) == ("declined", None, "declined")
    assert [person["value"] for person in found["people"]] == [True, None, True]


def test_one_no_ends_unanimity(desk: Desk, team: list[Neighbour]) -> None:
    """And a yes of all is one."""
    refused, granted = ask(desk, team[:2], Need.UNANIMOUS), ask(desk, team[2:4], Need.UNANIMOUS)
    reply(team[0], NO)
    assert (shown(desk, refused)["outcome"], shown(desk, refused)["value"]) == ("answered", False)
    assert withdrawn(team[1]) == [{"reason": "It is settled."}]
    reply(team[2], YES)
    assert shown(desk, granted)["outcome"] == "open"
    reply(team[3], YES)
    assert (shown(desk, granted)["outcome"], shown(desk, granted)["value"]) == ("answered", True)


def test_a_quorum_needs_the_same_answer(desk: Desk, team: list[Neighbour]) -> None:
    """Three yes of five are enough, though one said no and one is away."""
    question = ask(desk, team, Need.QUORUM, quorum=3)
    for member, data in zip(team, [YES, NO, YES], strict=False):
        reply(member, data)
    assert shown(desk, question)["outcome"] == "open"
    reply(team[4], YES)
    assert (shown(desk, question)["outcome"], shown(desk, question)["value"]) == ("answered", True)
    assert withdrawn(team[3]) == [{"reason": "It is settled."}]


def test_a_quorum_that_cannot_be_reached_ends_at_once(desk: Desk, team: list[Neighbour]) -> None:
    """It is undecided, which is no yes."""
    question = ask(desk, team[:4], Need.QUORUM, quorum=3)
    for member, data in zip(team, [YES, NO, YES], strict=False):
        reply(member, data)
    assert shown(desk, question)["outcome"] == "open"
    reply(team[3], DECLINED)
    found = shown(desk, question)
    assert (found["outcome"], found["value"], found["error"]["code"]) == ("failed", None, "undecided")


def test_silence_of_all_is_silence(desk: Desk, team: list[Neighbour]) -> None:
    """Whatever was needed."""
    asked = [ask(desk, team, need, seconds=5, quorum=2) for need in Need]
    desk.passes(6)
    for question in asked:
        found = shown(desk, question)
        assert (found["outcome"], found["value"], found["error"]["code"]) == ("failed", None, "unreachable")


def steps(*members: tuple[Neighbour, int]) -> list[dict[str, Any]]:
    """Who is asked later, each after some seconds."""
    return [{"people": [[member.user, "User"]], "after_ms": 1000 * after} for member, after in members]


def test_others_are_asked_when_nobody_answers(desk: Desk, team: list[Neighbour]) -> None:
    """One after the other; the first may still answer."""
    first, second, third, *_ = team
    question = ask(desk, [first], Need.FIRST, steps=steps((second, 60), (third, 120)))
    desk.passes(59)
    assert not was_asked(second)
    desk.passes(1.1)
    assert was_asked(second)
    assert not was_asked(third)
    reply(first, YES)
    assert (shown(desk, question)["value"], shown(desk, question)["by"]) == (True, first.user)
    assert withdrawn(second) == [{"reason": "It is settled."}]
    desk.passes(120)
    assert not was_asked(third)


def test_others_are_asked_at_once_when_the_first_decline(desk: Desk, team: list[Neighbour]) -> None:
    """There is nothing left to wait for."""
    first, second, *_ = team
    question = ask(desk, [first], Need.FIRST, steps=steps((second, 1_200)))
    reply(first, DECLINED)
    assert was_asked(second)
    reply(second, NO)
    assert (shown(desk, question)["outcome"], shown(desk, question)["by"]) == ("answered", second.user)


def test_a_question_begins_when_it_is_to_begin(desk: Desk, team: list[Neighbour]) -> None:
    """Its time runs from there; before, it can be withdrawn without a word to anybody."""
    start = desk.clock.now() + 600_000
    question, other = (ask(desk, team[:1], Need.FIRST, seconds=60, start=start) for _ in range(2))
    row = desk.node.questions.find(other)
    assert row is not None
    desk.do(lambda: desk.node.questions.cancel(row))
    desk.passes(590)
    assert team[0].gets("User") == []
    assert shown(desk, question)["where"].startswith("begins at ")
    desk.passes(11)
    reply(team[0], YES)
    assert (shown(desk, question)["outcome"], shown(desk, question)["value"]) == ("answered", True)
    assert shown(desk, other)["outcome"] == "cancelled"


def test_a_daemon_that_starts_again_goes_on(desk: Desk, team: list[Neighbour]) -> None:
    """Who is asked later, and when a question begins, is in the journal."""
    first, second, third, *_ = team
    later = ask(desk, [first], Need.FIRST, steps=steps((second, 60)))
    scheduled = ask(desk, [third], Need.FIRST, start=desk.clock.now() + 60_000)
    desk.restart()
    desk.passes(61)
    assert was_asked(second)
    assert was_asked(third)
    reply(second, YES)
    reply(third, NO)
    assert [shown(desk, question)["value"] for question in (later, scheduled)] == [True, False]


def test_a_daemon_that_was_away_asks_nobody_after_the_end(desk: Desk, team: list[Neighbour]) -> None:
    """What should have begun meanwhile has expired, and who should have been asked then is not."""
    first, second, third, *_ = team
    later = ask(desk, [first], Need.FIRST, seconds=120, steps=steps((second, 60)))
    scheduled = ask(desk, [third], Need.FIRST, seconds=60, start=desk.clock.now() + 60_000)
    desk.passes(500)
    assert not was_asked(second)
    assert not was_asked(third)
    assert shown(desk, later)["outcome"] == "failed"
    assert (shown(desk, scheduled)["outcome"], shown(desk, scheduled)["error"]["code"]) == ("expired", "deadline")


def test_what_makes_no_sense_is_refused(desk: Desk, team: list[Neighbour]) -> None:
    """With a hint."""
    wrong: list[dict[str, Any]] = [
        {"need": Need.QUORUM, "quorum": 3},
        {"need": Need.QUORUM},
        {"need": Need.ALL, "steps": steps((team[2], 60))},
        {"need": Need.ALL, "default": [True]},
        {"steps": steps((team[2], 7_200))},
        {"steps": steps((team[2], 60), (team[3], 30))},
        {"steps": steps((team[0], 60))},
    ]
    people = [Answerer(member.user, "User") for member in team[:2]]
    for more in wrong:
        wish = Wish.with_form(Form.read(YES_OR_NO), life_ms=3_600_000, **more)
        error = desk.do(lambda wish=wish: desk.node.questions.ask("Deploy?", people, wish))  # type: ignore[misc]
        assert isinstance(error, BadInput), more
    assert isinstance(desk.do(lambda: desk.node.questions.ask("Deploy?", [], Wish(life_ms=1_000))), BadInput)
