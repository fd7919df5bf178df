"""Admission: what each sender is shown, may mount and reset, and what becomes of requests that come too late."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.settings.limits import Limits
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running import serving


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, which serves one flow for each kind of caller, and classes at point b."""
    desk = Desk(tmp_path)
    desk.serves("open", "a", kind="python", allow="anyone")
    desk.serves("team", "a", kind="python", allow="contacts")
    desk.serves("mine", "a", kind="python", allow="me")
    desk.serves("User", "", kind="human")
    desk.serves("own")
    desk.serves("shared", singleton=True)
    desk.serves("stateless", parallel=True)
    yield desk
    desk.journal.close()


@pytest.fixture
def ann(desk: Desk) -> Neighbour:
    """A contact."""
    return Neighbour(desk, 8, "ann")


@pytest.fixture
def stranger(desk: Desk) -> Neighbour:
    """No contact."""
    return Neighbour(desk, 9)


@pytest.fixture
def bob(desk: Desk) -> Neighbour:
    """Bob, who calls his own flows."""
    bob = Neighbour(desk, 7)
    bob.me, bob.user, bob.envelope = desk.identity, desk.user, Envelope(desk.identity)
    return bob


@pytest.fixture
def one_place(desk: Desk) -> None:
    """Of each stranger, no more than one request is held."""
    desk.limits = Limits(requests_per_stranger=1)
    desk.restart()


def shown(who: Neighbour, endpoint: Any = None) -> dict[str, Any]:
    """Return what the daemon says of its flows, or of one of them."""
    data = {} if endpoint is None else {"endpoint": endpoint}
    (answer,) = who.hears(who.sends(topics.FLOWS, data))
    return answer


def facts(who: Neighbour, endpoint: str) -> tuple[bool, bool, bool]:
    """Return whether an endpoint is served, may be called, and has workers, as somebody is told."""
    answer = shown(who, endpoint)
    return answer["served"], answer["allowed"], answer["workers"]


# What others are shown.


def test_each_sender_sees_what_they_may_call(ann: Neighbour, stranger: Neighbour) -> None:
    """A contact and a stranger get different lists; what names no endpoint asks for all."""
    assert [flow["endpoint"] for flow in shown(ann)["flows"]] == ["User", "open", "own", "shared", "stateless", "team"]
    assert [flow["endpoint"] for flow in shown(stranger)["flows"]] == ["open"]
    assert shown(ann, 5) == shown(ann)


def test_a_contact_learns_what_is_served_and_a_stranger_does_not(ann: Neighbour, stranger: Neighbour) -> None:
    """A contact is told of an endpoint that they may not call; for a stranger it is as if nothing were there."""
    assert facts(ann, "team") == (True, True, False)
    assert facts(ann, "mine") == (True, False, False)
    assert facts(ann, "nothing") == (False, False, False)
    assert facts(stranger, "mine") == facts(stranger, "team") == facts(stranger, "nothing") == (False, False, False)
    assert facts(stranger, "open") == (True, True, False)


def test_what_may_not_be_called_is_not_described(ann: Neighbour, stranger: Neighbour) -> None:
    """Kind, description and schema of a flow are for those who may call it."""
    assert "kind" not in shown(ann, "mine")
    assert "kind" not in shown(stranger, "team")
    assert shown(ann, "team")["kind"] == "python"


def test_workers_are_told_of(desk: Desk, ann: Neighbour) -> None:
    """A flow has workers if its dispatch point has; a human needs none."""
    assert facts(ann, "User") == (True, True, True)
    Hand(desk, "a", "w")
    assert facts(ann, "team") == (True, True, True)
    assert facts(ann, "own") == (True, True, False)


def test_the_hint_fits_who_called(ann: Neighbour, bob: Neighbour) -> None:
    """One's own user looks at their own flows, and a contact at those of the other."""
    for who, command in ((bob, "p2pflows ls"), (ann, "p2pflows ls CONTACT")):
        (error,) = who.hears(who.sends("nothing", {}))
        assert error["kind"] == "not_served"
        assert error["hint"].endswith(command)


# Mounting.


def test_what_is_no_flow_is_not_mounted(desk: Desk, ann: Neighbour, stranger: Neighbour) -> None:
    """A mount of an endpoint of the daemon itself is refused at once, whoever asks, and waits for no deadline."""
    for who in (ann, stranger):
        for endpoint in (topics.FLOWS, topics.INVITE):
            assert who.hears_error(who.mounts(endpoint)) == "not_served"
    assert desk.journal.incoming.in_state(IncomingState.READY) == []


def test_what_has_no_state_takes_no_config(ann: Neighbour) -> None:
    """A mount of a function says that it has no instance, and refuses settings that it could not keep."""
    (answer,) = ann.hears(ann.mounts("team"))
    assert answer == {"instance": None, "endpoint": "team", "kind": "python", "shared": True}
    assert ann.hears_error(ann.mounts("team", config_overrides={"n": 1})) == "bad_input"


def test_only_the_owner_says_how_a_shared_instance_begins(desk: Desk, ann: Neighbour, bob: Neighbour) -> None:
    """The owner may mount a singleton with a config of their own; others may only ask for it as it is."""
    hand = Hand(desk, "b", "w")
    assert ann.hears_error(ann.mounts("shared", config_overrides={"n": 1})) == "not_allowed"
    bob.mounts("shared", config_overrides={"n": 1})
    ((_, order),) = hand.takes()
    assert order["mount"]["overrides"] == {"n": 1}


def test_only_the_owner_says_where_an_instance_runs(desk: Desk, ann: Neighbour, bob: Neighbour) -> None:
    """A dispatch point in a mount request of somebody else is refused."""
    there = Hand(desk, "c", "w")
    assert ann.hears_error(ann.mounts("own", dispatch_point="c")) == "not_allowed"
    bob.mounts("own", dispatch_point="c")
    assert len(there.takes()) == 1


def mounted(desk: Desk, who: Neighbour, hand: Hand, endpoint: str, **turn: Any) -> str:
    """Mount an instance; return its id."""
    del desk
    request = who.mounts(endpoint)
    ((task, order),) = hand.takes()
    hand.answers(task, order, {}, **turn)
    (answer,) = who.hears(request)
    return str(answer["instance"])


def test_a_shared_instance_that_exists_keeps_its_settings(desk: Desk, bob: Neighbour, ann: Neighbour) -> None:
    """Its owner gets it again as it is; a config, point or state that differs has no effect, and is refused."""
    hand = Hand(desk, "b", "w")
    instance = mounted(desk, bob, hand, "shared", mounted={"config": {"n": 1}})
    same: dict[str, Any]
    for same in ({}, {"config_overrides": {"n": 1}}, {"initial_state": {}}):
        assert bob.hears(bob.mounts("shared", **same))[0].get("instance") == instance
    for other in ({"config_overrides": {"n": 2}}, {"dispatch_point": "c"}, {"initial_state": {"k": 1}}):
        (error,) = bob.hears(bob.mounts("shared", **other))
        assert error["kind"] == "bad_input"
        assert instance in error["hint"]
    assert ann.hears(ann.mounts("shared"))[0]["instance"] == instance
    assert hand.takes() == []


def test_a_shared_instance_stays_where_it_was_put(desk: Desk, bob: Neighbour, ann: Neighbour) -> None:
    """Whoever names no dispatch point gets the shared instance wherever it runs."""
    there = Hand(desk, "c", "w")
    wish: dict[str, Any] = {"dispatch_point": "c", "initial_state": {"k": 1}}
    request = bob.mounts("shared", **wish)
    ((task, order),) = there.takes()
    there.answers(task, order, {})
    (answer,) = bob.hears(request)
    assert bob.hears(bob.mounts("shared", **wish))[0].get("instance") == answer["instance"]
    assert bob.hears_error(bob.mounts("shared", initial_state={"k": 2})) == "bad_input"
    for who in (bob, ann):
        assert who.hears(who.mounts("shared"))[0].get("instance") == answer["instance"]


def test_a_shared_instance_is_not_mounted_below_itself(desk: Desk, bob: Neighbour, ann: Neighbour) -> None:
    """A flow above that is also below an instance that exists would make a circle."""
    part = {"user": ann.user, "endpoint": "x", "instance": None, "shared": True}
    desk.serves("tree", singleton=True, subflows={"part": {"user_id": ann.user, "flow_endpoint": "x"}})
    mounted(desk, bob, Hand(desk, "b", "w"), "tree", mounted={"subflows": {"part": part}})
    assert ann.hears(ann.mounts("tree", path=[[ann.user, "y"]]))[0]["shared"] is True
    assert ann.hears_error(ann.mounts("tree", path=[[ann.user, "x"]])) == "bad_input"


def test_a_question_without_a_text_is_refused(desk: Desk, ann: Neighbour) -> None:
    """The human is asked nothing that they cannot read, and the asker is told."""
    assert ann.hears_error(ann.sends("User", {"n": 1})) == "bad_input"
    assert desk.journal.prompts.all() == []


def test_a_flow_without_state_runs_as_it_is(desk: Desk, ann: Neighbour) -> None:
    """A call of a function goes to a worker, and one that names an instance of it is refused."""
    hand = Hand(desk, "a", "w")
    assert ann.hears_error(ann.sends("team", {}, instance="0" * 32)) == "not_allowed"
    request = ann.sends("team", {"n": 1})
    ((task, order),) = hand.takes()
    assert (task["message"], order) == (request, {"n": 1})


def test_a_flow_that_is_served_no_more_gets_no_new_instance(desk: Desk, ann: Neighbour) -> None:
    """Instances that exist go on after `unserve`; further ones are not made."""
    hand = Hand(desk, "b", "w")
    mounted(desk, ann, hand, "own")
    desk.do(lambda: desk.node.serving.unserve("own"))
    assert ann.hears_error(ann.mounts("own")) == "not_served"
    assert hand.takes() == []


def test_a_withdrawn_mount_of_a_shared_instance_leaves_it(desk: Desk, ann: Neighbour) -> None:
    """Withdrawing an answered mount deletes the instance if it is the sender's alone."""
    hand = Hand(desk, "b", "w")
    for endpoint, stays in (("own", False), ("shared", True)):
        request = ann.mounts(endpoint)
        ((task, order),) = hand.takes()
        hand.answers(task, order, {})
        (answer,) = ann.hears(request)
        ann.sends(topics.INSTANCES, {}, type="cancel", cause=request)
        assert (desk.journal.instances.get(answer["instance"]) is not None) is stays


# Resetting.


def test_a_reset_waits_for_what_came_before(desk: Desk, ann: Neighbour) -> None:
    """A reset takes effect after the messages that were sent before it; with none, at once."""
    hand = Hand(desk, "b", "w")
    instance = mounted(desk, ann, hand, "own")
    reset = {"op": "reset", "instance": instance}
    assert ann.hears(ann.sends(topics.INSTANCES, reset)) == [{"instance": instance}]
    ann.sends("own", {"n": 1}, instance=instance)
    request = ann.sends(topics.INSTANCES, reset)
    assert ann.hears(request) == []
    ((task, order),) = hand.takes()
    hand.answers(task, order, {})
    assert ann.hears(request) == []
    ((task, _),) = hand.takes()
    hand.ends(task, {"out": []})
    assert ann.hears(request) == [{"instance": instance}]


def test_a_reset_of_what_has_no_state_of_its_own_is_immediate(desk: Desk, ann: Neighbour) -> None:
    """A class whose runs share no state is not waited for."""
    hand = Hand(desk, "b", "w")
    instance = mounted(desk, ann, hand, "stateless")
    ann.sends("stateless", {"n": 1}, instance=instance)
    request = ann.sends(topics.INSTANCES, {"op": "reset", "instance": instance})
    assert ann.hears(request) == [{"instance": instance}]


# Strangers, and requests that have waited.


@pytest.mark.usefixtures("one_place")
@pytest.mark.parametrize(
    "wish",
    [
        {"op": "list"},
        {"op": "list", "endpoint": "own"},
        {"op": "mount"},
        {"op": "mount", "endpoint": ["own"]},
        {"op": "reset"},
    ],
)
def test_a_request_that_is_answered_at_once_takes_no_place(
    desk: Desk, stranger: Neighbour, wish: dict[str, Any]
) -> None:
    """A stranger for whom no more is held still gets answers to what nobody has to decide."""
    stranger.sends("team", {})
    assert desk.journal.incoming.count_held() == 1
    assert len(stranger.hears(stranger.sends(topics.INSTANCES, wish))) == 1
    open_call = stranger.sends("open", {})
    stranger.sends("open", {}, type="cancel", cause=open_call)
    row = desk.journal.incoming.find(stranger.user, open_call)
    assert row is not None
    assert row.state == IncomingState.FAILED


@pytest.mark.usefixtures("one_place")
def test_a_mount_that_needs_a_decision_takes_a_place(desk: Desk, stranger: Neighbour) -> None:
    """A mount is held like a call of its endpoint, and refused when there is no room for it."""
    stranger.mounts("own")
    assert desk.journal.incoming.count_held() == 1
    stranger.mounts("own")
    assert desk.journal.incoming.count_held() == 1
    assert desk.journal.counters["refused.requests_full"] == 1


@pytest.mark.usefixtures("one_place")
def test_a_cancel_of_a_stranger_is_never_held(desk: Desk, stranger: Neighbour) -> None:
    """A stranger can withdraw what is held for them, though there is no room for more."""
    held = stranger.sends("team", {})
    stranger.sends("team", {}, type="cancel", cause=held)
    assert desk.journal.incoming.count_held() == 0


def test_a_held_request_whose_time_is_over_is_not_asked(desk: Desk, stranger: Neighbour) -> None:
    """Letting somebody in runs nothing whose deadline has passed in the same moment."""
    stranger.sends("User", {"text": "Are you there?"}, expires=desk.clock.now() + 1_000)
    desk.timeline.sleep(2)
    desk.do(lambda: desk.node.admission.allow(stranger.user, "carol"))
    assert desk.journal.prompts.all() == []


# What is served no more.


def test_many_requests_for_what_is_unserved_end_in_slices(desk: Desk, ann: Neighbour) -> None:
    """Each batch ends some of them, none of the others starts meanwhile, and in the end all have failed."""
    desk.serves("echo", kind="python")
    sent = [ann.sends("echo", {"n": n}) for n in range(serving.MAX_ENDED + 50)]
    desk.do(lambda: desk.node.serving.unserve("echo"))
    assert len(desk.journal.incoming.in_state(IncomingState.READY)) == 50
    assert desk.has_work
    hand = Hand(desk, "b", "w")
    assert hand.takes() == []
    desk.sleep(0.1)
    assert {ann.hears_error(request) for request in sent} == {"not_served"}
    assert desk.journal.incoming.in_state(IncomingState.READY) == []
