"""The control socket: HTTP for `curl`, JSON Lines for what streams or needs speed.

It is a private unix socket in the home folder; anyone who can open it acts as its user.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from aiohttp import web

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol import strict_json
from p2pflowsd.api.methods import Methods
from p2pflowsd.api.sessions import MAX_LINE_BYTES, Session
from p2pflowsd.private_socket import private_socket

HTTP_STATUS = {2: 400, 3: 503, 4: 403, 5: 504}
"""HTTP status by an error's exit code; 422 for all others."""


class Control:
    """The server on the control socket.

    Args:
        path: where the socket is made.
        methods: what clients can request.
    """

    def __init__(self, path: Path, methods: Methods) -> None:
        self._path = path
        self._methods = methods
        self._sessions: set[Session] = set()
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to serve; a socket left by a dead daemon is replaced.

        Raises:
            UsageError: the path is too long for a unix socket, or cannot be written.
        """
        app = web.Application(client_max_size=MAX_LINE_BYTES)
        app.router.add_route("*", "/v1/{method}", self._handle_http)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        http = self._runner.server
        assert http is not None  # noqa: S101 - `setup` makes it

        def accept() -> _NewConnection:
            return _NewConnection(http, lambda: Session(self._methods, self._sessions))

        self._server = await asyncio.get_running_loop().create_unix_server(accept, sock=private_socket(self._path))

    async def close(self) -> None:
        """Stop serving."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.flush_and_close()
        if self._runner is not None:
            await self._runner.cleanup()

    def send_event(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to all clients that watch."""
        for session in self._sessions:
            session.send_event(event, data)

    async def _handle_http(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        try:
            params = _parse(await request.read())
            if method == "watch":
                raise UsageError("HTTP sends no events.", "Use JSON Lines; see docs/CONTROL.md.")
            return _response(200, await self._methods.run(method, params))
        except P2pflowsError as error:
            return _response(HTTP_STATUS.get(error.exit_code, 422), {"error": error.as_json()})


def _parse(content: bytes) -> Any:
    if not content.strip():
        return {}
    try:
        return strict_json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The request is not JSON: {error}.") from None


def _response(status: int, content: Any) -> web.Response:
    text = json.dumps(content, ensure_ascii=False) + "\n"
    # An error may quote a lone surrogate from its request, which UTF-8 lacks; JSON can escape it.
    body = text.encode(errors="backslashreplace")
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")


class _NewConnection(asyncio.Protocol):
    """A connection until its first byte shows what it speaks: only JSON Lines begin with an object or an array."""

    def __init__(self, http: web.Server, new_session: Callable[[], Session]) -> None:
        self._http = http
        self._new_session = new_session
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand the connection over, with its first bytes."""
        protocol = self._new_session() if data[:1] in b"{[" else self._http()
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(data)
