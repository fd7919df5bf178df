"""The control socket: what it speaks, and what it does with those who speak badly, slowly or not at all."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import FlowFailed
from p2pflowsd.api.control import Control
from p2pflowsd.api.methods import Methods
from p2pflowsd.api.sessions import MAX_LINE_BYTES, MAX_UNSENT_ITEMS

TIMEOUT_S = 10.0


@dataclass
class Heart:
    """Answers in the place of a daemon: `echo` at once, `slow` when told, `call` as the test says."""

    go_on: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[dict[str, Any], Callable[[Any], None], Callable[[dict[str, Any]], None]]] = field(
        default_factory=list
    )
    stopped: int = 0

    async def echo(self, params: dict[str, Any]) -> Any:
        """Give back what was given."""
        return params

    async def slow(self, params: dict[str, Any]) -> Any:
        """The same, once the test lets it."""
        await self.go_on.wait()
        return params

    async def watch(self, params: dict[str, Any]) -> Any:
        """What is open."""
        del params
        return {"prompts": [{"id": "1"}]}

    def call(
        self,
        params: dict[str, Any],
        respond: Callable[[Any], None],
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Callable[[], None]:
        """Keep a call for the test to answer."""
        assert progress is not None
        self.calls.append((params, respond, progress))

        def stop() -> None:
            self.stopped += 1

        return stop


@dataclass
class Line:
    """One connection that speaks JSON Lines."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def ask(self, content: Any) -> None:
        """Send one line."""
        self.writer.write(json.dumps(content).encode() + b"\n")

    async def told(self) -> Any:
        """The next line."""
        line = await asyncio.wait_for(self.reader.readline(), TIMEOUT_S)
        assert line.endswith(b"\n"), line
        return json.loads(line)

    async def ended(self) -> bool:
        """Whether nothing comes any more."""
        return await asyncio.wait_for(self.reader.read(1), TIMEOUT_S) == b""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Control, Heart]]:
    """A control socket in a folder."""
    heart = Heart()
    by_name = {"echo": heart.echo, "slow": heart.slow, "watch": heart.watch}
    control = Control(folder / "s", Methods(by_name, heart.call))
    await control.start()
    try:
        yield control, heart
    finally:
        await control.close()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Line]:
    """A connection to it."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "s"), limit=2**26)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - what it waits for tells nobody
            await asyncio.sleep(0.005)


async def test_a_line_is_answered_by_a_line(tmp_path: Path) -> None:
    """With its id, whatever that is."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.ask({"id": ["any", 1], "method": "echo", "params": {"text": "hä?\n"}})
        assert await line.told() == {"id": ["any", 1], "result": {"text": "hä?\n"}}


async def test_many_requests_in_one_line_run_side_by_side(tmp_path: Path) -> None:
    """A slow one does not hold up those behind it; what is ready together comes together."""
    async with serving(tmp_path) as (_, heart), connected(tmp_path) as line:
        line.ask([{"id": n, "method": method, "params": {}} for n, method in enumerate(["slow", "echo", "echo"])])
        assert [item["id"] for item in await line.told()] == [1, 2]
        heart.go_on.set()
        assert (await line.told())["id"] == 0


async def test_a_line_may_come_byte_by_byte(tmp_path: Path) -> None:
    """And several in one piece, with empty ones and those of another system between."""
    async with serving(tmp_path), connected(tmp_path) as line:
        for byte in b'{"id": 1, "method": "echo"}\n':
            line.writer.write(bytes([byte]))
            await line.writer.drain()
        assert await line.told() == {"id": 1, "result": {}}
        line.writer.write(b'\n\r\n{"id": 2, "method": "echo"}\r\n {"id": 3, "method": "echo"}\n')
        assert [item["id"] for item in await line.told()] == [2, 3]


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (b"{", "not JSON"),
        (b"[1]", "has an id, a method and params"),
        (b'{"id": 1}', "has an id, a method and params"),
        (b'{"method": 7}', "has an id, a method and params"),
        (b'{"method": "echo", "params": 1e999}', "not JSON"),
        (b"[" * 300 + b"]" * 300, "not JSON"),
        (b'{"method": "\xff"}', "not JSON"),
        (b'{"id": 2, "method": "nothing"}', "no method"),
        (b'{"id": 2, "method": "echo", "params": [1]}', "not a JSON object"),
    ],
)
async def test_a_bad_line_gets_an_error_and_the_next_its_answer(tmp_path: Path, bad: bytes, said: str) -> None:
    """It costs nobody the connection."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(bad + b"\n")
        assert said in (await line.told())["error"]["message"]
        line.ask({"id": 1, "method": "echo"})
        assert await line.told() == {"id": 1, "result": {}}


async def test_a_line_over_the_limit_is_named_and_ends_the_connection(tmp_path: Path) -> None:
    """Whether it has an end or not, nobody keeps it all in memory."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(b"[" + b" " * MAX_LINE_BYTES)
        assert "4,000,000 bytes" in (await line.told())["error"]["message"]
        assert await line.ended()


async def test_an_answer_with_half_a_character_is_json(tmp_path: Path) -> None:
    """JSON may name a lone surrogate, UTF-8 has none."""
    async with serving(tmp_path) as (_, heart), connected(tmp_path) as line:
        line.ask({"id": 1, "method": "call", "params": {}})
        await until(lambda: len(heart.calls) == 1)
        heart.calls[0][1](FlowFailed("half \ud800"))
        assert (await line.told())["error"]["message"] == "half \ud800"


async def test_who_watches_is_told(tmp_path: Path) -> None:
    """First what is there, then what changes; others hear nothing."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as watcher, connected(tmp_path) as other:
        watcher.ask({"id": 1, "method": "watch"})
        assert await watcher.told() == {"id": 1, "result": {"prompts": [{"id": "1"}]}}
        control.send_event("prompt", {"id": "2"})
        assert await watcher.told() == {"event": "prompt", "data": {"id": "2"}}
        other.ask({"id": 1, "method": "echo"})
        assert await other.told() == {"id": 1, "result": {}}


async def test_a_call_tells_how_it_gets_on_and_how_it_ends(tmp_path: Path) -> None:
    """Well, or with an error that says why."""
    async with serving(tmp_path) as (_, heart), connected(tmp_path) as line:
        line.ask([{"id": n, "method": "call", "params": {"n": n}} for n in (1, 2)])
        await until(lambda: len(heart.calls) == 2)
        (_, respond, progress), (_, fail, _) = heart.calls
        progress({"text": "w"})
        respond({"data": {}})
        fail(FlowFailed("It broke."))
        assert await line.told() == [
            {"id": 1, "progress": {"text": "w"}},
            {"id": 1, "result": {"data": {}}},
            {"id": 2, "error": FlowFailed("It broke.").as_json()},
        ]


async def test_who_leaves_waits_no_more(tmp_path: Path) -> None:
    """What was not answered is stopped; what was is not."""
    async with serving(tmp_path) as (_, heart):
        async with connected(tmp_path) as line:
            line.ask([{"id": n, "method": "call", "params": {}} for n in (1, 2)])
            await until(lambda: len(heart.calls) == 2)
            heart.calls[0][1]({"data": {}})
            await line.told()
        await until(lambda: heart.stopped == 1)
        heart.calls[1][1]({"data": {}})


async def test_who_does_not_read_gets_the_answers_later_and_loses_only_progress(tmp_path: Path) -> None:
    """Others are answered meanwhile."""
    big = "x" * 1_000
    async with serving(tmp_path) as (_, heart), connected(tmp_path) as lazy, connected(tmp_path) as other:
        lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        lazy.ask([{"id": n, "method": "call", "params": {}} for n in range(2)])
        await until(lambda: len(heart.calls) == 2)
        for _ in range(20):
            for _ in range(MAX_UNSENT_ITEMS):
                heart.calls[0][2]({"text": big})
            await asyncio.sleep(0)
        for _, respond, _ in heart.calls:
            respond({"data": {"text": big}})
        other.ask({"id": 1, "method": "echo"})
        assert await other.told() == {"id": 1, "result": {}}
        lazy.reader._transport.resume_reading()  # type: ignore[attr-defined]
        items: list[dict[str, Any]] = []
        while not items or "result" not in items[-1]:
            told = await lazy.told()
            items += told if isinstance(told, list) else [told]
        assert [item["id"] for item in items if "result" in item] == [0, 1]
        assert 0 < sum("progress" in item for item in items) < 20 * MAX_UNSENT_ITEMS


async def test_the_end_comes_after_what_was_ready(tmp_path: Path) -> None:
    """A daemon that stops says what it has to say."""
    async with serving(tmp_path) as (control, heart), connected(tmp_path) as line:
        line.ask({"id": 1, "method": "call", "params": {}})
        await until(lambda: len(heart.calls) == 1)
        heart.calls[0][1]({"data": {}})
        await control.close()
        assert await line.told() == {"id": 1, "result": {"data": {}}}
        assert await line.ended()


async def test_who_asks_no_more_gets_the_answers(tmp_path: Path) -> None:
    """To everything, in the order in which they are ready; then the connection ends."""
    async with serving(tmp_path) as (_, heart), connected(tmp_path) as line:
        line.ask([{"id": n, "method": method, "params": {}} for n, method in enumerate(["slow", "call", "echo"])])
        line.writer.write_eof()
        assert (await line.told())["id"] == 2
        heart.calls[0][1]({"data": {}})
        assert (await line.told())["id"] == 1
        heart.go_on.set()
        assert (await line.told())["id"] == 0
        assert await line.ended()


async def test_who_asks_nothing_at_all_gets_nothing(tmp_path: Path) -> None:
    """An empty pipe, and one with an empty line."""
    async with serving(tmp_path):
        for text in (b"", b"[]\n"):
            async with connected(tmp_path) as line:
                line.writer.write(text)
                line.writer.write_eof()
                assert await line.ended()


async def test_who_watches_and_asks_no_more_is_told_all_the_same(tmp_path: Path) -> None:
    """Until they leave."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as line:
        line.ask({"id": 1, "method": "watch"})
        line.writer.write_eof()
        await line.told()
        control.send_event("prompt", {"id": "2"})
        assert await line.told() == {"event": "prompt", "data": {"id": "2"}}


async def test_who_says_nothing_holds_nothing_up(tmp_path: Path) -> None:
    """Neither others, nor the end."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as silent, connected(tmp_path) as line:
        line.ask({"id": 1, "method": "echo"})
        assert await line.told() == {"id": 1, "result": {}}
        await asyncio.wait_for(control.close(), TIMEOUT_S)
        del silent


@pytest.mark.parametrize("pieces", [1, 40])
async def test_http_is_understood_on_the_same_socket(tmp_path: Path, pieces: int) -> None:
    """Also when it comes in pieces."""
    request = b'POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{"n": 7}'
    async with serving(tmp_path), connected(tmp_path) as line:
        size = -(-len(request) // pieces)
        for start in range(0, len(request), size):
            line.writer.write(request[start : start + size])
            await asyncio.sleep(0.001)
        answer = await asyncio.wait_for(line.reader.read(), TIMEOUT_S)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"n": 7}\n')


async def test_noise_gets_an_answer_of_http(tmp_path: Path) -> None:
    """What is neither JSON nor HTTP is told so, and ends."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(b"\x16\x03\x01 hello?\r\n\r\n")
        assert b"400" in await asyncio.wait_for(line.reader.read(), TIMEOUT_S)


async def test_one_connection_serves_all_of_it(tmp_path: Path) -> None:
    """Several requests in one line, a watch, events, and an error between them."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as line:
        line.ask([{"id": n, "method": "echo", "params": {"n": n}} for n in (1, 2)])
        assert [item["result"] for item in await line.told()] == [{"n": 1}, {"n": 2}]
        line.ask({"id": 3, "method": "watch"})
        await line.told()
        control.send_event("prompt", {"id": "2"})
        assert await line.told() == {"event": "prompt", "data": {"id": "2"}}
        line.writer.write(b"{\n")
        assert "not JSON" in (await line.told())["error"]["message"]
        control.send_event("prompt", {"id": "3"})
        assert await line.told() == {"event": "prompt", "data": {"id": "3"}}
