"""Requests that wait for an earlier one of their stream, once it has come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_daemon import LoneDaemon, Packet, Peer

from p2pflows.protocol import topics
from p2pflowsd.receiving import blocked

ENDPOINTS = ("User", "team")


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon, which asks him at two endpoints."""
    daemon = LoneDaemon(tmp_path)
    for endpoint in ENDPOINTS:
        daemon.serve_human(endpoint)
    yield daemon
    daemon.journal.close()


def gaps(ann: Peer) -> int:
    """Return how often ann was asked for a message that is missing."""
    return len(ann.received_lines("gaps"))


def test_a_request_that_expires_does_not_hurry_the_one_that_is_missing(bob: LoneDaemon) -> None:
    """A message is asked for less and less often until it comes, whatever becomes of those that wait for it."""
    ann = Peer(bob, 65, "ann")
    ann.send(ann.message(epoch=1, seq=2, expires=bob.clock.now() + 60_000), ann.message(epoch=1, seq=5))
    while bob.node.blocked.count() == 2:
        bob.sleep(1)
    asked = gaps(ann)
    for _ in range(5):
        bob.sleep(1)
    assert gaps(ann) - asked <= 1


def test_many_streams_are_looked_at_in_turn(bob: LoneDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart, no batch takes long because there are many streams of which none may go on."""
    monkeypatch.setattr(blocked, "MAX_RELEASED", 3)
    ann = Peer(bob, 65, "ann")
    names = [f"e{number}" for number in range(9)]
    for name in names:
        bob.serve_human(name)
        ann.send(ann.message(name, epoch=1, seq=1), endpoint=name)
    bob.sleep(0.1)
    bob.restart()
    batches = 0
    while bob.node.blocked.may_go_on:
        bob.node.process_batch([])
        batches += 1
    assert batches == 3
    assert bob.node.blocked.count() == len(names)


def test_streams_take_turns_and_no_batch_takes_long(bob: LoneDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long stream that goes on does not hold up another, and all goes on in its order."""
    monkeypatch.setattr(blocked, "MAX_RELEASED", 20)
    monkeypatch.setattr(blocked, "MAX_RELEASED_OF_STREAM", 8)
    ann = Peer(bob, 65, "ann")
    for endpoint in ENDPOINTS:
        later = [ann.message(endpoint, epoch=1, seq=seq, data={"text": f"{seq}"}) for seq in range(40, 0, -1)]
        ann.send(*later, endpoint=endpoint)
    assert bob.journal.prompts.all() == []
    first = [ann.bundle(ann.message(endpoint, epoch=1, seq=0, data={"text": "0"})) for endpoint in ENDPOINTS]
    arrive = [Packet(topics.inbox(bob.user, end), bundle) for end, bundle in zip(ENDPOINTS, first, strict=True)]
    bob.node.process_batch(arrive)
    counts = Counter(row.endpoint for row in bob.journal.prompts.all())
    assert counts.total() <= len(arrive) + 20
    assert min(counts.values()) >= 1 + 8
    assert bob.node.blocked.count_of(ann.user) == bob.node.blocked.count() == 82 - counts.total()
    bob.sleep(0)
    for endpoint in ENDPOINTS:
        asked = [int(row.text) for row in bob.journal.prompts.all() if row.endpoint == endpoint]
        assert asked == list(range(41))
    assert (bob.node.blocked.count(), bob.node.blocked.may_go_on) == (0, False)
