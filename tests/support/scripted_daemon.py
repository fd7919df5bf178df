"""A scripted daemon: it answers on the control socket as a test says, and keeps the requests."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import io
import json
import os
import pty
import subprocess
import sys
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import pytest
from aiohttp import web

from p2pflows.cli import main
from p2pflows.errors import P2pflowsError, UsageError
from support.commands import CommandResult
from support.listening import let_connections_settle, stop_listening


class ScriptedDaemon:
    """Speaks the control API, HTTP and JSON Lines, on a home's socket, in a thread of its own.

    Attributes:
        script: by method, the result, the error, or a function, possibly async, of the parameters.
        asked: every method and its parameters, in the order of arrival.
        frames: how many lines have arrived.
        reports: what each call that wants progress reports before its answer.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.script: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.frames = 0
        self.reports: list[dict[str, Any]] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def __enter__(self) -> Self:
        self.home.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def die(self) -> None:
        """Cut every connection in the daemon's own thread, as kill -9 does."""
        (self.home / "daemon.sock").unlink(missing_ok=True)
        for connection in self._connections:
            connection.transport.abort()

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to every client that speaks JSON Lines."""
        for connection in self._connections:
            if connection.http is None:
                self._loop.call_soon_threadsafe(connection.write, {"event": event, "data": data})

    def progress(self, data: dict[str, Any]) -> None:
        """Send progress of the first three requests to every client that speaks JSON Lines."""
        for connection in self._connections:
            if connection.http is None:
                connection.write([{"id": number, "progress": data} for number in (1, 2, 3)])

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_post("/v1/{method}", self._http)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        self._loop.run_until_complete(runner.setup())
        http = runner.server
        assert http is not None
        listening = self._loop.create_unix_server(lambda: _Connection(self, http), str(self.home / "daemon.sock"))
        server = self._loop.run_until_complete(listening)
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(self._stop(runner, server))
        self._loop.close()

    async def _stop(self, runner: web.AppRunner, server: asyncio.Server) -> None:
        await stop_listening(server)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for connection in self._connections:
            connection.transport.abort()  # one that does not read would keep it open
        await runner.cleanup()
        await let_connections_settle()

    async def _answer(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((method, params))
        try:
            result = self.script.get(method, UsageError(f"There is no method {method!r}."))
            if callable(result):
                result = result(params)
            if inspect.isawaitable(result):
                result = await result
            if isinstance(result, P2pflowsError):
                raise result
        except P2pflowsError as error:
            return {"error": error.as_reply()}
        return {"result": result}

    async def _http(self, request: web.Request) -> web.Response:
        answer = await self._answer(request.match_info["method"], await request.json())
        return web.json_response(answer.get("result", answer), status=422 if "error" in answer else 200)

    def opened(self, connection: _Connection) -> None:
        """Called when a client has connected."""
        self._connections.add(connection)

    def asked_for(self, connection: _Connection, line: bytes) -> None:
        """Called with a line of requests."""
        self.frames += 1
        content = json.loads(line)
        for item in content if isinstance(content, list) else [content]:
            task = self._loop.create_task(self._reply(connection, item))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _reply(self, connection: _Connection, item: dict[str, Any]) -> None:
        if item["params"].get("progress"):
            connection.write({"id": item["id"], "accepted": "1" * 32})
            connection.write([{"id": item["id"], "progress": data} for data in self.reports])
        answer = await self._answer(item["method"], item["params"])
        connection.write([{"id": item["id"], **answer}])


class _Connection(asyncio.Protocol):
    """Speaks JSON Lines; a connection whose first byte starts no line is for HTTP."""

    def __init__(self, daemon: ScriptedDaemon, server: web.Server) -> None:
        self._daemon = daemon
        self._server = server
        self._rest = b""
        self.http: asyncio.Protocol | None = None
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._daemon.opened(self)

    def data_received(self, data: bytes) -> None:
        if not self._rest and self.http is None and data[:1] not in b"[{":
            self.http = self._server()
            self.transport.set_protocol(self.http)
            self.http.connection_made(self.transport)
            self.http.data_received(data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            self._daemon.asked_for(self, line)

    def write(self, content: Any) -> None:
        """Send one line."""
        self.transport.write(json.dumps(content).encode() + b"\n")


class ScriptedInbox:
    """Prompts of a scripted daemon, and the answers that it takes.

    Attributes:
        taken: each `answer`, `decline` and `dismiss` in the order they came, with the prompt's id and the text or
            reason.
    """

    def __init__(self, daemon: ScriptedDaemon, *prompts: dict[str, Any]) -> None:
        self.taken: list[tuple[str, str, str | None]] = []
        daemon.script.update(
            watch={"prompts": list(prompts)},
            answer=lambda params: self._take("answer", params["id"], params["text"]),
            decline=lambda params: self._take("decline", params["id"], params.get("reason")),
            dismiss=lambda params: {"ids": [self._take("dismiss", each, None)["id"] for each in params["ids"]]},
        )

    def _take(self, method: str, prompt_id: str, text: str | None) -> dict[str, Any]:
        self.taken.append((method, prompt_id, text))
        return {"id": prompt_id}


def moment(seconds: float) -> str:
    """The RFC 3339 time that many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def prompt(number: str, text: str, **more: Any) -> dict[str, Any]:
    """Return an open prompt from bob, as the daemon describes it."""
    return {
        "id": number, "from": "b0" * 32, "name": "bob", "endpoint": "User", "label": "", "text": text, "data": {},
        "received": moment(0), "expires": moment(3605), "status": "open", "wants_answer": True,
        "conversation": number, "answer": None, **more,
    }  # fmt: skip


def command(home: Path, *words: str, **more: str) -> tuple[list[str], dict[str, str]]:
    """The arguments and the environment that run the CLI on a home."""
    found = {"P2PFLOWS_HOME": str(home), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return [sys.executable, "-m", "p2pflows", *words], {**os.environ, **found, **more}


def run(home: Path, *words: str, stdin: str = "", **more: str) -> CommandResult:
    """Run the CLI as a process until it ends, with stdin piped in (by default empty)."""
    arguments, environment = command(home, *words, **more)
    ended = subprocess.run(
        arguments, env=environment, input=stdin.encode(), capture_output=True, timeout=30, check=False
    )
    return CommandResult(ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def run_here(home: Path, *words: str, stdin: str = "", cwd: Path | None = None, **more: str) -> CommandResult:
    """Run the CLI inside this process, which is faster; from `main` on, everything is the same as in `run`."""
    before = sys.stdin, sys.stdout, sys.stderr
    # A file for stdin, as some commands read from its file descriptor.
    with tempfile.TemporaryFile() as stdin_file, pytest.MonkeyPatch.context() as patch:
        stdin_file.write(stdin.encode())
        stdin_file.seek(0)
        streams = [io.TextIOWrapper(stream, encoding="utf-8") for stream in (stdin_file, io.BytesIO(), io.BytesIO())]
        for name, value in {"P2PFLOWS_HOME": str(home), **more}.items():
            patch.setenv(name, value)
        patch.chdir(cwd or home.parent)
        sys.stdin, sys.stdout, sys.stderr = streams
        try:
            with pytest.raises(SystemExit) as ended:
                main(words)
        finally:
            sys.stdin, sys.stdout, sys.stderr = before
    for stream in streams[1:]:
        stream.seek(0)
    _, out, err = streams
    assert isinstance(ended.value.code, int)
    return CommandResult(ended.value.code, out.read(), err.read())


def run_in_terminal(home: Path, *words: str, typed: str = "", **more: str) -> tuple[int, str]:
    """Run a command in a terminal, type something, and return its exit code and all that the terminal shows."""
    arguments, environment = command(home, *words, **more)
    ours, theirs = pty.openpty()
    running = subprocess.Popen(arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    os.write(ours, typed.encode())
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells that the other side is closed
        while chunk := os.read(ours, 4096):
            shown += chunk
    os.close(ours)
    return running.wait(10), shown.decode().replace("\r\n", "\n")
