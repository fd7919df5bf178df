"""Messages that turn out to be larger than the broker takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.sending.composer import PACKET_OVERHEAD_BYTES
from p2pflowsd.sending.send_queue import MAX_BUNDLE_BYTES

LARGE = {"text": "x" * 100_000}


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon, which serves him to his contacts."""
    daemon = LoneDaemon(tmp_path)
    daemon.serve_human()
    yield daemon
    daemon.journal.close()


@pytest.fixture
def ann(bob: LoneDaemon) -> Peer:
    """A contact of bob's."""
    return Peer(bob, 67, name="ann")


def shrink(bob: LoneDaemon) -> None:
    """Let the broker take small packets only, from now on."""
    bob.link.max_packet = 20_000


def send(bob: LoneDaemon, ann: Peer, data: dict[str, str]) -> str:
    """Let bob send a call to ann."""
    return str(bob.do(lambda: bob.node.messages.send(Type.CALL, ann.user, "x", data, life_ms=HOUR_MS)))


def test_a_large_request_ends_and_those_behind_it_go_on(bob: LoneDaemon, ann: Peer) -> None:
    """It ends as too_large, is logged, and its recipient hears that it does not come."""
    bob.link.connected = False
    large, small = send(bob, ann, LARGE), send(bob, ann, {"text": "small"})
    shrink(bob)
    bob.link.connected = True
    bob.sleep(1)
    row = bob.journal.outgoing.find(large)
    assert row is not None
    error = json.loads(row.answer or b"")
    assert (row.state, error["kind"]) == ("failed", "too_large")
    assert error["message"] == f"The message is {row.size:,} bytes, more than the broker the broker takes (19,000)."
    assert [message["id"] for message in ann.received("x")] == [small]
    bob.sleep(0.1)
    assert [line[0] for line in ann.received_lines("skips")] == ["x"]
    (entry,) = [entry for entry in bob.journal.log.newest(10) if entry.what == "too_large"]
    assert entry.peer == ann.user


def test_a_large_answer_is_replaced_by_an_error(bob: LoneDaemon, ann: Peer) -> None:
    """Whoever waits for an answer that does not fit hears why it does not come."""
    asked = "a" * 32
    ann.send(ann.message(id=asked, type="call", epoch=5))
    bob.link.connected = False
    row = bob.journal.incoming.find(ann.user, asked)
    assert row is not None
    bob.do(lambda: bob.node.inbox._settlement.finish(row, LARGE))
    shrink(bob)
    bob.link.connected = True
    bob.sleep(1)
    (answer,) = ann.received(topics.REPLY)
    assert (answer["type"], answer["cause"], answer["data"]["kind"]) == ("error", asked, "flow_failed")
    assert "more than the broker" in answer["data"]["message"]
    assert bob.journal.incoming.in_state(IncomingState.ASKED) == []


def test_a_large_request_that_is_withdrawn_meanwhile_ends_once(bob: LoneDaemon, ann: Peer) -> None:
    """What was withdrawn before its size was told to anyone ends as cancelled, and nothing is logged of it."""
    bob.link.connected = False
    large = send(bob, ann, LARGE)
    shrink(bob)
    bob.link.connected = True
    bob.do(lambda: None)
    assert bob.node.outbox.has_too_large
    bob.do(lambda: bob.node.messages.cancel(large))
    bob.sleep(1)
    row = bob.journal.outgoing.find(large)
    assert row is not None
    assert row.state == "cancelled"
    assert [entry for entry in bob.journal.log.newest(10) if entry.what == "too_large"] == []


@pytest.mark.parametrize("most", [20_000, 10**9])
def test_a_bundle_is_as_large_as_link_and_reader_take(bob: LoneDaemon, ann: Peer, most: int) -> None:
    """What waited for the link leaves in several bundles, also over a link that takes more than a reader does."""
    bob.link.connected = False
    ids = [send(bob, ann, {"text": "y" * 9_000}) for _ in range(60)]
    bob.link.max_bundle = most
    bob.link.max_packet = 10**9
    bob.link.connected = True
    bob.sleep(1)
    assert [message["id"] for message in ann.received("x")] == ids
    limit = min(most, MAX_BUNDLE_BYTES) + PACKET_OVERHEAD_BYTES
    assert max(map(len, bob.link.sent[topics.inbox(ann.user, "x")])) <= limit


def test_many_small_messages_and_receipts_fit(bob: LoneDaemon, ann: Peer) -> None:
    """Bundles and notices are made as small as the broker wants them."""
    shrink(bob)
    ids = [send(bob, ann, {"text": "y" * 900}) for _ in range(100)]
    ann.send(*(ann.message(epoch=5, seq=seq) for seq in range(900)))
    bob.sleep(1)
    assert [message["id"] for message in ann.received("x")] == ids
    assert len(ann.received_lines("received")) == 900
    assert bob.link.too_large == 0
