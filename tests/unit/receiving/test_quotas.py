"""Quotas: how much of a journal each user may fill, what happens to the others, and how the owner makes room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from simulation.world import ECHO, HUMAN, World
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer
from support.usage import check_usage

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflows.settings.limits import Limits
from p2pflowsd.api import views
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.node import Node

EPOCH = 5


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., LoneDaemon]]:
    """Starts bob's daemon with other limits than the usual ones."""
    made: list[LoneDaemon] = []

    def make(**limits: int) -> LoneDaemon:
        daemon = LoneDaemon(tmp_path, Limits(**limits))
        daemon.serve_human()
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.journal.close()


def posts(peer: Peer, count: int, *, size: int = 0, start: int = 0, **fields: Any) -> None:
    """Send posts in order, each in a bundle of its own."""
    for seq in range(start, start + count):
        peer.send(peer.message(epoch=EPOCH, seq=seq, data={"text": "x" * (size or 1)}, **fields))


def refusals(peer: Peer) -> list[str]:
    """The reasons that a peer was told."""
    return [reason for _, reason in peer.received_lines("refused")]


def test_a_contact_fills_no_more_than_their_bytes(make: Callable[..., LoneDaemon]) -> None:
    """Large notes of a contact are refused when their bytes are used up; others go on; clearing makes room."""
    bob = make(bytes_per_contact=1_500_000)
    mallory, ann = Peer(bob, 66, name="mallory"), Peer(bob, 67, name="ann")
    posts(mallory, 5, size=200_000)
    bob.sleep(0.03)
    stored = len(bob.journal.prompts.open())
    assert 0 < stored < 5
    assert bob.journal.usage.of(mallory.user).bytes <= 1_500_000 + 200_000  # the text is in the data, too
    assert set(refusals(mallory)) == {"quota_full"}
    posts(ann, 2, size=200_000)
    bob.do(lambda: bob.node.messages.send(Type.POST, bob.user, "User", {"text": "mine"}, life_ms=HOUR_MS))
    assert bob.node.quotas.has_room(bob.user, 700_000)
    assert len(bob.journal.prompts.open()) == stored + 2
    ended = bob.do(lambda: bob.node.inbox.end_some(mallory.user, "", 200))
    assert ended.total() == stored
    posts(mallory, 5 - stored, size=200_000, start=stored)
    assert len(bob.journal.prompts.open()) == 2 + 5 - stored
    check_usage(bob.journal)


def test_a_contact_has_so_many_requests(make: Callable[..., LoneDaemon]) -> None:
    """Requests beyond the limit wait at their sender; a withdrawal passes and makes room, also after a restart."""
    bob = make(requests_per_contact=6)
    ann = Peer(bob, 67, name="ann")
    first = ann.message(epoch=EPOCH, seq=0, id="a" * 32, type="call")
    ann.send(first)
    posts(ann, 9, start=1)
    bob.sleep(0.03)
    assert len(bob.journal.prompts.open()) == 6
    assert refusals(ann)[0] == "quota_full"
    bob.restart()
    posts(ann, 1, start=6)
    assert len(bob.journal.prompts.open()) == 6
    ann.send(ann.message(epoch=EPOCH, seq=6, type="cancel", cause="a" * 32))
    assert len(bob.journal.prompts.open()) == 5
    posts(ann, 3, start=7)
    assert len(bob.journal.prompts.open()) == 6
    check_usage(bob.journal)


def test_a_withdrawal_that_waits_for_an_earlier_message_needs_room(make: Callable[..., LoneDaemon]) -> None:
    """It makes room only when its turn comes, so nobody fills the journal with withdrawals of nothing."""
    bob = make(requests_per_contact=2)
    ann = Peer(bob, 67, name="ann")
    posts(ann, 2)
    ann.send(*(ann.message(epoch=EPOCH, seq=seq, type="cancel", cause="a" * 32) for seq in range(4, 9)))
    bob.sleep(0.03)
    assert bob.node.blocked.count() == 0
    assert refusals(ann) == ["quota_full"] * 5


def test_what_waits_is_confirmed_on_a_full_quota(make: Callable[..., LoneDaemon]) -> None:
    """A message that comes again while it waits for an earlier one gets its receipt, and no refusal."""
    bob = make(requests_per_contact=2)
    ann = Peer(bob, 67, name="ann")
    message = ann.message(epoch=EPOCH, seq=7)
    posts(ann, 1)
    ann.send(message)
    ann.send(message)
    bob.sleep(0.03)
    assert refusals(ann) == []
    assert bob.journal.counters["refused.replayed"] == 1


def test_a_stranger_gets_an_id_twice_where_no_more_is_held(make: Callable[..., LoneDaemon]) -> None:
    """What has the id of a request that is held counts as a copy of it, and its sender hears that it is held."""
    bob = make(requests_per_stranger=2)
    carol = Peer(bob, 68)
    for seq in range(3):
        number = f"{seq % 2:032x}"
        carol.send(carol.message(epoch=EPOCH, seq=seq, id=number, conversation=number))
    bob.sleep(0.03)
    assert refusals(carol) == []
    assert carol.received_lines("held") == [f"{0:032x}", f"{1:032x}"]


def test_blocked_requests_of_all_are_bounded(make: Callable[..., LoneDaemon], monkeypatch: pytest.MonkeyPatch) -> None:
    """Many contacts together fill no more than one daemon can hold, and many strangers less."""
    monkeypatch.setattr("p2pflowsd.receiving.intake.MAX_BLOCKED", 8)
    bob = make(requests_of_strangers=3)

    def waits(peer: Peer) -> int:
        peer.send(*(peer.message(epoch=EPOCH, seq=2 * seq) for seq in (1, 2)))
        bob.sleep(2)
        return bob.node.blocked.count_of(peer.user)

    contacts = [Peer(bob, seed, name=f"c{seed}") for seed in range(70, 73)]
    assert [waits(peer) for peer in contacts[:2]] == [2, 2]
    assert [waits(Peer(bob, seed)) for seed in (80, 81)] == [2, 1]
    assert waits(contacts[2]) == 1
    assert bob.node.blocked.count() == 8


@pytest.mark.parametrize("limit", ["answers_per_contact", "remembered_per_contact", "requests_per_contact"])
def test_a_contact_has_so_many_rows_of_each_kind(make: Callable[..., LoneDaemon], limit: str) -> None:
    """Requests, answers that they never confirm, and ids that are remembered have a limit each."""
    bob = make(**{limit: 3})
    ann = Peer(bob, 67, name="ann")
    for seq in range(6):
        if limit == "requests_per_contact":
            posts(ann, 1, start=seq)
            continue
        kind = "call" if limit == "answers_per_contact" else "post"
        ann.send(ann.message("_flows", type=kind, epoch=EPOCH, seq=seq, data={}), endpoint="_flows")
    bob.sleep(0.03)
    usage = bob.journal.usage.of(ann.user)
    assert {usage.requests, usage.answers, usage.remembered} >= {3}
    assert refusals(ann) == ["quota_full"] * 3


@pytest.mark.parametrize(("size", "stored"), [(1, 3), (600_000, 1)])
def test_one_s_own_requests_have_limits_of_their_own(make: Callable[..., LoneDaemon], size: int, stored: int) -> None:
    """What one's own flows send takes no room of others, and others take none of theirs."""
    bob = make(own_requests=3, own_bytes=1_000_000, remembered_of_strangers=1)
    carol = Peer(bob, 68)
    for seq in range(2):
        carol.send(carol.message("_flows", epoch=EPOCH, seq=seq, data={}), endpoint="_flows")
        bob.sleep(1.5)
    assert refusals(carol) == ["quota_full"]
    for _ in range(4):
        bob.do(lambda: bob.node.messages.send(Type.POST, bob.user, "User", {"text": "x" * size}, life_ms=HOUR_MS))
        for bundle in bob.link.sent.pop(topics.inbox(bob.user, "User"), []):
            bob.receive("User", bundle)
    assert len(bob.journal.prompts.open()) == stored
    fills = {fill.limit: fill.used for fill in bob.node.quotas.fills(bob.journal.usage.of(bob.user))}
    assert fills.keys() == {"own_requests", "own_bytes"}
    assert fills["own_requests"] == stored


def test_ended_questions_stay_while_there_is_room(make: Callable[..., LoneDaemon]) -> None:
    """What the owner has answered can be read again until its sender fills all."""
    bob = make(bytes_per_contact=1_000_000)
    ann = Peer(bob, 67, name="ann")
    posts(ann, 1, size=200_000)
    bob.do(lambda: bob.node.inbox.end_some(ann.user, "", 200))
    posts(ann, 1, start=1)
    assert len(bob.journal.prompts.all()) == 2


def test_what_contacts_fill_is_not_counted_as_strangers(make: Callable[..., LoneDaemon]) -> None:
    """A stranger finds room however much is stored of contacts."""
    bob = make(bytes_of_strangers=1_000_000)
    posts(Peer(bob, 67, name="ann"), 3, size=400_000)
    bob.sleep(2)
    carol = Peer(bob, 68)
    posts(carol, 1, size=1_000)
    bob.sleep(0.03)
    assert refusals(carol) == []


def test_posts_leave_room_for_calls(make: Callable[..., LoneDaemon]) -> None:
    """Whoever has queued more posts than there is room for can still call; the same holds for the owner."""
    bob = make(requests_per_contact=20, own_requests=20)
    ann = Peer(bob, 67, name="ann")
    posts(ann, 20)
    bob.sleep(0.03)
    assert len(refusals(ann)) == 2
    ann.send(ann.message("Other", type="call", epoch=EPOCH, seq=0, data={}), endpoint="Other")
    bob.sleep(0.03)
    assert len(refusals(ann)) == 2
    for _ in range(18):
        bob.do(partial(bob.journal.usage.add_request, bob.user, IncomingState.READY, 1))
    assert not bob.node.quotas.has_room(bob.user, 1, is_post=True)
    assert bob.node.quotas.has_room(bob.user, 1)


def test_what_was_stored_is_confirmed_on_a_full_quota(make: Callable[..., LoneDaemon]) -> None:
    """A repeated message needs no room: its sender gets the receipt, and no refusal."""
    bob = make(requests_per_contact=2)
    ann = Peer(bob, 67, name="ann")
    message = ann.message(epoch=EPOCH, seq=0)
    ann.send(message)
    posts(ann, 1, start=1)
    ann.send(message)
    bob.sleep(0.03)
    assert refusals(ann) == []
    assert bob.journal.counters["refused.replayed"] == 1


def test_answers_to_strangers_live_briefly(make: Callable[..., LoneDaemon]) -> None:
    """A stranger who asks and never confirms fills a few answers, which end after an hour and not with the question."""
    bob = make(answers_per_stranger=3)
    carol = Peer(bob, 68)
    latest = bob.clock.now() + 600 * HOUR_MS
    for seq in range(5):
        carol.send(
            carol.message("_flows", type="call", epoch=EPOCH, seq=seq, data={}, expires=latest),
            endpoint="_flows",
        )
    bob.sleep(0.03)
    assert bob.journal.usage.of(carol.user).answers == 3
    assert "quota_full" in refusals(carol)
    assert all(row.expires <= bob.clock.now() + HOUR_MS for row in bob.journal.outgoing.pending())
    bob.sleep(3_601)
    assert bob.journal.usage.of(carol.user).answers == 0
    carol.send(carol.message("_flows", type="call", epoch=EPOCH, seq=3, data={}), endpoint="_flows")
    assert bob.journal.usage.of(carol.user).answers == 1
    check_usage(bob.journal)


def test_strangers_together_leave_room_for_contacts(make: Callable[..., LoneDaemon]) -> None:
    """Strangers fill only their own bytes, together and each, and what is remembered of them is bounded."""
    bob = make(bytes_per_stranger=1_000_000, bytes_of_strangers=2_000_000, remembered_of_strangers=4)
    bob.serve_human("Open", allow="anyone")
    for seed in range(70, 76):
        posts(Peer(bob, seed), 3, size=400_000)
        bob.sleep(2)
    strangers = [row for row in bob.journal.usage.all() if row.peer != bob.user]
    assert all(row.bytes <= 1_000_000 for row in strangers)
    assert 1_000_000 < sum(row.bytes for row in strangers) <= 2_000_000
    ann = Peer(bob, 67, name="ann")
    posts(ann, 3, size=400_000)
    assert len(bob.journal.prompts.open()) == 3
    assert bob.node.quotas.status(5)["strangers"]["peers"] == len(strangers)


def test_ids_of_strangers_are_remembered_up_to_a_limit(make: Callable[..., LoneDaemon]) -> None:
    """Whoever makes ever new requests that end at once does not fill the journal with their ids."""
    bob = make(remembered_of_strangers=4)
    carol = Peer(bob, 68)
    for seq in range(8):
        carol.send(carol.message("_flows", epoch=EPOCH, seq=seq, data={}), endpoint="_flows")
        bob.sleep(1.5)
    assert bob.journal.usage.of(carol.user).remembered == 4
    assert "quota_full" in refusals(carol)


def test_the_proof_of_a_bundle_lives_as_long_as_its_messages(make: Callable[..., LoneDaemon]) -> None:
    """What proves who signed is removed with the last body that it proves, also after a restart."""

    def proofs() -> list[tuple[int]]:
        return bob.journal._db.execute("SELECT expires FROM bundles").fetchall()

    bob = make()
    ann = Peer(bob, 67, name="ann")
    now = bob.clock.now()
    lives = (HOUR_MS, 60_000, 30_000)
    ann.send(*(ann.message(epoch=EPOCH, seq=1 + n, expires=now + life) for n, life in enumerate(lives)))
    assert proofs() == [(now + HOUR_MS,)]
    bob.sleep(61)
    assert proofs() == [(now + HOUR_MS,)]
    bob.restart()
    ann.send(ann.message(epoch=EPOCH, seq=0))
    bob.sleep(1)
    assert proofs() == []
    now = bob.clock.now()
    ann.send(*(ann.message(epoch=EPOCH, seq=9 + n, expires=now + life) for n, life in enumerate(reversed(lives))))
    assert proofs() == [(now + HOUR_MS,)]


def test_the_owner_sees_who_fills_what(make: Callable[..., LoneDaemon]) -> None:
    """`status` lists what each user fills, with the limits that they have nearly reached."""
    bob = make(questions_per_contact=5)
    ann = Peer(bob, 67, name="ann")
    posts(ann, 4)
    shown = views.counts(bob.node)["quotas"]
    assert shown["limits"]["questions_per_contact"] == 5
    (row,) = [each for each in shown["peers"] if each["user"] == ann.user]
    assert (row["name"], row["questions"]) == ("ann", 4)
    assert row["near"] == [{"limit": "questions_per_contact", "what": "questions", "used": 4, "most": 5}]
    assert "peer" not in row
    carol = Peer(bob, 68)
    posts(carol, 18)
    shown = bob.node.quotas.status(1)
    assert [each["user"] for each in shown["peers"]] == [carol.user]
    assert [each["limit"] for each in shown["peers"][0]["near"]] == ["requests_per_stranger"]
    assert shown["strangers"]["peers"] == 1


def cancel(node: Node, call: str) -> object:
    """Withdraw a call."""
    return node.messages.cancel(call)


def test_usage_is_right_whatever_happens() -> None:
    """After calls, posts, withdrawals, answers, expiries and a restart, the counts are those of the rows."""
    with World(seed=5, people=3) as world:
        world.run(0.5)
        ann, bob, _ = world.machines
        calls = [ann.send(Type.CALL, bob, endpoint, {"text": "x"}, 20) for endpoint in (ECHO, HUMAN, "nobody") * 4]
        world.run(1)
        for call in calls[::5]:
            ann.ask(partial(cancel, call=call.result))
        ann.send(Type.POST, bob, HUMAN, {"text": "note"}, 5)
        for prompt, _ in bob.open_prompts()[:2]:
            bob.answer(prompt, "yes")
        world.run(3)
        bob.kill()
        bob.start()
        world.run(30)
        assert bob.node is not None
        assert ann.user in {row.peer for row in bob.node.journal.usage.all()}
        for machine in world.machines:
            assert machine.node is not None
            check_usage(machine.node.journal)
            machine.node.journal.prune(machine.clock.now() + 40 * 24 * HOUR_MS)
            check_usage(machine.node.journal)
