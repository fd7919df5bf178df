"""The server itself: HTTP for browsers on one side, the control socket of the daemon on the other."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import urllib.parse
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from p2pflows.client.lasting_client import LastingClient
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.home import Home
from p2pflows.links.http_address import Hangup, cannot_listen
from p2pflows.protocol.file_reference import ANY_TYPE
from p2pflows.terminal import stop_signals
from p2pflows.web import static_files
from p2pflows.web.file_links import FileLinks, WrongFileLink
from p2pflows.web.guard import HEADERS, JSON, Headers, Refused, check_host, check_origin
from p2pflows.web.hub import Hub, TooManyStreams
from p2pflows.web.logins import SESSION_LIFE_S, WRONG_LOGINS_PER_S, Logins, TooManyWrong, WrongLink
from p2pflows.web.methods import Methods
from p2pflows.web.place import Place
from p2pflows.web.transfers import Transfers

MAX_BODY_BYTES = 1_000_000
MAX_CONNECTIONS = 256
BODY_TIMEOUT_S = 30.0
"""How long a browser may take to send a request, or to take an event."""
KEEP_ALIVE_S = 15.0
HANDSHAKE_TIMEOUT_S = 10.0
KEY_HEADER = "X-P2pflows-Key"
NAME_HEADER = "X-P2pflows-Name"
"""The name of a file that is uploaded, percent-encoded."""
_BUSY_RETRY_S = 5
_LOG_IN = "Open a new link of yours: p2pflows web --link"

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """Answers browsers until it is closed.

    Args:
        place: where it listens, and for whom.
        home: the home of the user.
        logins: who may see the page.
    """

    def __init__(self, place: Place, home: Home, logins: Logins) -> None:
        self._place = place
        self._logins = logins
        self._daemon = LastingClient(home.path)
        self._methods = Methods(home, self._daemon)
        self._hub = Hub(home)
        self._files = static_files.load()
        self._links = FileLinks()
        self._transfers = Transfers(home.uploads)
        self._known: set[asyncio.BaseProtocol] = set()
        """The connections of browsers that are logged in."""
        self._runner: web.AppRunner
        self._listening: asyncio.Server
        self._following: asyncio.Task[None]
        self._port = 0
        self._log = logging.getLogger("p2pflows.web")

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            UsageError: the address cannot be used.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.on_response_prepare.append(_add_headers)
        app.router.add_get("/api/events", self._events)
        app.router.add_get("/api/file/{link}", self._download, allow_head=False)
        app.router.add_post("/api/upload", self._upload)
        app.router.add_post("/api/{method}", self._call)
        app.router.add_get("/{name:.*}", self._file)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=1.0, handler_cancellation=True
        )
        await self._runner.setup()
        host, port, tls = self._place.host, self._place.port, self._place.tls
        timeout = None if tls is None else HANDSHAKE_TIMEOUT_S
        try:
            self._listening = await asyncio.get_running_loop().create_server(
                self._protocol, host, port, ssl=tls, ssl_handshake_timeout=timeout
            )
        except (OSError, OverflowError, UnicodeError) as error:
            await self._runner.cleanup()
            hint = (
                "If your page runs there already: p2pflows web --link. Else choose another: --listen HOST:PORT, or"
                " listen under web in config.yaml"
            )
            raise cannot_listen(host, port, error, hint) from error
        await asyncio.to_thread(self._transfers.clear)
        self._following = asyncio.create_task(self._hub.run())
        self._port = self._listening.sockets[0].getsockname()[1]
        return self._port

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        self._listening.close()
        self._hub.close()
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)
        await self._runner.cleanup()
        await self._daemon.close()

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection; beyond the limit, the oldest that nobody has logged in on gives way.

        So other users of the machine, who can connect as well, cannot keep the owner out.
        """
        server = self._runner.server
        assert server is not None  # noqa: S101 - `start` makes it
        if len(server.connections) >= MAX_CONNECTIONS:
            self._known &= set(server.connections)
            strange = next((each for each in server.connections if each not in self._known), None)
            if strange is None:
                return Hangup()
            strange.force_close()
        return server()

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse what no page of ours asks, and say as JSON what is wrong."""
        try:
            headers = _headers(request)
            check_host(headers, self._place.names)
            if request.path.startswith("/api/"):
                content_type = ANY_TYPE if request.path == "/api/upload" else JSON
                check_origin(headers, changes=request.method != "GET", content_type=content_type)
            return await handler(request)
        except Refused as error:
            return _json(error.status, {"error": error.as_reply()}, error.retry_after)
        except P2pflowsError as error:
            return _json(503 if isinstance(error, DaemonNotRunning) else 422, {"error": error.as_reply()})
        except web.HTTPRequestEntityTooLarge:
            refused = Refused(413, "too_large", f"A request may have {MAX_BODY_BYTES:,} bytes.", "Send less at a time.")
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            refused = Refused(error.status, "usage", "There is no such page.", "Begin at /.")
        except Exception:  # noqa: BLE001 - the page says so, and the log says where
            self._log.exception("a request for %s failed: this is a defect of p2pflows", request.path)
            refused = Refused(500, "bug", "This is a defect of p2pflows.", "See what its server has printed.")
        return _json(refused.status, {"error": refused.as_reply()})

    async def _file(self, request: web.Request) -> web.StreamResponse:
        found = self._files.get(request.path)
        if found is None:
            raise web.HTTPNotFound
        caching = {"ETag": found.etag, "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == found.etag:
            return web.Response(status=304, headers=caching)
        return web.Response(body=found.body, headers={**caching, "Content-Type": found.content_type})

    async def _call(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["method"]
        if name == "login":
            return await self._log_in(request)
        self._check_login(request)
        if name == "logout":
            return await self._log_out(request)
        content = await _content(request)
        if name == "file_link":
            return await self._link_file(request, content)
        return _json(200, {"result": await self._methods.run(name, content)})

    async def _link_file(self, request: web.Request, content: object) -> web.StreamResponse:
        """Make a link to a file that is here, for this browser."""
        file = await self._methods.file_here(content)
        cookie, key = self._shown_by(request)
        return _json(200, {"result": {"link": f"/api/file/{self._links.make(file, cookie, key)}"}})

    async def _download(self, request: web.Request) -> web.StreamResponse:
        cookie = request.cookies.get(self._cookie, "")
        try:
            file, key = self._links.use(request.match_info["link"], cookie)
        except WrongFileLink:
            raise Refused(404, "wrong_link", "This link was used already, or is too old.", "Open the page.") from None
        if not self._logins.is_logged_in(cookie, key):
            raise Refused(401, "not_logged_in", "This browser is not logged in.", _LOG_IN)
        return await self._transfers.send(request, file)

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        """Take a file for an answer into the store of the daemon, and return the reference."""
        self._check_login(request)
        name = urllib.parse.unquote(request.headers.get(NAME_HEADER, "")) or "file"
        async with self._transfers.receive(request, await self._methods.max_file_bytes()) as path:
            return _json(200, {"result": await self._methods.put_file(path, name)})

    async def _log_in(self, request: web.Request) -> web.StreamResponse:
        content = await _content(request)
        token = content.get("token") if isinstance(content, dict) else None
        try:
            session = await asyncio.to_thread(self._logins.log_in, str(token or ""))
        except WrongLink:
            raise Refused(403, "wrong_link", "This link was used already, or is too old.", _LOG_IN) from None
        except TooManyWrong:
            raise Refused(
                429, "busy", "Too many links were tried that do not exist.", "Wait a minute.", WRONG_LOGINS_PER_S
            ) from None
        response = _json(200, {"result": {"key": session.key}})
        response.set_cookie(
            self._cookie,
            session.cookie,
            max_age=SESSION_LIFE_S,
            path="/",
            httponly=True,
            samesite="Strict",
            secure=_is_encrypted(request),
        )
        return response

    async def _log_out(self, request: web.Request) -> web.StreamResponse:
        await asyncio.to_thread(self._logins.log_out, request.cookies.get(self._cookie, ""))
        response = _json(200, {"result": {}})
        response.del_cookie(self._cookie, path="/")
        return response

    def _check_login(self, request: web.Request) -> None:
        if not self._logins.is_logged_in(*self._shown_by(request)):
            raise Refused(401, "not_logged_in", "This browser is not logged in.", _LOG_IN)
        self._known.add(request.protocol)
        if len(self._known) > MAX_CONNECTIONS:
            self._known &= set(self._runner.server.connections if self._runner.server else ())

    def _shown_by(self, request: web.Request) -> tuple[str, str]:
        """Return the two secrets that a browser shows."""
        return request.cookies.get(self._cookie, ""), request.headers.get(KEY_HEADER, "")

    @property
    def _cookie(self) -> str:
        """The name of the cookie, with the port: browsers send cookies to all ports of a host, and each may be ours."""
        return f"p2pflows-{self._port}"

    async def _events(self, request: web.Request) -> web.StreamResponse:
        self._check_login(request)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        try:
            with self._hub.stream() as stream, contextlib.suppress(TimeoutError, ConnectionError):
                await response.prepare(request)
                async with contextlib.aclosing(stream.events(KEEP_ALIVE_S)) as events:
                    async for event in events:
                        async with asyncio.timeout(BODY_TIMEOUT_S):
                            await response.write(event)
                        self._check_login(request)
        except TooManyStreams:
            raise Refused(
                429, "busy", "Too many pages look on at the same time.", "Close some of them.", _BUSY_RETRY_S
            ) from None
        except Refused:  # logged out elsewhere
            return response
        return response


async def serve(
    place: Place, home: Home, on_start: Callable[[str], None], until: Callable[[], Awaitable[object]] | None = None
) -> None:
    """Run a server until a signal ends it.

    Args:
        place: where it listens, and for whom.
        home: the home of the user.
        on_start: called with the address of the page once it listens.
        until: returns what ends it as well; None for signals alone.

    Raises:
        UsageError: the address cannot be used, or the logins cannot be kept.
    """
    logins = Logins(home)
    server = Server(place, home, logins)
    stop = asyncio.Event()
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = place.url(await server.start())
    try:
        logins.note_server(url)
        on_start(url)
        ends = [asyncio.ensure_future(_wait(each())) for each in (stop.wait, until) if each is not None]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()
    finally:
        await server.close()
        logins.note_server("")


async def _wait(ended: Awaitable[object]) -> None:
    await ended


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


def _headers(request: web.Request) -> Headers:
    given = request.headers
    return Headers(request.host, given.get("Origin"), given.get("Sec-Fetch-Site"), given.get("Content-Type", ""))


def _is_encrypted(request: web.Request) -> bool:
    """Whether the browser reaches the page through TLS, which may end in front of this server."""
    return request.headers.get("Origin", "").startswith("https://")


async def _content(request: web.Request) -> Any:
    """Return the JSON that a request holds.

    Raises:
        Refused: it did not come in time, or is not JSON.
    """
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            body = await request.read()
        return json.loads(body)
    except TimeoutError:
        raise Refused(408, "usage", "The request did not come in time.", "Try again.") from None
    except (ValueError, RecursionError):
        raise Refused(400, "usage", "The request is not JSON.", "Load the page again.") from None


def _json(status: int, document: dict[str, Any], retry_after: int | None = None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    body = json.dumps(document).encode()
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)
