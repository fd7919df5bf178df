"""What is over stays as long as its owner has set, and no longer."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from support.desk import Desk, Neighbour, control_of

from p2pflows.errors import BadInput
from p2pflows.protocol.message import Type
from p2pflows.settings.retention import Retention
from p2pflowsd.api.methods import METHODS
from p2pflowsd.human.inbox import Typed
from p2pflowsd.journal.rows import LineRow
from p2pflowsd.node import PRUNE_INTERVAL_S

HOUR_S = 3_600


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Bob's daemon, which keeps each kind of thing for another time."""
    kept = Retention(calls=1 * HOUR_S, inbox=2 * HOUR_S, log=3 * HOUR_S, transcripts=4 * HOUR_S)
    desk = Desk(tmp_path, retention=kept)
    desk.serve_human()
    return desk


def test_each_kind_goes_after_its_time(desk: Desk) -> None:
    """Calls, questions to the human, log and transcript go one after the other."""
    alice = Neighbour(desk, 1, "alice")
    alice.sends("User", {"text": "Are you there?"})
    question = desk.journal.prompts.open()[0]
    desk.do(lambda: desk.node.inbox.answer(question.id, Typed("yes")))
    call = desk.do(lambda: desk.node.messages.send(Type.CALL, alice.user, "echo", {}, life_ms=60_000))
    desk.do(lambda: desk.node.messages.cancel(call))
    desk.do(lambda: desk.journal.log.add(desk.clock.now(), "refused", alice.user, "x", "A bundle was refused."))
    for hours in range(1, 5):
        left = [
            desk.journal.outgoing.find(call) is not None,
            desk.journal.prompts.get(question.row_id) is not None,
            ("refused", alice.user) in desk.log(),
            bool(desk.journal.lines.newest(1, 2**60)),
        ]
        assert left == [hours <= age for age in range(1, 5)]
        desk.sleep(HOUR_S)
        for _ in range(3):
            desk.sleep(PRUNE_INTERVAL_S)
    assert desk.journal.lines.newest(1, 2**60) == []


def test_old_lines_make_room_in_the_count(desk: Desk) -> None:
    """Who has forgotten old lines may remember as many new ones."""
    transcript = desk.node.transcript
    desk.do(lambda: desk.journal.lines.add(LineRow(0, "a" * 64, 1, "note", "1" * 32, "User", "c", "", "hi", 5, "sent")))
    transcript._counts["a" * 64] = 1
    desk.do(lambda: transcript.forget_before(6))
    assert transcript._counts["a" * 64] == 0


@pytest.mark.parametrize("waits", [True, False], ids=["a program waits for it", "nobody waits for it"])
def test_a_large_answer_stays_until_a_program_has_got_it(desk: Desk, waits: bool) -> None:
    """A minute after that `wait` says that it is gone; one that nobody has got is there for as long as the call."""
    alice = Neighbour(desk, 1, "alice")
    control, large = control_of(desk), {"text": "x" * 20_000}
    got: list[object] = []

    def call() -> str:
        message_id = desk.node.messages.send(Type.CALL, alice.user, "echo", {}, life_ms=60_000)
        if waits:
            desk.node.waiters.expect(message_id, lambda *end: got.append(end))
        return message_id

    sent: str = desk.do(call)
    (request,) = alice.gets("echo")
    alice.sends("_reply", large, type="reply", cause=request["id"], epoch=0, seq=0)
    assert len(got) == waits
    if not waits:
        desk.sleep(600)
        assert asyncio.run(METHODS["wait"].run(control, {"id": sent}))["data"] == large
    assert asyncio.run(METHODS["wait"].run(control, {"id": sent}))["data"] == large
    for _ in range(2):
        desk.sleep(61)
    with pytest.raises(BadInput, match="too large to be kept"):
        asyncio.run(METHODS["wait"].run(control, {"id": sent}))
    (shown,) = asyncio.run(METHODS["asked"].run(control, {}))["asked"]
    assert (shown["outcome"], shown["value"]) == ("answered", None)
