"""Attacks on instances, runs and dispatch points, tried on a daemon without sockets: each comes to nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.desk import Desk, Hand, Neighbour
from support.lone_daemon import HOUR_MS, Packet

from p2pflows.errors import NotAllowed
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Message, Type
from p2pflows.protocol.notice import Notice
from p2pflows.protocol.worker_frames import Outcome, Success
from p2pflowsd import owners_log
from p2pflowsd.api import views
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.running import instances
from p2pflowsd.running.instances import requested_endpoint
from p2pflowsd.running.leases import LOST_FRAME_TIMEOUT_S
from p2pflowsd.running.origin import AskOrigin
from p2pflowsd.running.worker_tokens import point_key

SECRET = {"for": "alice alone"}


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon: a singleton and a flow with instances at point b, a function at point a, and his human."""
    desk = Desk(tmp_path)
    desk.serves("shared", singleton=True, interleaved=True)
    desk.serves("own")
    desk.serves("function", "a", kind="python")
    desk.serves("User", "", kind="human")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """An honest contact."""
    return Neighbour(desk, 8, "alice")


@pytest.fixture
def mallory(desk: Desk, alice: Neighbour) -> Neighbour:
    """A contact who is not; bob has known alice for longer."""
    del alice
    return Neighbour(desk, 9, "mallory")


@pytest.fixture
def hand(desk: Desk) -> Hand:
    """The worker of point b."""
    return Hand(desk, "b", "w1")


def declare(desk: Desk, endpoint: str, calls: Sequence[tuple[Neighbour, str]]) -> None:
    """Let the class at an endpoint declare more subflows."""
    flow = desk.node.catalog.get(endpoint)
    assert flow is not None
    declared = {name: {"user_id": user.user, "flow_endpoint": name} for user, name in calls}
    desk.do(lambda: desk.node.catalog.put(flow.model_copy(update={"subflows": {**(flow.subflows or {}), **declared}})))


def instance_of(
    desk: Desk, hand: Hand, who: Neighbour, endpoint: str = "own", *, calls: Sequence[tuple[Neighbour, str]] = ()
) -> str:
    """Mount an instance for somebody, with these subflows, which its class declares, and return its id."""
    declare(desk, endpoint, calls)
    request = who.mounts(endpoint)
    ((task, order),) = hand.takes()
    parts = {name: {"user": user.user, "endpoint": name, "instance": None, "shared": True} for user, name in calls}
    hand.answers(task, order, {}, mounted={"subflows": parts})
    (granted,) = who.hears(request)
    assert desk.journal.instances.get(granted["instance"]) is not None
    return str(granted["instance"])


def lives(desk: Desk, alice: Neighbour, hand: Hand) -> bool:
    """Whether an honest call still runs and is answered, after whatever waits before it."""
    request = alice.sends("own", {"honest": True})
    hand.says()
    while tasks := hand.takes():
        for task, order in tasks:
            hand.answers(task, order, {"served": desk.user} if task["message"] == request else {})
    return alice.hears(request) == [{"served": desk.user}]


# Instances of others.


def test_instances_of_others(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Ids of others' instances, of the owner's subflows and of conversations, guessed or seen, open nothing."""
    conversation = alice.sends("own", {})
    ((task, order),) = hand.takes()
    hand.answers(task, order, {})
    mount = "f" * 32
    theirs = [
        instance_of(desk, hand, alice),
        derived_id("conversation", desk.user, "own", alice.user, conversation),
        derived_id("conversation", desk.user, "own", desk.user, conversation),
        derived_id("mount", alice.user, mount),
        derived_id("singleton", desk.user, "own"),
        "0" * 32,
    ]
    for instance in theirs:
        for endpoint, data, named in (
            ("own", {}, instance),
            ("shared", {}, instance),
            (topics.INSTANCES, {"op": "delete", "instance": instance}, None),
            (topics.INSTANCES, {"op": "reset", "instance": instance}, None),
        ):
            assert mallory.hears_error(mallory.sends(endpoint, data, instance=named)) == "not_allowed"
    assert mallory.hears(mallory.sends(topics.INSTANCES, {"op": "list"})) == [{"instances": []}]
    assert mallory.hears(mallory.sends("own", {}, conversation=conversation)) == []
    ((task, order),) = hand.takes()
    assert order["mount"] is not None
    assert order["instance"] not in theirs
    assert len(desk.journal.instances.of(client=alice.user)) == 2
    assert ("not_allowed", mallory.user) in desk.log()
    hand.answers(task, order, {})
    assert lives(desk, alice, hand)


def test_an_instance_where_there_is_none(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Naming an instance to a function is refused; a human is asked all the same, and only once."""
    stolen = instance_of(desk, hand, alice)
    assert mallory.hears_error(mallory.sends("function", {}, instance=stolen)) == "not_allowed"
    asked = mallory.sends("User", {"text": "Hello?"}, instance=stolen)
    assert [prompt.id for prompt in desk.do(desk.journal.prompts.all)] == [asked]
    assert desk.journal.incoming.open_of(stolen) == []
    assert lives(desk, alice, hand)


def test_withdrawing_what_others_asked_for(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Who withdraws another's mount, or another's call, withdraws nothing."""
    mount = alice.mounts("own")
    ((task, order),) = hand.takes()
    hand.answers(task, order, {})
    call = alice.sends("own", {}, instance=alice.hears(mount)[0]["instance"])
    ((task, order),) = hand.takes()
    for cause in (mount, call, "0" * 32, None):
        for endpoint in ("own", topics.INSTANCES):
            mallory.sends(endpoint, {}, type="cancel", cause=cause)
    assert len(desk.journal.instances.of(client=alice.user)) == 1
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]


@pytest.mark.parametrize(
    "order",
    [
        {"op": "mount"},
        {"op": "mount", "endpoint": "own", "config_overrides": [["_target_", "os.system"]]},
        {"op": "mount", "endpoint": "own", "config_overrides": None},
        {"op": "mount", "endpoint": "../own"},
        {"op": "mount", "endpoint": "own\n"},
        {"op": "mount", "endpoint": "own", "initial_state": "x"},
        {"op": "mount", "endpoint": "own", "path": {"a": 1}},
        {"op": "mount", "endpoint": "own", "path": [["a" * 64, "own"]] * 16},
        {"op": "mount", "endpoint": "own", "path": [["a" * 64, "own", "more"]]},
        {"op": "mount", "endpoint": "own", "path": [["me", "own"]]},
        {"op": "delete"},
        {"op": "delete", "instance": ["0" * 32]},
        {"op": "reset", "instance": "0" * 33},
        {"op": "reset", "instance": "0" * 32, "recursive": "yes"},
        {"op": "adopt", "instance": "0" * 32},
        {"op": ["mount"]},
        {"op": None},
        {},
    ],
)
def test_orders_of_no_form(desk: Desk, mallory: Neighbour, hand: Hand, order: dict[str, Any]) -> None:
    """What is no order about an instance is bad input, and reaches no worker."""
    assert mallory.hears_error(mallory.sends(topics.INSTANCES, order)) == "bad_input"
    assert hand.takes() == []
    assert desk.journal.instances.of() == []
    assert ("bad_input", mallory.user) in desk.log()


def test_a_circle_that_is_hidden(desk: Desk, mallory: Neighbour, hand: Hand) -> None:
    """A path that leads back here is refused, and so is whoever claims to trust herself."""
    path = [[mallory.user, "x"], [desk.user, "own"], [mallory.user, "y"]]
    assert mallory.hears_error(mallory.mounts("own", path=path)) == "bad_input"
    mallory.mounts("own", trusted=True, config={"_target_": "os.system"}, config_overrides={"name": "x"})
    ((_, order),) = hand.takes()
    assert (order["mount"]["trusted"], order["mount"]["config"]) == (False, {})


def test_fields_that_only_answers_have(desk: Desk, mallory: Neighbour, hand: Hand) -> None:
    """A request that looks like the answer of a subflow is a request; one with two data objects is refused."""
    fields = {"subflow": "trusted", "packaged": "0" * 32, "is_reply": True, "error": {"kind": "usage"}, "root": 1}
    now = desk.clock.now()
    message = Message.model_validate(
        {
            "id": "a" * 32,
            "type": "call",
            "from": mallory.user,
            "to": desk.user,
            "endpoint": "own",
            "conversation": "a" * 32,
            "epoch": 5,
            "seq": 0,
            "created": now,
            "expires": now + HOUR_MS,
        }
    )
    body = {**json.loads(message.to_bytes()), **fields, "data": {"second": 2}}
    mallory.publishes("own", json.dumps({"data": {"first": 1}, **body}).encode())
    ((task, order),) = hand.takes()
    assert (order["type"], order["data"]) == ("call", {"second": 2})
    hand.answers(task, order, {})
    honest = '{"op": "mount", "endpoint": "own"}'
    evil = '{"op": "mount", "endpoint": "own", "dispatch_point": "a", "initial_state": {}}'
    for number, (first, second) in enumerate(((honest, evil), (evil, honest))):
        told = {**body, "id": f"{number:032x}", "endpoint": topics.INSTANCES, "seq": number, "data": 0}
        text = json.dumps(told).replace('"data": 0', f'"data": {first}, "data": {second}')
        mallory.publishes(topics.INSTANCES, text.encode())
        assert mallory.hears(f"{number:032x}") == []
    assert hand.takes() == []
    assert desk.journal.counters["refused.malformed"] == 2


def test_what_all_share(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Whoever comes first to a singleton does not decide how it begins for all; its owner does."""
    for order in ({"config_overrides": {"name": "Yours truly"}}, {"initial_state": {"count": 10**6}}):
        assert mallory.hears_error(mallory.mounts("shared", **order)) == "not_allowed"
    assert hand.takes() == []
    shared = instance_of(desk, hand, alice, "shared")
    assert mallory.hears(mallory.mounts("shared"))[0]["instance"] == shared
    assert mallory.hears_error(mallory.mounts("shared", config_overrides={"name": "x"})) == "not_allowed"


@pytest.mark.parametrize("order", [{"config_overrides": {"name": "x"}}, {"initial_state": {"n": 1}}, {}])
def test_its_owner_asks_for_a_singleton_that_is_there_as_it_is_not(
    desk: Desk, alice: Neighbour, hand: Hand, order: dict[str, Any]
) -> None:
    """A command is refused, as it would have no effect; a flow of the owner's goes on, and the log says so."""
    shared = instance_of(desk, hand, alice, "shared")

    def mount(origin: str | None) -> dict[str, Any]:
        data = {"op": "mount", "endpoint": "shared", **order}
        expires = desk.clock.now() + HOUR_MS
        sent = desk.do(
            lambda: desk.node.outbox.accept(
                Type.CALL, desk.user, topics.INSTANCES, data, expires=expires, origin=origin
            )
        )
        for endpoint in (topics.INSTANCES, topics.REPLY):
            for bundle in desk.link.sent.pop(topics.inbox(desk.user, endpoint), []):
                desk.arrives(topics.inbox(desk.user, endpoint), bundle)
        row = desk.journal.outgoing.find(sent.id)
        assert row is not None
        return dict(json.loads(row.answer or b"{}"))

    by_hand = mount(None)
    assert (by_hand.get("kind"), by_hand.get("instance")) == (("bad_input", None) if order else ("class", shared))
    assert mount(AskOrigin(1, 0).to_json())["instance"] == shared
    assert ("ignored" in [what for what, _ in desk.log()]) is bool(order)


def test_a_stranger_asks_for_an_instance(desk: Desk, hand: Hand) -> None:
    """It waits like any request, told under the endpoint that is wanted, until its sender is allowed."""
    carol = Neighbour(desk, 10)
    request = carol.mounts("own")
    (row,) = desk.journal.incoming.in_state(IncomingState.HELD)
    assert requested_endpoint(desk.node.journal, row) == "own"
    assert hand.takes() == []
    assert carol.hears(carol.sends(topics.INSTANCES, {"op": "list"})) == [{"instances": []}]
    desk.do(lambda: desk.node.admission.allow(carol.user, "carol"))
    hand.says()
    ((task, order),) = hand.takes()
    hand.answers(task, order, {})
    assert carol.hears(request)[0]["endpoint"] == "own"


# How many.


def test_a_flood_of_mounts(
    desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contact has so many instances of a flow and no more, however many are asked for at once; others go on."""
    monkeypatch.setattr(instances, "MAX_PER_CLIENT", 3)
    requests = [mallory.mounts("own") for _ in range(6)]
    while tasks := hand.takes():
        for task, order in tasks:
            hand.answers(task, order, {})
    kinds = [mallory.hears(request)[0].get("kind") for request in requests]
    assert kinds == ["class"] * 3 + ["not_allowed"] * 3
    assert mallory.hears_error(mallory.mounts("own")) == "not_allowed"
    assert mallory.hears_error(mallory.sends("own", {})) == "not_allowed"
    assert hand.takes() == []
    assert len(desk.journal.instances.of(client=mallory.user)) == 3
    assert lives(desk, alice, hand)
    instance = mallory.hears(requests[0])[0]["instance"]
    mallory.sends(topics.INSTANCES, {"op": "delete", "instance": instance})
    instance_of(desk, hand, mallory)


def test_a_flood_of_conversations(desk: Desk, alice: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who begins ever new conversations loses the oldest idle ones, never one that is under way, nor a mounted one."""
    monkeypatch.setattr(instances, "MAX_PER_CLIENT", 3)
    mounted = instance_of(desk, hand, alice)
    for number in range(5):
        call = alice.sends("own", {"number": number})
        ((task, order),) = hand.takes()
        hand.answers(task, order, {"number": number})
        assert alice.hears(call) == [{"number": number}]
    left = [row.id for row in desk.journal.instances.of(client=alice.user)]
    assert len(left) == 3
    assert mounted in left
    assert desk.journal.instances.get(left[-1]) is not None
    waiting = [alice.sends("own", {}, instance=each) for each in left]
    assert alice.hears_error(alice.sends("own", {})) == "not_allowed"
    for task, order in hand.takes():
        hand.answers(task, order, {})
    assert [alice.hears(call) for call in waiting] == [[{}]] * 3


def test_a_flood_of_strangers(desk: Desk, alice: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers have few instances each, and not many together; contacts and the owner are not kept out by that."""
    monkeypatch.setattr(instances, "MAX_PER_STRANGER", 2)
    monkeypatch.setattr(instances, "MAX_OF_STRANGERS", 3)
    desk.serves("open", allow="anyone")
    one, other = Neighbour(desk, 20), Neighbour(desk, 21)
    for stranger, many in ((one, 2), (other, 1)):
        for _ in range(many):
            instance_of(desk, hand, stranger, "open")
        assert stranger.hears_error(stranger.mounts("open")) == "not_allowed"
    instance_of(desk, hand, alice, "open")
    assert lives(desk, alice, hand)


def test_what_the_owner_mounts_is_not_counted(desk: Desk, mallory: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """The subflows of a neighbour's trees are the owner's, whom no neighbour can keep from having more."""
    monkeypatch.setattr(instances, "MAX_PER_CLIENT", 0)
    flow = desk.node.catalog.get("own")
    assert flow is not None
    book = desk.contacts.book()
    assert desk.node.instances.find_evictable(desk.user, flow, book) is None
    with pytest.raises(NotAllowed, match="as many"):
        desk.node.instances.find_evictable(mallory.user, flow, book)


def test_a_flood_of_refusals(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """Who is refused under ever other names does not drive what is known of others out of the owner's log."""
    alice.sends("missing", {})
    for number in range(owners_log.MAX_NOTES_PER_INTERVAL + 50):
        mallory.sends(f"missing-{number}", {})
    entries = desk.journal.log.newest(1_000)
    assert len(entries) == 1 + owners_log.MAX_NOTES_PER_INTERVAL + 1
    assert (entries[0].what, entries[0].peer) == ("not_served", alice.user)
    assert "not written" in entries[-1].detail
    desk.passes(owners_log.REPEAT_INTERVAL_S)
    mallory.sends("missing-again", {})
    assert desk.journal.log.newest(1)[0].endpoint == "missing-again"


# Answers.


def test_answers_for_others(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """A run answers the requests of its own instance only, and of these only what it was given."""
    mine, theirs = instance_of(desk, hand, mallory), instance_of(desk, hand, alice)
    call = alice.sends("own", {}, instance=theirs)
    ((their_task, their_order),) = hand.takes()
    first = mallory.sends("own", {}, instance=mine)
    second = mallory.sends("own", {}, instance=mine)
    ((task, order),) = hand.takes()
    forged = [{"op": "reply", "request": request, "data": {"forged": True}} for request in (call, second, "0" * 32)]
    hand.answers(task, order, {"mine": 1}, out=forged * 2)
    assert (mallory.hears(first), alice.hears(call), mallory.hears(second)) == ([{"mine": 1}], [], [])
    hand.answers(their_task, their_order, SECRET)
    assert alice.hears(call) == [SECRET]
    ((task, order),) = hand.takes()
    hand.answers(task, order, {"mine": 2})
    assert mallory.hears(second) == [{"mine": 2}]


def test_two_senders_with_one_id(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Who calls a singleton under the id of another's call does not get the other's answer, now or kept for later."""
    call = alice.sends("shared", {})
    assert mallory.hears_error(mallory.sends("shared", {}, id=call)) == "bad_input"
    ((task, order),) = hand.takes()
    hand.ends(task, {"out": [], "mounted": {"config": {}, "subflows": {}}, "state": {"to be answered": call}})
    shared = derived_id("singleton", desk.user, "shared")
    twice = mallory.sends("shared", {}, instance=shared)
    ((task, order),) = hand.takes()
    hand.answers(task, order, {}, out=[{"op": "reply", "request": call, "data": SECRET}])
    assert alice.hears(call) == [SECRET]
    assert mallory.hears(twice) == [{}]
    assert all(answer != SECRET for answer in mallory.hears())


def test_answers_to_calls_of_others(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """An answer counts if it comes from who was asked, and once; it cannot answer an answer."""
    call = instance_of(desk, hand, alice, calls=[(alice, "far")])
    asked = alice.sends("own", {}, instance=call)
    ((task, _),) = hand.takes()
    ask = {
        "task": task["task"], "op": "call", "mark": "m", "user": alice.user, "endpoint": "far", "data": {},
    }  # fmt: skip
    hand.says(held=[task["task"]], asks=[{**ask, "k": 0}, {**ask, "k": 1}])
    one, two = (message["id"] for message in alice.gets("far"))
    for cause in (one, two, asked, "0" * 32):
        mallory.sends(topics.REPLY, {"forged": True}, type="reply", cause=cause)
        mallory.sends(topics.REPLY, {"kind": "declined"}, type="error", cause=cause)
    progress = Notice(to=desk.user, progress=[(one, {"forged": True})], received=[one], held=[two])
    mallory.publishes(topics.NOTICE, progress.to_bytes(), kind=BundleKind.NOTICE)
    assert [answer for answer in hand.is_told() if "kept" not in answer] == []
    alice.sends(topics.REPLY, SECRET, type="reply", cause=one)
    alice.sends(topics.REPLY, {"late": True}, type="reply", cause=one)
    alice.sends(topics.REPLY, {"kind": "usage", "message": "x"}, type="error", cause=one)
    (told,) = [answer for answer in hand.is_told() if "kept" not in answer]
    assert (told["k"], told["data"], told["from"]) == (0, SECRET, alice.user)


@pytest.mark.parametrize(
    "kind", ["usage", "daemon_not_running", "disk", "error", "", "\x1b[31m", "x" * 10_000, None, 7]
)
def test_kinds_of_errors_that_no_neighbour_has(
    desk: Desk, mallory: Neighbour, alice: Neighbour, hand: Hand, kind: object
) -> None:
    """An error of any kind and form ends the call that it answers, and is handed on as an error."""
    sent = desk.do(lambda: desk.node.messages.send(Type.CALL, mallory.user, "x", {}, life_ms=HOUR_MS))
    told: list[OutgoingState] = []
    desk.do(lambda: desk.node.messages.wait(sent, lambda state, _answer: told.append(state)))
    wrong = {"kind": kind, "message": {"a": [1]}, "hint": "x" * 300_000, "more": {"kind": "not_allowed"}}
    mallory.sends(topics.REPLY, wrong, type="error", cause=sent)
    assert told == [OutgoingState.FAILED]
    assert lives(desk, alice, hand)


# What runs order.


@pytest.mark.parametrize("op", ["delete", "list", "reset", "other", None])
def test_a_run_that_gives_orders(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand, op: str | None) -> None:
    """A run speaks in its owner's name, but has no power over instances that are no subflows of its own."""
    theirs, mine = instance_of(desk, hand, alice), instance_of(desk, hand, mallory)
    order = {"user": desk.user, "endpoint": topics.INSTANCES, "data": {"op": op, "instance": theirs}}
    call = mallory.sends("own", {}, instance=mine)
    ((task, _),) = hand.takes()
    ask = {"task": task["task"], "k": 0, "op": "call", "mark": "m", **order}
    hand.says(held=[task["task"]], asks=[ask])
    assert hand.is_told()[-1]["error"]["kind"] == "not_allowed"
    hand.ends(task, {"out": [{"op": "post", **order}]})
    assert mallory.hears_error(call) == "not_allowed"
    assert desk.journal.instances.get(theirs) is not None
    assert topics.inbox(desk.user, topics.INSTANCES) not in desk.link.sent


def test_what_a_run_sends_too_large_is_no_fault_of_its_caller(
    desk: Desk, alice: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it leaves at once or at the end of the run, it is a failure of the flow, and not `too_large`."""
    declare(desk, "own", [(alice, "far")])
    monkeypatch.setattr(desk.link, "max_packet", 20_000)
    call = alice.sends("own", {})
    ((task, _),) = hand.takes()
    order = {"user": alice.user, "endpoint": "far", "data": {"text": "x" * 20_000}}
    hand.says(held=[task["task"]], asks=[{"task": task["task"], "k": 0, "op": "call", "mark": "m", **order}])
    assert hand.is_told()[-1]["error"]["kind"] == "flow_failed"
    far = {"far": {"user": alice.user, "endpoint": "far", "instance": None, "shared": True}}
    hand.ends(task, {"out": [{"op": "post", **order}], "mounted": {"config": {}, "subflows": far}})
    assert alice.hears_error(call) == "flow_failed"
    assert alice.gets("far") == []


def test_a_run_resets_its_own_subflows(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """What a composite was mounted with it may reset, in its very first run, too."""
    declare(desk, "own", [(alice, "far")])
    part = {"user": alice.user, "endpoint": "far", "instance": "5" * 32}
    call = mallory.sends("own", {})
    ((task, order),) = hand.takes()
    reset = {"op": "post", "user": alice.user, "endpoint": topics.INSTANCES}
    data = {"op": "reset", "instance": part["instance"]}
    hand.answers(task, order, {}, mounted={"subflows": {"far": part}}, out=[{**reset, "data": data}])
    assert mallory.hears(call) == [{}]
    assert [message["data"] for message in alice.gets(topics.INSTANCES)] == [data]


def test_a_conversation_of_somebody_else(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Who knows the id of bob's conversation with alice does not get bob's flows to speak in it."""
    theirs = desk.do(lambda: desk.node.messages.send(Type.CALL, alice.user, "far", {}, life_ms=HOUR_MS))
    instance = instance_of(desk, hand, mallory, calls=[(alice, "far")])
    mallory.sends("own", {}, conversation=theirs, instance=instance)
    ((task, _),) = hand.takes()
    ask = {"op": "call", "k": 0, "mark": "m", "user": alice.user, "endpoint": "far", "data": {}}
    hand.says(held=[task["task"]], asks=[{"task": task["task"], **ask}])
    own, forwarded = alice.gets("far")
    assert own["id"] == theirs
    assert forwarded["conversation"] != theirs


# What does not fit.


def test_a_message_that_does_not_fit_beside_the_state(
    desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand
) -> None:
    """What is too large together with what an instance keeps is refused, and holds up nobody behind it."""
    mallory.sends("shared", {})
    ((task, order),) = hand.takes()
    large = {"config": {"text": "x" * 150_000}}
    hand.answers(task, order, {}, mounted=large, state={"text": "x" * 240_000})
    wedge = mallory.sends("shared", {"text": "x" * 690_000})
    call = alice.sends("shared", {})
    assert mallory.hears_error(wedge) == "too_large"
    ((task, order),) = hand.takes()
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]
    assert desk.link.too_large == 0


def test_runs_that_have_recorded_much(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """Runs that a neighbour's long answers made large do not share one frame when their worker is lost."""
    calls = [alice.sends("own", {}) for _ in range(4)]
    tasks = [task for task, _ in hand.takes()]
    for task in tasks:
        hand.says(
            held=[each["task"] for each in tasks],
            asks=[{"task": task["task"], "k": 0, "op": "step", "mark": "step", "value": "x" * 290_000}],
        )
    hand.says(bye=True, draining=True)
    other = Hand(desk, "b", "w2")
    again = {task["message"]: (task, order) for task, order in other.takes()}
    assert set(again) == set(calls)
    assert all(len(task["records"]) == 1 for task, _ in again.values())
    assert desk.link.too_large == 0


def test_a_long_answer_and_a_long_task(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """An answer and a task that are too large for one frame leave in two."""
    declare(desk, "own", [(mallory, "far")])
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    ask = {"op": "call", "k": 0, "mark": "m", "user": mallory.user, "endpoint": "far", "data": {}}
    hand.says(held=[task["task"]], asks=[{"task": task["task"], **ask}])
    (asked,) = mallory.gets("far")
    topic = topics.inbox(desk.user, topics.REPLY)
    now = desk.clock.now()
    answer = Message.model_validate(
        {
            "id": "c" * 32,
            "type": "reply",
            "from": mallory.user,
            "to": desk.user,
            "endpoint": topics.REPLY,
            "conversation": "c" * 32,
            "cause": asked["id"],
            "created": now,
            "expires": now + HOUR_MS,
            "data": {"text": "語" * 230_000},
        }
    )
    bundle = mallory.envelope.seal(BundleKind.MESSAGES, desk.user, [answer.to_bytes()], desk.random.randbytes(24))
    hand.takes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk, "arrives", lambda topic, payload: desk.node.process_batch([Packet(topic, payload)]))
        large = alice.sends("own", {"text": "x" * 690_000})
    desk.arrives(topic, bundle)
    assert [task["message"] for task, _ in hand.takes()] == [large]
    assert len(hand.is_told()[-1]["data"]["text"]) == 230_000
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]
    assert desk.link.too_large == 0


# Workers of another point.


def test_a_worker_of_another_point(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """Who has the key of point a, and knows a task of point b, can neither answer it nor act for it."""
    mine = instance_of(desk, hand, alice)
    call = alice.sends("own", {}, instance=mine)
    ((task, order),) = hand.takes()
    rogue = Hand(desk, "a", "rogue")
    turn = {"out": [{"op": "reply", "request": call, "data": {"forged": True}}], "state": {"forged": True}}
    rogue.ends(task, turn)
    rogue.ends(task, error={"kind": "flow_failed", "message": "forged"})
    ask = {"op": "call", "k": 0, "mark": "m", "user": alice.user, "endpoint": "far", "data": {"forged": True}}
    rogue.says(
        held=[task["task"]],
        parked=[task["task"]],
        asks=[{"task": task["task"], **ask}],
        waits=[[task["task"], 0]],
        progress=[{"task": task["task"], "data": {"forged": True}}],
    )
    assert (alice.hears(call), alice.gets("far"), rogue.is_told()) == ([], [], [])
    assert desk.journal.records.of(int(task["task"].partition("-")[0])) == []
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]
    kept = desk.journal.instances.get(mine)
    assert kept is not None
    assert kept.state is None


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"seen": 10**9},
        {"bye": True},
        {"bye": True, "draining": True},
        {"held": ["TASK"]},
        {"held": ["TASK"], "parked": ["TASK"], "waits": [["TASK", 0]]},
        {"progress": [{"task": "TASK", "data": {"forged": True}}]},
    ],
)
def test_a_worker_that_takes_anothers_name(desk: Desk, alice: Neighbour, hand: Hand, frame: dict[str, Any]) -> None:
    """A worker of point a that calls itself like one of point b takes nothing from it, and breaks nothing."""
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    rogue = Hand(desk, "a", hand.name)
    rogue.says(**json.loads(json.dumps(frame).replace("TASK", task["task"])))
    desk.passes(LOST_FRAME_TIMEOUT_S / 2)
    assert alice.hears(call) == []
    hand.says(held=[task["task"]])
    assert hand.takes() == []
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]
    assert lives(desk, alice, hand)


def test_a_worker_that_answers_for_a_load_elsewhere(desk: Desk, hand: Hand) -> None:
    """What a flow of point b is, only a worker of point b says."""
    flow = desk.node.catalog.get("own")
    assert flow is not None
    outcomes: list[Outcome] = []
    desk.do(lambda: desk.node.loads.start(flow, outcomes.append))
    ((task, _),) = hand.takes()
    Hand(desk, "a", "rogue").ends(task, {"description": "forged"})
    assert outcomes == []
    hand.ends(task, {"description": "true"})
    assert outcomes == [Success({"description": "true"})]


def test_a_frame_with_the_key_of_another_point(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """A frame is read with the key of the point on whose topic it came, and no other."""
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    topic = topics.results(desk.user, "b")
    header = {"worker": hand.name, "boot": desk.node.boot, "n": 10**9, "seen": 0, "slots": 1, "held": [],
              "results": [{"task": task["task"], "error": None}], "draining": False, "bye": False}  # fmt: skip
    for key in (point_key(desk.identity, "a"), point_key(alice.me, "b"), bytes(32)):
        desk.arrives(topic, Channel(key).seal(topic, header, [b"{}"]))
    assert desk.journal.counters["refused.bad_frame"] == 3
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]


# Workers gone mad: whatever a frame says, the daemon lives, and what is not mad goes on.

TASK = "TASK"
"""Stands for the task that is leased."""
HUGE: list[Any] = [0, 1, -1, 9_999, 10_000, 2**31, 2**63, -(2**63), 10**30, 0.5, True, None, "1", "x", [], {}]
WILD = st.recursive(
    st.sampled_from([*HUGE, TASK, "reply", "call", "a" * 64, "0" * 32, "own", "\x1b[31m", "\x00", 1e300]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["task", "k", "data", "op"]), inner),
    max_leaves=6,
)
DATA = st.dictionaries(st.sampled_from(["text", "op", "instance", "endpoint", "", "\x00"]), WILD, max_size=3)
SENT = {
    "user": st.sampled_from(["a" * 64, "0" * 64, "USER", "me", 7]),
    "endpoint": st.sampled_from(["far", "own", "_instances", "_reply", "_notice", "_flows", "a/b", 7]),
    "data": DATA | WILD,
    "instance": st.sampled_from([None, "0" * 32, "x", 7]),
    "source": st.sampled_from(["", "\x1b[31m", "x" * 65, 7]),
    "timeout": st.sampled_from([None, 1, 0.001, -1, 1e300, "1", True]),
}
CALL = {"user": st.just("USER"), "endpoint": SENT["endpoint"], "data": DATA}
ASK = (
    st.fixed_dictionaries(
        {"task": st.just(TASK), "k": st.sampled_from(HUGE), "mark": st.just("m")},
        optional={"op": st.just("step"), "value": WILD},
    )
    | st.fixed_dictionaries(
        {"task": st.just(TASK), "k": st.sampled_from(HUGE), "op": st.just("cancel"), "call": st.sampled_from(HUGE)},
    )
    | st.fixed_dictionaries(
        {"task": st.just(TASK), "k": st.just(0), "op": st.just("call"), "mark": st.just("m"), **CALL},
    )
    | st.fixed_dictionaries(
        {"task": st.just(TASK) | WILD, "k": st.sampled_from(HUGE)},
        optional={
            "op": st.sampled_from(["call", "step", "cancel", "post", "reply", 7]),
            "mark": st.sampled_from(["m", "", "x" * 201, 7]),
            "value": WILD,
            "call": st.sampled_from(HUGE),
            **SENT,
        },
    )
)
NUMBERED = st.lists(st.tuples(st.just(TASK), st.sampled_from(HUGE)), max_size=3)
PROGRESS = st.lists(st.fixed_dictionaries({"task": st.just(TASK), "data": DATA | WILD}), max_size=3)
SLY = st.fixed_dictionaries(
    {"held": st.just([TASK])},
    optional={
        "asks": st.lists(ASK, max_size=3),
        "waits": NUMBERED,
        "progress": PROGRESS,
        "parked": st.just([TASK]),
        "seen": st.sampled_from(HUGE),
        "slots": st.sampled_from([1, 10**30]),
    },
)
"""Frames that are right on the outside."""
FRAME = st.fixed_dictionaries(
    {},
    optional={
        "worker": st.sampled_from(["w1", "w2", "", "a/b", 7]),
        "boot": st.sampled_from(HUGE),
        "seen": st.sampled_from(HUGE),
        "slots": st.sampled_from(HUGE),
        "pid": st.sampled_from(HUGE),
        "host": WILD,
        "bye": st.booleans() | WILD,
        "draining": st.booleans() | WILD,
        "held": st.just([TASK]) | WILD,
        "parked": st.just([TASK]) | WILD,
        "asks": st.lists(ASK, max_size=3) | WILD,
        "waits": NUMBERED | WILD,
        "progress": PROGRESS | WILD,
        "results": WILD,
    },
)
REPLY = st.fixed_dictionaries({"op": st.just("reply"), "request": st.just("REQUEST"), "data": DATA})
OUT = (
    REPLY
    | st.fixed_dictionaries(
        {"op": st.sampled_from(["post", "call_back"]), "subflow": st.just("far"), "packaged": st.just("0" * 32), **CALL}
    )
    | st.fixed_dictionaries(
        {"op": st.sampled_from(["post", "call_back", "reply", "call", 7])},
        optional={
            **SENT,
            "subflow": st.sampled_from(["far", "x" * 201, 7]),
            "packaged": st.sampled_from(["0" * 32, "", 7]),
            "request": st.sampled_from(["REQUEST", "0" * 32, "x", 7]),
            "error": WILD,
        },
    )
)
PART = st.fixed_dictionaries(
    {},
    optional={"user": SENT["user"], "endpoint": SENT["endpoint"], "instance": SENT["instance"], "shared": WILD},
)
TURN = st.fixed_dictionaries(
    {},
    optional={
        "out": st.lists(OUT, max_size=3) | WILD,
        "state": DATA | WILD,
        "mounted": st.fixed_dictionaries(
            {}, optional={"config": DATA | WILD, "subflows": st.dictionaries(st.text(max_size=2), PART) | WILD}
        )
        | WILD,
    },
)
MAD = settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def written(value: Any, **names: str) -> Any:
    """The value with its placeholders filled in."""
    text = json.dumps(value)
    for name, meaning in names.items():
        text = text.replace(f'"{name}"', json.dumps(meaning))
    return json.loads(text)


@MAD
@given(frame=SLY | FRAME)
def test_mad_frames(desk: Desk, alice: Neighbour, hand: Hand, frame: dict[str, Any]) -> None:
    """Whatever stands in a frame of the right key, the daemon takes it in or counts it, and honest calls go on."""
    hand.takes()
    call = alice.sends("own", {})
    hand.says()
    tasks = [(task, order) for task, order in hand.takes() if task["message"] == call]
    name = tasks[0][0]["task"] if tasks else "0-" + "0" * 32
    hand.says(**written(frame, TASK=name, USER=desk.user))
    desk.passes(3 * LOST_FRAME_TIMEOUT_S)
    fresh = Hand(desk, "b", f"honest{desk.random.randrange(10**9)}")
    for task, order in fresh.takes():
        fresh.answers(task, order, {})
    assert lives(desk, alice, fresh)
    fresh.says(bye=True, draining=True)
    assert desk.link.too_large == 0


@MAD
@given(turn=TURN | WILD)
def test_mad_turns(desk: Desk, alice: Neighbour, hand: Hand, turn: Any) -> None:
    """Whatever a worker says a run has left behind, the run ends, for its caller too, and the next one runs."""
    hand.takes()
    call = alice.sends("own", {})
    tasks = [(task, order) for task, order in hand.takes() if task["message"] == call]
    ((task, _),) = tasks
    hand.ends(task, written(turn, TASK=task["task"], USER=desk.user, REQUEST=call))
    row = desk.journal.incoming.find(alice.user, call)
    assert row is not None
    assert row.state in (IncomingState.DONE, IncomingState.FAILED, IncomingState.AWAITING_REPLY)
    assert (row.state == IncomingState.AWAITING_REPLY) == (alice.hears(call) == [])
    assert lives(desk, alice, hand)


@pytest.mark.parametrize(
    "error",
    [
        {"kind": "flow_failed", "message": "x" * 900_000, "hint": "語" * 10_000},
        {"kind": "usage", "message": "x"},
        {"kind": ["x"], "message": {"a": 1}, "hint": None},
        {},
        [],
        "x",
        7,
    ],
)
def test_mad_errors(desk: Desk, alice: Neighbour, hand: Hand, error: Any) -> None:
    """Whatever a worker calls an error, its caller gets one."""
    call = alice.sends("own", {})
    ((task, _),) = hand.takes()
    hand.ends(task, error=error)
    assert "message" in alice.hears(call)[0]
    assert lives(desk, alice, hand)


@pytest.mark.parametrize(
    "data", [[[1, 2]], {"text": "x" * 20_000}, {"number": 1e308 * 10}, {"text": "語" * 8_000}, "ab", None, 7]
)
def test_mad_progress(desk: Desk, alice: Neighbour, hand: Hand, data: Any) -> None:
    """What cannot be told before the answer, or is too long for it, is not told; the answer is."""
    call = alice.sends("own", {})
    ((task, order),) = hand.takes()
    hand.says(held=[task["task"]], progress=[{"task": task["task"], "data": data}])
    hand.answers(task, order, SECRET)
    assert alice.hears(call) == [SECRET]
    notices = desk.link.sent.get(topics.inbox(alice.user, topics.NOTICE), [])
    told = [Notice.model_validate_json(body) for notice in notices for body in alice.envelope.open(notice).bodies]
    assert all(notice.progress == [] for notice in told)


def test_progress_of_a_neighbour(desk: Desk, mallory: Neighbour) -> None:
    """What the one who was asked tells is passed on, but nothing that is too long or no JSON."""
    heard: list[dict[str, Any]] = []
    sent = desk.do(lambda: desk.node.messages.send(Type.CALL, mallory.user, "x", {}, life_ms=HOUR_MS))
    desk.do(lambda: desk.node.waiters.expect(sent, lambda _state, _answer: None, heard.append))
    for data in ('{"delta": "a"}', '{"n": 1e999}', '{"n": NaN}', json.dumps({"text": "x" * 500_000}), "[1]"):
        body = f'{{"to": "{desk.user}", "progress": [["{sent}", {data}]]}}'
        mallory.publishes(topics.NOTICE, body.encode(), kind=BundleKind.NOTICE)
    assert heard == [{"delta": "a"}]


def test_what_waits_outlives_a_restart(desk: Desk, alice: Neighbour, mallory: Neighbour, hand: Hand) -> None:
    """Nothing that a neighbour sent makes the daemon fail when it begins again."""
    instance_of(desk, hand, mallory)
    call = alice.sends("own", {})
    mallory.mounts("own", path=[])
    mallory.mounts("own", path=[[mallory.user, "own"]])
    mallory.mounts("own", config_overrides={"__class__": {"": [None]}})
    for name in ("own", "shared", "function", "User"):
        mallory.sends(name, {"text": "x", "data": {}}, instance=None, source="\x1b[31m", conversation="0" * 32)
    desk.restart()
    desk.passes(5.0)
    fresh = Hand(desk, "b", "w2")
    for _ in range(4):
        for task, order in fresh.takes():
            fresh.answers(task, order, SECRET if task["message"] == call else {})
        fresh.says()
    assert alice.hears(call) == [SECRET]
    assert lives(desk, alice, fresh)


def test_a_post_whose_answers_all_fail_is_told_once(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """Two answers wait to run a flow again when its instance is deleted: its sender gets one error for the one post."""
    instance = instance_of(desk, hand, alice, calls=[(alice, "x")])
    post = alice.sends("own", {}, type="post", instance=instance)
    ((task, _),) = hand.takes()
    asks: list[dict[str, Any]] = [
        {"op": "call_back", "user": alice.user, "endpoint": "x", "data": {}, "subflow": key, "packaged": key}
        for key in ("one", "two")
    ]
    hand.ends(task, {"out": asks, "state": {}})
    for asked in alice.gets("x"):
        alice.sends(topics.REPLY, {"said": "yes"}, type="reply", cause=asked["id"], epoch=0, seq=0)
    assert len(desk.journal.incoming.open_of(instance)) == 2
    desk.do(lambda: desk.node.changes.delete(instance, recursive=True))
    desk.passes(1.0)
    assert alice.hears_error(post) == "flow_failed"


def test_a_call_that_its_owner_withdraws_is_told_after_the_commit(
    desk: Desk, alice: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a run that begins again after a crash could get another answer to the same call."""
    instance = instance_of(desk, hand, alice, calls=[(alice, "x")])
    alice.sends("own", {}, instance=instance)
    ((task, _),) = hand.takes()
    call = {"k": 0, "op": "call", "mark": "m", "user": alice.user, "endpoint": "x", "data": {}}
    hand.says(asks=[{"task": task["task"], **call}], held=[task["task"]])
    (asked,) = alice.gets("x")
    uncommitted: list[bool] = []
    publish = desk.link.publish

    def watched(topic: str, payload: bytes, **more: Any) -> bool:
        if "/dispatch/" in topic:
            uncommitted.append(desk.journal._db.in_transaction)
        return publish(topic, payload, **more)

    monkeypatch.setattr(desk.link, "publish", watched)
    desk.do(lambda: desk.node.messages.cancel(asked["id"]))
    assert [answer["error"]["kind"] for answer in hand.is_told() if "error" in answer] == ["cancelled"]
    assert uncommitted == [False]


# A worker that wants more than its point is for.

UNDECLARED = [("me", "secret"), ("me", "User"), ("alice", "User"), ("alice", "far")]


@pytest.mark.parametrize(("whose", "endpoint"), UNDECLARED)
@pytest.mark.parametrize("how", ["call", "post", "call_back"])
def test_a_worker_calls_only_what_its_flow_declares(  # noqa: PLR0917 - fixtures and cases
    desk: Desk, alice: Neighbour, hand: Hand, whose: str, endpoint: str, how: str
) -> None:
    """It reaches neither what is served to the owner alone, nor a human, nor another endpoint, in the owner's name."""
    desk.serves("secret", "c", allow="me")
    instance = instance_of(desk, hand, alice, calls=[(alice, "declared")])
    request = alice.sends("own", {}, instance=instance)
    ((task, _),) = hand.takes()
    whom = {"user": desk.user if whose == "me" else alice.user, "endpoint": endpoint, "data": {"text": "your PIN?"}}
    if how == "call":
        hand.says(held=[task["task"]], asks=[{"task": task["task"], "op": "call", "k": 0, "mark": "m", **whom}])
        assert [answer["error"]["kind"] for answer in hand.is_told()] == ["not_allowed"]
    else:
        more = {"subflow": "x", "packaged": "x"} if how == "call_back" else {}
        hand.ends(task, {"out": [{"op": how, **whom, **more}], "state": {}})
        assert alice.hears_error(request) == "not_allowed"
    assert alice.gets(endpoint) == []
    assert [row for row in desk.journal.outgoing.pending() if row.endpoint == endpoint] == []
    assert desk.journal.prompts.open() == []


def test_a_worker_of_a_function_calls_nobody(desk: Desk, alice: Neighbour) -> None:
    """Functions and commands have no subflows."""
    worker = Hand(desk, "a", "w9")
    alice.sends("function", {})
    ((task, _),) = worker.takes()
    ask = {"op": "call", "k": 0, "mark": "m", "user": alice.user, "endpoint": "far", "data": {}}
    worker.says(held=[task["task"]], asks=[{"task": task["task"], **ask}])
    assert [answer["error"]["kind"] for answer in worker.is_told()] == ["not_allowed"]
    assert alice.gets("far") == []


@pytest.mark.parametrize(
    ("endpoint", "overrides", "kind", "trusted"),
    [
        ("part", {"tone": "dry"}, None, True),
        ("part", {"program": "sh"}, None, False),
        ("part", {}, None, False),
        ("other", {}, "not_allowed", None),
    ],
)
def test_a_worker_s_mount_has_the_owner_s_rights_only_as_declared(  # noqa: PLR0917 - fixtures and cases
    desk: Desk, alice: Neighbour, hand: Hand, endpoint: str, overrides: dict[str, Any], kind: str | None,
    trusted: bool | None,
) -> None:  # fmt: skip
    """What a run mounts is not trusted, unless it is just what the flow declares."""
    desk.serves("part", "c")
    desk.serves("other", "c")
    desk.serves("tree", subflows={"one": {"flow_endpoint": "part", "tone": "dry"}})
    worker = Hand(desk, "c", "w9")
    alice.mounts("tree")
    ((task, _),) = hand.takes()
    order = {"op": "mount", "endpoint": endpoint, "config_overrides": overrides, "path": []}
    ask = {"op": "call", "k": 0, "mark": "m", "user": desk.user, "endpoint": topics.INSTANCES, "data": order}
    hand.says(held=[task["task"]], asks=[{"task": task["task"], **ask}])
    told = [answer["error"]["kind"] for answer in hand.is_told() if "error" in answer]
    assert told == ([] if kind is None else [kind])
    own = topics.inbox(desk.user, topics.INSTANCES)
    for bundle in desk.link.sent.get(own, []):
        desk.arrives(own, bundle)
    assert [mount["mount"]["trusted"] for _, mount in worker.takes()] == ([] if trusted is None else [trusted])


def test_a_worker_does_not_invent_subflows(desk: Desk, alice: Neighbour, hand: Hand) -> None:
    """An instance has the subflows that its flow declares, whatever its worker says that it has mounted."""
    desk.serves("secret", "c", allow="me")
    desk.serves("tree", subflows={"one": {"flow_endpoint": "part"}})
    request = alice.mounts("tree")
    ((task, _),) = hand.takes()
    parts = {"one": {"user": desk.user, "endpoint": "secret", "instance": None, "shared": True}}
    hand.ends(task, {"out": [], "mounted": {"config": {}, "subflows": parts}})
    assert alice.hears_error(request) == "not_allowed"
    assert desk.journal.instances.of("tree") == []


def test_questions_show_the_flow_and_the_point_that_ask(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """A worker that asks in its owner's name, under any label, is shown as the flow and the dispatch point it is."""
    desk.serves(
        "own", subflows={"human": {"flow_endpoint": "User"}, "far": {"user_id": alice.user, "flow_endpoint": "User"}}
    )
    hand = Hand(desk, "b", "w1")
    mallory.sends("own", {})
    ((task, _),) = hand.takes()
    ask = {"op": "call", "mark": "m", "endpoint": "User", "data": {"text": "Type your PIN"}, "source": "in person"}
    asks = [{"task": task["task"], "k": k, "user": user, **ask} for k, user in enumerate((desk.user, alice.user))]
    hand.says(held=[task["task"]], asks=asks)
    desk.passes(1)
    ((topic, packets),) = [
        (topic, packets) for topic, packets in desk.link.sent.items() if topic == topics.inbox(desk.user, "User")
    ]
    for packet in list(packets):
        desk.arrives(topic, packet)
    (prompt,) = desk.do(desk.journal.prompts.all)
    assert (prompt.label, prompt.flow) == ("in person", "own@b")
    shown = views.prompt(desk.node, prompt)
    assert (shown["name"], shown["flow"], shown["dispatch_point"]) == ("me", "own", "b")
    (asked,) = alice.gets("User")
    assert asked["flow"] == "own@b"
    desk.do(lambda: desk.node.messages.send(Type.CALL, alice.user, "User", {"text": "I ask"}, life_ms=HOUR_MS))
    assert "flow" not in alice.gets("User")[-1]
