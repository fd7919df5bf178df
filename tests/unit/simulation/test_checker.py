"""The checker of histories finds every kind of violation, and nothing in a history that is right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from simulation import flows
from simulation.checker import check
from simulation.history import Fact
from simulation.world import ECHO, HUMAN, World

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type

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
    message_id = facts[number_of(facts, "confirmed")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind not in ("outgoing_moved", "reported")]


def not_in_the_journal(facts: list[Fact]) -> None:
    """The client was told of a message that the journal never had."""
    facts.append(replace(facts[number_of(facts, "confirmed")], id="0" * 32))


def no_such_receipt(facts: list[Fact]) -> None:
    """A post counts as delivered, and its recipient has never seen it."""
    message_id = facts[number_of(facts, "accepted", type="post")].id
    facts[:] = [
        fact
        for fact in facts
        if fact.id != message_id or fact.kind not in ("received", "incoming_moved", "run_started", "incoming_removed")
    ]


def silent_at_recipient(facts: list[Fact]) -> None:
    """A request was received and nothing became of it."""
    message_id = facts[number_of(facts, "accepted", type="post")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind != "incoming_moved"]


def too_early(facts: list[Fact]) -> None:
    """A message expired before its deadline."""
    place = number_of(facts, "outgoing_moved", state="done")
    change(facts, place, state="expired")


def received_twice(facts: list[Fact]) -> None:
    """The same message was taken in twice."""
    facts.append(facts[number_of(facts, "received")])


def done_twice(facts: list[Fact]) -> None:
    """The same message took effect twice."""
    facts.append(facts[number_of(facts, "incoming_moved", state="done")])


def two_replies(facts: list[Fact]) -> None:
    """A call got two answers."""
    facts.append(replace(facts[number_of(facts, "accepted", type="reply")], id="1" * 32))


def from_nowhere(facts: list[Fact]) -> None:
    """A message took effect that nobody has accepted."""
    facts.append(replace(facts[number_of(facts, "received")], id="2" * 32))
    facts.append(replace(facts[number_of(facts, "incoming_moved", state="done")], id="2" * 32))


def swapped_effects(facts: list[Fact]) -> None:
    """The second call took effect before the first."""
    swap(
        facts,
        number_of(facts, "incoming_moved", state="done", was="ready"),
        number_of(facts, "incoming_moved", state="done", was="ready", nth=1),
    )


def swapped_runs(facts: list[Fact]) -> None:
    """The second call ran before the first."""
    swap(facts, number_of(facts, "run_started"), number_of(facts, "run_started", nth=1))


def swapped_questions(facts: list[Fact]) -> None:
    """The second question was asked before the first."""
    swap(facts, number_of(facts, "prompt_added"), number_of(facts, "prompt_added", nth=1))


def asked_twice(facts: list[Fact]) -> None:
    """A question was put before the human twice."""
    facts.append(facts[number_of(facts, "prompt_added")])


def answered_twice(facts: list[Fact]) -> None:
    """The human was told twice that an answer counts."""
    facts.append(facts[number_of(facts, "answered", counts=True)])


def later_answer_counts(facts: list[Fact]) -> None:
    """The human was told that an answer counts, and another was kept."""
    change(facts, number_of(facts, "answered", counts=True), text="later")


def other_words(facts: list[Fact]) -> None:
    """The caller got other words than the human's."""
    message_id = facts[number_of(facts, "prompt_added")].id
    change(facts, number_of(facts, "accepted", cause=message_id), data={"human_input": "perhaps"})


def wrong_reply(facts: list[Fact]) -> None:
    """Two calls got each other's reply."""
    one, other = (
        number_of(facts, "outgoing_moved", state="done"),
        number_of(facts, "outgoing_moved", state="done", nth=1),
    )
    answer = facts[one].about["answer"]
    change(facts, one, answer=facts[other].about["answer"])
    change(facts, other, answer=answer)


def wrong_echo(facts: list[Fact]) -> None:
    """A flow answered one call with what belongs to another, on both sides."""
    message_id = facts[number_of(facts, "outgoing_moved", state="done")].id
    answer = {"echo": {"number": 99}}
    change(facts, number_of(facts, "accepted", cause=message_id), data=answer)
    for place, fact in enumerate(facts):
        if fact.id == message_id and fact.kind in ("outgoing_moved", "reported") and fact.about["answer"]:
            change(facts, place, answer=answer)


def heard_otherwise(facts: list[Fact]) -> None:
    """The caller heard another answer than its journal keeps."""
    change(facts, number_of(facts, "reported", state="done"), answer={"echo": {"number": 99}})


def changed_its_mind(facts: list[Fact]) -> None:
    """A call that had been answered ended once more."""
    place = number_of(facts, "outgoing_moved", state="done", was="pending")
    facts.append(replace(facts[place], about={"was": "done", "state": "failed", "answer": {"kind": "flow_failed"}}))


def illegal_move(facts: list[Fact]) -> None:
    """A request made a move that the table does not have."""
    change(facts, number_of(facts, "incoming_moved", state="done"), was="expired")


def dropped_alive(facts: list[Fact]) -> None:
    """A call was deleted before its end."""
    facts.append(replace(facts[number_of(facts, "confirmed")], kind="outgoing_removed", about={"state": "pending"}))


@pytest.fixture(scope="module")
def true_runs() -> list[Fact]:
    """What happened when ann used two composites of bob's, and his worker died in the middle."""
    with World(seed=8) as world:
        ann, bob = world.machines
        world.run(0.5)
        ann.send(Type.CALL, bob, flows.GUIDE, {"number": 1}, 60)
        ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.PAIR}, 60)
        world.run(1)
        ((_, instance),) = ann.mounted(bob)
        for number in range(3):
            ann.send(Type.CALL, bob, flows.PAIR, {"number": number}, 60, instance=instance)
        world.dismiss(bob, noticed=True)
        world.hire(bob)
        world.run(1)
        ann.answer(ann.open_prompts()[0][0], "yes")
        assert world.settle() == []
        return world.facts


def of_runs(facts: list[Fact], kind: str, *, nth: int = 0, **about: Any) -> int:
    """Where the nth fact of a kind stands that is about a run that was begun twice."""
    twice = facts[number_of(facts, "prompt_added")].about["text"].partition(":")[0]
    found = [
        place
        for place, fact in enumerate(facts)
        if (fact.kind, fact.id) == (kind, twice) and about.items() <= fact.about.items()
    ]
    return found[nth]


def run_not_counted(facts: list[Fact]) -> None:
    """A run left a state that does not count it."""
    place = number_of(facts, "state_saved", nth=2)
    change(facts, place, state={**facts[place].about["state"], "seen": facts[place].about["state"]["seen"][:-1]})


def run_counted_twice(facts: list[Fact]) -> None:
    """A run that began twice is counted twice."""
    place = max(place for place, fact in enumerate(facts) if fact.kind == "state_saved")
    state = facts[place].about["state"]
    facts.insert(place + 1, facts[place])
    change(facts, place + 1, state={**state, "seen": [*state["seen"], state["seen"][-1]]})


def from_an_old_state(facts: list[Fact]) -> None:
    """A run began from the state before the last one, whose effect is gone by that."""
    place = max(
        place for place, fact in enumerate(facts) if fact.kind == "state_saved" and len(fact.about["state"]["seen"]) > 2
    )
    seen = facts[place].about["state"]["seen"]
    change(facts, place, state={**facts[place].about["state"], "seen": [*seen[:-2], seen[-1]]})


def called_twice(facts: list[Fact]) -> None:
    """A run that began again made its call under another id."""
    place = of_runs(facts, "record_added", what="call")
    facts.insert(place + 1, facts[place])
    change(facts, place + 1, message="3" * 32)


def one_message_for_two(facts: list[Fact]) -> None:
    """Two calls of a run are the same message."""
    message = facts[of_runs(facts, "record_added", what="call", nth=0)].about["message"]
    change(facts, of_runs(facts, "record_added", what="call", nth=1), message=message)


def another_answer(facts: list[Fact]) -> None:
    """The second attempt learned something else of a call."""
    first = facts[of_runs(facts, "call_result")].about["k"]
    change(facts, of_runs(facts, "call_result", k=first, nth=1), what={"data": {"count": 99}})


def answered_anew(facts: list[Fact]) -> None:
    """A call of a run got a second answer."""
    facts.append(facts[of_runs(facts, "record_completed")])


def learned_from_nowhere(facts: list[Fact]) -> None:
    """A run went on with an answer to nothing."""
    change(facts, of_runs(facts, "call_result"), k=999)


def another_step(facts: list[Fact]) -> None:
    """A step gave something else than what was kept."""
    change(facts, of_runs(facts, "step_result"), what=-1)


def step_kept_twice(facts: list[Fact]) -> None:
    """A step was done again."""
    place = of_runs(facts, "record_added", what="step")
    facts.insert(place + 1, facts[place])


def run_asked_twice(facts: list[Fact]) -> None:
    """A run that began again asked its human under another id."""
    facts.append(replace(facts[number_of(facts, "prompt_added")], id="4" * 32))


def kept_for_ever(facts: list[Fact]) -> None:
    """A later run counted as the answer to what was left unanswered, and gave none."""
    message_id = facts[number_of(facts, "incoming_moved", state="kept")].id
    facts[:] = [fact for fact in facts if fact.kind != "accepted" or fact.about["cause"] != message_id]


def a_child_too_few(facts: list[Fact]) -> None:
    """A subflow is not there."""
    child = next(iter(facts[number_of(facts, "instance_added", endpoint=flows.PAIR)].about["subflows"].values()))[
        "instance"
    ]
    facts.append(Fact(0, facts[number_of_id(facts, "instance_added", child)].node, "instance_removed", child))


def a_child_too_many(facts: list[Fact]) -> None:
    """A subflow outlived the flow for which it was mounted."""
    place = number_of(facts, "instance_added", endpoint=flows.GUIDE)
    facts.append(Fact(0, facts[place].node, "instance_removed", facts[place].id))


def a_cancelled_mount(facts: list[Fact]) -> None:
    """An instance is there although whoever asked for it was told that there is none."""
    mount = next(
        fact.id
        for fact in facts
        if fact.kind == "accepted" and fact.about["endpoint"] == topics.INSTANCES and fact.about["origin"] is None
    )
    change(facts, number_of_id(facts, "outgoing_moved", mount, nth=-1), state="cancelled")


def of_another_life(facts: list[Fact]) -> None:
    """An answer ran an instance that had not asked."""
    place = number_of(facts, "received", type="reply")
    instance = facts[place].about["instance"]
    mounted = facts[number_of_id(facts, "instance_added", instance)]
    facts[place:place] = [Fact(0, mounted.node, "instance_removed", instance), mounted]


def still_recorded(facts: list[Fact]) -> None:
    """What a run had recorded outlived it."""
    del facts[of_runs(facts, "record_removed")]


def number_of_id(facts: list[Fact], kind: str, message_id: str, *, nth: int = 0) -> int:
    """Where the nth fact of a kind about a message or instance stands."""
    return [place for place, fact in enumerate(facts) if (fact.kind, fact.id) == (kind, message_id)][nth]


RUN_DOCTORS: dict[Doctor, str] = {
    run_not_counted: "R1",
    run_counted_twice: "R1",
    from_an_old_state: "R1",
    called_twice: "R2",
    one_message_for_two: "R2",
    another_answer: "R2",
    answered_anew: "R2",
    learned_from_nowhere: "R2",
    another_step: "R3",
    step_kept_twice: "R3",
    run_asked_twice: "R4",
    kept_for_ever: "R5",
    a_child_too_few: "R6",
    a_child_too_many: "R6",
    a_cancelled_mount: "R6",
    of_another_life: "R7",
    still_recorded: "R8",
}
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


def test_true_runs_are_right(true_runs: list[Fact]) -> None:
    """Nothing is found in runs that are as they must be, and one of them did begin twice."""
    assert check(true_runs) == []
    assert of_runs(true_runs, "run_started", nth=1) > of_runs(true_runs, "call_result")


@pytest.mark.parametrize(
    ("doctor", "invariant"), RUN_DOCTORS.items(), ids=lambda value: getattr(value, "__name__", None)
)
def test_doctored_runs_are_caught(doctor: Doctor, invariant: str, true_runs: list[Fact]) -> None:
    """Each violation by instances and runs is found, and called by its name."""
    facts = list(true_runs)
    doctor(facts)
    assert any(what.startswith(invariant) for what in check(facts)), check(facts)


def test_a_restored_journal_answers_only_for_others(true_history: list[Fact]) -> None:
    """Who has put an old journal back may repeat themselves; who has not may not, even towards them."""
    facts = list(true_history)
    ann = facts[number_of(facts, "confirmed")].node
    bob = facts[number_of(facts, "confirmed")].about.get("peer") or facts[number_of(facts, "received")].node
    done_twice(facts)
    assert check([Fact(0, bob, "restored", ""), *facts]) == []
    assert check([Fact(0, ann, "restored", ""), *facts]) != []
