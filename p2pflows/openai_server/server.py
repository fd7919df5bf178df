"""The server itself: HTTP for OpenAI's clients on one side, the control socket of the daemon on the other."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from p2pflows.client.lasting_client import LastingClient
from p2pflows.contacts import Contacts
from p2pflows.errors import P2pflowsError
from p2pflows.links.http_address import LOCAL_NAMES, Hangup, cannot_listen, host_name, is_loopback
from p2pflows.openai_server import documents
from p2pflows.openai_server.asking import Question
from p2pflows.openai_server.chat_request import BadRequest, ChatRequest, read_request
from p2pflows.openai_server.conversations import Conversations
from p2pflows.openai_server.documents import Completion, Failure
from p2pflows.openai_server.offered import Offers
from p2pflows.terminal import stop_signals

MAX_BODY_BYTES = 1_000_000
"""More than a message can hold."""
MAX_CONNECTIONS = 256
BODY_TIMEOUT_S = 30.0
"""How long a client may take to send its request."""
_BUSY_RETRY_S = 1.0
_OFFERED = "This server offers GET /v1/models and POST /v1/chat/completions."


@dataclass(frozen=True, slots=True)
class Settings:
    """What the server is started with.

    Args:
        host: where it listens.
        port: where it listens; 0 for any free one.
        key: what clients must show.
        timeout: seconds until the deadline of each question.
        at_once: how many questions may be open at the same time.
    """

    host: str
    port: int
    key: str
    timeout: float
    at_once: int

    @property
    def is_local(self) -> bool:
        """Whether only programs of this machine reach it."""
        return is_loopback(self.host)


class Server:
    """Answers clients until it is closed.

    Args:
        settings: what it is started with.
        home: the home folder of the daemon.
        contacts: the address book of its user.
    """

    def __init__(self, settings: Settings, home: os.PathLike[str], contacts: Path) -> None:
        self._settings = settings
        self._daemon = LastingClient(home)
        self._offers = Offers(Contacts(contacts))
        self._conversations = Conversations()
        self._open = 0
        self._runner: web.AppRunner
        self._listening: asyncio.Server
        self._tasks: set[asyncio.Task[Any]] = set()

    async def start(self) -> int:
        """Listen, and return the port.

        Raises:
            UsageError: the address cannot be used.
        """
        app = web.Application(client_max_size=MAX_BODY_BYTES, middlewares=[self._guard])
        app.router.add_get("/v1/models", self._list)
        app.router.add_get("/v1/models/{name:.+}", self._show)
        app.router.add_post("/v1/chat/completions", self._complete)
        self._runner = web.AppRunner(
            app, access_log=None, handle_signals=False, shutdown_timeout=1.0, handler_cancellation=True
        )
        await self._runner.setup()
        host, port = self._settings.host, self._settings.port
        try:
            self._listening = await asyncio.get_running_loop().create_server(self._protocol, host, port)
        except (OSError, OverflowError, UnicodeError) as error:
            await self._runner.cleanup()
            raise cannot_listen(host, port, error, "Choose another one: p2pflows openai --listen HOST:PORT") from error
        found: int = self._listening.sockets[0].getsockname()[1]
        return found

    async def close(self) -> None:
        """Stop listening, withdraw the open questions, and close all connections."""
        self._listening.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._runner.cleanup()
        await self._daemon.close()

    def _protocol(self) -> asyncio.Protocol:
        """Return the protocol of a new connection; one too many is closed at once."""
        server = self._runner.server
        assert server is not None  # noqa: S101 - `start` makes it
        return Hangup() if len(server.connections) >= MAX_CONNECTIONS else server()

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """Let only those in who have the key, and say in OpenAI's form what is wrong."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a handler is one
        self._tasks.add(task)
        try:
            self._check_client(request)
            return await handler(request)
        except BadRequest as error:
            return _failed(Failure(400, error.message, code=error.code, param=error.param))
        except P2pflowsError as error:
            return _failed(Failure.of(error))
        except _Refused as error:
            return _failed(error.failure)
        except web.HTTPRequestEntityTooLarge:
            return _failed(Failure(413, f"A request may have {MAX_BODY_BYTES:,} bytes.", code="too_large"))
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            return _failed(Failure(error.status, _OFFERED, code="unknown_url"))
        finally:
            self._tasks.discard(task)

    def _check_client(self, request: web.Request) -> None:
        # A web page may reach this machine under a name of its own; its browser sends that name.
        if self._settings.is_local and host_name(request.host) not in LOCAL_NAMES:
            raise _Refused(Failure(403, "This server is for programs on its own machine.", code="wrong_host"))
        scheme, _, shown = request.headers.get("Authorization", "").partition(" ")
        is_right = hmac.compare_digest(shown.strip().encode(errors="replace"), self._settings.key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise _Refused(
                Failure(401, "The API key is wrong. It is in openai.key, in the home folder.", code="invalid_api_key")
            )

    async def _list(self, _request: web.Request) -> web.StreamResponse:
        return _json(200, documents.models(await self._offers.names(await self._daemon.get())))

    async def _show(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        await self._offers.find(await self._daemon.get(), name)
        return _json(200, documents.model(name))

    async def _complete(self, request: web.Request) -> web.StreamResponse:
        if self._open >= self._settings.at_once:
            words = f"This server has {self._open} open questions already."
            raise _Refused(Failure(429, words, "rate_limit_error", "too_many_requests", retry_after=_BUSY_RETRY_S))
        self._open += 1
        try:
            wanted = read_request(await _body(request))
            me = await self._daemon.get()
            offer = await self._offers.find(me, wanted.model)
            question = Question(me, wanted, offer, self._conversations, self._settings.timeout)
            completion = Completion(f"chatcmpl-{os.urandom(12).hex()}", int(time.time()), wanted.model)
            if wanted.is_streamed:
                return await _stream(request, wanted, question, completion)
            return _json(200, completion.whole(await question.whole()))
        finally:
            self._open -= 1


async def serve(settings: Settings, home: os.PathLike[str], contacts: Path, on_start: Callable[[int], None]) -> None:
    """Run a server until a signal ends it.

    Args:
        settings: what it is started with.
        home: the home folder of the daemon.
        contacts: the address book of its user.
        on_start: called with the port once it listens.

    Raises:
        UsageError: the address cannot be used.
    """
    server = Server(settings, home, contacts)
    stop = asyncio.Event()
    for number in stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    on_start(await server.start())
    try:
        await stop.wait()
    finally:
        await server.close()


class _Refused(Exception):
    """The client gets this failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise _Refused(Failure(408, "The request did not come in time.", code="timeout")) from None


async def _stream(
    request: web.Request, wanted: ChatRequest, question: Question, completion: Completion
) -> web.StreamResponse:
    """Send the answer as it grows; an error before the first piece has a status of its own."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
    try:
        async with contextlib.aclosing(question.pieces()) as pieces:
            async for text in pieces:
                is_first = not response.prepared
                if is_first:
                    await response.prepare(request)
                await _send(response, completion.piece(text, is_first=is_first))
    except P2pflowsError as error:
        if not response.prepared:
            raise
        await _send(response, Failure.of(error).document())
        return response
    if not response.prepared:
        await response.prepare(request)
        await _send(response, completion.piece("", is_first=True))
    if question.answer is not None:
        await _send(response, completion.end(question.answer))
        if wanted.wants_usage:
            await _send(response, completion.usage(question.answer))
    await response.write(b"data: [DONE]\n\n")
    return response


async def _send(response: web.StreamResponse, document: dict[str, Any]) -> None:
    await response.write(b"data: %s\n\n" % json.dumps(document).encode())


def _failed(failure: Failure) -> web.Response:
    return _json(failure.status, failure.document(), failure.headers())


def _json(status: int, document: dict[str, Any], headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(
        body=json.dumps(document).encode(), status=status, content_type="application/json", headers=headers
    )
