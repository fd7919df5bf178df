"""What failed for good is tried again: a dead letter runs here, a message of ours leaves once more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Hand, Neighbour
from support.lone_daemon import HOUR_MS

from p2pflows.errors import BadInput
from p2pflows.protocol.message import Type
from p2pflowsd.asking.origin import write_origin
from p2pflowsd.lifecycle import IncomingState, OutgoingState


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, which serves a function."""
    desk = Desk(tmp_path)
    desk.serves("function", "a", kind="python")
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact."""
    return Neighbour(desk, 8, "alice")


def dead_letter(desk: Desk, alice: Neighbour, **fields: str) -> str:
    """Let a request of alice's be a dead letter; return its id."""
    request = alice.sends("function", {}, **fields)
    row = desk.journal.incoming.find(alice.user, request)
    assert row is not None
    with desk.journal.transaction():
        desk.journal.incoming.move(row.row_id, IncomingState.DEAD, "worker_lost")
    desk.restart()
    return request


def sent(desk: Desk, to: Neighbour, end: OutgoingState | None, message_id: str, origin: str | None = None) -> str:
    """Let a call of bob's to a neighbour end so; return its id."""
    call: str = desk.do(
        lambda: desk.node.messages.send(
            Type.CALL, to.user, "x", {}, life_ms=HOUR_MS, message_id=message_id, origin=origin
        )
    )
    row = desk.journal.outgoing.find(call)
    assert row is not None
    if end is not None:
        desk.do(lambda: desk.node.outbox.end(row, end, b"{}"))
    return call


def refused(desk: Desk, part: str) -> str:
    """Retry in vain; return what the owner reads."""
    error = desk.do(lambda: desk.node.retries.retry(part))
    assert isinstance(error, BadInput)
    assert error.hint
    return error.message


def test_a_dead_letter_runs_again(desk: Desk, alice: Neighbour) -> None:
    """It is named by a part of its id, and goes on under the same one."""
    request = dead_letter(desk, alice)
    assert desk.do(lambda: desk.node.retries.retry(request[-8:])) == request
    hand = Hand(desk, "a", "w")
    assert [task["message"] for task, _ in hand.takes()] == [request]


def test_a_dead_letter_of_what_is_served_no_more_stays(desk: Desk, alice: Neighbour) -> None:
    """The owner reads that it has to be served first."""
    request = dead_letter(desk, alice)
    desk.do(lambda: desk.node.catalog.remove("function"))
    assert refused(desk, request) == "You do not serve 'function' any more."
    assert desk.journal.incoming.count_dead() == 1


@pytest.mark.parametrize("end", [OutgoingState.FAILED, OutgoingState.EXPIRED])
def test_a_message_that_failed_leaves_again(desk: Desk, alice: Neighbour, end: OutgoingState) -> None:
    """Under a new id; the old one stays as it is."""
    call = sent(desk, alice, end, "1" * 32)
    again = desk.do(lambda: desk.node.retries.retry(call))
    assert [each["id"] for each in alice.gets("x")] == [call, again]


def test_only_what_has_failed_is_retried(desk: Desk, alice: Neighbour) -> None:
    """Neither what is under way, nor what was answered or withdrawn, nor what asks a question for the owner."""
    for number, end in enumerate((None, OutgoingState.DONE, OutgoingState.CANCELLED), start=1):
        call = sent(desk, alice, end, f"{number}" * 32)
        assert refused(desk, call) == f"No message that can be retried has an id like {call!r}."
    asked = sent(desk, alice, OutgoingState.FAILED, "4" * 32, write_origin(1))
    assert refused(desk, asked).startswith("No message that can be retried")


def test_a_part_that_several_have_is_no_name(desk: Desk, alice: Neighbour) -> None:
    """A dead letter and a message of one's own may have ids that end in the same way; both are named."""
    name = "2" * 24 + "abcdabcd"
    request = dead_letter(desk, alice, id=name, conversation=name)
    call = sent(desk, alice, OutgoingState.FAILED, "1" * 24 + "abcdabcd")
    words = refused(desk, "abcdabcd")
    assert words == f"Several messages have an id like 'abcdabcd': {call}, {request}."
