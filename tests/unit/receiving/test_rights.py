"""Rights end when they are taken, also for what waits already: attacks of a contact who was removed or denied."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour, control_of

from p2pflows import files
from p2pflows.errors import JournalFailed, P2pflowsError, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Envelope
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.methods import METHODS
from p2pflowsd.human.inbox import Typed
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState, PromptState
from p2pflowsd.receiving import rights
from p2pflowsd.running.catalog import Served, check_allow, strangers_in


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon: a class and a singleton at point b, a function at point a, and his human."""
    desk = Desk(tmp_path)
    desk.serves("shared", singleton=True)
    desk.serves("own")
    desk.serves("function", "a", kind="python")
    desk.serves("User", "", kind="human")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact who stays one."""
    return Neighbour(desk, 8, "alice")


@pytest.fixture
def mallory(desk: Desk, alice: Neighbour) -> Neighbour:
    """A contact who will not stay one."""
    del alice
    return Neighbour(desk, 9, "mallory")


def states_of(desk: Desk, who: Neighbour) -> set[str]:
    """The states of the open requests of somebody."""
    incoming = desk.journal.incoming
    return {row.state for state in OPEN_INCOMING for row in incoming.in_state(state) if row.peer == who.user}


def remove(desk: Desk, who: Neighbour) -> None:
    """Remove a contact, as the command does while the daemon runs."""
    desk.contacts.remove(who.user)


def block(desk: Desk, who: Neighbour) -> None:
    """Block a contact, as somebody does who edits the file."""
    desk.contacts.block(who.user)


def remove_and_deny(desk: Desk, who: Neighbour) -> None:
    """Remove a contact, and deny them."""
    desk.contacts.remove(who.user)
    desk.do(lambda: desk.node.admission.deny(who.user))


def asks(desk: Desk, whom: Neighbour) -> dict[str, Any]:
    """Let the class ask somebody; return what a worker says that it has mounted."""
    desk.serves("own", subflows={"x": {"user_id": whom.user, "flow_endpoint": "x"}})
    return {"config": {}, "subflows": {"x": {"user": whom.user, "endpoint": "x", "instance": None, "shared": True}}}


@pytest.mark.parametrize("take", [remove, block, remove_and_deny])
def test_a_removed_contact_leaves_nothing_behind(
    desk: Desk, alice: Neighbour, mallory: Neighbour, take: Callable[[Desk, Neighbour], None]
) -> None:
    """In every state: queued, leased, awaiting a reply, waiting for a turn, asked, and blocked behind a gap."""
    instance = asks(desk, alice)
    here, there = Hand(desk, "b", "w1"), Hand(desk, "a", "w2")
    kept = mallory.sends("own", {})
    ((task, _),) = here.takes()
    ask = {"op": "call_back", "user": alice.user, "endpoint": "x", "data": {}, "subflow": "x", "packaged": "x"}
    here.ends(task, {"out": [ask], "state": {"n": 1}, "mounted": instance})
    behind = mallory.sends("own", {}, conversation=kept)  # waits for its turn
    leased = mallory.sends("function", {})
    queued = [mallory.sends("function", {"number": number}) for number in range(6)]
    asked = [mallory.sends("User", {"text": "May I?"}), mallory.sends("User", {"text": "Note."}, type="post")]
    gapped = mallory.sends("function", {}, seq=50)
    mounted = mallory.mounts("own")
    honest = [alice.sends("function", {}), alice.sends("User", {"text": "Hello?"})]
    held = [task for task, _ in there.takes()]
    assert leased in {task["message"] for task in held}
    assert states_of(desk, mallory) == {"ready", "kept", "asked", "blocked"}
    take(desk, mallory)
    desk.passes(0.6)
    assert states_of(desk, mallory) == set()
    assert (desk.node.blocked.count(), desk.node.blocked.counts()) == (0, {})
    assert shown(desk) == [honest[1]]
    there.says()
    assert {task["message"] for task in held if task["message"] != honest[0]} <= set(told_to_stop(there))
    for request in [kept, behind, leased, *queued, *asked, gapped, mounted]:
        assert mallory.hears_error(request) == "not_allowed"
    for task in held:  # a late result has no effect
        if task["message"] != honest[0]:
            there.ends(task, {"done": True})
    assert mallory.hears_error(leased) == "not_allowed"
    there.says(slots=16)
    ran = {task["message"] for task, _ in there.takes()}
    assert not ran & {leased, *queued, gapped}
    assert states_of(desk, alice) == {"ready", "asked"}


def shown(desk: Desk) -> list[str]:
    """The ids of the questions that the human sees."""
    return [prompt.id for prompt in desk.journal.prompts.open() if desk.node.rights.shows(prompt)]


def told_to_stop(hand: Hand) -> list[str]:
    """The messages whose tasks a worker was told to cancel."""
    frames = hand.frames()
    cancelled = {task for frame in frames for task in frame["cancel"]}
    return [task["message"] for frame in frames for task in frame["tasks"] if task["task"] in cancelled]


def test_nothing_starts_before_the_review_is_through(
    desk: Desk, mallory: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that is about to run is checked then, however much of its sender waits to be reviewed."""
    monkeypatch.setattr(rights, "MAX_REVIEWED", 0)
    for number in range(5):
        mallory.sends("function", {"number": number})
    mallory.sends("User", {"text": "May I?"})
    remove(desk, mallory)
    hand = Hand(desk, "a", "w2")
    desk.passes(0.6)
    assert hand.takes() == []
    assert shown(desk) == []
    assert desk.node.next_wake() <= desk.clock.elapsed()


def test_a_removed_contact_has_nothing_left_after_a_restart(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """A contact who was removed while the daemon was down; requests of strangers go on waiting for a decision."""
    theirs = [mallory.sends("function", {}), mallory.sends("User", {"text": "May I?"})]
    mine = alice.sends("function", {})
    stranger = Neighbour(desk, 10)
    held, gapped = stranger.sends("function", {}), stranger.sends("function", {}, seq=7)
    desk.journal.close()
    remove(desk, mallory)
    desk.start()
    desk.passes(0.6)
    desk.passes(0.6)
    assert [mallory.hears_error(request) for request in theirs] == ["not_allowed", "not_allowed"]
    assert states_of(desk, stranger) == {"held", "blocked"}
    assert stranger.hears(held) == stranger.hears(gapped) == []
    hand = Hand(desk, "a", "w2")
    desk.passes(3)
    hand.says()
    assert [task["message"] for task, _ in hand.takes()] == [mine]


def test_a_review_takes_many_batches_and_reads_nothing_of_others(
    desk: Desk, alice: Neighbour, mallory: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits of others is not read; what waits of the removed contact is ended a slice at a time."""
    monkeypatch.setattr(rights, "MAX_REVIEWED", 10)
    for _ in range(25):
        mallory.sends("function", {})
        alice.sends("function", {})
    looked: list[int] = []
    get = desk.journal.incoming.get

    def counted(row_id: int) -> Any:
        looked.append(row_id)
        return get(row_id)

    monkeypatch.setattr(desk.journal.incoming, "get", counted)
    remove(desk, mallory)
    left = []
    for _ in range(5):
        desk.node.process_batch([])
        left.append(len(desk.journal.incoming.open_of_peer(mallory.user)))
    assert left[-1] == 0
    assert sorted(left, reverse=True) == left
    assert left[0] > 0
    assert len(set(looked)) == len(looked) == 25
    assert len(desk.journal.incoming.open_of_peer(alice.user)) == 25


@pytest.mark.parametrize("rule", ["me", "alice"])
def test_a_narrower_rule_holds_for_what_waits(desk: Desk, alice: Neighbour, mallory: Neighbour, rule: str) -> None:
    """Serving a flow again for fewer users ends what the others had queued or asked."""
    requests = [mallory.sends("function", {}), mallory.sends("User", {"text": "May I?"})]
    for endpoint in ("function", "User"):
        alice.sends(endpoint, {"text": "Hello?"})
    book = desk.contacts.book()
    allow = check_allow(rule, book, desk.user) if rule != "me" else rule
    for endpoint, kind in (("function", "python"), ("User", "human")):
        desk.serves(
            endpoint, "a" if kind == "python" else "", kind=kind, allow=allow, strangers=strangers_in(allow, book)
        )
    desk.do(desk.node.rights.review_all)
    desk.passes(0.6)
    assert [mallory.hears_error(request) for request in requests] == ["not_allowed", "not_allowed"]
    assert states_of(desk, alice) == ({"ready", "asked"} if rule == "alice" else set())


def test_a_petname_that_changes_hands_carries_no_right(desk: Desk, mallory: Neighbour) -> None:
    """A rule names the user, not the petname: whoever is called so next may not call."""
    book = desk.contacts.book()
    allow = check_allow("mallory", book, desk.user)
    desk.serves("function", "a", kind="python", allow=allow, strangers=strangers_in(allow, book))
    remove(desk, mallory)
    heir = Neighbour(desk, 11, "mallory")
    assert heir.hears_error(heir.sends("function", {})) == "not_allowed"
    mallory.sends("function", {})
    assert states_of(desk, mallory) == {"held"}
    desk.contacts.remove("mallory")
    desk.contacts.add("old-mallory", mallory.user)
    desk.passes(0.6)
    assert states_of(desk, mallory) == {"ready"}


def test_a_journal_with_petnames_keeps_the_rights_of_their_users(desk: Desk, alice: Neighbour) -> None:
    """At start, names are replaced by the ids of these contacts; a name of nobody is dropped for good."""
    stranger = Neighbour(desk, 10)
    old = {"endpoint": "old", "kind": "python", "target": "x:x", "dispatch_point": "a"}
    with desk.journal.transaction():
        for endpoint, allow in (
            ("old", f"alice,nobody,{stranger.user}"),
            ("none", "nobody"),
            ("all", "contacts"),
        ):
            desk.journal.served.set(endpoint, json.dumps({**old, "endpoint": endpoint, "allow": allow}))
    desk.restart()
    heir = Neighbour(desk, 11, "nobody")
    desk.restart()
    found = {flow.endpoint: flow for flow in desk.node.catalog.all()}
    assert found["old"].allow == f"{alice.user},{stranger.user}"
    assert found["none"].allow == "me"
    assert found["all"].allow == "contacts"
    assert found["old"].as_json(desk.node.name_of, desk.user)["allow"] == f"alice,{stranger.user}"
    assert heir.hears_error(heir.sends("old", {})) == "not_allowed"
    assert heir.hears_error(heir.sends("none", {})) == "not_allowed"
    for who in (alice, stranger):
        who.sends("old", {})
        assert states_of(desk, who) == {"ready"}


def test_a_stranger_whom_a_rule_names_loses_the_right_as_a_removed_contact(desk: Desk) -> None:
    """A rule may name a stranger by id; once they are a contact, removing them ends the right."""
    carol = Neighbour(desk, 12)
    book = desk.contacts.book()
    allow = check_allow(carol.user, book, desk.user)
    desk.serves("function", "a", kind="python", allow=allow, strangers=strangers_in(allow, book))
    carol.sends("function", {})
    assert states_of(desk, carol) == {"ready"}
    desk.contacts.add("carol", carol.user)
    desk.passes(0.6)
    desk.contacts.remove("carol")
    desk.passes(0.6)
    assert states_of(desk, carol) == set()
    carol.sends("function", {})
    assert states_of(desk, carol) == {"held"}


def test_questions_outlive_what_was_served(
    desk: Desk, alice: Neighbour, mallory: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of contacts, and the owner's own, can still be answered; those of who was removed or blocked are hidden."""
    monkeypatch.setattr(rights, "MAX_REVIEWED", 0)
    carol, me = Neighbour(desk, 12, "carol"), Neighbour(desk, 7)
    me.me, me.user, me.envelope = desk.identity, desk.user, Envelope(desk.identity)
    asked = [who.sends("User", {"text": "?"}) for who in (alice, me, mallory, carol)]
    desk.do(lambda: desk.node.catalog.remove("User"))
    assert shown(desk) == asked
    desk.contacts.block(mallory.user)
    desk.contacts.remove("carol")
    assert shown(desk) == asked[:2]
    desk.serves("User", "", kind="human", allow="me")
    assert shown(desk) == asked[1:2]


def test_what_is_served_no_more_does_not_start(desk: Desk, mallory: Neighbour) -> None:
    """Its sender reads that nobody serves it."""
    request = mallory.sends("function", {})
    desk.do(lambda: desk.node.catalog.remove("function"))
    hand = Hand(desk, "a", "w2")
    assert hand.takes() == []
    assert mallory.hears_error(request) == "not_served"


def narrow(desk: Desk, who: Neighbour) -> None:
    """Serve the class for the owner alone."""
    del who
    desk.serves("own", allow="me")
    desk.do(desk.node.rights.review_all)


@pytest.mark.parametrize("take", [remove, narrow])
def test_a_reset_waits_no_more_for_whoever_may_not_call(
    desk: Desk, mallory: Neighbour, take: Callable[[Desk, Neighbour], None]
) -> None:
    """A request about an instance ends with the right to its flow."""
    hand = Hand(desk, "b", "w1")
    mount = mallory.mounts("own")
    ((task, order),) = hand.takes()
    hand.answers(task, order, {})
    (answer,) = mallory.hears(mount)
    mallory.sends("own", {}, instance=answer["instance"])
    reset = mallory.sends(topics.INSTANCES, {"op": "reset", "instance": answer["instance"]})
    assert mallory.hears(reset) == []
    desk.passes(1)
    assert states_of(desk, mallory) == {"ready"}
    take(desk, mallory)
    desk.passes(0.6)
    assert states_of(desk, mallory) == set()
    assert mallory.hears_error(reset) == "not_allowed"


def test_an_answer_of_a_removed_contact_counts(desk: Desk, alice: Neighbour, mallory: Neighbour) -> None:
    """They were asked when they were a contact; the run that has asked them goes on with what they said."""
    mounted = asks(desk, mallory)
    hand = Hand(desk, "b", "w1")
    request = alice.sends("own", {})
    ((task, _),) = hand.takes()
    ask = {"op": "call_back", "user": mallory.user, "endpoint": "x", "data": {}, "subflow": "x", "packaged": "x"}
    hand.ends(task, {"out": [ask], "state": {"n": 1}, "mounted": mounted})
    (call,) = mallory.gets("x")
    hand.says(bye=True, draining=True)
    mallory.sends(topics.REPLY, {"n": 1}, type="reply", cause=call["id"], epoch=0, seq=0)
    remove(desk, mallory)
    desk.passes(0.6)
    ((_, order),) = Hand(desk, "b", "w2").takes()
    assert (order["type"], order["data"]) == ("reply", {"n": 1})
    assert alice.hears(request) == []


@pytest.mark.parametrize("is_pruned", [False, True])
def test_a_request_that_has_ended_before_its_review(
    desk: Desk, mallory: Neighbour, monkeypatch: pytest.MonkeyPatch, is_pruned: bool
) -> None:
    """It is over, so its sender hears nothing more, and its row may be gone."""
    monkeypatch.setattr(rights, "MAX_REVIEWED", 0)
    request = mallory.sends("function", {}, expires=desk.clock.now() + 1_000)
    remove(desk, mallory)
    desk.passes(5)
    assert states_of(desk, mallory) == set()
    if is_pruned:
        with desk.journal.transaction():
            desk.journal._db.execute("DELETE FROM incoming")
    assert desk.node.rights.is_reviewing
    monkeypatch.undo()
    desk.passes(1)
    assert not desk.node.rights.is_reviewing
    assert mallory.hears(request) == []


def test_a_dead_letter_of_a_removed_contact_does_not_run_again(desk: Desk, mallory: Neighbour) -> None:
    """The owner's retry does not give back a right."""
    request = mallory.sends("function", {})
    (row_id,) = desk.journal.incoming.open_of_peer(mallory.user)
    with desk.journal.transaction():
        desk.journal.incoming.move(row_id, IncomingState.DEAD, "worker_lost")
    desk.restart()
    remove(desk, mallory)
    desk.passes(0.6)
    desk.do(lambda: desk.node.retries.retry(request))
    hand = Hand(desk, "a", "w2")
    desk.passes(3)
    hand.says()
    assert hand.takes() == []


def test_denied_while_the_prompt_is_being_answered(desk: Desk, mallory: Neighbour) -> None:
    """The question of a removed contact is cancelled, so that a late answer is refused."""
    request = mallory.sends("User", {"text": "May I?"})
    (row_id,) = desk.journal.incoming.open_of_peer(mallory.user)
    remove(desk, mallory)
    told: Any = desk.do(lambda: desk.node.inbox.answer(request, Typed("yes")))
    assert "no open" in str(told).lower() or told.kind == "usage"
    prompt = desk.journal.prompts.get(row_id)
    assert prompt is not None
    assert prompt.state == PromptState.CANCELLED


def test_rules_are_shown_with_names(desk: Desk, alice: Neighbour) -> None:
    """`ls` shows the petnames that users have now."""
    desk.passes(0.1)
    flow = Served(endpoint="x", kind="python", allow=f"{alice.user},{'f' * 64}", strangers=["f" * 64])
    assert flow.as_json(desk.node.name_of, desk.user)["allow"] == f"alice,{'f' * 64}"
    assert "strangers" not in flow.as_json(desk.node.name_of, desk.user)


async def test_a_denial_holds_while_the_journal_cannot_be_written(desk: Desk, mallory: Neighbour) -> None:
    """On a full disk, contacts.yaml is written first: what waits is hidden at once, and ends when the disk has room."""
    request = mallory.sends("User", {"text": "May I?"})
    remove(desk, mallory)

    def submit(step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        on_outcome(step() if reads_only else JournalFailed("It cannot be written.", "Free some space."))

    async def no_broker() -> str:
        return ""

    daemon = Daemon(node=lambda: desk.node, submit=submit, about=dict, broker_url=no_broker)
    told = await METHODS["deny"].run(daemon, {"user": mallory.user})
    assert told == {"user": mallory.user, "dropped": 0}
    assert (await METHODS["inbox"].run(daemon, {}))["prompts"] == []
    desk.restart()
    desk.passes(0.6)
    assert states_of(desk, mallory) == set()
    assert mallory.hears_error(request) == "not_allowed"


async def test_a_key_that_was_ground_to_a_prefix_is_not_allowed_by_mistake(desk: Desk) -> None:
    """`allow` takes at least 16 digits of a stranger's id, which nobody can find by trying keys."""
    stranger = Neighbour(desk, 12)
    stranger.sends("function", {})

    def submit(step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        on_outcome(step() if reads_only else desk.do(step))

    async def no_broker() -> str:
        return ""

    daemon = Daemon(node=lambda: desk.node, submit=submit, about=dict, broker_url=no_broker)
    for method in ("allow", "deny"):
        with pytest.raises(UsageError, match="too short"):
            await METHODS[method].run(daemon, {"user": stranger.user[:15]})
    told = await METHODS["allow"].run(daemon, {"user": stranger.user[:16], "name": "carol"})
    assert told["user"] == stranger.user


async def test_contacts_that_cannot_be_written_end_no_daemon(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner then reads why nothing has changed for a stranger, and can decide again later."""
    stranger = Neighbour(desk, 12)
    stranger.sends("User", {"text": "May I?"})
    daemon = control_of(desk)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", full)
        for decide, more in (("allow", {"name": "carol"}), ("deny", {})):
            with pytest.raises(P2pflowsError, match="No space left"):
                await METHODS[decide].run(daemon, {"user": stranger.user, **more})
    assert not desk.contacts.book().by_user
    assert not desk.contacts.book().blocked
    assert (await METHODS["allow"].run(daemon, {"user": stranger.user, "name": "carol"}))["released"] == 1
