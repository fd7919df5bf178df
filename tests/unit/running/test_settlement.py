"""How a request ends, and what its sender, the owner's log and the journal hold of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour
from support.lone_daemon import HOUR_MS

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.protocol.message import MAX_BODY_BYTES, Type
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.dispatch import MAX_ATTEMPTS
from p2pflowsd.running.leases import GRACE_PERIOD_S
from p2pflowsd.running.origin import AskOrigin
from p2pflowsd.running.settlement import ERROR_LIFETIME_MS

FAILURE = {"kind": "flow_failed", "message": "It failed.", "hint": "Mend it.", "details": "the whole cause"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, which serves a function and a class."""
    desk = Desk(tmp_path)
    desk.serves("function", "a", kind="python")
    desk.serves("own")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact, who also serves what the class calls."""
    alice = Neighbour(desk, 8, "alice")
    flow = desk.node.catalog.get("own")
    assert flow is not None
    far = {"far": {"user_id": alice.user, "flow_endpoint": "far"}}
    desk.do(lambda: desk.node.catalog.put(flow.model_copy(update={"subflows": far})))
    return alice


@pytest.fixture
def functions(desk: Desk) -> Hand:
    """The worker of the function."""
    return Hand(desk, "a", "w1")


@pytest.fixture
def hand(desk: Desk) -> Hand:
    """The worker of the class."""
    return Hand(desk, "b", "w2")


def is_lost_at_every_attempt(desk: Desk, worker: Hand) -> None:
    """Let a worker that has a task be lost, and each that takes it then, until it is given up."""
    for number in range(MAX_ATTEMPTS):
        if number:
            worker = Hand(desk, "b", f"lost-{number}")
            assert worker.takes()
        worker.says(bye=True)
        for _ in range(int(GRACE_PERIOD_S) + 2):
            desk.passes(1.0)


def end_of(desk: Desk, sender: str, request: str) -> tuple[str, str | None]:
    """The state of a request, and the kind of its error."""
    row = desk.journal.incoming.find(sender, request)
    assert row is not None
    return row.state, row.error


# Answers.


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({"text": "x" * MAX_BODY_BYTES}, "The answer is too large."),
        ({"deep": json.loads("[" * 170 + "]" * 170)}, "The answer cannot be sent as JSON."),
    ],
)
def test_an_answer_that_no_message_can_carry_is_an_error(
    desk: Desk, alice: Neighbour, functions: Hand, answer: dict[str, Any], message: str
) -> None:
    """The caller hears why there is no answer, and the request has failed."""
    call = alice.sends("function", {})
    ((task, _),) = functions.takes()
    functions.ends(task, answer)
    (error,) = alice.hears(call)
    assert error["kind"] == "flow_failed"
    assert error["message"].startswith(message)
    assert end_of(desk, alice.user, call) == (IncomingState.FAILED, "flow_failed")


def test_an_error_says_where_the_flow_failed(desk: Desk, alice: Neighbour, functions: Hand, hand: Hand) -> None:
    """Its hint names the flow, and the instance if there is one, once; so does the owner's log, with the cause."""
    call = alice.sends("function", {})
    ((task, _),) = functions.takes()
    functions.ends(task, None, FAILURE)
    (error,) = alice.hears(call)
    assert error == {"kind": "flow_failed", "message": "It failed.", "hint": "It failed in 'function'. Mend it."}
    assert desk.journal.log.newest(1)[0].detail == "the whole cause"
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    hand.ends(task, None, {"kind": "flow_failed", "message": "It failed."})
    (error,) = alice.hears(call)
    assert error["hint"] == f"It failed in instance {order['instance'][:8]}… of 'own'."
    assert desk.journal.log.newest(1)[0].detail == f"It failed. (instance {order['instance'][:8]}…)"


def test_the_error_of_a_post_travels_for_a_day(alice: Neighbour, functions: Hand) -> None:
    """Nobody waits for the error of a post until a deadline; the error of a call is of no use after its own."""
    lives = {}
    for kind in ("post", "call"):
        request = alice.sends("function", {}, type=kind)
        ((task, _),) = functions.takes()
        functions.ends(task, None, FAILURE)
        (error,) = [each for each in alice.gets(topics.REPLY) if each["cause"] == request]
        lives[kind] = error["expires"] - error["created"]
    assert lives["post"] == ERROR_LIFETIME_MS
    assert HOUR_MS - 1_000 < lives["call"] <= HOUR_MS


# Whom the whole cause is for.


def calls_in_person(desk: Desk, origin: str | None = None) -> str:
    """Let the owner, or a run of theirs, call the function of their own daemon; returns the id of the call."""
    sent = desk.do(
        lambda: desk.node.outbox.accept(
            Type.CALL, desk.user, "function", {}, expires=desk.clock.now() + HOUR_MS, origin=origin
        )
    )
    for bundle in desk.link.sent.pop(topics.inbox(desk.user, "function"), []):
        desk.arrives(topics.inbox(desk.user, "function"), bundle)
    return str(sent.id)


def error_heard(desk: Desk, call: str) -> dict[str, Any]:
    """The error that ended a call of the owner's."""
    for bundle in desk.link.sent.pop(topics.inbox(desk.user, topics.REPLY), []):
        desk.arrives(topics.inbox(desk.user, topics.REPLY), bundle)
    row = desk.journal.outgoing.find(call)
    assert row is not None
    return dict(json.loads(row.answer or b"{}"))


def test_the_owner_who_calls_in_person_gets_the_whole_cause(desk: Desk, functions: Hand) -> None:
    """If there is one; else what the worker says."""
    call = calls_in_person(desk)
    ((task, _),) = functions.takes()
    functions.ends(task, None, FAILURE)
    error = error_heard(desk, call)
    assert (error["message"], error["hint"]) == ("the whole cause", "It failed in 'function'.")
    call = calls_in_person(desk)
    ((task, _),) = functions.takes()
    functions.ends(task, None, {**FAILURE, "details": ""})
    assert error_heard(desk, call)["message"] == "It failed."


def test_nobody_else_gets_the_whole_cause(desk: Desk, alice: Neighbour, functions: Hand) -> None:
    """Neither a contact, even under the id of a call of the owner's, nor a run, which may pass errors on."""
    sent = desk.do(lambda: desk.node.messages.send(Type.CALL, alice.user, "far", {}, life_ms=HOUR_MS))
    call = alice.sends("function", {}, id=sent)
    ((task, _),) = functions.takes()
    functions.ends(task, None, FAILURE)
    assert [error["message"] for error in alice.hears(call)] == ["It failed."]
    call = calls_in_person(desk, AskOrigin(1, 0).to_json())
    ((task, _),) = functions.takes()
    functions.ends(task, None, FAILURE)
    assert error_heard(desk, call)["message"] == "It failed."


def test_a_call_of_the_owner_of_which_the_journal_knows_nothing(desk: Desk, functions: Hand) -> None:
    """It came from a journal that was put back since: that it was sent in person is not known."""
    myself = Neighbour(desk, 11)
    myself.me, myself.user, myself.envelope = desk.identity, desk.user, Envelope(desk.identity)
    call = myself.sends("function", {})
    ((task, _),) = functions.takes()
    functions.ends(task, None, FAILURE)
    assert end_of(desk, desk.user, call) == (IncomingState.FAILED, "flow_failed")
    assert [error["message"] for error in myself.hears(call)] == ["It failed."]


# Workers that die at every attempt.


def test_a_dead_letter_keeps_what_its_run_has_recorded(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """Its sender hears that its worker was lost; when it is run again, it goes on, and can be answered."""
    call = alice.sends("own", {})
    ((task, _),) = hand.takes()
    step = {"task": task["task"], "k": 0, "op": "step", "mark": "m", "value": 7}
    hand.says(held=[task["task"]], asks=[step])
    is_lost_at_every_attempt(desk, hand)
    assert end_of(desk, alice.user, call) == (IncomingState.DEAD, "worker_lost")
    assert alice.hears_error(call) == "worker_lost"
    desk.do(lambda: desk.node.retries.retry(call))
    again = Hand(desk, "b", "again")
    ((task, order),) = again.takes()
    assert [(index, mark) for index, mark, _ in task["records"]] == [(0, "m")]
    again.answers(task, order, {"late": True})
    assert alice.hears(call)[-1] == {"late": True}


def test_what_its_owner_cannot_run_again_is_no_dead_letter(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """A mount, or an answer that runs a flow again, has failed if its worker dies at every attempt."""
    call = alice.sends("own", {})
    (far,) = calls_back(hand, alice, "p", state={})
    replies(alice, far)
    assert hand.takes()
    is_lost_at_every_attempt(desk, hand)
    assert end_of(desk, alice.user, call) == (IncomingState.FAILED, "worker_lost")
    assert desk.journal.incoming.in_state(IncomingState.DEAD) == []
    mount = alice.mounts("own")
    is_lost_at_every_attempt(desk, Hand(desk, "b", "first"))
    assert end_of(desk, alice.user, mount) == (IncomingState.FAILED, "worker_lost")
    assert alice.hears_error(mount) == "worker_lost"


# Answers that run a flow again.


def calls_back(hand: Hand, alice: Neighbour, *keys: str, **turn: Any) -> list[str]:
    """End the run that a worker has with calls whose answers run it again; returns the ids of the calls."""
    ((task, _),) = hand.takes()
    far = {"far": {"user": alice.user, "endpoint": "far", "instance": None, "shared": True}}
    out = [
        {"op": "call_back", "user": alice.user, "endpoint": "far", "data": {}, "subflow": "far", "packaged": key}
        for key in keys
    ]
    hand.ends(task, {"out": [*out, *turn.pop("out", [])], "mounted": {"config": {}, "subflows": far}, **turn})
    return [message["id"] for message in alice.gets("far")][-len(keys) :]


def replies(alice: Neighbour, call: str) -> None:
    """Let alice answer a call."""
    alice.sends(topics.REPLY, {"said": "yes"}, type="reply", cause=call, epoch=0, seq=0)


def test_a_call_ends_with_the_error_of_a_later_run(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """The answer to a call of its flow runs the flow again, which fails; who sent the answer hears nothing of that."""
    call = alice.sends("own", {})
    (far,) = calls_back(hand, alice, "p", state={})
    replies(alice, far)
    ((task, order),) = hand.takes()
    hand.ends(task, None, FAILURE)
    (error,) = alice.hears(call)
    assert error["message"] == "It failed."
    assert error["hint"] == f"It failed in instance {order['instance'][:8]}… of 'own'. Mend it."
    assert end_of(desk, alice.user, call) == (IncomingState.FAILED, "flow_failed")
    assert [each["cause"] for each in alice.gets(topics.REPLY)] == [call]


def test_the_sender_of_a_post_hears_of_the_first_failure_that_it_has_caused(alice: Neighbour, hand: Hand) -> None:
    """The post itself has ended well; later runs on answers to its calls fail."""
    post = alice.sends("own", {}, type="post")
    for far in calls_back(hand, alice, "p", "q", state={}):
        replies(alice, far)
    while tasks := hand.takes():
        for task, _ in tasks:
            hand.ends(task, None, FAILURE)
    assert [error["message"] for error in alice.hears(post)] == ["It failed."]
    assert [each["cause"] for each in alice.gets(topics.REPLY)] == [post]


def test_a_call_that_is_answered_hears_of_no_failure_after_that(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """It has its one answer; the owner's log has the failure."""
    call = alice.sends("own", {})
    (far,) = calls_back(hand, alice, "p", out=[{"op": "reply", "request": call, "data": {"done": True}}], state={})
    replies(alice, far)
    ((task, _),) = hand.takes()
    hand.ends(task, None, FAILURE)
    assert alice.hears(call) == [{"done": True}]
    assert end_of(desk, alice.user, call) == (IncomingState.DONE, None)
    assert ("flow_failed", alice.user) in desk.log()


def test_a_run_fails_whose_first_request_is_forgotten(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """An answer comes long after the request for which its call was made; nobody is left to hear of the failure."""
    call = alice.sends("own", {})
    (far,) = calls_back(hand, alice, "p", out=[{"op": "reply", "request": call, "data": {}}], state={})
    replies(alice, far)
    desk.do(lambda: desk.journal._db.execute("DELETE FROM incoming WHERE id = ?", (call,)))
    ((task, _),) = hand.takes()
    hand.ends(task, None, FAILURE)
    assert ("flow_failed", alice.user) in desk.log()
    assert alice.hears(call) == [{}]


# Requests that a flow keeps in its state, to answer them later.


CONVERSATION = "c" * 32


def test_a_kept_request_stays_when_an_answer_changes_nothing(alice: Neighbour, hand: Hand) -> None:
    """The run on the answer to a call leaves the state as it is, and the request in it; a later one answers it."""
    call = alice.sends("own", {}, conversation=CONVERSATION)
    (far,) = calls_back(hand, alice, "p", state={"asked": call})
    replies(alice, far)
    ((task, _),) = hand.takes()
    hand.ends(task, {"out": []})
    assert alice.hears(call) == []
    alice.sends("own", {}, conversation=CONVERSATION)
    ((task, _),) = hand.takes()
    hand.ends(task, {"out": [{"op": "reply", "request": call, "data": {"late": True}}], "state": {}})
    assert alice.hears(call) == [{"late": True}]


def test_a_request_stays_while_the_answer_to_another_call_is_to_be_run(alice: Neighbour, hand: Hand) -> None:
    """Two answers are there; the run on the first says nothing, and the one on the second answers."""
    call = alice.sends("own", {})
    for far in calls_back(hand, alice, "p", "q"):
        replies(alice, far)
    ((first, _), *_) = hand.takes()
    hand.ends(first, {"out": []})
    assert alice.hears(call) == []
    ((second, _), *_) = hand.takes()
    hand.ends(second, {"out": [{"op": "reply", "request": call, "data": {"both": True}}], "state": {}})
    assert alice.hears(call) == [{"both": True}]


def test_a_kept_request_that_its_flow_forgets_fails_at_once(alice: Neighbour, hand: Hand) -> None:
    """A later run takes it out of the state and does not answer it, so nothing can."""
    call = alice.sends("own", {}, conversation=CONVERSATION)
    ((task, _),) = hand.takes()
    hand.ends(task, {"out": [], "state": {"asked": call}, "mounted": {"config": {}, "subflows": {}}})
    assert alice.hears(call) == []
    then = alice.sends("own", {}, conversation=CONVERSATION)
    ((task, _),) = hand.takes()
    hand.ends(task, {"out": [{"op": "reply", "request": then, "data": {"done": True}}], "state": {"asked": None}})
    assert alice.hears(then) == [{"done": True}]
    assert alice.hears(call)[0]["message"] == "'own' ended without an answer."


def test_a_kept_request_fails_when_its_instance_is_reset(alice: Neighbour, hand: Hand) -> None:
    """The state that held it is gone, so nothing can answer it."""
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    hand.ends(task, {"out": [], "state": {"asked": call}, "mounted": {"config": {}, "subflows": {}}})
    alice.sends(topics.INSTANCES, {"op": "reset", "instance": order["instance"]})
    assert alice.hears(call)[0]["message"] == "The instance of 'own' was reset before it answered."
