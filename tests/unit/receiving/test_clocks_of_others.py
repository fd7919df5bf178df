"""How far the clocks of others are from ours, known from what they confirm, before they refuse anything."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Neighbour

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.message import Type
from p2pflows.protocol.notice import Notice

MINUTE_MS = 60_000


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon."""
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact of Bob's."""
    return Neighbour(desk, 1, "alice")


def send(desk: Desk, alice: Neighbour, kind: Type = Type.POST) -> str:
    """Let Bob send something that arrives at once; return its id."""
    message: str = desk.do(lambda: desk.node.messages.send(kind, alice.user, "User", {"text": "Hi"}, life_ms=600_000))
    return message


def confirms(alice: Neighbour, message: str, number: int, ahead_ms: int) -> None:
    """Let alice confirm a message by her clock."""
    now = alice.desk.clock.now()
    notice = Notice(to=alice.desk.user, boot=1, n=number, at=now + ahead_ms, received=[message])
    alice.publishes(topics.NOTICE, notice.to_bytes(), kind=BundleKind.NOTICE)


def known_of(desk: Desk, alice: Neighbour) -> float:
    """How many minutes alice's clock is ahead, as the daemon knows."""
    return round(desk.node.outbox.peer_clocks.known().get(alice.user, 0) / MINUTE_MS, 1)


@pytest.mark.parametrize("minutes", [4, -4])
def test_a_receipt_tells_how_far_a_clock_is_off(desk: Desk, alice: Neighbour, minutes: int) -> None:
    """And the next one that it is right again; a difference of some seconds may be the way."""
    confirms(alice, send(desk, alice), 1, minutes * MINUTE_MS)
    assert known_of(desk, alice) == minutes
    confirms(alice, send(desk, alice), 2, 3_000)
    assert known_of(desk, alice) == 0


def test_an_answer_tells_it_too(desk: Desk, alice: Neighbour) -> None:
    """It may come in place of a receipt."""
    question, now = send(desk, alice, Type.CALL), desk.clock.now()
    reply = {"type": "reply", "cause": question, "epoch": 0, "seq": 0}
    alice.sends(topics.REPLY, {"human_input": "Hi"}, created=now - 4 * MINUTE_MS, **reply)
    assert known_of(desk, alice) == -4


def test_a_receipt_that_is_late_blames_no_clock(desk: Desk, alice: Neighbour) -> None:
    """Alice was away for minutes, and confirms by a clock that is right."""
    message = send(desk, alice)
    desk.passes(240)
    confirms(alice, message, 1, 0)
    assert known_of(desk, alice) == 0
    confirms(alice, message, 2, -4 * MINUTE_MS)  # what is confirmed already says nothing
    assert known_of(desk, alice) == 0


def test_nobody_says_what_the_clock_of_another_shows(desk: Desk, alice: Neighbour) -> None:
    """Mallory confirms what was sent to alice."""
    mallory = Neighbour(desk, 2, "mallory")
    confirms(mallory, send(desk, alice), 1, 4 * MINUTE_MS)
    assert desk.node.outbox.peer_clocks.known() == {}


def test_our_notices_say_the_time(desk: Desk, alice: Neighbour) -> None:
    """By our clock."""
    alice.sends("nowhere", {})
    desk.passes(0.1)
    alice.sends("User", {"text": "x"}, type="cancel", cause="0" * 32)
    desk.passes(0.1)
    (notice, *_) = alice.gets_notices()
    assert abs(notice["at"] - desk.clock.now()) < 1_000
