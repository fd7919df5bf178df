"""Somebody says that they are on it: the others see that, nobody is kept from answering, and it ends by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import DeadlinePassed, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.claims import MAX_CLAIM_MS
from p2pflowsd.api import asked_views, views
from p2pflowsd.asking.claims import MAX_CLAIMS
from p2pflowsd.asking.question import Need, Wish
from p2pflowsd.asking.questions import Answerer
from p2pflowsd.human.inbox import Typed
from p2pflowsd.lifecycle import PromptState
from p2pflowsd.receiving import gate

MINUTE_MS = 60_000
HALF_AN_HOUR_S = 1_800


@pytest.fixture
def team(desk: Desk) -> list[Neighbour]:
    """Three contacts."""
    return [Neighbour(desk, 10 + number, f"member{number}") for number in range(3)]


def ask(desk: Desk, team: Sequence[Neighbour], need: Need = Need.FIRST, **more: Any) -> str:
    """Ask, for an hour, and return the id of the question."""
    people = [Answerer(member.user, "User") for member in team]
    wish = Wish(life_ms=3_600_000, need=need, **more)
    found = desk.do(lambda: desk.node.questions.ask("Who is in?", people, wish))
    assert isinstance(found, str), found
    desk.passes(0.05)
    return found


def call_of(member: Neighbour) -> dict[str, Any]:
    """The last question that a member was asked."""
    return next(message for message in reversed(member.gets("User")) if message["type"] == "call")


def claims(member: Neighbour, op: str = "claim", minutes: int = 30, question: str = "") -> None:
    """Say that a member is on the last question, or is so no more."""
    until = {"until": member.desk.clock.now() + minutes * MINUTE_MS} if op == "claim" else {}
    question = question or call_of(member)["id"]
    member.sends("_questions", {"op": op, "question": question, **until}, type="post")
    member.desk.passes(0.05)


def told(member: Neighbour) -> list[tuple[str, str | None]]:
    """What a member was told: what happened, and who is on it."""
    found = [message["data"] for message in member.gets("_questions") if message["type"] == "post"]
    return [(data["op"], data.get("by")) for data in found]


def shown(desk: Desk, question: str) -> dict[str, Any]:
    """A question as the control API shows it."""
    row = desk.node.questions.find(question)
    assert row is not None
    return asked_views.question(desk.node, row)


def test_the_others_are_told_who_is_on_it(desk: Desk, team: list[Neighbour]) -> None:
    """Also after a restart; and again when it is released. The one who claims hears nothing."""
    question = ask(desk, team)
    assert call_of(team[0])["data"] == {"api_output": "Who is in?", "asked_of": 3}
    claims(team[2])
    desk.restart()
    assert shown(desk, question)["claimed_by"] == team[2].user
    assert shown(desk, question)["where"] == "claimed by member2; 0 of 3 have answered"
    assert told(team[0]) == told(team[1]) == [("claimed", team[2].user)]
    assert told(team[2]) == []
    claims(team[2], "release")
    assert shown(desk, question)["claimed_by"] is None
    assert told(team[0]) == [("claimed", team[2].user), ("released", None)]


def test_the_first_answer_settles_it_whoever_is_on_it(desk: Desk, team: list[Neighbour]) -> None:
    """A claim keeps nobody from answering."""
    question = ask(desk, team)
    claims(team[2])
    team[0].sends("_reply", {"human_input": "I."}, type="reply", cause=call_of(team[0])["id"], epoch=0, seq=0)
    desk.passes(0.05)
    found = shown(desk, question)
    assert (found["outcome"], found["by"], found["claimed_by"]) == ("answered", team[0].user, None)
    before = told(team[1])
    claims(team[1])
    assert (told(team[1]), told(team[2])) == (before, [])
    assert shown(desk, question)["claimed_by"] is None


def test_who_has_declined_is_out_of_it(desk: Desk, team: list[Neighbour]) -> None:
    """They cannot claim the question, and are told nothing any more."""
    question = ask(desk, team)
    declined = {"kind": "declined", "message": "No.", "hint": ""}
    team[0].sends("_reply", declined, type="error", cause=call_of(team[0])["id"], epoch=0, seq=0)
    desk.passes(0.05)
    claims(team[0])
    assert shown(desk, question)["claimed_by"] is None
    before = told(team[0])
    claims(team[1])
    assert shown(desk, question)["claimed_by"] == team[1].user
    assert told(team[0]) == before


def test_the_second_one_is_told_who_was_first(desk: Desk, team: list[Neighbour]) -> None:
    """Two people who claim at the same time both read the same name."""
    question = ask(desk, team)
    claims(team[0])
    claims(team[1])
    assert shown(desk, question)["claimed_by"] == team[0].user
    assert told(team[1]) == [("claimed", team[0].user), ("claimed", team[0].user)]
    assert told(team[0]) == []
    claims(team[1], "release")  # which is not theirs to release
    assert shown(desk, question)["claimed_by"] == team[0].user


def test_a_claim_ends_by_itself(desk: Desk, team: list[Neighbour]) -> None:
    """Then somebody else may be on it."""
    question = ask(desk, team)
    claims(team[0], minutes=5)
    desk.passes(301)
    assert shown(desk, question)["claimed_by"] is None
    assert shown(desk, question)["where"] == "0 of 3 have answered"
    before = told(team[1])
    claims(team[0], "release")
    assert told(team[1]) == before
    claims(team[1])
    assert shown(desk, question)["claimed_by"] == team[1].user


def test_no_claim_is_longer_than_the_question_or_a_day(desk: Desk, team: list[Neighbour]) -> None:
    """Whatever its sender says."""
    question = ask(desk, team)
    claims(team[0], minutes=10**6)
    assert shown(desk, question)["claimed_until"] == shown(desk, question)["expires"]
    people = [Answerer(member.user, "User") for member in team]
    wish = Wish(life_ms=10 * MAX_CLAIM_MS)
    question = str(desk.do(lambda: desk.node.questions.ask("Long?", people, wish)))
    desk.passes(0.05)
    claims(team[0], minutes=10**6)
    row = desk.node.questions.find(question)
    assert row is not None
    assert 0 < row.claimed_until - desk.clock.now() <= MAX_CLAIM_MS


def test_a_flood_of_claims_makes_no_flood_of_messages(desk: Desk, team: list[Neighbour]) -> None:
    """One question is claimed so often and not more."""
    question = ask(desk, team)
    for _ in range(MAX_CLAIMS + 10):
        claims(team[0])
        claims(team[0], "release")
    assert len(told(team[1])) == 2 * MAX_CLAIMS
    row = desk.node.questions.find(question)
    assert row is not None
    assert row.claims == MAX_CLAIMS


def test_nobody_else_claims_it(desk: Desk, team: list[Neighbour], alice: Neighbour) -> None:
    """Neither a contact who was not asked, nor a stranger, nor one with the id of another's call."""
    question = ask(desk, team[:2])
    stranger = Neighbour(desk, 40)
    for other in (alice, stranger, team[2]):
        claims(other, question=call_of(team[0])["id"])
    assert shown(desk, question)["claimed_by"] is None
    assert told(team[1]) == []


def test_a_question_to_one_person_is_not_claimed(desk: Desk, team: list[Neighbour]) -> None:
    """Nor one to which everybody's answer is needed; their data says nothing of others."""
    alone, everybody = ask(desk, team[:1]), ask(desk, team[1:], Need.ALL)
    assert "asked_of" not in {**call_of(team[0])["data"], **call_of(team[1])["data"]}
    claims(team[0])
    assert shown(desk, alone)["claimed_by"] is None
    assert desk.node.questions.find(everybody) is not None


def test_who_is_asked_later_reads_who_is_on_it(desk: Desk, team: list[Neighbour]) -> None:
    """As those do who were asked before."""
    steps = [{"people": [[team[2].user, "User"]], "after_ms": 60_000}]
    ask(desk, team[:2], steps=steps)
    desk.passes(61)
    assert told(team[2]) == []
    ask(desk, team[:2], steps=steps)
    claims(team[0])
    desk.passes(61)
    assert call_of(team[2])["data"]["asked_of"] == 3
    assert told(team[2]) == [("claimed", team[0].user)]


def test_to_whom_it_was_passed_on_may_claim_it(desk: Desk, team: list[Neighbour], alice: Neighbour) -> None:
    """And is told of the claims of others."""
    question = ask(desk, team[:2])
    passed = {"kind": "delegated", "message": "Passed on.", "hint": "", "to": alice.user, "why": ""}
    team[0].sends("_reply", passed, type="error", cause=call_of(team[0])["id"], epoch=0, seq=0)
    desk.passes(0.05)
    claims(alice)
    assert shown(desk, question)["claimed_by"] == alice.user
    assert told(team[1]) == [("claimed", alice.user)]
    assert told(team[0]) == []


def is_asked(alice: Neighbour, **data: Any) -> str:
    """Let alice ask Bob what she asks others, too; return the id of the question."""
    return alice.sends("User", {"text": "Who is in?", "asked_of": 3, **data})


def prompt(desk: Desk, question: str) -> dict[str, Any]:
    """A question to Bob as the control API shows it."""
    return views.prompt(desk.node, desk.node.inbox.find(question))


def test_the_asker_is_told_who_is_on_it(desk: Desk, alice: Neighbour) -> None:
    """For how long, when it is released, and when the question is declined after all."""
    question = is_asked(alice)
    assert (prompt(desk, question)["asked_of"], prompt(desk, question)["about"]) == (3, {})
    desk.do(lambda: desk.node.inbox.claim(question[-8:], HALF_AN_HOUR_S * 1000))
    assert prompt(desk, question)["claimed_name"] == "me"
    desk.do(lambda: desk.node.inbox.claim(question, 0))
    assert prompt(desk, question)["claimed_by"] is None
    desk.do(lambda: desk.node.inbox.claim(question, 1_000))
    desk.do(lambda: desk.node.inbox.decline(question, "Not me."))
    desk.passes(0.05)
    heard = [message["data"] for message in alice.gets("_questions")]
    assert [data["op"] for data in heard] == ["claim", "release", "claim", "release"]
    assert all(data["question"] == question for data in heard)
    assert heard[0]["until"] - heard[2]["until"] == (HALF_AN_HOUR_S - 1) * 1000


def test_a_claim_ends_with_its_question(desk: Desk, alice: Neighbour) -> None:
    """An asker who has withdrawn it need not be told that nobody works on it."""
    question = is_asked(alice)
    desk.do(lambda: desk.node.inbox.claim(question, HALF_AN_HOUR_S * 1000))
    alice.sends("User", {"reason": "It is settled."}, type="cancel", cause=question)
    desk.passes(0.05)
    assert [message["data"]["op"] for message in alice.gets("_questions")] == ["claim"]


def test_a_claim_of_ones_own_can_be_made_longer_and_ends(desk: Desk, alice: Neighbour) -> None:
    """At the latest with the question; nobody hears of a release of what is over, or was never claimed."""
    question, other = is_asked(alice), is_asked(alice)
    desk.do(lambda: desk.node.inbox.claim(question, 1_000))
    desk.do(lambda: desk.node.inbox.claim(question, 86_400_000))
    assert prompt(desk, question)["claimed_until"] == prompt(desk, question)["expires"]
    desk.do(lambda: desk.node.inbox.claim(other, 1_000))
    desk.passes(2)
    assert isinstance(desk.do(lambda: desk.node.inbox.claim(other, 0)), UsageError)
    desk.do(lambda: desk.node.inbox.decline(other, ""))
    desk.do(lambda: desk.node.inbox.decline(is_asked(alice), ""))
    desk.passes(0.05)
    assert [message["data"]["op"] for message in alice.gets("_questions")] == ["claim"] * 3


def test_what_another_has_claimed_can_be_answered(desk: Desk, alice: Neighbour) -> None:
    """But not claimed as well; its claim is gone when its time is over."""
    question, carol = is_asked(alice), Neighbour(desk, 2, "carol")
    until = desk.clock.now() + 20 * MINUTE_MS
    alice.sends("_questions", {"op": "claimed", "question": question, "until": until, "by": carol.user}, type="post")
    assert prompt(desk, question)["claimed_name"] == "carol"
    refused = desk.do(lambda: desk.node.inbox.claim(question, 1_000))
    assert isinstance(refused, UsageError)
    assert refused.message == "carol is on it for 20 minutes more."
    desk.passes(20 * 60 + 1)
    assert prompt(desk, question)["claimed_by"] is None
    assert not isinstance(desk.do(lambda: desk.node.inbox.claim(question, 1_000)), UsageError)
    alice.sends("_questions", {"op": "claimed", "question": question, "until": 2**53, "by": carol.user}, type="post")
    assert prompt(desk, question)["claimed_until"] == prompt(desk, question)["expires"]
    alice.sends("_questions", {"op": "released", "question": question}, type="post")
    assert prompt(desk, question)["claimed_by"] is None
    desk.do(lambda: desk.node.inbox.answer(question, Typed("I.")))
    assert alice.hears(question) == [{"human_input": "I."}]


def test_what_cannot_be_claimed_is_refused_with_a_reason(desk: Desk, alice: Neighbour) -> None:
    """A question to one person, a note, one that is settled, one that has expired."""
    alone = alice.sends("User", {"text": "You?"})
    odd = [alice.sends("User", {"text": "You?", "asked_of": count}) for count in (1, "3", True, None)]
    note = alice.sends("User", {"text": "Hello", "asked_of": 3}, type="post")
    settled, expired = is_asked(alice), is_asked(alice)
    alice.sends("User", {"reason": "It is settled."}, type="cancel", cause=settled)
    refused = [desk.do(lambda part=part: desk.node.inbox.claim(part, 1_000)) for part in (alone, *odd, note, settled)]  # type: ignore[misc]
    assert all(isinstance(error, UsageError) for error in refused)
    assert refused[0].message == f"Question {alone[-8:]} waits for you: nobody else can answer it in your place."
    assert refused[-2].message == f"Message {note[-8:]} is a note, which asks nothing."
    assert refused[-1].message == f"Prompt {settled[-8:]} is already cancelled: It is settled."
    assert isinstance(desk.do(lambda: desk.node.inbox.claim(odd[0], 0)), UsageError)
    desk.passes(3_601)
    assert isinstance(desk.do(lambda: desk.node.inbox.claim(expired, 1_000)), DeadlinePassed)
    assert alice.gets("_questions") == []


@pytest.mark.parametrize(
    "data",
    [
        {}, {"op": "seize"}, {"op": "claim"}, {"op": "claim", "question": 7}, {"op": "claimed", "question": "0" * 32},
        {"op": "claim", "question": "0" * 32, "until": -1}, {"op": "claimed", "question": "0" * 32, "by": "carol"},
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_answered_with_an_error(desk: Desk, alice: Neighbour, data: dict[str, Any]) -> None:
    """And changes nothing."""
    question = is_asked(alice)
    request = alice.sends("_questions", data, type="post")
    assert alice.hears_error(request) == "bad_input"
    assert prompt(desk, question)["claimed_by"] is None
    assert desk.node.inbox.find(question).state == PromptState.OPEN


def test_nothing_is_said_of_a_question_that_is_over_or_nobody_elses(desk: Desk, alice: Neighbour) -> None:
    """The asker may say so late, or wrongly."""
    until, alone, over = desk.clock.now() + MINUTE_MS, alice.sends("User", {"text": "You?"}), is_asked(alice)
    desk.do(lambda: desk.node.inbox.decline(over, ""))
    for question, kinds in ((alone, ["bad_input"]), (over, [])):
        data = {"op": "claimed", "question": question, "until": until, "by": alice.user}
        request = alice.sends("_questions", data, type="post")
        assert [answer["kind"] for answer in alice.hears(request)] == kinds
        assert desk.node.inbox.find(question).claimed_by == ""
    nobody = {"op": "claimed", "question": is_asked(alice), "until": until}
    assert alice.hears_error(alice.sends("_questions", nobody, type="post")) == "bad_input"


def test_a_stranger_who_asks_need_not_be_let_in_for_it(desk: Desk) -> None:
    """As the question itself was let in."""
    verdict = gate.decide("d" * 64, topics.QUESTIONS, me=desk.user, book=desk.contacts.known, served=None)
    assert verdict is gate.Verdict.PASS


def test_only_the_asker_says_who_is_on_it(desk: Desk, alice: Neighbour) -> None:
    """Another contact knows the id, and is not believed."""
    question, mallory = is_asked(alice), Neighbour(desk, 3, "mallory")
    until = desk.clock.now() + MINUTE_MS
    data = {"op": "claimed", "question": question, "until": until, "by": mallory.user}
    assert mallory.hears_error(mallory.sends("_questions", data, type="post")) == "bad_input"
    assert prompt(desk, question)["claimed_by"] is None
