"""Connections to model servers, which a worker keeps open between questions."""

from __future__ import annotations

import contextlib
import functools
import importlib
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from p2pflows.links.socket_options import acknowledge_at_once
from p2pflows.models.alarms import Alarms
from p2pflows.models.api_info import AZURE, ApiInfo

MAX_IDLE_CONNECTIONS = 32
"""How many unused connections a worker keeps; beyond that, the one that was unused for longest is closed."""
MAX_IDLE_S = 30.0
"""How long an unused connection is used again; many servers close theirs sooner, which is noticed."""

MAX_REST_S = 0.5
MAX_REST_PARTS = 100
"""How long, and how many pieces, a server may send after the end of its answer."""


class Connection:
    """A client that sends a key to one server, over one connection, for one question at a time.

    It follows no redirect, and leaves retries to its user.

    Args:
        info: the key and its server.
        alarms: end what takes too long.
    """

    def __init__(self, info: ApiInfo, alarms: Alarms) -> None:
        self.info = info
        self._alarms = alarms
        self.is_stale = False
        """Whether the last request went over a connection that an earlier one had left open, and got no answer."""
        self.is_broken_off = False
        """Whether somebody has broken off what it waited for, so that it is of no use any more."""
        self._socket: socket.socket | None = None
        self._client = self._new_client()

    @contextlib.contextmanager
    def response(self, request: Mapping[str, Any], timeout: Any) -> Iterator[Iterator[bytes]]:
        """Send a request for a chat completion, and yield the bytes of its response as they arrive.

        Args:
            request: the parameters of the request.
            timeout: an `openai.Timeout`.

        Raises:
            OpenAIError: there is no connection, or the server answers with an error.
        """
        from openai import Stream

        self.is_stale = self._socket is not None
        # `post` leaves out what `chat.completions.create` does to find each field of a request in its types.
        stream: Any = self._client.post(
            "/chat/completions",
            cast_to=object,
            body=request,
            options={"timeout": timeout},
            stream=True,
            stream_cls=Stream[object],
        )
        # Read by us, whether it is streamed or not: the reader of `openai` fails on much that servers send.
        with contextlib.closing(stream.response) as response:
            parts = self._acknowledged(response.iter_bytes())
            yield parts
            self._read_rest(parts)

    def break_off(self) -> None:
        """End what it waits for, from another thread; if it is connecting, as soon as it is connected."""
        self.is_broken_off = True
        if self._socket is not None:
            _shut(self._socket)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _read_rest(self, parts: Iterator[bytes]) -> None:
        """Read what follows the end of an answer, as a connection can be used again only then.

        That is nearly always the end of the response, and there already. A server that goes on is left.
        """
        with self._alarms.after(MAX_REST_S, self.break_off), contextlib.suppress(Exception):
            # The answer is there, whatever happens to the connection.
            for _ in itertools.islice(parts, MAX_REST_PARTS):
                pass

    def _acknowledged(self, parts: Iterator[bytes]) -> Iterator[bytes]:
        for part in parts:
            self._acknowledge_at_once()
            yield part

    def _acknowledge_at_once(self) -> None:
        """Let a server that writes headers and body one by one wait for nothing."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # whoever reads from it says what is wrong
                acknowledge_at_once(self._socket)

    def _new_client(self) -> Any:
        import openai

        def trace(request: Any) -> None:
            request.extensions = {**request.extensions, "trace": self._on_transport_event}

        http_client = openai.DefaultHttpxClient(
            follow_redirects=False,
            verify=_tls_context(self.info.ca_file),
            event_hooks={"request": [trace]},
            limits=_limits(),
        )
        common: dict[str, Any] = {"api_key": self.info.api_key, "max_retries": 0, "http_client": http_client}
        if self.info.backend_used == AZURE:
            return openai.AzureOpenAI(azure_endpoint=self.info.base, api_version=self.info.api_version, **common)
        return openai.OpenAI(base_url=self.info.base, **common)

    def _on_transport_event(self, name: str, event: Mapping[str, Any]) -> None:
        """Note each new connection, so that `break_off` can end what is read from it."""
        if name.endswith(".send_request_body.complete"):
            self._acknowledge_at_once()
        elif name.endswith(".receive_response_headers.complete"):
            self.is_stale = False
            self._acknowledge_at_once()
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            connected = event["return_value"].get_extra_info("socket")
            if isinstance(connected, socket.socket):
                self._socket, self.is_stale = connected, False
                if self.is_broken_off:
                    _shut(connected)


class Connections:
    """The connections of one worker. It is thread-safe.

    Each serves one question at a time, so that breaking off one question leaves the others alone.

    Attributes:
        alarms: end what takes too long.
    """

    def __init__(self) -> None:
        self.alarms = Alarms()
        self._idle: list[Connection] = []
        """Those that were used last are at the end."""
        self._lock = threading.Lock()
        self._is_closed = False

    def __del__(self) -> None:
        """Close what nobody can use any more, where its owner has not done so."""
        with contextlib.suppress(Exception):  # the interpreter may be ending
            self.close()

    @contextlib.contextmanager
    def lent(self, info: ApiInfo) -> Iterator[Connection]:
        """Yield a connection for this key and its server that nobody else uses meanwhile."""
        connection = self._take(info) or Connection(info, self.alarms)
        try:
            yield connection
        finally:
            self._give_back(connection)

    def close(self) -> None:
        """Close all connections; those in use are closed when they are given back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _take(self, info: ApiInfo) -> Connection | None:
        with self._lock:
            found = next((each for each in reversed(self._idle) if each.info == info), None)
            if found is not None:
                self._idle.remove(found)
            return found

    def _give_back(self, connection: Connection) -> None:
        surplus = connection
        with self._lock:
            if not self._is_closed and not connection.is_broken_off:
                self._idle.append(connection)
                if len(self._idle) <= MAX_IDLE_CONNECTIONS:
                    return
                surplus = self._idle.pop(0)
        surplus.close()


def _shut(connection: socket.socket) -> None:
    """End a connection that another thread reads; closing it would leave that thread waiting."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


@functools.cache
def _http_library() -> Any:
    """Return the HTTP library of `openai`: httpx, or httpx2 in later versions."""
    import openai

    client = next(base for base in openai.DefaultHttpxClient.__mro__ if not base.__module__.startswith("openai"))
    return importlib.import_module(client.__module__.partition(".")[0])


@functools.cache
def _limits() -> Any:
    return _http_library().Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=MAX_IDLE_S)


@functools.lru_cache(maxsize=16)
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS context for servers with certificates of these authorities; by default, that of the HTTP library.

    It is shared by all connections, as reading the certificates takes 40 ms.
    """
    if ca_file is not None:
        return ssl.create_default_context(cafile=ca_file)
    context: ssl.SSLContext = _http_library().create_ssl_context()
    return context
