"""The checker finds every kind of violation, and none in a history without violations."""

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

Falsification = Callable[[list[Fact]], None]


@pytest.fixture(scope="module")
def true_history() -> list[Fact]:
    """The history after Ann called Bob's flow three times, posted to it, and asked Bob two questions."""
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


def index_of(facts: list[Fact], kind: str, *, nth: int = 0, **about: Any) -> int:
    """Return the index of the nth fact of a kind with these entries."""
    found = [index for index, fact in enumerate(facts) if fact.kind == kind and about.items() <= fact.about.items()]
    return found[nth]


def change(facts: list[Fact], index: int, **about: Any) -> None:
    """Change entries of a fact."""
    facts[index] = replace(facts[index], about={**facts[index].about, **about})


def swap(facts: list[Fact], one: int, other: int) -> None:
    """Swap two facts."""
    facts[one], facts[other] = facts[other], facts[one]


def call_never_ends(facts: list[Fact]) -> None:
    """A call has no end in the journal of its sender."""
    message_id = facts[index_of(facts, "confirmed")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind not in ("outgoing_moved", "reported")]


def not_in_the_journal(facts: list[Fact]) -> None:
    """The daemon confirmed a message that its journal does not have."""
    facts.append(replace(facts[index_of(facts, "confirmed")], id="0" * 32))


def never_stored(facts: list[Fact]) -> None:
    """A post is done at its sender, but its recipient has never stored it."""
    message_id = facts[index_of(facts, "accepted", type="post")].id
    facts[:] = [
        fact
        for fact in facts
        if fact.id != message_id or fact.kind not in ("received", "incoming_moved", "run_started", "incoming_removed")
    ]


def request_never_ends(facts: list[Fact]) -> None:
    """A request was received, but never ended."""
    message_id = facts[index_of(facts, "accepted", type="post")].id
    facts[:] = [fact for fact in facts if fact.id != message_id or fact.kind != "incoming_moved"]


def expired_early(facts: list[Fact]) -> None:
    """A message expired before its deadline."""
    index = index_of(facts, "outgoing_moved", state="done")
    change(facts, index, state="expired")


def given_less_time(facts: list[Fact]) -> None:
    """A call was given other times, and less time in all."""
    index = index_of(facts, "accepted", type="call")
    facts.insert(index + 1, redated(facts[index], lifetime=1))


def redated(accepted: Fact, *, lifetime: int) -> Fact:
    """Return the fact that a message was given other times, a minute earlier."""
    created = accepted.about["created"] - 60_000
    return replace(accepted, kind="outgoing_redated", about={"created": created, "expires": created + lifetime})


def stored_twice(facts: list[Fact]) -> None:
    """A message was stored twice by its recipient."""
    facts.append(facts[index_of(facts, "received")])


def done_twice(facts: list[Fact]) -> None:
    """A message took effect twice."""
    facts.append(facts[index_of(facts, "incoming_moved", state="done")])


def two_replies(facts: list[Fact]) -> None:
    """A call got two answers."""
    facts.append(replace(facts[index_of(facts, "accepted", type="reply")], id="1" * 32))


def never_accepted(facts: list[Fact]) -> None:
    """A message took effect that no sender has accepted."""
    facts.append(replace(facts[index_of(facts, "received")], id="2" * 32))
    facts.append(replace(facts[index_of(facts, "incoming_moved", state="done")], id="2" * 32))


def swapped_effects(facts: list[Fact]) -> None:
    """The second call took effect before the first."""
    swap(
        facts,
        index_of(facts, "incoming_moved", state="done", was="ready"),
        index_of(facts, "incoming_moved", state="done", was="ready", nth=1),
    )


def swapped_runs(facts: list[Fact]) -> None:
    """The second call ran before the first."""
    swap(facts, index_of(facts, "run_started"), index_of(facts, "run_started", nth=1))


def swapped_questions(facts: list[Fact]) -> None:
    """The second question was asked before the first."""
    swap(facts, index_of(facts, "prompt_added"), index_of(facts, "prompt_added", nth=1))


def asked_twice(facts: list[Fact]) -> None:
    """The human was asked a question twice."""
    facts.append(facts[index_of(facts, "prompt_added")])


def answered_twice(facts: list[Fact]) -> None:
    """The daemon accepted two answers of the human."""
    facts.append(facts[index_of(facts, "answered", counts=True)])


def later_answer_counts(facts: list[Fact]) -> None:
    """The daemon accepted an answer of the human, but stored another."""
    change(facts, index_of(facts, "answered", counts=True), text="later")


def other_answer(facts: list[Fact]) -> None:
    """The caller got another answer than that of the human."""
    message_id = facts[index_of(facts, "prompt_added")].id
    change(facts, index_of(facts, "accepted", cause=message_id), data={"human_input": "perhaps"})


def wrong_reply(facts: list[Fact]) -> None:
    """Two calls got each other's reply."""
    one, other = (
        index_of(facts, "outgoing_moved", state="done"),
        index_of(facts, "outgoing_moved", state="done", nth=1),
    )
    answer = facts[one].about["answer"]
    change(facts, one, answer=facts[other].about["answer"])
    change(facts, other, answer=answer)


def wrong_echo(facts: list[Fact]) -> None:
    """A call got the echo of another call, in the journals of both sides."""
    message_id = facts[index_of(facts, "outgoing_moved", state="done")].id
    answer = {"echo": {"number": 99}}
    change(facts, index_of(facts, "accepted", cause=message_id), data=answer)
    for index, fact in enumerate(facts):
        if fact.id == message_id and fact.kind in ("outgoing_moved", "reported") and fact.about["answer"]:
            change(facts, index, answer=answer)


def wrong_report(facts: list[Fact]) -> None:
    """The daemon reported another answer than its journal has."""
    change(facts, index_of(facts, "reported", state="done"), answer={"echo": {"number": 99}})


def ended_twice(facts: list[Fact]) -> None:
    """A call that was answered ended again."""
    index = index_of(facts, "outgoing_moved", state="done", was="pending")
    facts.append(replace(facts[index], about={"was": "done", "state": "failed", "answer": {"kind": "flow_failed"}}))


def illegal_move(facts: list[Fact]) -> None:
    """A request made a move that is not in the table."""
    change(facts, index_of(facts, "incoming_moved", state="done"), was="expired")


def removed_while_open(facts: list[Fact]) -> None:
    """A call was removed before its end."""
    facts.append(replace(facts[index_of(facts, "confirmed")], kind="outgoing_removed", about={"state": "pending"}))


@pytest.fixture(scope="module")
def true_runs() -> list[Fact]:
    """The history after Ann used two composites of Bob's, and his worker was killed meanwhile."""
    with World(seed=8) as world:
        ann, bob = world.machines
        world.run(0.5)
        ann.send(Type.CALL, bob, flows.GUIDE, {"number": 1}, 60)
        ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.PAIR}, 60)
        world.run(1)
        ((_, instance),) = ann.mounted(bob)
        for number in range(3):
            ann.send(Type.CALL, bob, flows.PAIR, {"number": number}, 60, instance=instance)
        world.kill_worker(bob, noticed=True)
        world.start_worker(bob)
        world.run(1)
        ann.answer(ann.open_prompts()[0][0], "yes")
        assert world.settle() == []
        return world.facts


def index_of_run(facts: list[Fact], kind: str, *, nth: int = 0, **about: Any) -> int:
    """Return the index of the nth fact of a kind about the run that was started twice."""
    run_twice = facts[index_of(facts, "prompt_added")].about["text"].partition(":")[0]
    found = [
        index
        for index, fact in enumerate(facts)
        if (fact.kind, fact.id) == (kind, run_twice) and about.items() <= fact.about.items()
    ]
    return found[nth]


def run_not_in_state(facts: list[Fact]) -> None:
    """The state after a run does not contain its message."""
    index = index_of(facts, "state_saved", nth=2)
    change(facts, index, state={**facts[index].about["state"], "seen": facts[index].about["state"]["seen"][:-1]})


def run_twice_in_state(facts: list[Fact]) -> None:
    """The state contains the message of a run twice."""
    index = max(index for index, fact in enumerate(facts) if fact.kind == "state_saved")
    state = facts[index].about["state"]
    facts.insert(index + 1, facts[index])
    change(facts, index + 1, state={**state, "seen": [*state["seen"], state["seen"][-1]]})


def run_from_old_state(facts: list[Fact]) -> None:
    """A run started from an older state, so that the effect of the run before is lost."""
    index = max(
        index for index, fact in enumerate(facts) if fact.kind == "state_saved" and len(fact.about["state"]["seen"]) > 2
    )
    seen = facts[index].about["state"]["seen"]
    change(facts, index, state={**facts[index].about["state"], "seen": [*seen[:-2], seen[-1]]})


def called_twice(facts: list[Fact]) -> None:
    """A run that started again sent its call under another id."""
    index = index_of_run(facts, "record_added", what="call")
    facts.insert(index + 1, facts[index])
    change(facts, index + 1, message="3" * 32)


def one_message_for_two(facts: list[Fact]) -> None:
    """Two calls of a run are the same message."""
    message = facts[index_of_run(facts, "record_added", what="call", nth=0)].about["message"]
    change(facts, index_of_run(facts, "record_added", what="call", nth=1), message=message)


def other_call_result(facts: list[Fact]) -> None:
    """The second attempt got another result of a call."""
    first = facts[index_of_run(facts, "call_result")].about["k"]
    change(facts, index_of_run(facts, "call_result", k=first, nth=1), what={"data": {"count": 99}})


def second_call_result(facts: list[Fact]) -> None:
    """A call of a run got a second answer."""
    facts.append(facts[index_of_run(facts, "record_completed")])


def result_without_call(facts: list[Fact]) -> None:
    """A run got the result of a call that it did not make."""
    change(facts, index_of_run(facts, "call_result"), k=999)


def other_step_result(facts: list[Fact]) -> None:
    """A run got another result of a step than the journal has."""
    change(facts, index_of_run(facts, "step_result"), what=-1)


def step_stored_twice(facts: list[Fact]) -> None:
    """A step was stored twice."""
    index = index_of_run(facts, "record_added", what="step")
    facts.insert(index + 1, facts[index])


def run_asked_twice(facts: list[Fact]) -> None:
    """A run that started again asked its question under another id."""
    facts.append(replace(facts[index_of(facts, "prompt_added")], id="4" * 32))


def awaited_reply_without_answer(facts: list[Fact]) -> None:
    """A request that awaited a later run is done, but got no answer."""
    message_id = facts[index_of(facts, "incoming_moved", state="kept")].id
    facts[:] = [fact for fact in facts if fact.kind != "accepted" or fact.about["cause"] != message_id]


def missing_subflow(facts: list[Fact]) -> None:
    """A subflow does not exist."""
    child = next(iter(facts[index_of(facts, "instance_added", endpoint=flows.PAIR)].about["subflows"].values()))[
        "instance"
    ]
    facts.append(Fact(0, facts[index_of_id(facts, "instance_added", child)].node, "instance_removed", child))


def leftover_subflow(facts: list[Fact]) -> None:
    """A subflow exists after the flow for which it was mounted was released."""
    index = index_of(facts, "instance_added", endpoint=flows.GUIDE)
    facts.append(Fact(0, facts[index].node, "instance_removed", facts[index].id))


def cancelled_mount(facts: list[Fact]) -> None:
    """An instance exists although the request to mount it was cancelled."""
    mount = next(
        fact.id
        for fact in facts
        if fact.kind == "accepted" and fact.about["endpoint"] == topics.INSTANCES and fact.about["origin"] is None
    )
    change(facts, index_of_id(facts, "outgoing_moved", mount, nth=-1), state="cancelled")


def answer_to_another_instance(facts: list[Fact]) -> None:
    """An answer ran an instance that did not make the call."""
    index = index_of(facts, "received", type="reply")
    instance = facts[index].about["instance"]
    mounted = facts[index_of_id(facts, "instance_added", instance)]
    facts[index:index] = [Fact(0, mounted.node, "instance_removed", instance), mounted]


def two_requests_at_once(facts: list[Fact]) -> None:
    """An instance ran for a request while another one awaited a reply."""
    first, second = (index_of(facts, "incoming_moved", endpoint=flows.PAIR, state="kept", nth=nth) for nth in (0, 1))
    facts.insert(first + 1, facts.pop(second))


def leftover_record(facts: list[Fact]) -> None:
    """The records of a run exist after its end."""
    del facts[index_of_run(facts, "record_removed", nth=-1)]


def index_of_id(facts: list[Fact], kind: str, message_id: str, *, nth: int = 0) -> int:
    """Return the index of the nth fact of a kind about a message or instance."""
    return [index for index, fact in enumerate(facts) if (fact.kind, fact.id) == (kind, message_id)][nth]


RUN_FALSIFICATIONS: dict[Falsification, str] = {
    run_not_in_state: "R1",
    run_twice_in_state: "R1",
    run_from_old_state: "R1",
    called_twice: "R2",
    one_message_for_two: "R2",
    other_call_result: "R2",
    second_call_result: "R2",
    result_without_call: "R2",
    other_step_result: "R3",
    step_stored_twice: "R3",
    run_asked_twice: "R4",
    awaited_reply_without_answer: "R5",
    missing_subflow: "R6",
    leftover_subflow: "R6",
    cancelled_mount: "R6",
    answer_to_another_instance: "R7",
    leftover_record: "R8",
    two_requests_at_once: "R9",
}
FALSIFICATIONS: dict[Falsification, str] = {
    call_never_ends: "I1",
    not_in_the_journal: "I1",
    never_stored: "I1",
    request_never_ends: "I1",
    expired_early: "I1",
    given_less_time: "I1",
    stored_twice: "I2",
    done_twice: "I2",
    two_replies: "I2",
    never_accepted: "I2",
    swapped_effects: "I3",
    swapped_runs: "I3",
    swapped_questions: "I3",
    asked_twice: "I4",
    answered_twice: "I4",
    later_answer_counts: "I4",
    other_answer: "I4",
    wrong_reply: "I5",
    wrong_echo: "I5",
    wrong_report: "I5",
    ended_twice: "illegal",
    illegal_move: "illegal",
    removed_while_open: "illegal",
}


def test_a_true_history_passes(true_history: list[Fact]) -> None:
    """A history without violations passes."""
    assert check(true_history) == []


def test_a_message_may_be_dated_anew(true_history: list[Fact]) -> None:
    """A request keeps its lifetime when the clock that dated it turns out to be wrong, and expires by the new one."""
    facts = list(true_history)
    index = index_of(facts, "accepted", type="call")
    about = facts[index].about
    again = redated(facts[index], lifetime=about["expires"] - about["created"])
    facts.insert(index + 1, again)
    assert check(facts) == []
    moved = {"was": "pending", "state": "expired", "answer": None}
    facts = [*facts[: index + 2], replace(again, kind="outgoing_moved", t=again.about["expires"], about=moved)]
    assert not [violation for violation in check(facts) if "expired before" in violation]


@pytest.mark.parametrize(
    ("falsify", "promise"), FALSIFICATIONS.items(), ids=lambda value: getattr(value, "__name__", None)
)
def test_a_falsified_history_is_caught(falsify: Falsification, promise: str, true_history: list[Fact]) -> None:
    """Each kind of violation is found, with the number of the promise."""
    facts = list(true_history)
    falsify(facts)
    assert any(violation.startswith(promise) for violation in check(facts)), check(facts)


def test_true_runs_pass(true_runs: list[Fact]) -> None:
    """A history of runs without violations passes, although one run was started twice."""
    assert check(true_runs) == []
    assert index_of_run(true_runs, "run_started", nth=1) > index_of_run(true_runs, "call_result")


@pytest.mark.parametrize(
    ("falsify", "promise"), RUN_FALSIFICATIONS.items(), ids=lambda value: getattr(value, "__name__", None)
)
def test_falsified_runs_are_caught(falsify: Falsification, promise: str, true_runs: list[Fact]) -> None:
    """Each kind of violation by instances and runs is found, with the number of the promise."""
    facts = list(true_runs)
    falsify(facts)
    assert any(violation.startswith(promise) for violation in check(facts)), check(facts)


def test_only_a_daemon_with_an_old_journal_may_repeat_effects(true_history: list[Fact]) -> None:
    """A daemon with an old journal may repeat effects; the other daemon may not, even for its messages."""
    facts = list(true_history)
    ann = facts[index_of(facts, "confirmed")].node
    bob = facts[index_of(facts, "confirmed")].about.get("peer") or facts[index_of(facts, "received")].node
    done_twice(facts)
    assert check([Fact(0, bob, "restored", ""), *facts]) == []
    assert check([Fact(0, ann, "restored", ""), *facts]) != []
