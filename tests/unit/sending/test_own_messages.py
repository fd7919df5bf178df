"""Messages that the user sends: found by a part of their id, withdrawn once, and sent again with all that they held."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.errors import BadInput, Cancelled
from p2pflows.protocol.message import Type
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.sending.own_messages import _MIN_RESEND_LIFETIME_MS

SECOND_MS = 1_000


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


def send(bob: LoneDaemon, ann: Peer, life_ms: int = HOUR_MS, **fields: Any) -> str:
    """Send a call; return its id."""
    return str(bob.do(lambda: bob.node.messages.send(Type.CALL, ann.user, "x", {"n": 1}, life_ms=life_ms, **fields)))


def row_of(bob: LoneDaemon, message_id: str) -> OutgoingRow:
    """Return what the journal has of a message."""
    row = bob.journal.outgoing.find(message_id)
    assert row is not None
    return row


@pytest.mark.parametrize("life_ms", [SECOND_MS, 10 * HOUR_MS])
def test_a_call_is_withdrawn_once(bob: LoneDaemon, ann: Peer, life_ms: int) -> None:
    """Its recipient hears it, also when it comes back after the deadline of the call; a second time is an error."""
    call = send(bob, ann, life_ms)
    assert bob.do(lambda: bob.node.messages.cancel(call[-8:])) == call
    assert row_of(bob, call).state == OutgoingState.CANCELLED
    assert Cancelled.kind.encode() in (row_of(bob, call).answer or b"")
    (withdrawal,) = [each for each in ann.received("x") if each["type"] == "cancel"]
    assert withdrawal["cause"] == call
    assert withdrawal["expires"] - bob.clock.now() == max(life_ms, _MIN_RESEND_LIFETIME_MS)
    error = bob.do(lambda: bob.node.messages.cancel(call))
    assert isinstance(error, BadInput)
    assert error.message == f"Message {call[-8:]} is already cancelled."
    assert len([each for each in ann.received("x") if each["type"] == "cancel"]) == 1


@pytest.mark.parametrize("life_ms", [SECOND_MS, 10 * HOUR_MS])
def test_a_message_is_sent_again_as_it_was(bob: LoneDaemon, ann: Peer, life_ms: int) -> None:
    """With its data, conversation and source, and as much time as before, or enough to arrive."""
    first = send(bob, ann, life_ms, conversation="c" * 32, source="laptop", typed={"n": "1"})
    bob.do(lambda: bob.node.outbox.end(row_of(bob, first), OutgoingState.FAILED, b"{}"))
    again = bob.do(lambda: bob.node.messages.resend(row_of(bob, first)))
    old, new = (next(each for each in ann.received("x") if each["id"] == name) for name in (first, again))
    for name in ("type", "data", "conversation", "source", "typed"):
        assert new[name] == old[name]
    assert new["expires"] - new["created"] == max(life_ms, _MIN_RESEND_LIFETIME_MS)


def test_a_post_that_failed_after_it_had_arrived_is_to_be_sent_anew(bob: LoneDaemon, ann: Peer) -> None:
    """Its body is not kept once it has arrived; to retry it is an error, and the daemon goes on."""
    post = bob.do(lambda: bob.node.messages.send(Type.POST, ann.user, "x", {}, life_ms=HOUR_MS))
    ann.notify(received=[post])
    bob.do(lambda: bob.node.outbox.end(row_of(bob, post), OutgoingState.FAILED, b"{}"))
    refused = bob.do(lambda: bob.node.retries.retry(post))
    assert isinstance(refused, BadInput)
    assert "not kept here" in refused.message
    assert bob.do(lambda: "alive") == "alive"


def test_a_part_of_an_id_names_one_message(bob: LoneDaemon, ann: Peer) -> None:
    """If it names none, or several, the error says so, and lists them."""
    first, second = (send(bob, ann, message_id=f"{number}" * 16 + "abcdabcdabcdabcd") for number in (1, 2))
    several = bob.do(lambda: bob.node.messages.cancel("abcdabcd"))
    assert isinstance(several, BadInput)
    assert first in several.message
    assert second in several.message
    assert bob.do(lambda: bob.node.messages.cancel(first[:8])) == first
    none = bob.do(lambda: bob.node.messages.cancel("99999999"))
    assert isinstance(none, BadInput)
    assert none.message == "No message of yours has an id like '99999999'."
