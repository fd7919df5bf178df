"""What the intake refuses, whom it charges for it, and what of that the owner's log says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Packet, Peer

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind, Envelope
from p2pflows.protocol.message import Type
from p2pflows.protocol.notice import MAX_PROGRESS_LINES
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.running.catalog import Served

EPOCH = 5
MOST_PACKETS, MOST_MESSAGES = 100, 50
"""How many packets and messages one stranger gets through at once."""
MANY_BUNDLES = 28
"""So many full bundles without effect stop their sender."""


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon, which serves him to anyone."""
    daemon = LoneDaemon(tmp_path)
    daemon.serve_human(allow="anyone")
    yield daemon
    daemon.journal.close()


@pytest.fixture
def ann(bob: LoneDaemon) -> Peer:
    """A contact."""
    return Peer(bob, 65, "ann")


@pytest.fixture
def carol(bob: LoneDaemon) -> Peer:
    """A stranger."""
    return Peer(bob, 67)


def bob_himself(bob: LoneDaemon) -> Peer:
    """Return a peer with bob's own key."""
    peer = Peer(bob, 1)
    peer.identity, peer.user, peer._envelope = bob.identity, bob.user, Envelope(bob.identity)
    return peer


def call(bob: LoneDaemon, peer: Peer, endpoint: str = "x") -> str:
    """Let bob call a peer; return the id of the call."""
    message_id: str = bob.do(lambda: bob.node.messages.send(Type.CALL, peer.user, endpoint, {}, life_ms=HOUR_MS))
    return message_id


def posts(peer: Peer, count: int) -> list[bytes]:
    """Return some posts of a stream in order."""
    return [peer.message(epoch=EPOCH, seq=seq) for seq in range(count)]


def logged(bob: LoneDaemon) -> list[tuple[str, str]]:
    """Return whom the owner's log blames, and for what endpoint."""
    return [(entry.peer, entry.endpoint) for entry in bob.journal.log.newest(100) if entry.what == "refused"]


# Whom the limits are for.


def test_packets_of_a_stranger_are_limited_unless_bob_waits_for_them(bob: LoneDaemon, carol: Peer) -> None:
    """Whoever has a call of ours to answer is opened however much they send; others have a limit."""
    bundles = [carol.bundle(carol.message(epoch=EPOCH, seq=seq)) for seq in range(MOST_PACKETS + 20)]
    bob.receive("User", *bundles)
    assert bob.journal.counters["refused.rate_limited"] >= 20
    bob.journal.counters.clear()
    call(bob, carol)
    bob.receive("User", *bundles)
    assert bob.journal.counters.get("refused.rate_limited", 0) == 0


def test_messages_of_a_stranger_are_limited_and_those_of_others_are_not(bob: LoneDaemon, ann: Peer) -> None:
    """A bundle of many messages is read up to a limit, unless it is of a contact, of oneself, or of one we wait for."""
    awaited = Peer(bob, 68)
    call(bob, awaited)
    for seed, peer in enumerate((ann, bob_himself(bob), awaited, Peer(bob, 69))):
        bob.journal.counters.clear()
        peer.send(*posts(peer, MOST_MESSAGES + 30))
        assert (bob.journal.counters.get("refused.rate_limited", 0) >= 30) is (seed == 3)


def test_one_s_own_requests_have_the_room_of_a_contact(bob: LoneDaemon) -> None:
    """Requests of one's own user that wait for an earlier one are not bounded like those of a stranger."""
    me = bob_himself(bob)
    me.send(*(me.message(epoch=EPOCH, seq=2 * n) for n in range(1, 40)))
    assert len(bob.journal.incoming.in_state(IncomingState.BLOCKED)) == 39


def test_a_blocked_user_gets_no_answer(bob: LoneDaemon, carol: Peer) -> None:
    """A bundle of somebody whom the owner has denied is counted, and nothing else happens."""
    bob.contacts.block(carol.user)
    carol.send(carol.message())
    bob.sleep(0.03)
    assert bob.journal.counters["refused.blocked"] == 1
    assert bob.link.bytes_published == 0


# What is refused, and what the log says of it.


@pytest.mark.parametrize("endpoint", ["User", topics.NOTICE])
def test_a_bundle_without_a_header_is_malformed(bob: LoneDaemon, endpoint: str) -> None:
    """Too few bytes are refused as such on every topic, and nobody is blamed."""
    bob.receive(endpoint, b"\1\1" + b"x" * 40)
    assert bob.journal.counters == {"refused.malformed": 1}
    assert logged(bob) == [("", endpoint)]


def test_the_claimed_sender_of_a_bad_bundle_is_logged(bob: LoneDaemon, ann: Peer) -> None:
    """The log names who a bundle claims to be from, if it is long enough to say so."""
    bob.receive("User", ann.bundle(ann.message())[:-1] + b"x")
    assert logged(bob) == [(ann.user, "User")]


def test_what_an_honest_sender_may_cause_is_not_logged(bob: LoneDaemon, ann: Peer) -> None:
    """Late and repeated messages are counted; only what no honest peer sends is logged."""
    ann.send(ann.message(expires=bob.clock.now()))
    again = ann.bundle(ann.message(epoch=EPOCH))
    bob.receive("User", again)
    bob.receive("User", again)
    assert bob.journal.counters["refused.expired"] == bob.journal.counters["refused.replayed"] == 1
    bob.contacts.block(ann.user)
    bob.receive("User", again)
    assert bob.journal.counters["refused.blocked"] == 1
    assert logged(bob) == []


@pytest.mark.parametrize(
    ("reason", "fields"),
    [
        ("wrong_sender", {"from": "ab" * 32}),
        ("wrong_recipient", {"to": "ab" * 32}),
        ("wrong_topic", {"endpoint": "Other"}),
        ("wrong_topic", {"type": "reply", "cause": "0" * 32}),
        ("too_long_lived", {"created": 2 * 10**12}),
        ("too_long_lived", {"expires": 2 * 10**12}),
    ],
)
def test_a_message_that_no_honest_peer_sends_is_logged(
    bob: LoneDaemon, ann: Peer, reason: str, fields: dict[str, Any]
) -> None:
    """A message whose fields do not fit its bundle, its topic or the time is refused, and the log names its sender."""
    ann.send(ann.message(**fields))
    assert bob.journal.counters[f"refused.{reason}"] == 1
    assert logged(bob) == [(ann.user, "User")]
    assert bob.journal.prompts.all() == []
    assert bob.journal._db.execute("SELECT count(*) FROM bundles").fetchone() == (0,)


def test_a_request_among_answers_is_refused(bob: LoneDaemon, ann: Peer) -> None:
    """On the topic for answers, only answers count."""
    bob.receive(topics.REPLY, ann.bundle(ann.message(topics.REPLY)))
    assert bob.journal.counters["refused.wrong_topic"] == 1


def test_bodies_of_the_other_kind_are_refused(bob: LoneDaemon, ann: Peer) -> None:
    """A notice counts only on the topic of notices, and messages only elsewhere."""
    sent = call(bob, ann)
    bob.receive("User", ann.bundle(ann.notice(received=[sent]), kind=BundleKind.NOTICE))
    bob.receive(topics.NOTICE, ann.bundle(ann.message(topics.NOTICE)))
    assert bob.journal.counters["refused.wrong_topic"] == 2
    assert bob.node.outbox.pending == 1


def test_a_retained_bundle_is_refused(bob: LoneDaemon, ann: Peer) -> None:
    """What a broker keeps for whoever subscribes next is no message."""
    bob.node.process_batch([Packet(topics.inbox(bob.user, "User"), ann.bundle(ann.message()), retain=True)])
    assert bob.journal.counters == {"refused.retained": 1}


# What is stored.


def test_requests_of_one_bundle_share_one_proof(bob: LoneDaemon, ann: Peer) -> None:
    """A signature is stored once for all requests that it covers, and not at all if none of them was stored."""
    bodies = [ann.message(epoch=EPOCH, seq=seq) for seq in (1, 2, 3)]  # which wait for the one before them
    ann.send(*bodies)
    assert bob.journal._db.execute("SELECT count(*) FROM bundles").fetchone() == (1,)
    ann.send(*bodies)
    assert bob.journal._db.execute("SELECT count(*) FROM bundles").fetchone() == (1,)


def test_a_stranger_whose_request_is_missed_may_say_that_it_does_not_come(bob: LoneDaemon, carol: Peer) -> None:
    """A notice of a stranger is read while a stream of theirs waits for an earlier message."""
    carol.send(carol.message(epoch=EPOCH, seq=2))
    assert bob.journal.prompts.all() == []
    carol.notify(skips=[["User", EPOCH, 2]])
    assert len(bob.journal.prompts.all()) == 1


def test_a_new_epoch_is_announced(bob: LoneDaemon, ann: Peer) -> None:
    """Who says that a stream is rewound hears in which epoch it goes on, and from which number."""
    sent = call(bob, ann)
    old = bob.journal.streams.get(Direction.OUTGOING, ann.user, "x")
    assert old is not None
    ann.notify(rewound=[["x", old.epoch, sent]])
    new = bob.journal.streams.get(Direction.OUTGOING, ann.user, "x")
    assert new is not None
    bob.sleep(0.03)
    assert ann.received_lines("skips") == [["x", new.epoch, 0]]


def test_one_s_own_error_is_kept_as_it_is(bob: LoneDaemon) -> None:
    """An error that this daemon wrote itself may say anything; one of a peer is read as theirs."""
    me = bob_himself(bob)
    sent = call(bob, me, "nothing")
    error = {"kind": "usage", "message": "So it is.", "hint": "Do it."}
    me.send(me.message(topics.REPLY, type="error", cause=sent, data=error), endpoint=topics.REPLY)
    row = bob.journal.outgoing.find(sent)
    assert row is not None
    assert (row.state, json.loads(row.answer or b"")) == (OutgoingState.FAILED, error)


@pytest.mark.parametrize(("endpoint", "is_told"), [(topics.INVITE, True), ("User", False)])
def test_whoever_follows_an_invitation_learns_that_clocks_differ(
    bob: LoneDaemon, carol: Peer, endpoint: str, is_told: bool
) -> None:
    """A stranger whose message was refused for its times is told the time only where strangers are expected."""
    carol.send(carol.message(endpoint, expires=bob.clock.now()), endpoint=endpoint)
    bob.sleep(0.03)
    assert bool(carol.received_lines("untimely")) is is_told


def test_what_is_stored_is_confirmed_again_though_there_is_no_room(bob: LoneDaemon, carol: Peer) -> None:
    """A repeated request gets its receipt, and one at a taken position is called rewound, also where all is full."""
    bob.serve_human("team", allow="contacts")
    blocked = [carol.message(epoch=EPOCH, seq=2 * n) for n in range(1, 30)]
    carol.send(carol.message(epoch=EPOCH, seq=0), *blocked)
    assert bob.journal.counters["refused.streams_full"] > 0
    bob.sleep(2)
    bob.journal.counters.clear()
    carol.send(blocked[0])
    assert bob.journal.counters == {"refused.replayed": 1}
    carol.send(carol.message(epoch=EPOCH, seq=0))
    assert bob.journal.counters["refused.rewound"] == 1
    held = [carol.message("team", epoch=EPOCH, seq=n) for n in range(30)]
    bob.sleep(10)
    carol.send(*held, endpoint="team")
    assert bob.journal.counters["refused.requests_full"] > 0
    bob.sleep(10)
    bob.journal.counters.clear()
    carol.send(held[0], endpoint="team")
    assert bob.journal.counters == {"refused.replayed": 1}


def test_an_id_that_is_used_twice_does_not_stop_a_stream(bob: LoneDaemon, ann: Peer) -> None:
    """A sender that gives two requests one id loses the second, and those behind it go on."""
    twice = {"id": "1" * 32, "conversation": "1" * 32}
    for seq, fields in enumerate((twice, twice, {})):
        ann.send(ann.message(epoch=EPOCH, seq=seq, **fields))
    assert len(bob.journal.prompts.open()) == 2
    assert bob.journal.incoming.in_state(IncomingState.BLOCKED) == []


@pytest.mark.parametrize("body", [b"", b"no JSON", b"[]", b'{"to":"somebody"}'])
def test_what_is_signed_and_no_message_is_malformed(bob: LoneDaemon, ann: Peer, body: bytes) -> None:
    """A contact that signs nonsense, as a message or as a notice, is counted and logged, and others go on."""
    good = ann.message(epoch=EPOCH)
    bob.receive("User", ann.bundle(body, good))
    bob.receive(topics.NOTICE, ann.bundle(body, kind=BundleKind.NOTICE))
    assert bob.journal.counters["refused.malformed"] == 2
    assert logged(bob) == [(ann.user, "User"), (ann.user, topics.NOTICE)]
    assert len(bob.journal.prompts.open()) == 1


@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_was_ahead_for_a_while_lets_nothing_take_effect_twice(
    bob: LoneDaemon, ann: Peer, restarts: bool
) -> None:
    """What was forgotten while the clock was an hour ahead is a copy when it comes again, and is confirmed."""
    asked = [ann.message(epoch=EPOCH, seq=n, id=f"{n:032x}", expires=bob.clock.now() + 60_000) for n in range(3)]
    ann.send(*asked)
    bob.do(lambda: [bob.node.inbox.dismiss([f"{n:032x}"]) for n in range(3)])
    bob.clock.skew_ms += 3_600_000
    with bob.journal.transaction():
        bob.journal._db.execute("DELETE FROM prompts")
    for _ in range(10):
        bob.sleep(10.0)
    bob.clock.skew_ms -= 3_600_000 + 100_000
    assert not any(bob.journal.incoming.knows(ann.user, f"{n:032x}") for n in range(3))
    if restarts:
        bob.restart()
    ann.send(asked[2])
    bob.sleep(0.1)
    assert bob.journal.counters["refused.replayed"] == 1
    assert ann.received_lines("received")[-1] == f"{2:032x}"
    assert ann.received_lines("rewound") == []
    ann.send(ann.message(epoch=EPOCH, seq=3))
    assert len(bob.journal.prompts.all()) == 1


# What comes again, and what never comes.


def test_who_repeats_a_message_hears_again_what_it_waits_for(bob: LoneDaemon, ann: Peer, carol: Peer) -> None:
    """The second receipt says the same as the first: held, waiting, or none of both."""
    bob.serve_human("team", allow="contacts")
    bob.do(lambda: bob.node.catalog.put(Served(endpoint="f", kind="python", target="m:f", dispatch_point="gpu")))
    said = []
    for peer, endpoint in ((carol, "team"), (ann, "f"), (ann, "User")):
        message = peer.message(endpoint, epoch=EPOCH)
        for _ in range(2):
            peer.send(message, endpoint=endpoint)
            bob.sleep(0.03)
            said.append([len(peer.received_lines(line)) for line in ("held", "waiting", "received")])
    assert said == [[1, 0, 0], [2, 0, 0], [0, 1, 0], [0, 2, 0], [0, 2, 1], [0, 2, 2]]
    assert bob.journal.counters["refused.replayed"] == 3


def test_a_skip_moves_on_only_what_waits_for_it(bob: LoneDaemon, ann: Peer) -> None:
    """One that comes too early, of another epoch, or to where the stream is already lets no message be lost."""
    ann.send(ann.message(epoch=EPOCH, seq=0))
    for skip in (["User", EPOCH, 5], ["Other", EPOCH, 5]):
        ann.notify(skips=[skip])
    ann.send(ann.message(epoch=EPOCH, seq=1))
    assert len(bob.journal.prompts.all()) == 2
    ann.send(ann.message(epoch=EPOCH, seq=4))
    for skip in (["User", EPOCH + 1, 4], ["User", EPOCH - 1, 4], ["User", EPOCH, 0]):
        ann.notify(skips=[skip])
        assert bob.journal.streams.get(Direction.INCOMING, ann.user, "User") == Position(EPOCH, 2)
    ann.send(ann.message(epoch=EPOCH, seq=2))
    ann.notify(skips=[["User", EPOCH, 4]])
    bob.sleep(0)
    assert len(bob.journal.prompts.all()) == 4


def test_whoever_repeats_much_after_an_outage_is_heard(bob: LoneDaemon, ann: Peer) -> None:
    """Copies cost their sender nothing, as every honest sender sends some; what was never right does."""
    message = ann.message(epoch=EPOCH)
    for body, is_stopped in ((message, False), (ann.message("Other"), True)):
        for _ in range(MANY_BUNDLES):
            ann.send(*[body] * 256)
        assert (bob.journal.counters.get("refused.rate_limited", 0) > 0) is is_stopped


def test_progress_of_a_call_that_has_ended_counts_as_useless(bob: LoneDaemon, ann: Peer) -> None:
    """Nobody keeps a daemon busy with how far something has got that is over."""
    sent = call(bob, ann)
    lines = [[sent, {"n": 1}]] * MAX_PROGRESS_LINES
    for is_over in (False, True):
        for _ in range(20_000 // MAX_PROGRESS_LINES + 2):
            ann.notify(progress=lines)
        assert (bob.journal.counters.get("refused.rate_limited", 0) > 0) is is_over
        bob.do(lambda: bob.node.messages.cancel(sent))


@pytest.mark.parametrize("topic", ["x" * 5_000, f"p2pflows/1/{'ab' * 32}/results/gpu", f"p2pflows/1/{'ab' * 32}/card"])
def test_what_comes_on_a_strange_topic_is_logged_in_short(bob: LoneDaemon, topic: str) -> None:
    """Whatever a broker delivers is counted; the log blames a user only for what is on the topic of their status."""
    bob.node.process_batch([Packet(topic, b"?")])
    (entry,) = [entry for entry in bob.journal.log.newest(9) if entry.what == "refused"]
    assert entry.detail == f"A delivery on {topic[:200]} was refused as wrong_topic."
    assert entry.peer == ("ab" * 32 if topic.endswith("card") else "")
