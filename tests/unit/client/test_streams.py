"""Calls whose answers are read while they grow, with a scripted daemon."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon

import p2pflows
from p2pflows.client.streams import MAX_UNREAD
from p2pflows.errors import DaemonNotRunning, FlowFailed
from p2pflows.protocol.progress import Piece

PIECES = [{"delta": "Once", "at": 0}, {"delta": " upon", "at": 4}]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon whose calls report two pieces and then end."""
    with ScriptedDaemon(tmp_path) as daemon:
        daemon.reports = [*PIECES]
        daemon.script.update(call={"data": {"text": "Once upon"}}, cancel={"id": "1" * 32}, echo={"n": 1})
        yield daemon


async def hang(_params: dict[str, Any]) -> dict[str, Any]:
    """Never answer."""
    await asyncio.sleep(60)
    return {}


def test_pieces_then_the_answer(daemon: ScriptedDaemon) -> None:
    """The daemon is told that somebody listens. Other requests of the same thread go on meanwhile."""
    with p2pflows.connect(daemon.home) as me, me.stream("bob/Teller", {"n": 1}, timeout=5) as story:
        texts = []
        for piece in story:
            texts.append(piece.text)
            assert me.request("echo") == {"n": 1}
        assert (texts, story.id) == (["Once", " upon"], "1" * 32)
        assert story.answer() == {"text": "Once upon"}
        assert list(story) == []
    method, params = daemon.asked[0]
    assert (method, params["progress"], params["timeout"]) == ("call", True, 5)
    assert "cancel" not in dict(daemon.asked)


async def test_async_pieces_then_the_answer(daemon: ScriptedDaemon) -> None:
    """Many streams share the connection."""

    async def read(me: p2pflows.AsyncClient) -> tuple[list[Piece], dict[str, Any]]:
        async with me.stream("bob/Teller") as story:
            return [piece async for piece in story], await story.answer()

    async with p2pflows.connect_async(daemon.home) as me:
        for pieces, answer in await asyncio.gather(*(read(me) for _ in range(20))):
            assert [piece.text for piece in pieces] == ["Once", " upon"]
            assert answer == {"text": "Once upon"}


async def test_an_error_ends_the_stream(daemon: ScriptedDaemon) -> None:
    """After its pieces; it is raised once more by `answer`."""
    daemon.script["call"] = FlowFailed("It broke.")
    with p2pflows.connect(daemon.home) as me, me.stream("bob/Teller") as story:
        assert next(story).text == "Once"
        assert next(story).text == " upon"
        for _ in range(2):
            with pytest.raises(FlowFailed, match="It broke"):
                story.answer()
    async with p2pflows.connect_async(daemon.home) as me_async, me_async.stream("bob/Teller") as later:
        for _ in range(2):
            with pytest.raises(FlowFailed, match="It broke"):
                await later.answer()


async def test_leaving_early_withdraws_the_call(daemon: ScriptedDaemon) -> None:
    """A stream that is left without `with` goes on, as a call does."""
    daemon.script["call"] = hang
    with p2pflows.connect(daemon.home) as me:
        assert next(me.stream("bob/Teller")).text == "Once"
        with me.stream("bob/Teller") as story:
            next(story)
    assert daemon.asked[-1] == ("cancel", {"id": "1" * 32})
    async with p2pflows.connect_async(daemon.home) as me_async, me_async.stream("bob/Teller"):
        pass
    assert [method for method, _ in daemon.asked] == ["call", "call", "cancel", "call", "cancel"]


def test_the_daemon_goes_away(daemon: ScriptedDaemon) -> None:
    """The error says so, and leaving the stream is no further error."""
    daemon.script["call"] = lambda _params: daemon.die()
    with p2pflows.connect(daemon.home) as me, me.stream("bob/Teller") as story:
        for _ in range(2):
            with pytest.raises(DaemonNotRunning):
                list(story)


async def test_a_reader_that_is_slow_loses_reports_and_no_answer(daemon: ScriptedDaemon) -> None:
    """It notices the gap."""
    daemon.reports = [{"delta": "x", "at": number} for number in range(MAX_UNREAD + 10)]
    async with p2pflows.connect_async(daemon.home) as me, me.stream("bob/Teller") as story:
        assert await me.request("echo") == {"n": 1}
        pieces = [piece async for piece in story]
        assert len(pieces) == MAX_UNREAD
        assert [piece.skips for piece in pieces] == [True] + [False] * (MAX_UNREAD - 1)
        assert await story.answer() == {"text": "Once upon"}
