"""The control socket: JSON Lines and HTTP, and clients that send nonsense, read slowly or say nothing."""

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
from p2pflowsd.api.daemon import Written
from p2pflowsd.api.methods import Methods
from p2pflowsd.api.sessions import MAX_LINE_BYTES, MAX_UNSENT_ITEMS

TIMEOUT_S = 10.0


@dataclass
class ScriptedMethods:
    """Methods in place of a daemon's: `echo` returns at once, `slow` after `proceed`, `call` when the test responds."""

    proceed: asyncio.Event = field(default_factory=asyncio.Event)
    calls: list[tuple[dict[str, Any], Callable[[Any], None], Callable[[dict[str, Any]], None]]] = field(
        default_factory=list
    )
    stopped: int = 0

    async def echo(self, params: dict[str, Any]) -> Any:
        """Return the parameters."""
        return params

    async def slow(self, params: dict[str, Any]) -> Any:
        """Return the parameters, once the test lets it."""
        await self.proceed.wait()
        return params

    async def bad(self, params: dict[str, Any]) -> Any:
        """Fail in a way that nobody expects."""
        raise KeyError(*params)

    async def watch(self, params: dict[str, Any]) -> Any:
        """Return one open prompt, once the test lets it, if it asks for that."""
        if params.get("slow"):
            await self.proceed.wait()
        return {"prompts": [{"id": "1"}]}

    def call(
        self,
        params: dict[str, Any],
        respond: Callable[[Any], None],
        accepted: Callable[[str], None],
        progress: Callable[[dict[str, Any]], None],
    ) -> Callable[[], None]:
        """Keep a call, to which the test responds."""
        if params.get("progress"):
            accepted("1" * 32)
        self.calls.append((params, respond, progress))

        def stop() -> None:
            self.stopped += 1

        return stop


@dataclass
class Line:
    """A client's connection with JSON Lines."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, content: Any) -> None:
        """Send one line."""
        self.writer.write(json.dumps(content).encode() + b"\n")

    async def receive(self) -> Any:
        """Return the next line."""
        line = await asyncio.wait_for(self.reader.readline(), TIMEOUT_S)
        assert line.endswith(b"\n"), line
        return json.loads(line)

    async def is_closed(self) -> bool:
        """Wait for the next byte; whether there is none because the daemon closed the connection."""
        return await asyncio.wait_for(self.reader.read(1), TIMEOUT_S) == b""


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Control, ScriptedMethods]]:
    """A control socket in a folder."""
    methods = ScriptedMethods()
    by_name = {"echo": methods.echo, "slow": methods.slow, "watch": methods.watch, "bad": methods.bad}
    control = Control(folder / "s", Methods(by_name, methods.call))
    await control.start()
    try:
        yield control, methods
    finally:
        await control.close()


@asynccontextmanager
async def connected(folder: Path) -> AsyncIterator[Line]:
    """A connection to the control socket in a folder."""
    reader, writer = await asyncio.open_unix_connection(str(folder / "s"), limit=2**26)
    try:
        yield Line(reader, writer)
    finally:
        writer.close()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to become true."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110 - there is no event for it
            await asyncio.sleep(0.005)


async def test_a_line_is_answered_by_a_line(tmp_path: Path) -> None:
    """The answer has the request's id, which may be any JSON."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.send({"id": ["any", 1], "method": "echo", "params": {"text": "hä?\n"}})
        assert await line.receive() == {"id": ["any", 1], "result": {"text": "hä?\n"}}


async def test_many_requests_in_one_line_run_side_by_side(tmp_path: Path) -> None:
    """A slow request does not hold up the next ones; answers that are ready together come in one line."""
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        line.send([{"id": n, "method": method, "params": {}} for n, method in enumerate(["slow", "echo", "echo"])])
        assert [item["id"] for item in await line.receive()] == [1, 2]
        methods.proceed.set()
        assert (await line.receive())["id"] == 0


async def test_a_line_may_come_byte_by_byte(tmp_path: Path) -> None:
    """Several lines may come at once, too, with empty lines and CRLF among them."""
    async with serving(tmp_path), connected(tmp_path) as line:
        for byte in b'{"id": 1, "method": "echo"}\n':
            line.writer.write(bytes([byte]))
            await line.writer.drain()
        assert await line.receive() == {"id": 1, "result": {}}
        line.writer.write(b'\n\r\n{"id": 2, "method": "echo"}\r\n {"id": 3, "method": "echo"}\n')
        assert [item["id"] for item in await line.receive()] == [2, 3]


@pytest.mark.parametrize(
    ("bad", "message"),
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
async def test_a_bad_line_gets_an_error_and_the_next_its_answer(tmp_path: Path, bad: bytes, message: str) -> None:
    """A bad line does not end the connection."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(bad + b"\n")
        assert message in (await line.receive())["error"]["message"]
        line.send({"id": 1, "method": "echo"})
        assert await line.receive() == {"id": 1, "result": {}}


async def test_a_method_with_a_bug_is_answered_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The client does not wait for ever, and the log says where it failed."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.send({"id": 1, "method": "bad", "params": {"x": 1}})
        answer = await line.receive()
        assert (answer["id"], answer["error"]["code"]) == (1, "bug")
        line.send({"id": 2, "method": "echo", "params": {}})
        assert (await line.receive())["result"] == {}
    assert "the method bad has failed" in caplog.text


async def test_a_line_over_the_limit_gets_an_error_and_ends_the_connection(tmp_path: Path) -> None:
    """The daemon does not wait for the end of the line."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(b"[" + b" " * MAX_LINE_BYTES)
        assert "4,000,000 bytes" in (await line.receive())["error"]["message"]
        assert await line.is_closed()


async def test_an_answer_with_a_lone_surrogate_is_json(tmp_path: Path) -> None:
    """JSON can escape a lone surrogate, which UTF-8 lacks."""
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        line.send({"id": 1, "method": "call", "params": {}})
        await until(lambda: len(methods.calls) == 1)
        methods.calls[0][1](FlowFailed("half \ud800"))
        assert (await line.receive())["error"]["message"] == "half \ud800"


async def test_a_client_that_watches_gets_events(tmp_path: Path) -> None:
    """It gets the open prompts first, then each change; other clients get nothing."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as watcher, connected(tmp_path) as other:
        watcher.send({"id": 1, "method": "watch"})
        assert await watcher.receive() == {"id": 1, "result": {"prompts": [{"id": "1"}]}}
        control.send_event("prompt", {"id": "2"})
        assert await watcher.receive() == {"event": "prompt", "data": {"id": "2"}}
        other.send({"id": 1, "method": "echo"})
        assert await other.receive() == {"id": 1, "result": {}}


async def test_a_call_has_progress_and_then_a_result_or_an_error(tmp_path: Path) -> None:
    """All that is ready in one pass of the event loop comes in one line, in order."""
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        line.send([{"id": n, "method": "call", "params": {"n": n}} for n in (1, 2)])
        await until(lambda: len(methods.calls) == 2)
        (_, respond, progress), (_, fail, _) = methods.calls
        progress({"text": "w"})
        respond({"data": {}})
        fail(FlowFailed("It broke."))
        assert await line.receive() == [
            {"id": 1, "progress": {"text": "w"}},
            {"id": 1, "result": {"data": {}}},
            {"id": 2, "error": FlowFailed("It broke.").as_json()},
        ]


async def test_long_data_reaches_the_daemon_as_the_bytes_that_were_sent(tmp_path: Path) -> None:
    """Alone in a line, also as an array; among other requests it has the same meaning."""
    data = b'{ "n": 1.50e1, "text": "' + b"x" * 5_000 + b'"}'
    request = b'{"id":1,"method":"call","params":{"address":"bob/echo","data":' + data + b"}}"
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        for sent in (request, b"[" + request + b"]", b"[" + request + b"," + request + b"]"):
            line.writer.write(sent + b"\n")
        await until(lambda: len(methods.calls) == 4)
    first, second, *others = [params["data"] for params, _, _ in methods.calls]
    assert first.text == second.text == data
    assert all(params == {"address": "bob/echo", "data": json.loads(data)} for params, _, _ in methods.calls)
    assert len(others) == 2


async def test_an_answer_with_line_breaks_does_not_break_the_line_of_its_client(tmp_path: Path) -> None:
    """An answer reaches the client as its sender wrote it, and JSON may have line breaks between its parts."""
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        line.send({"id": "x", "method": "call", "params": {}})
        await until(lambda: len(methods.calls) == 1)
        _, respond, _ = methods.calls[0]
        respond({"id": "7", "data": Written(b'{\n"a" :\n"b\\n"}'), "conversation": "8"})
        result = {"id": "7", "conversation": "8", "data": {"a": "b\n"}}
        assert await line.receive() == {"id": "x", "result": result}


async def test_a_client_that_leaves_waits_no_more(tmp_path: Path) -> None:
    """Only calls without an answer are stopped."""
    async with serving(tmp_path) as (_, methods):
        async with connected(tmp_path) as line:
            line.send([{"id": n, "method": "call", "params": {}} for n in (1, 2)])
            await until(lambda: len(methods.calls) == 2)
            methods.calls[0][1]({"data": {}})
            await line.receive()
        await until(lambda: methods.stopped == 1)
        methods.calls[1][1]({"data": {}})


async def test_a_client_that_does_not_read_gets_its_answers_later_and_loses_only_progress(tmp_path: Path) -> None:
    """Other clients get their answers meanwhile."""
    big = "x" * 1_000
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as lazy, connected(tmp_path) as other:
        lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        lazy.send([{"id": n, "method": "call", "params": {}} for n in range(2)])
        await until(lambda: len(methods.calls) == 2)
        for _ in range(20):
            for _ in range(MAX_UNSENT_ITEMS):
                methods.calls[0][2]({"text": big})
            await asyncio.sleep(0)
        for _, respond, _ in methods.calls:
            respond({"data": {"text": big}})
        other.send({"id": 1, "method": "echo"})
        assert await other.receive() == {"id": 1, "result": {}}
        lazy.reader._transport.resume_reading()  # type: ignore[attr-defined]
        items: list[dict[str, Any]] = []
        while not items or "result" not in items[-1]:
            received = await lazy.receive()
            items += received if isinstance(received, list) else [received]
        assert [item["id"] for item in items if "result" in item] == [0, 1]
        assert 0 < sum("progress" in item for item in items) < 20 * MAX_UNSENT_ITEMS


async def test_a_client_that_asks_and_does_not_read_is_not_read_either(tmp_path: Path) -> None:
    """Its answers fill no memory; once it reads, it gets all of them."""
    count = 20 * MAX_UNSENT_ITEMS
    async with serving(tmp_path) as (control, _), connected(tmp_path) as lazy:
        lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(count):
            lazy.send({"id": n, "method": "echo", "params": {"text": "x" * 1_000}})
        await asyncio.sleep(0.2)
        (session,) = control._sessions
        await until(lambda: len(session._unsent) >= MAX_UNSENT_ITEMS)
        await asyncio.sleep(0.2)
        assert len(session._unsent) < 3 * MAX_UNSENT_ITEMS
        lazy.reader._transport.resume_reading()  # type: ignore[attr-defined]
        got: list[Any] = []
        while len(got) < count:
            received = await lazy.receive()
            got += received if isinstance(received, list) else [received]
        assert {item["id"] for item in got} == set(range(count))


async def test_a_client_that_watches_and_does_not_read_loses_its_connection(tmp_path: Path) -> None:
    """Events fill no memory; it can watch again."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as lazy:
        lazy.send({"id": 1, "method": "watch"})
        await lazy.receive()
        lazy.reader._transport.pause_reading()  # type: ignore[attr-defined]
        for n in range(100_000):
            control.send_event("prompt", {"id": str(n), "text": "x" * 100})
            if n % 1_000 == 0:
                await asyncio.sleep(0)
        await until(lambda: not control._sessions)


@pytest.mark.parametrize(
    "request_half",
    [
        b"POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
        b"POST /v1/ec",
        b"\x16\x03\x01 hello?\r\n\r\n",
    ],
)
async def test_half_an_http_request_writes_nothing_into_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, request_half: bytes
) -> None:
    """A client that leaves in the middle of its request leaves no line behind."""
    async with serving(tmp_path):
        for _ in range(5):
            async with connected(tmp_path) as line:
                line.writer.write(request_half)
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.1)
    assert [record.getMessage() for record in caplog.records if record.levelname != "DEBUG"] == []


async def test_a_daemon_that_stops_sends_what_is_ready(tmp_path: Path) -> None:
    """Then it closes the connection."""
    async with serving(tmp_path) as (control, methods), connected(tmp_path) as line:
        line.send({"id": 1, "method": "call", "params": {}})
        await until(lambda: len(methods.calls) == 1)
        methods.calls[0][1]({"data": {}})
        await control.close()
        assert await line.receive() == {"id": 1, "result": {"data": {}}}
        assert await line.is_closed()


async def test_a_client_that_closes_its_sending_side_gets_all_answers(tmp_path: Path) -> None:
    """They come in the order in which they are ready; then the connection ends."""
    async with serving(tmp_path) as (_, methods), connected(tmp_path) as line:
        line.send([{"id": n, "method": method, "params": {}} for n, method in enumerate(["slow", "call", "echo"])])
        line.writer.write_eof()
        assert (await line.receive())["id"] == 2
        methods.calls[0][1]({"data": {}})
        assert (await line.receive())["id"] == 1
        methods.proceed.set()
        assert (await line.receive())["id"] == 0
        assert await line.is_closed()


async def test_a_client_without_requests_gets_nothing(tmp_path: Path) -> None:
    """It sends nothing at all, or an empty array."""
    async with serving(tmp_path):
        for text in (b"", b"[]\n"):
            async with connected(tmp_path) as line:
                line.writer.write(text)
                line.writer.write_eof()
                assert await line.is_closed()


async def test_a_prompt_that_comes_as_the_watch_begins_is_shown_once(tmp_path: Path) -> None:
    """Events before the result follow it, without those that the result has told already."""
    async with serving(tmp_path) as (control, methods), connected(tmp_path) as watcher:
        watcher.send([{"id": 1, "method": "watch", "params": {"slow": True}}, {"id": 2, "method": "echo"}])
        assert await watcher.receive() == {"id": 2, "result": {}}
        for prompt in ({"id": "1"}, {"id": "1", "status": "answered"}, {"id": "2"}):
            control.send_event("prompt", prompt)
        methods.proceed.set()
        assert await watcher.receive() == [
            {"id": 1, "result": {"prompts": [{"id": "1"}]}},
            {"event": "prompt", "data": {"id": "1", "status": "answered"}},
            {"event": "prompt", "data": {"id": "2"}},
        ]


async def test_a_client_that_watches_may_close_its_sending_side(tmp_path: Path) -> None:
    """It gets events until it leaves."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as line:
        line.send({"id": 1, "method": "watch"})
        line.writer.write_eof()
        await line.receive()
        control.send_event("prompt", {"id": "2"})
        assert await line.receive() == {"event": "prompt", "data": {"id": "2"}}


async def test_a_silent_client_holds_nothing_up(tmp_path: Path) -> None:
    """Neither other clients nor the end of the daemon."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as silent, connected(tmp_path) as line:
        line.send({"id": 1, "method": "echo"})
        assert await line.receive() == {"id": 1, "result": {}}
        await asyncio.wait_for(control.close(), TIMEOUT_S)
        del silent


@pytest.mark.parametrize("pieces", [1, 40])
async def test_the_same_socket_speaks_http(tmp_path: Path, pieces: int) -> None:
    """The request may come in pieces."""
    request = b'POST /v1/echo HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\nConnection: close\r\n\r\n{"n": 7}'
    async with serving(tmp_path), connected(tmp_path) as line:
        size = -(-len(request) // pieces)
        for start in range(0, len(request), size):
            line.writer.write(request[start : start + size])
            await asyncio.sleep(0.001)
        answer = await asyncio.wait_for(line.reader.read(), TIMEOUT_S)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b'{"n": 7}\n')


async def test_noise_gets_an_http_error(tmp_path: Path) -> None:
    """Bytes that are neither JSON Lines nor HTTP are a bad HTTP request."""
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(b"\x16\x03\x01 hello?\r\n\r\n")
        assert b"400" in await asyncio.wait_for(line.reader.read(), TIMEOUT_S)


async def test_one_connection_serves_requests_events_and_errors(tmp_path: Path) -> None:
    """An error does not end a watch."""
    async with serving(tmp_path) as (control, _), connected(tmp_path) as line:
        line.send([{"id": n, "method": "echo", "params": {"n": n}} for n in (1, 2)])
        assert [item["result"] for item in await line.receive()] == [{"n": 1}, {"n": 2}]
        line.send({"id": 3, "method": "watch"})
        await line.receive()
        control.send_event("prompt", {"id": "2"})
        assert await line.receive() == {"event": "prompt", "data": {"id": "2"}}
        line.writer.write(b"{\n")
        assert "not JSON" in (await line.receive())["error"]["message"]
        control.send_event("prompt", {"id": "3"})
        assert await line.receive() == {"event": "prompt", "data": {"id": "3"}}


@pytest.mark.parametrize(
    ("method", "message"), [("watch", "HTTP sends no events."), ("ws", "There is no method 'ws'.")]
)
async def test_http_has_no_events(tmp_path: Path, method: str, message: str) -> None:
    """Neither after a `watch`, which needs JSON Lines, nor over a WebSocket."""
    request = f"GET /v1/{method} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    async with serving(tmp_path), connected(tmp_path) as line:
        line.writer.write(request.encode())
        head = await asyncio.wait_for(line.reader.readuntil(b"\r\n\r\n"), TIMEOUT_S)
        assert head.startswith(b"HTTP/1.1 400 ")
        assert json.loads(await line.reader.readline())["error"]["message"] == message
