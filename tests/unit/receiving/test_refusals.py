"""What is refused: whom the log names for it, and what is not even opened."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_daemon import LoneDaemon, Peer

from p2pflows.protocol import topics
from p2pflowsd.receiving import allowance, refusals, seen_bundles
from p2pflowsd.receiving.allowance import TokenBucket
from p2pflowsd.receiving.refusals import INTERVAL_S, MANY, MANY_REPEATED, Refusals
from p2pflowsd.receiving.seen_bundles import SeenBundles


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    yield daemon
    daemon.journal.close()


def refuse(bob: LoneDaemon, refused: Refusals, reason: str, *senders: str, count: int = 1) -> None:
    """Let something of each sender be refused."""

    def note_all() -> None:
        for sender in senders:
            refused.note(reason, sender, "x", "A message was refused.", count)

    bob.do(note_all)


def named(bob: LoneDaemon) -> list[str]:
    """Return whom the log names, in the order of the entries."""
    return [row.peer for row in bob.journal.log.newest(1_000) if row.what == "refused"]


@pytest.fixture
def refused(bob: LoneDaemon) -> Refusals:
    """The refusals of a daemon that has refused nothing yet."""
    return Refusals(journal=bob.journal, clock=bob.clock, log=bob.node._log)


def test_a_sender_is_named_at_the_hundredth_refusal(bob: LoneDaemon, refused: Refusals) -> None:
    """A few refusals that honest senders cause too are only counted."""
    refuse(bob, refused, "rate_limited", "a" * 64, count=MANY - 1)
    assert named(bob) == []
    refuse(bob, refused, "rate_limited", "a" * 64)
    assert named(bob) == ["a" * 64]
    assert bob.journal.counters["refused.rate_limited"] == MANY


def test_each_minute_is_counted_by_itself(bob: LoneDaemon, refused: Refusals) -> None:
    """A few refusals now and then never make many, and who goes on is named again."""
    for _ in range(5):
        refuse(bob, refused, "rate_limited", "a" * 64, count=MANY - 1)
        bob.timeline.sleep(INTERVAL_S)
    assert named(bob) == []
    for _ in range(2):
        refuse(bob, refused, "rate_limited", "a" * 64, count=MANY)
        bob.timeline.sleep(INTERVAL_S + 1)
    assert named(bob) == ["a" * 64] * 2


def test_a_sender_who_repeats_after_an_outage_is_not_named(bob: LoneDaemon, refused: Refusals) -> None:
    """It takes far more of what was sent before."""
    refuse(bob, refused, "replayed", "a" * 64, count=MANY_REPEATED - 1)
    assert named(bob) == []
    refuse(bob, refused, "replayed", "a" * 64)
    assert named(bob) == ["a" * 64]


def test_ever_other_senders_take_no_place_from_those_that_are_counted(
    bob: LoneDaemon, refused: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Further ones are counted together, and told of from a larger number on."""
    monkeypatch.setattr(refusals, "MAX_SENDERS", 2)
    monkeypatch.setattr(refusals, "MANY_OF_STRANGERS", 3 * MANY)
    refuse(bob, refused, "unrelated", "a" * 64, "b" * 64)
    others = [f"{number:064x}" for number in range(2 * MANY)]
    refuse(bob, refused, "unrelated", *others)
    assert named(bob) == []
    refuse(bob, refused, "unrelated", "a" * 64, count=MANY)
    assert named(bob) == ["a" * 64]
    refuse(bob, refused, "unrelated", *others)
    assert named(bob) == ["a" * 64, ""]
    details = [row.detail for row in bob.journal.log.newest(2)]
    assert "in their name" in details[0]
    assert "under ever other names" in details[1]


def test_no_more_saves_up_than_a_bucket_holds(bob: LoneDaemon) -> None:
    """After a long silence, nobody may send more at once than after a short one."""
    bucket = TokenBucket(bob.clock, rate=10.0, burst_s=2.0)
    bob.timeline.sleep(1_000.0)
    assert bucket.has(20.0)
    assert not bucket.has(21.0)


def test_senders_with_a_bucket_are_forgotten(bob: LoneDaemon) -> None:
    """Packets under ever new names fill no memory."""
    sample = bytearray(Peer(bob, 66).bundle(b"x"))
    for _ in range(allowance.MAX_SENDERS + 50):
        sample[2:34] = bob.random.randbytes(32)
        bob.receive("User", bytes(sample))
    assert len(bob.node.intake._allowance._packets._of_one) == allowance.MAX_SENDERS


def test_a_bundle_is_remembered_for_its_sender_and_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle of another sender under the same nonce is another one, and the oldest bundle is forgotten."""
    monkeypatch.setattr(seen_bundles, "MAX_BUNDLES", 2)
    seen = SeenBundles()
    first, other, third = (bytes([sender]) * 34 + b"n" * 24 + b"box" for sender in (1, 2, 3))
    seen.add("x", first)
    assert seen.has("x", first[:-1])
    assert not seen.has("x", other)
    assert not seen.has("y", first)
    seen.add("x", other)
    seen.add("x", third)
    assert not seen.has("x", first)
    assert seen.has("x", other)


def test_a_repeated_bundle_is_counted_once_and_its_message_comes_anew(bob: LoneDaemon) -> None:
    """Whoever seals a message again gets another receipt for it."""
    ann = Peer(bob, 65, "ann")
    body = ann.message("nothing", epoch=5, seq=0)
    bundle = ann.bundle(body, body)
    for _ in range(3):
        bob.receive("nothing", bundle)
    assert bob.journal.counters["refused.replayed"] == 1 + 2
    bob.receive("nothing", ann.bundle(body))
    bob.sleep(0.1)
    assert bob.journal.counters["received"] == 1
    assert bob.link.sent[topics.inbox(ann.user, topics.NOTICE)]
