"""Invitations: who may come in by a line, once; what an attacker tries; and what a crash leaves behind."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from simulation.machine import KillAt, Killed
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.protocol.invitation import Invitation, parse
from p2pflows.protocol.message import MAX_LIFETIME_MS, Type
from p2pflowsd.api import views
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import InvitationRow, MeetingRow, RecordRow
from p2pflowsd.node import Node
from p2pflowsd.receiving import introductions, invitations, wishes
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.origin import AskOrigin

BROKER = "mqtts://broker.example.org"


class Mortal(LoneDaemon):
    """A daemon that can be killed at a crash point.

    Attributes:
        faults: kills it.
        met: the names of those who have become contacts, and whom the owner is to be told of.
    """

    def start(self) -> None:
        """Start on what the journal holds."""
        if not hasattr(self, "faults"):
            self.faults = KillAt()
            self.met: list[str] = []
        self.journal = Journal(self._path, self.user, self.faults)
        self.node = Node(
            identity=self.identity, journal=self.journal, contacts=self.contacts, link=self.link, clock=self.clock,
            entropy=self.random.randbytes, faults=self.faults, on_met=lambda meeting: self.met.append(meeting.name),
        )  # fmt: skip


@pytest.fixture
def alice(tmp_path: Path) -> Iterator[Mortal]:
    """Alice's daemon."""
    daemon = Mortal(tmp_path)
    daemon.serve_human()
    yield daemon
    daemon.journal.close()


@pytest.fixture
def bob(alice: Mortal) -> Peer:
    """Bob, a stranger to Alice."""
    return Peer(alice, 2)


@pytest.fixture
def eve(alice: Mortal) -> Peer:
    """Eve, another stranger."""
    return Peer(alice, 3)


def invite(alice: LoneDaemon, **changes: Any) -> Invitation:
    """Let Alice make an invitation, and read its line."""
    settings = {"name": "", "allow": [], "uses": 1, "life_ms": HOUR_MS, "own_name": "", "broker": BROKER, **changes}
    made = alice.do(lambda: alice.node.people.invitations.create(**settings))
    if isinstance(made, P2pflowsError):
        raise made
    found = parse(made.to_text())
    assert found == made
    return found


def acceptance(peer: Peer, accepted: Invitation, **changes: Any) -> bytes:
    """The message with which a peer accepts an invitation."""
    data = {"op": "accept", "invitation": accepted.id, "proof": accepted.proof(peer.user), **changes}
    return peer.message(topics.INVITE, type="call", data=data, epoch=next(_epochs))


_epochs = itertools.count(1)
"""Each message begins a stream of its own, so that none waits for another."""


def send(alice: LoneDaemon, peer: Peer, *bodies: bytes) -> dict[str, Any]:
    """Let messages arrive, and return the last answer that Alice has sent to their sender."""
    peer.send(*bodies, endpoint=topics.INVITE)
    alice.sleep(0.1)
    return answer(peer)


def answer(peer: Peer) -> dict[str, Any]:
    """The data of the last answer that Alice has sent to a peer."""
    data: dict[str, Any] = peer.received(topics.REPLY)[-1]["data"]
    return data


def names(alice: LoneDaemon) -> dict[str, str]:
    """Alice's contacts."""
    return alice.contacts.book().by_name


def log(alice: LoneDaemon, what: str) -> list[str]:
    """What Alice's log says of one kind."""
    return [entry.detail for entry in alice.journal.log.newest(100) if entry.what == what]


# Ours.


def test_who_proves_to_have_the_line_becomes_a_contact(alice: Mortal, bob: Peer) -> None:
    """Under the name that Alice has chosen, whatever Bob suggests; both are told, and Alice with the words."""
    invitation = invite(alice, name="bob")
    assert send(alice, bob, acceptance(bob, invitation, name="The Boss")) == {"met": True}
    assert names(alice) == {"bob": bob.user}
    (meeting,) = alice.journal.meetings.of(invitation.id)
    alice.do(lambda: alice.node.people.invitations.tell(meeting.row_id, "five good words"))
    assert log(alice, "met") == [
        "They accepted your invitation: 'bob' is your contact now. The words to compare are: five good words."
    ]
    (shown,) = views.invitations(alice.node)
    assert (shown["state"], shown["used"], shown["users"][0]["words"]) == ("used", 1, "five good words")


def test_a_suggested_name_is_only_a_suggestion(alice: Mortal, bob: Peer) -> None:
    """Without a name of Alice's choice, nobody chooses for her."""
    invitation = invite(alice)
    send(alice, bob, acceptance(bob, invitation, name="boss"))
    assert names(alice) == {f"user-{bob.user[:8]}": bob.user}
    (meeting,) = alice.journal.meetings.of(invitation.id)
    assert "suggest the name 'boss'" in invitations.story(meeting, "")


def test_a_contact_who_accepts_keeps_their_name(alice: Mortal) -> None:
    """Nobody is renamed by an invitation."""
    bert = Peer(alice, 4, name="bert")
    assert send(alice, bert, acceptance(bert, invite(alice, name="bob"))) == {"met": True}
    assert (names(alice), alice.met) == ({"bert": bert.user}, ["bert"])


def test_a_name_that_was_taken_meanwhile_stays_with_its_user(alice: Mortal, bob: Peer) -> None:
    """Who accepts then gets a name made of their user id."""
    invitation = invite(alice, name="bob")
    alice.contacts.add("bob", "ab" * 32)
    send(alice, bob, acceptance(bob, invitation))
    assert names(alice) == {"bob": "ab" * 32, f"user-{bob.user[:8]}": bob.user}


def test_an_invitation_cannot_be_used_twice(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """Whoever comes second is refused; the first may ask again, because their answer may have been lost."""
    invitation = invite(alice)
    send(alice, bob, acceptance(bob, invitation))
    assert send(alice, eve, acceptance(eve, invitation))["message"] == "The invitation was used already."
    assert send(alice, bob, acceptance(bob, invitation)) == {"met": True}
    assert list(names(alice).values()) == [bob.user]
    assert alice.journal.invitations.all()[0].used == 1


def test_two_who_accept_in_the_same_moment_are_one_contact(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """Both messages arrive in one batch."""
    invitation = invite(alice)
    alice.receive(topics.INVITE, *(peer.bundle(acceptance(peer, invitation)) for peer in (bob, eve)))
    alice.sleep(0.1)
    assert list(names(alice).values()) == [bob.user]
    assert answer(eve)["kind"] == "not_allowed"


def test_an_invitation_for_several_ends_with_the_last(alice: Mortal) -> None:
    """Each user counts once, however often they come."""
    invitation = invite(alice, uses=2)
    peers = [Peer(alice, seed) for seed in (5, 6, 7)]
    for peer in (peers[0], peers[0], peers[1]):
        assert send(alice, peer, acceptance(peer, invitation)) == {"met": True}
    assert send(alice, peers[2], acceptance(peers[2], invitation))["kind"] == "not_allowed"
    assert set(names(alice).values()) == {peer.user for peer in peers[:2]}


def test_a_proof_that_was_overheard_helps_nobody_else(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """Bob's proof in Eve's message is refused, as is a guess; the answer does not say whether the invitation exists."""
    invitation = invite(alice)
    replayed = acceptance(eve, invitation, proof=invitation.proof(bob.user))
    unknown = acceptance(eve, invitation, invitation="00" * 16)
    answers = [send(alice, eve, body) for body in (replayed, unknown, acceptance(eve, invitation, proof="00" * 32))]
    assert {each["message"] for each in answers} == {"There is no such invitation."}
    assert names(alice) == {}
    assert send(alice, bob, acceptance(bob, invitation)) == {"met": True}


def test_a_proof_of_another_type_is_wrong(alice: Mortal, eve: Peer) -> None:
    """Also if the invitation exists; and the answer lives no longer than the call."""
    body = acceptance(eve, invite(alice), proof=5)
    call = json.loads(body)
    assert send(alice, eve, body)["message"] == "There is no such invitation."
    short = {**call, "id": "0" * 32, "epoch": next(_epochs), "expires": alice.clock.now() + 5_000}
    send(alice, eve, json.dumps(short).encode())
    assert [each["expires"] for each in eve.received(topics.REPLY)] == [
        alice.clock.now() + invitations.UNPROVEN_ANSWER_MS - 200, short["expires"]
    ]  # fmt: skip


def test_the_owner_is_told_again_after_a_crash_and_the_contact_is_not_added_again(alice: Mortal, bob: Peer) -> None:
    """The words were not computed yet, and Alice has removed Bob at once."""
    send(alice, bob, acceptance(bob, invite(alice, name="bob")))
    assert alice.met == ["bob"]
    alice.contacts.remove("bob")
    alice.restart()
    alice.sleep(1)
    assert (names(alice), alice.met) == ({}, ["bob", "bob"])
    alice.do(lambda: alice.node.people.invitations.tell(1, "words"))
    alice.do(lambda: alice.node.people.invitations.tell(1, "words"))
    alice.do(lambda: alice.node.people.invitations.tell(999, "words"))
    alice.restart()
    alice.sleep(1)
    assert (len(log(alice, "met")), alice.met) == (1, ["bob", "bob"])


def test_an_id_in_short_that_fits_several_or_none_is_refused(alice: Mortal) -> None:
    """The error says which of both."""
    for end in ("a", "b"):
        row = InvitationRow(0, "1234" + "0" * 27 + end, b"secret", "", "", 1, 0, 1, 2**50, 0)
        alice.do(partial(alice.journal.invitations.add, row))
    for part, said in (("1234", "Several invitations have"), ("abcd", "No invitation of yours has")):
        with pytest.raises(UsageError, match=said):
            alice.node.people.invitations.find(part)
    assert alice.node.people.invitations.find("000a").id.endswith("a")


def test_nobody_meets_themselves(alice: Mortal) -> None:
    """Alice's own key proves nothing to Alice, so no program of hers makes her a contact of her own."""
    me = Peer(alice, 1)
    me.identity, me._envelope, me.user = alice.identity, Envelope(alice.identity), alice.user
    assert send(alice, me, acceptance(me, invite(alice)))["kind"] == "not_allowed"
    assert names(alice) == {}


def test_guessing_is_slow_and_leaves_little_behind(alice: Mortal, eve: Peer) -> None:
    """A stranger who sends many wrong proofs is cut off, and the answers that she never takes are soon dropped."""
    invitation = invite(alice)
    wrong = [acceptance(eve, invitation, proof=f"{number:064x}") for number in range(200)]
    eve.send(*wrong, endpoint=topics.INVITE)
    alice.sleep(1)
    assert alice.journal.counters["refused.rate_limited"] > 100
    assert 0 < alice.node.outbox.pending < 100
    alice.sleep(invitations.UNPROVEN_ANSWER_MS / 1000 + 1)
    assert alice.node.outbox.pending == 0
    assert len(log(alice, "not_allowed")) < 5


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"op": "accept"},
        {"op": "accept", "invitation": 5, "proof": 5},
        {"op": "accept", "invitation": "x" * 1000, "proof": "\u00e9"},
        {"op": "accept", "invitation": ["x"], "proof": "x"},
        {"op": ["accept"]},
        {"op": "introduce"},
        {"op": "introduce", "user": "b0" * 32, "name": "x"},
        {"op": "allowed"},
        {"op": "anything"},
    ],
)
def test_a_stranger_can_do_nothing_else_there(alice: Mortal, eve: Peer, data: dict[str, Any]) -> None:
    """Anything but a right proof is answered with an error, and leaves nothing behind."""
    invite(alice)
    found = send(alice, eve, eve.message(topics.INVITE, type="call", data=data, epoch=1))
    assert found["kind"] in ("not_allowed", "bad_input")
    assert names(alice) == {}
    assert views.requests(alice.node) == []


def test_a_message_that_comes_again_has_no_second_effect(alice: Mortal, bob: Peer) -> None:
    """A broker that repeats the bundle after the contact was removed does not bring them back."""
    invitation = invite(alice)
    bundle = bob.bundle(acceptance(bob, invitation))
    alice.receive(topics.INVITE, bundle)
    alice.sleep(0.1)
    alice.contacts.remove(bob.user)
    alice.receive(topics.INVITE, bundle)
    alice.sleep(0.1)
    assert names(alice) == {}


def test_a_removed_contact_does_not_come_back_by_the_same_line(alice: Mortal, bob: Peer) -> None:
    """A new message with the old proof adds nobody."""
    invitation = invite(alice)
    send(alice, bob, acceptance(bob, invitation))
    alice.contacts.remove(bob.user)
    send(alice, bob, acceptance(bob, invitation))
    assert names(alice) == {}


def test_an_expired_invitation_is_useless(alice: Mortal, bob: Peer) -> None:
    """The inviter's clock decides; the answer says both times, so that clocks that differ are seen."""
    invitation = invite(alice, life_ms=60_000)
    alice.sleep(61)
    message = send(alice, bob, acceptance(bob, invitation))["message"]
    assert message.startswith("The invitation expired at ")
    assert "and here it is " in message
    assert names(alice) == {}
    assert views.invitations(alice.node)[0]["state"] == "expired"


def test_an_invitation_is_accepted_while_the_inviter_is_away(alice: Mortal, bob: Peer) -> None:
    """The message waits with its sender, and counts when it arrives in time."""
    invitation = invite(alice, life_ms=48 * HOUR_MS)
    alice.journal.close()
    alice.timeline.sleep(24 * 3600)
    alice.start()
    assert send(alice, bob, acceptance(bob, invitation)) == {"met": True}
    assert list(names(alice).values()) == [bob.user]


def test_an_invitation_that_is_revoked_on_the_way_is_useless(alice: Mortal, bob: Peer) -> None:
    """Bob has sent the proof before, and it arrives after that."""
    invitation = invite(alice)
    sent = acceptance(bob, invitation)
    alice.do(lambda: alice.node.people.invitations.revoke(invitation.id[:8]))
    assert send(alice, bob, sent)["message"] == "The invitation was revoked."
    assert names(alice) == {}
    again = alice.do(lambda: alice.node.people.invitations.revoke(invitation.id))
    assert isinstance(again, UsageError)
    assert "revoked already" in again.message
    assert isinstance(alice.do(lambda: alice.node.people.invitations.revoke("abcd")), UsageError)


def test_a_denied_user_does_not_come_in_by_a_line(alice: Mortal, bob: Peer) -> None:
    """They are refused before anything is read."""
    invitation = invite(alice)
    alice.contacts.block(bob.user)
    bob.send(acceptance(bob, invitation), endpoint=topics.INVITE)
    alice.sleep(0.1)
    assert names(alice) == {}
    assert alice.journal.counters["refused.blocked"] == 1


def test_an_invitation_may_open_endpoints(alice: Mortal, bob: Peer) -> None:
    """The new contact may call them by their user id, and nobody else may; wider rules stay as they are."""
    rules = {"own": "me", "some": "cd" * 32, "wide": "contacts", "open": "anyone", "gone": "me"}
    for endpoint, allow in rules.items():
        alice.do(partial(alice.node.catalog.put, Served(endpoint=endpoint, kind="exec", target="x", allow=allow)))
    invitation = invite(alice, name="bob", allow=list(rules))
    alice.do(lambda: alice.node.serving.unserve("gone"))
    send(alice, bob, acceptance(bob, invitation))
    found = {flow.endpoint: flow.allow for flow in alice.node.catalog.all()}
    assert found == {
        "User": "contacts", "own": bob.user, "some": f"{'cd' * 32},{bob.user}", "wide": "contacts", "open": "anyone"
    }  # fmt: skip
    assert any("'gone'" in detail for detail in log(alice, "ignored"))


def test_what_cannot_be_invited_is_said_at_once(alice: Mortal) -> None:
    """A name that is taken or impossible, an endpoint that is not served, one name for many, and too many lines."""
    alice.contacts.add("bob", "ab" * 32)
    for wrong in ({"name": "bob"}, {"name": "a b"}, {"allow": ["nothing"]}, {"name": "x", "uses": 2}, {"uses": 0}):
        with pytest.raises(UsageError) as error:
            invite(alice, **wrong)
        assert error.value.hint
    for _ in range(invitations.MAX_OPEN):
        invite(alice, life_ms=60_000)
    with pytest.raises(UsageError, match="invitations that can still be used"):
        invite(alice)
    alice.sleep(61)
    invite(alice)


@pytest.mark.parametrize("point", ["node.received", "journal.before_commit", "journal.after_commit", "node.published"])
@pytest.mark.parametrize("passage", [1, 2, 3])
def test_a_crash_admits_nobody_twice_and_loses_nobody(
    alice: Mortal, bob: Peer, eve: Peer, point: str, passage: int
) -> None:
    """The daemon is killed while Bob comes in. Then Eve's message arrives first, and Bob's again: one of them is in."""
    invitation = invite(alice, name="friend")
    first, other = bob.bundle(acceptance(bob, invitation)), eve.bundle(acceptance(eve, invitation))
    alice.faults.arm(point, passage)
    with contextlib.suppress(Killed):
        alice.receive(topics.INVITE, first)
        for _ in range(3):
            alice.sleep(1)
    assert not alice.faults.armed
    alice.restart()
    alice.receive(topics.INVITE, other)
    alice.receive(topics.INVITE, first)
    alice.sleep(1)
    (winner,) = names(alice).items()
    assert winner[0] == "friend"
    (meeting,) = alice.journal.meetings.of(invitation.id)
    assert (meeting.peer, meeting.added) == (winner[1], 1)
    assert alice.journal.invitations.all()[0].used == 1
    winners = [peer for peer in (bob, eve) if {"met": True} in [each["data"] for each in peer.received(topics.REPLY)]]
    assert [peer.user for peer in winners] == [winner[1]]


def test_a_crash_between_the_journal_and_the_address_book(
    alice: Mortal, bob: Peer, eve: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was let in is added at the next start, before anything else arrives."""

    def die(*_: object, **__: object) -> str:
        raise Killed

    invitation = invite(alice, name="bob")
    with monkeypatch.context() as patch:
        patch.setattr(alice.contacts, "add", die)
        bob.send(acceptance(bob, invitation), endpoint=topics.INVITE)
        with pytest.raises(Killed):
            alice.sleep(1)
    assert names(alice) == {}
    alice.restart()
    assert send(alice, eve, acceptance(eve, invitation))["kind"] == "not_allowed"
    assert names(alice) == {"bob": bob.user}


def test_an_address_book_that_cannot_be_written_is_tried_again(alice: Mortal, bob: Peer, tmp_path: Path) -> None:
    """Bob becomes a contact as soon as the file is right again; meanwhile the daemon works on, and does not spin."""
    invitation = invite(alice, name="bob")
    file = tmp_path / "contacts.yaml"
    file.write_text("[")
    assert send(alice, bob, acceptance(bob, invitation)) == {"met": True}
    assert not alice.has_work
    assert any("cannot be added to your contacts yet" in detail for detail in log(alice, "ignored"))
    file.unlink()
    alice.sleep(1)
    assert names(alice) == {}
    alice.sleep(invitations.RETRY_INTERVAL_S)
    assert names(alice) == {"bob": bob.user}


def test_what_waited_of_a_stranger_is_let_in_with_them(alice: Mortal, bob: Peer) -> None:
    """A question that Bob had asked before he accepted is shown then."""
    bob.send(bob.message("User", epoch=1))
    invitation = invite(alice, name="bob")
    send(alice, bob, acceptance(bob, invitation))
    assert [prompt.peer for prompt in alice.journal.prompts.open()] == [bob.user]


def test_invitations_of_long_ago_are_forgotten(alice: Mortal, bob: Peer) -> None:
    """A month after its end nobody needs an invitation, nor, later, who has used it."""
    send(alice, bob, acceptance(bob, invite(alice)))
    for days, left in ((20, (1, 1)), (12, (0, 1)), (35, (0, 0))):
        alice.sleep(days * 86_400)
        alice.do(lambda: alice.journal.prune(alice.clock.now()))
        found = (len(alice.journal.invitations.all()), len(alice.journal.meetings.unfinished()))
        assert found == left


# Those of others.


def accept(alice: LoneDaemon, invitation: Invitation, name: str = "", own_name: str = "") -> str:
    """Let Alice accept an invitation of another user."""
    sent = alice.do(lambda: alice.node.people.invitations.accept(invitation, name, own_name))
    if isinstance(sent, P2pflowsError):
        raise sent
    return str(sent)


def invitation_of(peer: Peer, alice: LoneDaemon, *, life_s: int = 3600, name: str = "robert") -> Invitation:
    """An invitation of a peer's."""
    return Invitation(peer.user, bytes(range(16)), alice.clock.now() // 1000 + life_s, BROKER, name)


def reply(alice: LoneDaemon, peer: Peer, message_id: str, message_type: str = "reply", **data: Any) -> None:
    """Let a peer answer a message of Alice's."""
    body = peer.message(topics.REPLY, type=message_type, cause=message_id, data=data, seq=0, epoch=0)
    alice.receive(topics.REPLY, peer.bundle(body))
    alice.sleep(0.1)


def test_the_inviter_becomes_a_contact_when_they_confirm_it(alice: Mortal, bob: Peer) -> None:
    """Not before; the proof is the one that the inviter expects, and nothing of the secret leaves."""
    invitation = invitation_of(bob, alice)
    sent = accept(alice, invitation, "bob", "Alice")
    alice.sleep(0.1)
    (message,) = bob.received(topics.INVITE)
    assert message["data"] == {
        "op": "accept", "invitation": invitation.id, "proof": invitation.proof(alice.user), "name": "Alice"
    }  # fmt: skip
    assert names(alice) == {}
    assert accept(alice, invitation, "bob") == sent
    reply(alice, bob, sent, met=True)
    assert names(alice) == {"bob": bob.user}
    (meeting,) = alice.journal.meetings.of(invitation.id)
    assert (meeting.way, meeting.suggested) == ("accepted", "robert")


def test_a_confirmation_survives_a_restart(alice: Mortal, bob: Peer) -> None:
    """The name that Alice chose is kept while the inviter is away."""
    sent = accept(alice, invitation_of(bob, alice, life_s=48 * 3600), "bob")
    alice.restart()
    alice.sleep(24 * 3600)
    assert "name" not in bob.received(topics.INVITE)[0]["data"]
    reply(alice, bob, sent, met=True)
    assert names(alice) == {"bob": bob.user}


def test_invitations_of_one_user_are_accepted_one_by_one(alice: Mortal, bob: Peer) -> None:
    """Each has its own message beside others that wait; a second confirmation of the same one changes nothing."""
    first, second = invitation_of(bob, alice), replace(invitation_of(bob, alice), secret=bytes(16))
    alice.do(lambda: alice.node.messages.send(Type.POST, bob.user, topics.INVITE, {}, life_ms=HOUR_MS))
    sent = [accept(alice, invitation, "bob") for invitation in (first, second, first)]
    assert (sent[0], len(set(sent))) == (sent[2], 2)
    reply(alice, bob, sent[0], met=True)
    again = accept(alice, first, "bob")
    assert again != sent[0]
    reply(alice, bob, again, met=True)
    assert (names(alice), alice.met) == ({"bob": bob.user}, ["bob"])


def test_an_acceptance_lives_as_long_as_it_can_matter(alice: Mortal, bob: Peer) -> None:
    """Ten minutes longer than the invitation, or than now if that has just ended; but no longer than messages may."""
    for life_s, expected_ms in ((3600, 3_600_000 + invitations.GRACE_MS), (-300, invitations.GRACE_MS)):
        accept(alice, invitation_of(bob, alice, life_s=life_s), "bob")
        alice.sleep(0.1)
        message = bob.received(topics.INVITE)[-1]
        assert message["expires"] - message["created"] == expected_ms
        alice.do(partial(alice.node.messages.cancel, message["id"]))
    distant = Invitation(bob.user, bytes(16), 2**32 - 1, BROKER)
    accept(alice, distant, "bob")
    alice.sleep(0.1)
    message = bob.received(topics.INVITE)[-1]
    assert message["expires"] - message["created"] == MAX_LIFETIME_MS
    assert log(alice, "cancelled") == []


def test_a_run_that_calls_this_endpoint_gets_its_answer(alice: Mortal, bob: Peer) -> None:
    """Only acceptances are for the invitations."""
    origin = AskOrigin(1, 0).to_json()
    later = alice.clock.now() + HOUR_MS
    sent = alice.do(
        lambda: alice.node.outbox.accept(Type.CALL, bob.user, topics.INVITE, {}, expires=later, origin=origin)
    )
    alice.do(lambda: alice.journal.records.add(RecordRow(1, 0, "call", "", sent.id, None)))
    reply(alice, bob, sent.id, met=True)
    record = alice.journal.records.get(1, 0)
    assert record is not None
    assert record.value is not None


@pytest.mark.parametrize(
    ("way", "words", "said"),
    [
        ("invited", "a b", "They accepted your invitation: 'bob' is your contact now. The words to compare are: a b."),
        ("accepted", "", "They confirmed that you accepted theirs: 'bob' is your contact now. Compare the words: HOW"),
    ],
)  # fmt: skip
def test_what_the_owner_reads(way: str, words: str, said: str) -> None:
    """Who began it, and the words, or how to see them."""
    assert invitations.story(MeetingRow(1, "0" * 32, "ab" * 32, "bob", "bob", way, 0), words) == said.replace(
        "HOW", "p2pflows contacts verify bob"
    )


def test_a_refusal_adds_nobody_and_is_told(alice: Mortal, bob: Peer) -> None:
    """The owner's log says why."""
    sent = accept(alice, invitation_of(bob, alice), "bob")
    reply(alice, bob, sent, "error", kind="not_allowed", message="The invitation was revoked.", hint="")
    assert names(alice) == {}
    assert log(alice, "not_allowed") == ["Their invitation came to nothing: The invitation was revoked."]


def test_an_inviter_who_never_answers_is_no_contact(alice: Mortal, bob: Peer) -> None:
    """The message ends with the invitation."""
    accept(alice, invitation_of(bob, alice, life_s=60), "bob")
    alice.sleep(61)
    assert log(alice, "unreachable") == log(alice, "unknown_user") == []
    alice.sleep(invitations.GRACE_MS / 1000)
    assert len(log(alice, "unknown_user")) == 1
    assert names(alice) == {}


def test_another_user_cannot_confirm(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """An answer counts only from the user whom the line names: the words of a swapped key never come to matter."""
    sent = accept(alice, invitation_of(bob, alice), "bob")
    reply(alice, eve, sent, met=True)
    assert names(alice) == {}


def test_the_name_of_an_inviter(alice: Mortal, bob: Peer) -> None:
    """It is Alice's choice, else their suggestion if it is free and can be a name, else made of their user id."""
    people = alice.node.people.invitations
    assert people.name_for(invitation_of(bob, alice), "") == "robert"
    assert people.name_for(invitation_of(bob, alice), "Zoë") == "Zoë"
    for suggested in ("", "carol", "a b", "me", "x" * 65):
        alice.contacts.remove("carol") if "carol" in names(alice) else None
        alice.contacts.add("carol", "ab" * 32)
        alice.contacts.reload_if_changed()
        assert people.name_for(invitation_of(bob, alice, name=suggested), "") == f"user-{bob.user[:8]}"
    with pytest.raises(UsageError, match="already stands for"):
        people.name_for(invitation_of(bob, alice), "carol")
    alice.contacts.add("bert", bob.user)
    alice.contacts.reload_if_changed()
    assert people.name_for(invitation_of(bob, alice), "") == "bert"
    assert people.name_for(invitation_of(bob, alice), "bert") == "bert"
    with pytest.raises(UsageError, match="as 'bert'"):
        people.name_for(invitation_of(bob, alice), "bob")


def test_what_cannot_be_accepted_is_said_at_once(alice: Mortal, bob: Peer) -> None:
    """One's own invitation, an expired one, and one of a user who was denied."""
    with pytest.raises(UsageError, match="your own"):
        accept(alice, invite(alice))
    with pytest.raises(UsageError, match=r"expired at .* and here it is"):
        accept(alice, invitation_of(bob, alice, life_s=-601))
    alice.contacts.block(bob.user)
    alice.contacts.reload_if_changed()
    with pytest.raises(UsageError, match="You have denied"):
        accept(alice, invitation_of(bob, alice))


# Introductions.


def introduce(alice: LoneDaemon, peer: Peer, user: object, name: object = "carol") -> None:
    """Let a peer introduce a user to Alice."""
    data = {"op": "introduce", "user": user, "name": name}
    peer.send(peer.message(topics.INVITE, data=data, epoch=next(_epochs)), endpoint=topics.INVITE)
    alice.sleep(3)


def test_an_introduction_changes_nothing_until_the_owner_decides(alice: Mortal, eve: Peer) -> None:
    """`requests` shows who introduces whom; allowing the user keeps that, and nothing is verified."""
    bob = Peer(alice, 2, name="bob")
    introduce(alice, bob, eve.user, "Eva")
    assert set(names(alice)) == {"bob"}
    (shown,) = views.requests(alice.node)
    assert (shown["user"], shown["messages"]) == (eve.user, 0)
    assert shown["introduced_by"] == [{"user": bob.user, "name": "bob", "as": "Eva"}]
    alice.do(lambda: alice.node.admission.allow(eve.user, "eve"))
    book = alice.contacts.book()
    assert (book.by_name["eve"], book.introduced_by, book.verified) == (eve.user, {eve.user: bob.user}, frozenset())
    assert views.requests(alice.node) == []


def test_only_contacts_introduce_and_only_users_who_are_new(alice: Mortal, eve: Peer) -> None:
    """A stranger, an id that is no key, the owner, contacts and denied users bring nothing."""
    bob, dora = Peer(alice, 2, name="bob"), Peer(alice, 4, name="dora")
    alice.contacts.block(Peer(alice, 5).user)
    introduce(alice, eve, Peer(alice, 6).user)
    for user in (alice.user, dora.user, Peer(alice, 5).user, eve.user.upper(), "b0" * 32, "x", None, 5):
        introduce(alice, bob, user)
    assert alice.journal.introductions.all() == []
    for name in ("not a name", 5):
        introduce(alice, bob, eve.user, name)
        assert views.requests(alice.node)[0]["introduced_by"][0]["as"] == ""
    introduce(alice, bob, eve.user, "Eva")
    assert log(alice, "introduced") == [
        f"They introduce the user {eve.user}. See: p2pflows requests",
        f"They introduce the user {eve.user} as 'Eva'. See: p2pflows requests",
    ]
    alice.contacts.remove("bob")
    alice.sleep(1)
    assert views.requests(alice.node) == []


def test_an_introduction_ends_with_a_decision_in_any_way(alice: Mortal) -> None:
    """A user who became a contact, or was denied, is shown no more; each keeps their own introducer."""
    bob, dora = Peer(alice, 2, name="bob"), Peer(alice, 4, name="dora")
    first, second, third = (Peer(alice, seed).user for seed in (6, 7, 8))
    for by, user in ((bob, first), (bob, second), (dora, third)):
        introduce(alice, by, user)
    assert alice.node.people.introductions.introducer_of(first) == bob.user
    assert alice.node.people.introductions.introducer_of(third) == dora.user
    alice.contacts.add("carol", first)
    alice.contacts.block(second)
    alice.contacts.reload_if_changed()
    assert [row.peer for row in alice.node.people.introductions.current()] == [third]


def test_only_two_different_contacts_are_introduced(alice: Mortal, eve: Peer) -> None:
    """Each gets the other, by the name that Alice has for them."""
    bob, dora = Peer(alice, 2, name="bob"), Peer(alice, 4, name="dora")
    alice.contacts.reload_if_changed()
    introduce = alice.node.people.introductions.introduce
    for one, other in ((bob, bob), (bob, eve), (eve, bob)):
        assert isinstance(alice.do(partial(introduce, one.user, other.user)), UsageError)
    alice.do(partial(introduce, bob.user, dora.user))
    alice.sleep(0.1)
    assert [each["data"] for each in bob.received(topics.INVITE)] == [
        {"op": "introduce", "user": dora.user, "name": "dora"}
    ]
    assert dora.received(topics.INVITE)[0]["data"] == {"op": "introduce", "user": bob.user, "name": "bob"}


def test_introductions_are_bounded(alice: Mortal) -> None:
    """A contact who introduces ever more users fills nothing: the oldest ones give way."""
    bob = Peer(alice, 2, name="bob")
    users = [Peer(alice, 100 + n).user for n in range(introductions.MAX_OF_ONE + 5)]
    for user in users:
        introduce(alice, bob, user)
    assert {row.peer for row in alice.node.people.introductions.current()} == set(users[5:])


# Wishes.


def test_the_wish_of_a_stranger_outlives_their_request(alice: Mortal, eve: Peer) -> None:
    """It is shown after the request has expired and after a restart; who is allowed then is told."""
    eve.send(eve.message("trace", type="call", epoch=1, expires=alice.clock.now() + 1000), endpoint="trace")
    alice.sleep(2)
    alice.restart()
    (shown,) = views.requests(alice.node)
    assert (shown["user"], shown["endpoints"], shown["messages"]) == (eve.user, ["trace"], 0)
    alice.do(lambda: alice.node.admission.allow(eve.user, "eve"))
    alice.sleep(0.1)
    (told,) = eve.received(topics.INVITE)
    assert (told["type"], told["data"]) == ("post", {"op": "allowed"})
    assert views.requests(alice.node) == []


def test_who_becomes_a_contact_in_another_way_is_told_too(alice: Mortal, eve: Peer) -> None:
    """As by `contacts add`, which needs no daemon; one whose request goes on gets its answer instead."""
    eve.send(eve.message("User", epoch=1, expires=alice.clock.now() + 1000))
    alice.sleep(2)
    alice.contacts.add("eve", eve.user)
    alice.sleep(1)
    assert [each["data"] for each in eve.received(topics.INVITE)] == [{"op": "allowed"}]
    waiting = Peer(alice, 9)
    waiting.send(waiting.message("User", epoch=1))
    alice.contacts.add("waiting", waiting.user)
    alice.sleep(1)
    assert waiting.received(topics.INVITE) == []
    assert alice.node.people.wishes.peers == set()


def test_a_denied_stranger_has_no_wish(alice: Mortal, eve: Peer) -> None:
    """Denying ends it, and nobody is told."""
    eve.send(eve.message("User", epoch=1))
    alice.do(lambda: alice.node.admission.deny(eve.user))
    alice.sleep(1)
    assert views.requests(alice.node) == []
    assert eve.received(topics.INVITE) == []


def test_a_wish_about_which_the_owner_has_decided_is_not_shown(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """From the moment at which the address book says so; who never asked is told nothing."""
    for peer in (bob, eve):
        peer.send(peer.message("User", epoch=1))
    alice.contacts.add("bob", bob.user)
    alice.contacts.block(eve.user)
    alice.contacts.reload_if_changed()
    assert alice.node.people.wishes.current() == []
    carol = Peer(alice, 9)
    alice.do(lambda: alice.node.admission.allow(carol.user, "carol"))
    alice.sleep(0.1)
    assert carol.received(topics.INVITE) == []


def test_wishes_are_bounded(alice: Mortal, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many strangers cannot push out the wish of one within a day; after that, the oldest gives way."""
    monkeypatch.setattr(wishes, "MAX_WISHES", 3)
    peers = [Peer(alice, 20 + n) for n in range(5)]
    for peer in peers[:4]:
        peer.send(peer.message("User", epoch=1, expires=alice.clock.now() + 1000))
        alice.sleep(2)
    assert [wish.peer for wish in alice.node.people.wishes.current()] == [peer.user for peer in peers[:3]]
    alice.sleep(wishes.MIN_KEPT_MS / 1000 - 60)
    peers[1].send(peers[1].message("trace", epoch=1), endpoint="trace")
    assert alice.node.people.wishes.current()[1].endpoints == '["User", "trace"]'
    alice.sleep(60)
    peers[4].send(peers[4].message("User", epoch=1))
    assert [wish.peer for wish in alice.node.people.wishes.current()] == [peers[n].user for n in (1, 2, 4)]


def test_news_of_being_allowed_come_only_from_users_whom_we_asked(alice: Mortal, bob: Peer, eve: Peer) -> None:
    """Alice's log names Bob, to whom she has sent something, and not Eve."""
    accept(alice, invitation_of(bob, alice), "bob")
    for peer in (bob, eve):
        peer.send(peer.message(topics.INVITE, data={"op": "allowed"}, epoch=1), endpoint=topics.INVITE)
    alice.sleep(0.1)
    assert [entry.peer for entry in alice.journal.log.newest(100) if entry.what == "allowed"] == [bob.user]


def test_a_stranger_whose_clock_differs_learns_it(alice: Mortal, bob: Peer) -> None:
    """An acceptance that is refused for its times gets a notice with the inviter's time."""
    ahead = alice.clock.now() + 400_000
    body = bob.message(topics.INVITE, type="call", epoch=1, created=ahead, expires=ahead + HOUR_MS)
    bob.send(body, endpoint=topics.INVITE)
    alice.sleep(0.1)
    assert len(bob.received_lines("untimely")) == 1
