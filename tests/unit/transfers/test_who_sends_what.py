"""Whose packets about files are opened: of those who were sent one, or from whom one comes, also if strangers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from support.file_desk import FileDesk, reference_to, whole
from support.lone_daemon import HOUR_MS, Peer

from p2pflows.errors import FileLost
from p2pflows.protocol import topics
from p2pflows.protocol.file_frames import NotHere, Piece, Want
from p2pflows.protocol.message import Type
from p2pflowsd.human.inbox import Typed

CONTENT = b"secret" * 1000
MOST_PACKETS = 100
"""How many packets of one stranger are opened at once."""

Story = Callable[[FileDesk], Awaitable[None]]


def tell(folder: Path, story: Story) -> None:
    """Let a story take place at bob's, for a limited time."""

    async def with_desk() -> None:
        desk = FileDesk(folder)
        desk.serve_human(allow="anyone")
        await story(desk)
        await desk.transfers.close()
        desk.journal.close()

    asyncio.run(asyncio.wait_for(with_desk(), 30))


def test_a_blocked_user_gets_no_file(tmp_path: Path) -> None:
    """Though the file was sent to them before."""

    async def story(desk: FileDesk) -> None:
        ann = Peer(desk, 1, "ann")
        file = await desk.put(CONTENT)
        desk.send(ann, file)
        desk.contacts.block(ann.user)
        await desk.hears(ann, whole(file))
        assert desk.said_to(ann) == []
        assert desk.refused("blocked") == 1

    tell(tmp_path, story)


def test_a_stranger_fetches_what_was_sent_to_them_and_not_for_ever(tmp_path: Path) -> None:
    """So many packets of theirs are opened at once, as of any stranger."""

    async def story(desk: FileDesk) -> None:
        carol = Peer(desk, 3)
        file = await desk.put(CONTENT)
        desk.send(carol, file)
        await desk.hears(carol, whole(file))
        assert desk.said_to(carol) == [(Piece(file=file.id, start=0, n=1), CONTENT)]
        for number in range(2 * MOST_PACKETS):
            await desk.hears(carol, Want(file="0" * 32, start=0, end=1 + number))
        answers = [frame for frame, _ in desk.said_to(carol)]
        assert answers.count(NotHere(file="0" * 32)) == len(answers) < 2 * MOST_PACKETS
        assert desk.refused("rate_limited") > 0

    tell(tmp_path, story)


@pytest.mark.parametrize("kind", ["reply", "error"])
def test_a_stranger_who_answers_sends_the_files_of_the_answer(tmp_path: Path, kind: str) -> None:
    """They are fetched from them, though they may fetch nothing; what is in an error is not."""

    async def story(desk: FileDesk) -> None:
        carol = Peer(desk, 3)
        call = desk.do(lambda: desk.node.messages.send(Type.CALL, carol.user, "x", {}, life_ms=HOUR_MS))
        file = reference_to(CONTENT)
        data = {"kind": "flow_failed", "message": "no", "files": [file.as_data()]}
        answer = carol.message(topics.REPLY, type=kind, cause=call, data=data)
        desk.receive(topics.REPLY, carol.bundle(answer))
        if kind == "error":
            assert desk.states() == {}
            return
        assert desk.states() == {"x.bin": "wanted"}
        wanted: list[Want] = []
        while not wanted:
            wanted = [frame for frame, _ in desk.said_to(carol) if isinstance(frame, Want)]
            await asyncio.sleep(0.002)
        await desk.hears(carol, Piece(file=file.id, start=0, n=wanted[0].n), CONTENT)
        for _ in range(1_000):
            if desk.states() == {"x.bin": "here"}:
                break
            await asyncio.sleep(0.005)
        assert desk.states() == {"x.bin": "here"}

    tell(tmp_path, story)


def test_an_answer_whose_file_is_not_here_leaves_the_question_open(tmp_path: Path) -> None:
    """The human reads why, and can answer again."""

    async def story(desk: FileDesk) -> None:
        ann = Peer(desk, 1, "ann")
        ann.send(ann.message(type="call", id="a" * 32))
        lost, here = reference_to(b"lost"), await desk.put(CONTENT)

        def answer(*files: dict[str, object]) -> object:
            return desk.do(lambda: desk.node.inbox.answer("a" * 32, Typed(("look",)), "", files))

        assert isinstance(answer(lost.as_data()), FileLost)
        assert [prompt.id for prompt in desk.journal.prompts.open()] == ["a" * 32]
        answer(here.as_data())
        assert desk.journal.prompts.open() == []
        (reply,) = ann.received(topics.REPLY)
        assert reply["data"]["files"] == [here.as_data()]

    tell(tmp_path, story)
