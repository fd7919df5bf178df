"""Clients that wait for the end of a message: each is called once, when what it hears can be relied on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.protocol.message import Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.sending.waiters import OnSettled, Waiters


class Client:
    """A client that notes what it hears."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def on_settled(self, state: OutgoingState, answer: bytes | None) -> None:
        """Take the end."""
        self.heard.append((str(state), answer))

    def on_progress(self, data: dict[str, Any]) -> None:
        """Take how far it is."""
        self.heard.append(data)


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    yield daemon
    daemon.journal.close()


@pytest.fixture
def row(bob: LoneDaemon) -> OutgoingRow:
    """An open call of bob's."""
    ann = Peer(bob, 65, "ann")
    call = bob.do(lambda: bob.node.messages.send(Type.CALL, ann.user, "x", {}, life_ms=HOUR_MS))
    found = bob.journal.outgoing.find(call)
    assert found is not None
    return found


@pytest.fixture
def callbacks() -> Callbacks:
    """What a batch runs before and after its commit."""
    return Callbacks()


@pytest.fixture
def waiters(bob: LoneDaemon, callbacks: Callbacks) -> Waiters:
    """The clients of another node on bob's journal."""
    return Waiters(bob.journal, callbacks)


@pytest.mark.parametrize(
    ("state", "is_early"),
    [
        (OutgoingState.DONE, True), (OutgoingState.FAILED, True), (OutgoingState.EXPIRED, False),
        (OutgoingState.CANCELLED, False),
    ],
)  # fmt: skip
def test_an_end_of_our_own_making_is_committed_first(
    waiters: Waiters, callbacks: Callbacks, row: OutgoingRow, state: OutgoingState, is_early: bool
) -> None:
    """An answer comes again if a crash forgets it; a deadline that a client has heard of must have passed."""
    one, other = Client(), Client()
    waiters.expect(row.id, one.on_settled)
    waiters.wait(row, other.on_settled)
    assert waiters.are_there_for(row.id)
    assert waiters.message_ids() == [row.id]
    for _ in range(2):
        waiters.on_settled(row.id, state, b"1")
    callbacks.run_before_commit()
    assert bool(one.heard) is is_early
    callbacks.run_after_commit()
    assert one.heard == other.heard == [(state, b"1")]
    assert not waiters.are_there_for(row.id)


def test_who_waits_for_what_has_ended_hears_it_after_the_commit(
    waiters: Waiters, callbacks: Callbacks, row: OutgoingRow
) -> None:
    """Nothing is remembered of such a client."""
    client = Client()
    waiters.wait(row._replace(state=OutgoingState.DONE, answer=b"2"), client.on_settled)
    callbacks.run_before_commit()
    assert client.heard == []
    callbacks.run_after_commit()
    assert client.heard == [("done", b"2")]
    assert not waiters.are_there_for(row.id)


def test_progress_goes_to_who_listens_until_the_end(waiters: Waiters, callbacks: Callbacks, row: OutgoingRow) -> None:
    """Most clients only wait for the end, and progress of what nobody waits for goes nowhere."""
    client = Client()
    waiters.on_progress(row.id, {"n": 0})
    waiters.expect(row.id, client.on_settled)
    waiters.on_progress(row.id, {"n": 1})
    waiters.expect(row.id, client.on_settled, client.on_progress)
    waiters.on_progress(row.id, {"n": 2})
    waiters.on_settled(row.id, OutgoingState.DONE, None)
    waiters.on_progress(row.id, {"n": 3})
    callbacks.run_before_commit()
    assert client.heard == [{"n": 2}, ("done", None)]


def test_a_client_that_has_left_is_not_called(waiters: Waiters, callbacks: Callbacks, row: OutgoingRow) -> None:
    """The others are; when the last one leaves, nothing is left, and to leave twice does no harm."""
    one, other = Client(), Client()
    ends: list[OnSettled] = [one.on_settled, other.on_settled]
    waiters.expect(row.id, ends[0], one.on_progress)
    waiters.wait(row, ends[1])
    for _ in range(2):
        waiters.stop(row.id, ends[0])
    assert waiters.are_there_for(row.id)
    waiters.on_progress(row.id, {"n": 1})
    waiters.stop(row.id, ends[1])
    waiters.stop(row.id, ends[1])
    waiters.on_progress(row.id, {"n": 2})
    waiters.on_settled(row.id, OutgoingState.DONE, None)
    callbacks.run_before_commit()
    assert not waiters.are_there_for(row.id)
    assert (one.heard, other.heard) == ([{"n": 1}], [])


def test_the_next_node_goes_on_for_the_clients(
    bob: LoneDaemon, waiters: Waiters, callbacks: Callbacks, row: OutgoingRow
) -> None:
    """One whose message has ended hears it, one whose message is lost hears that, and the others go on."""
    old = Waiters(bob.journal, Callbacks())
    going, over, lost = Client(), Client(), Client()
    ended = bob.do(lambda: bob.node.messages.send(Type.CALL, row.peer, "x", {}, life_ms=HOUR_MS))
    found = bob.journal.outgoing.find(ended)
    assert found is not None
    bob.do(lambda: bob.node.outbox.end(found, OutgoingState.DONE, b"3"))
    waits: list[tuple[str, Client]] = [(row.id, going), (ended, over), ("f" * 32, lost)]
    for message_id, client in waits:
        old.expect(message_id, client.on_settled, client.on_progress)
    waiters.take_over(old)
    callbacks.run_after_commit()
    assert (going.heard, over.heard) == ([], [("done", b"3")])
    ((state, answer),) = lost.heard
    assert (state, json.loads(answer)["message"].split(",")[0]) == (
        "failed", "The journal was replaced by an older copy",
    )  # fmt: skip
    for message_id, _ in waits:
        waiters.on_progress(message_id, {"n": 4})
    callbacks.run_before_commit()
    assert going.heard == [{"n": 4}]
    assert len(over.heard) == len(lost.heard) == 1
