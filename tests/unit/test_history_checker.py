"""The checker of histories finds every kind of violation, and nothing in a history that is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulation.checker import check
from simulation.history import Fact
from simulation.world import ECHO, HUMAN, World

from p2pflows.message import Type

Doctor = Callable[[list[Fact]], None]


@pytest.fixture(scope="module")
def true_history() -> list[Fact]:
    """What happened when ann called bob's flow three times, posted to it, and asked bob two questions."""
    with World(seed=7) as world:
        ann, bob = world.machines
        world.run(0.5)
        for number in range(3):
            ann.send(Type.CALL, bob, ECHO, {"number": number}, 60)
        ann.send(Type.POST, bob, ECHO, {"number": 3}, 60)
        ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 60)
        ann.send(Type.CALL, bob, HUMAN, {"text": "when?"}, 60)
        world.run(2)
        bob.answer(bob.open_prompts()[0][0], "yes")
        bob.answer(bob.open_prompts()[0][0], "no")
        assert world.settle() == []
        return world.facts


def number_of(facts: list[Fact], kind: str, *, nth: int = 0, **about: Any) -> int:
    """Where the nth fact of a kind stands that says all of this."""
    found = [place for place, fact in enumerate(facts) if fact.kind == kind and about.items() <= fact.about.items()]
    return found[nth]


def change(facts: list[Fact], place: int, **about: Any) -> None:
    """Let a fact say something else."""
    facts[place] = replace(facts[place], about={**facts[place].about, **about})


def swap(facts: list[Fact], one: int, other: int) -> None:
    """Let two facts change places."""
    facts[one], facts[other] = facts[other], facts[one]


def never_ended(facts: list[Fact]) -> None:
    """The sender's journal does not know how a call ended."""
    message_id = facts[number_of(facts, "told")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind not in ("sent", "heard")]


def not_in_the_journal(facts: list[Fact]) -> None:
    """The client was told of a message that the journal never had."""
    facts.append(replace(facts[number_of(facts, "told")], id="0" * 32))


def no_such_receipt(facts: list[Fact]) -> None:
    """A post counts as delivered, and its recipient has never seen it."""
    message_id = facts[number_of(facts, "accept", type="post")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind not in ("receive", "move", "run", "prune")]


def silent_at_recipient(facts: list[Fact]) -> None:
    """A request was received and nothing became of it."""
    message_id = facts[number_of(facts, "accept", type="post")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind != "move"]


def too_early(facts: list[Fact]) -> None:
    """A message expired before its deadline."""
    place = number_of(facts, "sent", state="done")
    change(facts, place, state="expired")


def received_twice(facts: list[Fact]) -> None:
    """The same message was taken in twice."""
    facts.append(facts[number_of(facts, "receive")])


def done_twice(facts: list[Fact]) -> None:
    """The same message took effect twice."""
    facts.append(facts[number_of(facts, "move", state="done")])


def two_replies(facts: list[Fact]) -> None:
    """A call got two answers."""
    facts.append(replace(facts[number_of(facts, "accept", type="reply")], id="1" * 32))


def from_nowhere(facts: list[Fact]) -> None:
    """A message took effect that nobody has accepted."""
    facts.append(replace(facts[number_of(facts, "receive")], id="2" * 32))
    facts.append(replace(facts[number_of(facts, "move", state="done")], id="2" * 32))


def swapped_effects(facts: list[Fact]) -> None:
    """The second call took effect before the first."""
    swap(
        facts,
        number_of(facts, "move", state="done", was="ready"),
        number_of(facts, "move", state="done", was="ready", nth=1),
    )


def swapped_runs(facts: list[Fact]) -> None:
    """The second call ran before the first."""
    swap(facts, number_of(facts, "run"), number_of(facts, "run", nth=1))


def swapped_questions(facts: list[Fact]) -> None:
    """The second question was asked before the first."""
    swap(facts, number_of(facts, "ask"), number_of(facts, "ask", nth=1))


def asked_twice(facts: list[Fact]) -> None:
    """A question was put before the human twice."""
    facts.append(facts[number_of(facts, "ask")])


def answered_twice(facts: list[Fact]) -> None:
    """The human was told twice that an answer counts."""
    facts.append(facts[number_of(facts, "answered", counts=True)])


def later_answer_counts(facts: list[Fact]) -> None:
    """The human was told that an answer counts, and another was kept."""
    change(facts, number_of(facts, "answered", counts=True), text="later")


def other_words(facts: list[Fact]) -> None:
    """The caller got other words than the human's."""
    message_id = facts[number_of(facts, "ask")].id
    change(facts, number_of(facts, "accept", cause=message_id), data={"human_input": "perhaps"})


def wrong_reply(facts: list[Fact]) -> None:
    """Two calls got each other's reply."""
    one, other = number_of(facts, "sent", state="done"), number_of(facts, "sent", state="done", nth=1)
    answer = facts[one].about["answer"]
    change(facts, one, answer=facts[other].about["answer"])
    change(facts, other, answer=answer)


def wrong_echo(facts: list[Fact]) -> None:
    """A flow answered one call with what belongs to another, on both sides."""
    message_id = facts[number_of(facts, "sent", state="done")].id
    answer = {"echo": {"number": 99}}
    change(facts, number_of(facts, "accept", cause=message_id), data=answer)
    for place, fact in enumerate(facts):
        if fact.id == message_id and fact.kind in ("sent", "heard") and fact.about["answer"]:
            change(facts, place, answer=answer)


def heard_otherwise(facts: list[Fact]) -> None:
    """The caller heard another answer than its journal keeps."""
    change(facts, number_of(facts, "heard", state="done"), answer={"echo": {"number": 99}})


def changed_its_mind(facts: list[Fact]) -> None:
    """A call that had been answered ended once more."""
    place = number_of(facts, "sent", state="done", was="pending")
    facts.append(replace(facts[place], about={"was": "done", "state": "failed", "answer": {"kind": "flow_failed"}}))


def illegal_move(facts: list[Fact]) -> None:
    """A request made a move that the table does not have."""
    change(facts, number_of(facts, "move", state="done"), was="expired")


def dropped_alive(facts: list[Fact]) -> None:
    """A call was deleted before its end."""
    facts.append(replace(facts[number_of(facts, "told")], kind="drop", about={"state": "pending"}))


DOCTORS: dict[Doctor, str] = {
    never_ended: "I1",
    not_in_the_journal: "I1",
    no_such_receipt: "I1",
    silent_at_recipient: "I1",
    too_early: "I1",
    received_twice: "I2",
    done_twice: "I2",
    two_replies: "I2",
    from_nowhere: "I2",
    swapped_effects: "I3",
    swapped_runs: "I3",
    swapped_questions: "I3",
    asked_twice: "I4",
    answered_twice: "I4",
    later_answer_counts: "I4",
    other_words: "I4",
    wrong_reply: "I5",
    wrong_echo: "I5",
    heard_otherwise: "I5",
    changed_its_mind: "illegal",
    illegal_move: "illegal",
    dropped_alive: "illegal",
}


def test_a_true_history_is_right(true_history: list[Fact]) -> None:
    """Nothing is found where nothing is wrong."""
    assert check(true_history) == []


@pytest.mark.parametrize(("doctor", "invariant"), DOCTORS.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_doctored_history_is_caught(doctor: Doctor, invariant: str, true_history: list[Fact]) -> None:
    """Each violation is found, and called by its name."""
    facts = list(true_history)
    doctor(facts)
    assert any(what.startswith(invariant) for what in check(facts)), check(facts)


def test_a_restored_journal_answers_only_for_others(true_history: list[Fact]) -> None:
    """Who has put an old journal back may repeat themselves; who has not may not, even towards them."""
    facts = list(true_history)
    ann = facts[number_of(facts, "told")].node
    bob = facts[number_of(facts, "told")].about.get("peer") or facts[number_of(facts, "receive")].node
    done_twice(facts)
    assert check([Fact(0, bob, "restore", ""), *facts]) == []
    assert check([Fact(0, ann, "restore", ""), *facts]) != []
