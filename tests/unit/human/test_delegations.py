"""Questions that are passed on: the asker's own daemon asks again, and nobody can make it ask anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.human.delegations import MAX_HOPS, Hop
from p2pflowsd.lifecycle import OutgoingState, PromptState


@pytest.fixture
def carol(desk: Desk) -> Neighbour:
    """Another contact of Bob's."""
    return Neighbour(desk, 2, "carol")


def ask(desk: Desk, whom: Neighbour, endpoint: str = "User") -> str:
    """Let Bob ask somebody; return the id of the question."""
    question: str = desk.do(
        lambda: desk.node.messages.send(
            Type.CALL,
            whom.user,
            endpoint,
            {"text": "Drop the table?", "answer_schema": {"type": "boolean"}},
            life_ms=60_000,
        )
    )
    desk.passes(0.1)
    return question


def replies(whom: Neighbour, cause: str, **data: Any) -> None:
    """Let somebody answer a message of Bob's; with an error if the data has a kind."""
    whom.sends(topics.REPLY, data, type="error" if "kind" in data else "reply", cause=cause, epoch=0, seq=0)


def passes_on(whom: Neighbour, question: str, to: str, why: str = "") -> None:
    """Let somebody pass a question on."""
    replies(whom, question, kind="delegated", message="Passed on.", hint="", to=to, why=why)


def calls(whom: Neighbour) -> list[dict[str, Any]]:
    """The questions that somebody has got."""
    return [message for message in whom.gets("User") if message["type"] == "call"]


def end_of(desk: Desk, question: str) -> tuple[str, dict[str, Any]]:
    """How a question of Bob's ended."""
    row = desk.journal.outgoing.find(question)
    assert row is not None
    return row.state, json.loads(row.answer or b"{}")


def test_the_answer_of_the_other_one_reaches_the_asker_once(desk: Desk, alice: Neighbour, carol: Neighbour) -> None:
    """Carol is asked by Bob himself, with the same words; also over a restart, and however often alice says it."""
    question = ask(desk, alice)
    passes_on(alice, question, carol.user, "She knows.")
    desk.restart()
    passes_on(alice, question, carol.user, "She knows.")
    desk.passes(4)
    (asked,) = calls(carol)
    assert asked["from"] == desk.user
    assert asked["data"] == {
        "text": "Drop the table?", "answer_schema": {"type": "boolean"}, "passed_on_by": alice.user,
        "passed_on_because": "She knows.",
    }  # fmt: skip
    assert end_of(desk, question)[0] == OutgoingState.STORED or end_of(desk, question)[0] == OutgoingState.PENDING
    assert desk.node.delegations.hops(question) == [Hop(alice.user, carol.user, "She knows.")]
    replies(carol, asked["id"], human_input="yes", value=True)
    replies(carol, asked["id"], human_input="no", value=False)
    replies(alice, question, human_input="no", value=False)
    assert end_of(desk, question) == (OutgoingState.DONE, {"human_input": "yes", "value": True})
    lines = reversed(desk.journal.lines.newest(10, 2**62))
    assert [(row.peer == carol.user, row.kind, bool(row.by_me)) for row in lines] == [
        (False, "question", True),
        (True, "question", True),
        (False, "delegated", False),
        (True, "answer", False),
    ]


def test_it_is_passed_on_only_a_few_times_and_never_back(desk: Desk, alice: Neighbour) -> None:
    """The last wish to pass it on ends the question."""
    chain = [Neighbour(desk, 10 + number, f"n{number}") for number in range(MAX_HOPS + 1)]
    question = ask(desk, alice)
    current, asked = alice, question
    for number, other in enumerate(chain[:MAX_HOPS]):
        passes_on(current, asked, other.user, str(number))
        current, asked = other, calls(other)[0]["id"]
    assert [hop.why for hop in desk.node.delegations.hops(question)] == ["0", "1", "2"]
    passes_on(current, asked, chain[-1].user)
    assert calls(chain[-1]) == []
    state, answer = end_of(desk, question)
    assert (state, answer["kind"], answer["to"]) == (OutgoingState.FAILED, "delegated", chain[-1].user)
    again = ask(desk, alice)
    passes_on(alice, again, chain[0].user)
    passes_on(chain[0], calls(chain[0])[-1]["id"], alice.user)
    assert end_of(desk, again)[0] == OutgoingState.FAILED
    assert len(calls(alice)) == 2


@pytest.mark.parametrize("whom", ["a stranger", "the asker", "the one who passes it on", "no user", "a denied contact"])
def test_only_a_contact_is_asked(desk: Desk, alice: Neighbour, carol: Neighbour, whom: str) -> None:
    """Whoever else is named is asked nothing; the question ends, and its error says who was named."""
    stranger = Neighbour(desk, 9)
    denied = Neighbour(desk, 8, "denied")
    desk.do(lambda: desk.node.admission.deny(denied.user))
    to = {
        "a stranger": stranger.user, "the asker": desk.user, "the one who passes it on": alice.user, "no user": "carol",
        "a denied contact": denied.user,
    }[whom]  # fmt: skip
    question = ask(desk, alice)
    passes_on(alice, question, to)
    assert (end_of(desk, question)[0], end_of(desk, question)[1]["kind"]) == (OutgoingState.FAILED, "delegated")
    assert [calls(other) for other in (stranger, denied, carol)] == [[], [], []]
    assert len(calls(alice)) == 1
    assert desk.node.delegations.hops(question) == []


def test_nobody_else_passes_it_on(desk: Desk, alice: Neighbour, carol: Neighbour) -> None:
    """Neither a third person, nor the one who was asked once it is answered, nor a flow what was sent to it."""
    mallory = Neighbour(desk, 3, "mallory")
    question = ask(desk, alice)
    passes_on(mallory, question, carol.user)
    assert end_of(desk, question)[0] in (OutgoingState.PENDING, OutgoingState.STORED)
    replies(alice, question, human_input="no", value=False)
    passes_on(alice, question, carol.user)
    assert end_of(desk, question)[0] == OutgoingState.DONE
    to_flow = ask(desk, alice, "echo")
    passes_on(alice, to_flow, carol.user)
    assert end_of(desk, to_flow)[0] == OutgoingState.FAILED
    assert calls(carol) == []


def test_it_is_withdrawn_from_the_other_one_too(desk: Desk, alice: Neighbour, carol: Neighbour) -> None:
    """When the asker withdraws it; at its deadline it just ends."""
    question, expiring = ask(desk, alice), ask(desk, alice)
    passes_on(alice, question, carol.user)
    passes_on(alice, expiring, carol.user)
    desk.do(lambda: desk.node.messages.cancel(question))
    desk.passes(0.1)
    withdrawn = [message["cause"] for message in carol.gets("User") if message["type"] == "cancel"]
    assert withdrawn == [calls(carol)[0]["id"]]
    desk.passes(61)
    assert end_of(desk, expiring)[0] == OutgoingState.EXPIRED
    assert desk.journal.outgoing.pending() == [row for row in desk.journal.outgoing.pending() if row.type != "call"]


def test_a_question_is_passed_on_from_the_inbox(desk: Desk, alice: Neighbour, carol: Neighbour) -> None:
    """Its asker is told to whom and why; not back to the asker, and no notes."""
    question = alice.sends("User", {"text": "Tea?"})
    note = alice.sends("User", {"text": "Hello"}, type="post")
    for part, to in ((question, alice.user), (note, carol.user)):
        assert isinstance(desk.do(lambda part=part, to=to: desk.node.inbox.delegate(part, to, "")), UsageError)  # type: ignore[misc]
    desk.do(lambda: desk.node.inbox.delegate(question[-8:], carol.user, "She has it."))
    (told,) = alice.hears(question)
    assert (told["kind"], told["to"], told["why"]) == ("delegated", carol.user, "She has it.")
    assert carol.user in told["message"]
    (row,) = [row for row in desk.journal.prompts.all() if row.id == question]
    assert row.state == PromptState.DELEGATED
