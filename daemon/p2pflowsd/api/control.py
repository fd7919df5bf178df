"""The control socket: HTTP for `curl`, JSON Lines for what streams or needs speed.

It is a private unix socket in the home folder; anyone who can open it acts as its user.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from p2pflowsd.api.methods import Methods
from p2pflowsd.api.sessions import Session
from p2pflowsd.private_socket import private_socket

if TYPE_CHECKING:
    from p2pflowsd.api.http_server import HttpServer


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
        self._http: asyncio.Task[HttpServer] | None = None
        self._waiting_for_http: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to serve; a socket left by a dead daemon is replaced.

        Raises:
            UsageError: the path is too long for a unix socket, or cannot be written.
        """

        def accept() -> _NewConnection:
            return _NewConnection(lambda: Session(self._methods, self._sessions), self._serve_http)

        self._server = await asyncio.get_running_loop().create_unix_server(accept, sock=private_socket(self._path))

    async def close(self) -> None:
        """Stop serving."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for session in list(self._sessions):
            session.flush_and_close()
        for waiting in self._waiting_for_http:
            waiting.cancel()
        if self._http is not None:
            await (await self._http).close()

    def has_watchers(self, event: str) -> bool:
        """Return whether a client gets an event."""
        return any(session.watches(event) for session in self._sessions)

    def send_event(self, event: str, data: dict[str, Any]) -> None:
        """Send an event to all clients that watch."""
        for session in self._sessions:
            session.send_event(event, data)

    def _serve_http(self, transport: asyncio.Transport, data: bytes) -> None:
        """Hand a connection to the HTTP server; the first one starts that server and waits for it."""
        transport.pause_reading()
        waiting = asyncio.create_task(self._hand_to_http(transport, data))
        self._waiting_for_http.add(waiting)
        waiting.add_done_callback(self._waiting_for_http.discard)

    async def _hand_to_http(self, transport: asyncio.Transport, data: bytes) -> None:
        if self._http is None:
            self._http = asyncio.create_task(_start_http(self._methods))
        try:
            http = await asyncio.shield(self._http)
        except asyncio.CancelledError:
            transport.abort()
            raise
        if not transport.is_closing():
            _hand_over(transport, http.protocol(), data)
            transport.resume_reading()


async def _start_http(methods: Methods) -> HttpServer:
    # A thread imports aiohttp, so that the daemon goes on meanwhile.
    http = (await asyncio.to_thread(_import_http_server))(methods)
    await http.start()
    return http


def _import_http_server() -> type[HttpServer]:
    from p2pflowsd.api.http_server import HttpServer

    return HttpServer


def _hand_over(transport: asyncio.Transport, protocol: asyncio.Protocol, data: bytes) -> None:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    protocol.data_received(data)


class _NewConnection(asyncio.Protocol):
    """A connection until its first byte shows what it speaks: only JSON Lines begin with an object or an array."""

    def __init__(
        self, new_session: Callable[[], Session], serve_http: Callable[[asyncio.Transport, bytes], None]
    ) -> None:
        self._new_session = new_session
        self._serve_http = serve_http
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hand the connection over, with its first bytes."""
        if data[:1] in b"{[":
            _hand_over(self._transport, self._new_session(), data)
        else:
            self._serve_http(self._transport, data)
