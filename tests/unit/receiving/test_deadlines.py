"""Deadlines: what becomes of what is overdue, and the sentence that says why nothing came of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Hand, Neighbour
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.receiving.deadlines import MAX_EXPIRED
from p2pflowsd.running.catalog import Served

MINUTE_MS = 60_000


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    yield daemon
    daemon.journal.close()


@pytest.fixture
def ann(bob: LoneDaemon) -> Peer:
    """A contact."""
    return Peer(bob, 65, "ann")


def send(bob: LoneDaemon, to: str, endpoint: str = "x", kind: Type = Type.CALL) -> str:
    """Send something that has a minute; return its id."""
    message_id: str = bob.do(lambda: bob.node.messages.send(kind, to, endpoint, {}, life_ms=MINUTE_MS))
    return message_id


def error(bob: LoneDaemon, message_id: str) -> tuple[str, str, str]:
    """Let a message expire; return the kind of its error, its message and its hint."""
    bob.sleep(61)
    row = bob.journal.outgoing.find(message_id)
    assert row is not None
    assert row.state == OutgoingState.EXPIRED
    found = json.loads(row.answer or b"")
    return found["kind"], found["message"], found["hint"]


# Why a message was not stored.


def no_link(bob: LoneDaemon, _ann: Peer, _sent: str) -> None:
    """The broker is away, and says why."""
    bob.link.connected = False
    bob.link.why_not = lambda topic: "" if topic.startswith("x") else "It refuses the password."  # type: ignore[method-assign]


def no_right(bob: LoneDaemon, _ann: Peer, _sent: str) -> None:
    """The broker refuses the topic."""
    bob.link.why_not = lambda topic: f"It refuses {topic[-2:]}."  # type: ignore[method-assign]


def full_quota(_bob: LoneDaemon, ann: Peer, sent: str) -> None:
    """The recipient has too much of ours."""
    ann.notify(refused=[[sent, "quota_full"]])


def full_streams(_bob: LoneDaemon, ann: Peer, sent: str) -> None:
    """The recipient has too many requests that wait."""
    ann.notify(refused=[[sent, "requests_full"]])


def other_clock(bob: LoneDaemon, ann: Peer, sent: str) -> None:
    """The recipient has another time."""
    ann.notify(untimely=[[sent, bob.clock.now() + HOUR_MS]])


def online(_bob: LoneDaemon, ann: Peer, _sent: str) -> None:
    """The recipient is there, and says nothing."""
    ann.show(boot=1, online=True)


def offline(_bob: LoneDaemon, ann: Peer, _sent: str) -> None:
    """The recipient has left."""
    ann.show(boot=1, online=False)


def unseen(_bob: LoneDaemon, _ann: Peer, _sent: str) -> None:
    """The recipient was never here."""


@pytest.mark.parametrize(
    ("happens", "words"),
    [
        (no_link, "Your own daemon has no connection to its broker. It refuses the password."),
        (no_right, "The broker does not take messages to ann. It refuses /x."),
        (full_quota, "ann takes no more of your messages until some of those have ended that are there."),
        (full_streams, "ann has no room for more requests that wait there."),
        (other_clock, "ann refused the message: "),
        (online, "ann is online, but did not confirm the message."),
        (offline, "ann is offline."),
        (unseen, "ann is offline."),
    ],
)
def test_why_a_message_never_arrived(
    bob: LoneDaemon, ann: Peer, happens: Callable[[LoneDaemon, Peer, str], None], words: str
) -> None:
    """The sender reads what is known, and whose turn it is to do something."""
    sent = send(bob, ann.user)
    happens(bob, ann, sent)
    kind, message, hint = error(bob, sent)
    assert kind == "unreachable"
    assert message.startswith(words)
    assert hint


def test_nobody_has_that_id(bob: LoneDaemon) -> None:
    """A stranger who was never seen is perhaps a mistake in the id; one who was seen is not."""
    stranger, seen = Peer(bob, 70), Peer(bob, 71)
    first, second = send(bob, stranger.user), send(bob, seen.user)
    seen.show(boot=1, online=False)
    assert error(bob, first)[0] == "unknown_user"
    row = bob.journal.outgoing.find(second)
    assert row is not None
    assert json.loads(row.answer or b"")["message"] == f"User {seen.user[:8]}… is offline."


def test_one_s_own_daemon_did_not_get_it(bob: LoneDaemon) -> None:
    """Who sends something to themselves has no petname."""
    assert error(bob, send(bob, bob.user))[1] == "Your daemon is offline."


# Why a message that was stored has no answer.


@pytest.mark.parametrize("endpoint", ["x", topics.INSTANCES])
def test_why_there_is_no_answer(bob: LoneDaemon, ann: Peer, endpoint: str) -> None:
    """Nobody has decided, no worker is free, or it takes longer."""
    found = []
    for line in ("held", "waiting", "received"):
        sent = send(bob, ann.user, endpoint)
        ann.notify(**{line: [sent]})
        found.append(error(bob, sent))
    what, name = ("a new instance", "ENDPOINT") if endpoint == topics.INSTANCES else ("'x'", "x")
    assert [kind for kind, *_ in found] == ["not_allowed", "no_worker", "deadline"]
    assert f"p2pflows allow {bob.user}" in found[0][2]
    assert found[1][1] == f"ann has no free worker for {what}."
    assert found[1][2].endswith(f"p2pflows describe ann/{name}")
    assert found[2][1] == "ann has the message, but no answer came in time."


def test_a_worker_of_one_s_own_is_missing(bob: LoneDaemon, ann: Peer) -> None:
    """Its owner reads how to start it; a flow of somebody else says nothing of points of one's own."""
    bob.do(lambda: bob.node.catalog.put(Served(endpoint="x", kind="python", target="m:f", dispatch_point="gpu")))
    own, other = send(bob, bob.user), send(bob, ann.user)
    bob.do(lambda: bob.node.outbox.confirm_stored(bob.user, [own], "waiting"))
    ann.notify(waiting=[other])
    assert error(bob, own)[1] == "Your dispatch point 'gpu' has no free worker for 'x'."
    assert error(bob, other)[1] == "ann has no free worker for 'x'."


@pytest.mark.parametrize("is_pruned", [False, True])
def test_an_answer_counts_though_the_clock_was_set_back(bob: LoneDaemon, ann: Peer, is_pruned: bool) -> None:
    """The deadline that was meant first passes later, when the call has ended, or is forgotten."""
    sent, ends = send(bob, ann.user), []
    bob.do(lambda: bob.node.waiters.expect(sent, lambda state, _answer: ends.append(state)))
    bob.sleep(1)
    bob.clock.skew_ms -= HOUR_MS
    bob.sleep(1)
    reply = ann.message(topics.REPLY, type="reply", cause=sent, created=bob.clock.now(), data={"n": 1})
    ann.send(reply, endpoint=topics.REPLY)
    if is_pruned:
        with bob.journal.transaction():
            bob.journal._db.execute("DELETE FROM outgoing")
    bob.sleep(61)
    row = bob.journal.outgoing.find(sent)
    assert ends == [OutgoingState.DONE]
    assert (row is None) is is_pruned
    assert row is None or (row.state, row.answer) == (OutgoingState.DONE, b'{"n":1}')


def test_a_call_ends_when_it_was_meant_to_though_the_clock_was_set_back(bob: LoneDaemon, ann: Peer) -> None:
    """A client waits for no longer than it has said."""
    sent, ends = send(bob, ann.user), []
    ann.notify(received=[sent])
    bob.do(lambda: bob.node.waiters.expect(sent, lambda state, _answer: ends.append(state)))
    bob.clock.skew_ms -= HOUR_MS
    bob.sleep(58)
    assert ends == []
    bob.sleep(3)
    assert ends == [OutgoingState.EXPIRED]


# Requests of others.


def test_only_a_post_that_never_ran_is_told(bob: LoneDaemon, ann: Peer) -> None:
    """Who has called has a deadline of their own; who has sent a note hears that nobody has read it."""
    bob.do(lambda: bob.node.catalog.put(Served(endpoint="f", kind="python", target="m:f", dispatch_point="gpu")))
    for seq, kind in enumerate(("post", "call")):
        ann.send(ann.message("f", type=kind, expires=bob.clock.now() + MINUTE_MS, epoch=1, seq=seq), endpoint="f")
    assert len(bob.journal.incoming.in_state(IncomingState.READY)) == 2
    bob.sleep(61)
    assert bob.journal.incoming.in_state(IncomingState.READY) == []
    bob.sleep(1)
    (told,) = [each for each in ann.received(topics.REPLY) if each["type"] == "error"]
    assert (told["data"]["kind"], told["data"]["message"]) == ("no_worker", "No worker served 'f' in time.")


def test_a_post_that_runs_for_too_long_is_told_so(tmp_path: Path) -> None:
    """A worker had it, so nobody looks for a worker."""
    desk = Desk(tmp_path)
    desk.serves("f", kind="python")
    ann, hand = Neighbour(desk, 8, "ann"), Hand(desk, "b", "w")
    post = ann.sends("f", {}, type="post", expires=desk.clock.now() + MINUTE_MS)
    assert len(hand.takes()) == 1
    for _ in range(61):
        hand.says(held=None)
        desk.passes(1)
    told, *_ = ann.hears(post)  # it is sent again until ann confirms it
    assert (told["kind"], told["message"]) == ("deadline", "'f' did not run in time.")
    desk.journal.close()


@pytest.mark.parametrize("lives", [(HOUR_MS, MINUTE_MS), (MINUTE_MS, HOUR_MS)])
def test_each_question_ends_in_time(bob: LoneDaemon, ann: Peer, lives: tuple[int, int]) -> None:
    """Whether one with a later deadline comes before or after it; of a note that nobody has read, nobody hears."""
    bob.serve_human()
    for seq, life in enumerate(lives):
        ann.send(ann.message(expires=bob.clock.now() + life, epoch=1, seq=seq))
    bob.sleep(61)
    assert [row.expires - row.received for row in bob.journal.prompts.open()] == [HOUR_MS]
    bob.sleep(3_600)
    assert bob.journal.prompts.open() == []
    assert ann.received(topics.REPLY) == []


def test_a_blocked_request_that_expires_blocks_no_more(bob: LoneDaemon, ann: Peer) -> None:
    """Its place is free again, and only its own."""
    bob.serve_human()
    for seq in (0, 2):
        ann.send(ann.message(expires=bob.clock.now() + MINUTE_MS, epoch=1, seq=seq))
    assert bob.node.blocked.count() == 1
    bob.sleep(61)
    assert (bob.node.blocked.count(), bob.node.blocked.counts()) == (0, {})
    bob.sleep(1)
    assert not bob.node.blocked.has_stream(ann.user, "User")


def test_many_that_expire_at_once_all_end(bob: LoneDaemon, ann: Peer) -> None:
    """One batch after another, without a pause."""
    for _ in range(2 * MAX_EXPIRED + 5):
        send(bob, ann.user)
    assert len(bob.sleep(61)) >= 3
    assert bob.journal.outgoing.pending() == []


def test_many_requests_that_expire_at_once_all_end(bob: LoneDaemon, ann: Peer) -> None:
    """The first batch leaves some of them, and the next one does not wait."""
    bob.serve_human()
    expires = bob.clock.now() + MINUTE_MS
    ann.send(*(ann.message(epoch=1, seq=seq, expires=expires) for seq in range(2 * MAX_EXPIRED + 5)))
    assert len(bob.journal.prompts.open()) == 2 * MAX_EXPIRED + 5
    assert len(bob.sleep(61)) >= 3
    assert bob.journal.prompts.open() == []
