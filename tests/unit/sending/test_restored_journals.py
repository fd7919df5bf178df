"""Older copies of journals, as a daemon notices them by what others send; no honest neighbour is called one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.checker import check
from simulation.random_lives import RandomActions
from simulation.timeline import START_MS
from simulation.world import World
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.protocol.message import Type
from p2pflowsd.journal import JournalError
from p2pflowsd.journal.last_change import OlderCopy
from p2pflowsd.journal.streams import Direction
from p2pflowsd.sending.confirmed import MAX_NUMBERS, MAX_STREAMS, Confirmed
from p2pflowsd.sending.restored_journals import MAX_SHOWN, SHOWN_FOR_MS


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    daemon.serve_human(allow="anyone")
    yield daemon
    daemon.journal.close()


@pytest.fixture
def ann(bob: LoneDaemon) -> Peer:
    """A contact of bob's, whose daemon is online."""
    ann = Peer(bob, 65, "ann")
    ann.show(boot=1, online=True)
    return ann


def accept(bob: LoneDaemon, peer: Peer, kind: Type = Type.CALL) -> str:
    """Let bob send a message to endpoint `x` of a peer; return its id."""
    expires = bob.clock.now() + HOUR_MS
    return str(bob.do(lambda: bob.node.outbox.accept(kind, peer.user, "x", {}, expires=expires)).id)


def epoch_to(bob: LoneDaemon, peer: Peer) -> int:
    """Return the epoch of the stream to endpoint `x` of a peer."""
    position = bob.journal.streams.get(Direction.OUTGOING, peer.user, "x")
    assert position is not None
    return position.epoch


def noticed(bob: LoneDaemon) -> list[str]:
    """Return the user ids of the journals that bob has noticed to be older copies."""
    return [each.user for each in bob.node.restored.recent()]


def details(bob: LoneDaemon) -> list[str]:
    """Return what bob's log says about them."""
    return [row.detail for row in bob.journal.log.newest(100) if row.what == "restored"]


@pytest.mark.parametrize("kind", [Type.CALL, Type.POST])
def test_a_recipient_that_asks_for_what_it_has_confirmed(bob: LoneDaemon, ann: Peer, kind: Type) -> None:
    """Its journal is an older copy, if its daemon was started again since; calls are sent again, and notes are not."""
    sent = accept(bob, ann, kind)
    ann.notify(received=[sent])
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert noticed(bob) == []  # it may have asked before it had the message
    ann.show(boot=2, online=True)
    bob.sleep(5)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert noticed(bob) == [ann.user]
    again = "1 call is sent again" in details(bob)[0]
    assert again is (kind == Type.CALL)


def test_only_what_was_confirmed_counts_as_lost(bob: LoneDaemon, ann: Peer) -> None:
    """What is pending behind a lost call was never there, so the owner does not read that it is sent again."""
    lost, _ = accept(bob, ann), accept(bob, ann)
    ann.notify(received=[lost])
    ann.show(boot=2, online=True)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert "1 call is sent again" in details(bob)[0]


def test_a_recipient_that_asks_for_what_was_withdrawn(bob: LoneDaemon, ann: Peer) -> None:
    """A gap that a message has left which ended before it was delivered says nothing about a journal."""
    withdrawn = accept(bob, ann)
    bob.do(lambda: bob.node.messages.cancel(withdrawn))
    later = accept(bob, ann)
    ann.notify(received=[later])
    ann.show(boot=2, online=True)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert noticed(bob) == []


def test_a_sender_that_numbers_anew(bob: LoneDaemon, ann: Peer) -> None:
    """The journal of a contact who begins a new epoch of a stream is an older copy, or a new one."""
    now = bob.clock.now()
    ann.send(ann.message(epoch=now, seq=0), ann.message(epoch=now, seq=1))
    assert noticed(bob) == []
    ann.send(ann.message(epoch=now + 1, seq=0))
    assert noticed(bob) == [ann.user]
    stranger = Peer(bob, 66)
    for epoch in (now, now + 1):
        stranger.send(stranger.message(epoch=epoch, seq=0))
    assert noticed(bob) == [ann.user]


def test_a_recipient_that_has_more_than_was_sent(bob: LoneDaemon, ann: Peer) -> None:
    """Who has received what our journal does not have shows that it is an older copy."""
    accept(bob, ann)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 9]])
    assert noticed(bob) == [bob.user]
    assert details(bob)[0].startswith("By what they say, your journal was replaced by an older copy")


def test_the_first_message_that_is_missing_is_not_held_back(bob: LoneDaemon, ann: Peer) -> None:
    """What was sent along with an earlier one, again and again, is sent at once when it is the one that is missing."""
    calls = [accept(bob, ann) for _ in range(2)]
    epoch = epoch_to(bob, ann)
    for _ in range(6):  # the second goes along with the first
        ann.notify(received=calls)
        bob.sleep(40)
        ann.notify(gaps=[["x", epoch, 0]])
    ann.notify(received=calls)
    before = len(ann.received("x"))
    bob.sleep(0.5)
    ann.notify(gaps=[["x", epoch, 1]])
    assert [json.loads(json.dumps(body))["id"] for body in ann.received("x")[before:]] == [calls[1]]


def test_what_is_noticed_is_remembered_for_a_day(bob: LoneDaemon) -> None:
    """It is shown after a restart, newest first, up to a limit and for a day; the same is noted once an hour."""
    peers = [Peer(bob, 100 + number, f"peer{number}") for number in range(MAX_SHOWN + 3)]
    for peer in peers:
        with bob.journal.transaction():
            for _ in range(2):
                bob.node.restored.note_new_epoch(peer.user, "x")
    bob.restart()
    assert noticed(bob) == [peer.user for peer in reversed(peers[3:])]
    assert len(details(bob)) == len(peers)
    bob.timeline.sleep(SHOWN_FOR_MS / 1_000 + 1)
    assert noticed(bob) == []


def test_the_numbers_that_are_remembered_are_bounded() -> None:
    """The oldest numbers and streams are forgotten first."""
    confirmed = Confirmed()
    for number in range(MAX_STREAMS + 1):
        confirmed.add(("peer", str(number)), 7, 1)
    assert confirmed.boot_of(("peer", "0"), 7) is None
    for number in range(MAX_NUMBERS + 1):
        confirmed.add(("peer", "1"), 100 + number, 2)
    assert [confirmed.boot_of(("peer", "1"), seq) for seq in (7, 100, 101)] == [None, None, 2]


def test_damage_that_is_read_after_a_commit(bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that cannot be read when a message is published is a failing disk, and no bug."""

    def fails(*_: Any) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    monkeypatch.setattr(bob.node.outbox, "flush", fails)
    with pytest.raises(JournalError, match="it is damaged") as failed:
        accept(bob, ann)
    assert "Put back your copy" in failed.value.advice


@pytest.mark.parametrize(
    ("until", "words"), [(0, "by an empty one."), (START_MS, "by an older copy, which ends at 2027-")]
)
def test_the_owner_reads_what_is_lost(bob: LoneDaemon, until: int, words: str) -> None:
    """And from when on."""
    bob.do(lambda: bob.node.restored.note_own(OlderCopy(until, START_MS + HOUR_MS)))
    assert words in details(bob)[0]
    assert noticed(bob) == [bob.user]


@pytest.mark.parametrize(
    ("calls", "words"), [(0, "missing there. Notes"), (1, ". 1 call is sent again."), (3, ". 3 calls are sent again.")]
)
def test_the_owner_reads_what_is_sent_again(bob: LoneDaemon, ann: Peer, calls: int, words: str) -> None:
    """When somebody else has put back a copy."""
    bob.do(lambda: bob.node.restored.note_lost_messages(ann.user, "x", calls))
    assert words in details(bob)[0]


def test_the_same_is_not_remembered_again_for_a_while(bob: LoneDaemon, ann: Peer) -> None:
    """So that no peer makes the journal be written again and again; what is new is remembered at once."""
    noted = []
    for calls, pause in ((1, 60), (1, 3_600), (1, 60), (2, 0)):
        bob.do(lambda calls=calls: bob.node.restored.note_lost_messages(ann.user, "x", calls))  # type: ignore[misc]
        (found,) = bob.node.restored.recent()
        noted.append((found.at - START_MS) // 1_000)
        bob.sleep(pause)
    assert noted == [0, 0, 3_660, 3_720]


@pytest.mark.parametrize("restores", [False, True])
def test_random_lives(restores: bool) -> None:
    """Who puts back a copy that is older by more than a moment is told; nothing else is taken for that."""
    ever = False
    for seed in (1, 11, 14):
        with World(seed, people=2) as world:
            world.run(0.5)
            actions = RandomActions(world, world.random, restores=restores)
            for _ in range(150):
                actions.step()
            assert world.settle() == []
            assert check(world.facts) == []
            restored = {fact.node for fact in world.facts if fact.kind == "restored"}
            said = {
                machine.user
                for machine in world.machines
                for row in (machine.node.journal.log.newest(1_000) if machine.node is not None else [])
                if row.what == "restored" and row.detail.startswith("Your journal")
            }
            assert said <= restored
            ever |= bool(said)
    assert ever is restores
