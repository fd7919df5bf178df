"""The control socket: HTTP for `curl`, JSON Lines or a WebSocket for what streams or needs speed.

A private unix socket in the home folder; who can open it is its user. What a connection speaks shows in its first byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import WSMsgType, web

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol import strict_json
from p2pflowsd.api.methods import Method
from p2pflowsd.api.sessions import MAX_TEXT_BYTES, Call, LineConnection, Session
from p2pflowsd.private_socket import private_socket

STATUS = {2: 400, 3: 503, 4: 403, 5: 504}
"""HTTP status by exit code; all else is 422."""


class Control:
    """Serves the methods on a unix socket.

    Args:
        path: the socket.
        methods: what can be asked.
        call: the method that has to be fast, without a task for each request.
        prompts: the open prompts, for those who watch.
    """

    def __init__(
        self,
        *,
        path: Path,
        methods: dict[str, Method],
        call: Call,
        prompts: Callable[[], Awaitable[Any]],
    ) -> None:
        self._path = path
        self.call = call
        self._methods = methods
        self._prompts = prompts
        self._sessions: set[Session] = set()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to serve; a socket left by a dead daemon is replaced.

        Raises:
            UsageError: the path is too long for a unix socket, or cannot be written.
        """
        app = web.Application(client_max_size=MAX_TEXT_BYTES)
        app.router.add_route("*", "/v1/ws", self._websocket)
        app.router.add_route("*", "/v1/{method}", self._http)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        http = self._runner.server
        assert http is not None  # noqa: S101 - `setup` makes it
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _Opening(http, self), sock=private_socket(self._path)
        )

    async def close(self) -> None:
        """Stop serving."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            await session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def opened(self, session: Session) -> None:
        """A session begins."""
        self._sessions.add(session)

    def ended(self, session: Session) -> None:
        """A session is over."""
        self._sessions.discard(session)

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Tell all who watch."""
        for session in self._sessions:
            if session.watches:
                session.put({"event": event, "data": data})

    async def ask(self, name: str, params: Any, session: Session | None = None) -> dict[str, Any]:
        """Run a method; `{"result": ...}` or `{"error": ...}`. Only a session can watch."""
        try:
            if name == "watch" and session is not None:
                return {"result": await self._watch(session)}
            method = self._methods.get(name)
            if method is None:
                raise UsageError(f"There is no method {name!r}.", "See docs/CONTROL.md.")
            if not isinstance(params, dict):
                raise UsageError("The parameters are not a JSON object.", "See docs/CONTROL.md.")
            return {"result": await method(params)}
        except P2pflowsError as error:
            return {"error": error.as_json(), "exit": error.exit_code}

    async def _http(self, request: web.Request) -> web.Response:
        try:
            content = await request.read()
            params = strict_json.loads(content) if content.strip() else {}
        except (ValueError, RecursionError) as error:
            answer: dict[str, Any] = {"error": UsageError(f"The request is not JSON: {error}.").as_json(), "exit": 2}
        else:
            answer = await self.ask(request.match_info["method"], params)
        code = STATUS.get(answer.pop("exit"), 422) if "error" in answer else 200
        text = json.dumps(answer if "error" in answer else answer["result"], ensure_ascii=False) + "\n"
        # An error may quote half a character of what was asked; so written it is JSON.
        body = text.encode(errors="backslashreplace")
        return web.Response(body=body, status=code, content_type="application/json", charset="utf-8")

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(max_msg_size=MAX_TEXT_BYTES, compress=False, heartbeat=None)
        await connection.prepare(request)
        wake = asyncio.Event()
        session = Session(self, wake.set, connection.close)
        writer = asyncio.create_task(_write(connection, session, wake))
        try:
            async for frame in connection:
                if frame.type is WSMsgType.TEXT:
                    session.receive(frame.data)
        finally:
            writer.cancel()
            session.end()
        return connection

    async def _watch(self, session: Session) -> dict[str, Any]:
        """Begin to tell a session what changes."""
        session.watches = True
        return {"prompts": await self._prompts()}


async def _write(connection: web.WebSocketResponse, session: Session, wake: asyncio.Event) -> None:
    with contextlib.suppress(ConnectionError):  # whoever reads from it sees the end, too
        while True:
            await wake.wait()
            wake.clear()
            if text := session.take():
                await connection.send_str(text.decode())


class _Opening(asyncio.Protocol):
    """A connection until its first byte tells what it speaks: JSON Lines begin with an object or an array."""

    def __init__(self, http: web.Server, control: Control) -> None:
        self._http = http
        self._control = control
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """The first bytes have come; whoever understands them takes over."""
        speaks = LineConnection(self._control) if data[:1] in b"{[" else self._http()
        self._transport.set_protocol(speaks)
        speaks.connection_made(self._transport)
        speaks.data_received(data)
