"""Connections to model servers, which a worker keeps open between questions."""

from __future__ import annotations

import contextlib
import functools
import json
import ssl
import threading
from collections.abc import Iterator, Mapping
from http.client import HTTPMessage
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from p2pflows import __version__
from p2pflows.models.alarms import Alarms
from p2pflows.models.api_info import AZURE, ApiInfo
from p2pflows.models.http_client import HttpClient, RequestFailed, Response

MAX_IDLE_CONNECTIONS = 32
"""How many unused connections a worker keeps; beyond that, the one that was unused for longest is closed."""
MAX_REST_S = 0.5
"""How long a server may go on sending after the end of its answer."""
_MAX_ERROR_BYTES = 100_000


class Refused(Exception):
    """The server answered with an error.

    Args:
        status: the status of the response.
        body: the error as the server wrote it: JSON, without the `error` around it, or text.
        headers: the headers of the response.
    """

    def __init__(self, status: int, body: Any, headers: HTTPMessage) -> None:
        super().__init__(f"status {status}")
        self.status = status
        self.body = body
        self.headers = headers


class Connection:
    """Sends questions with a key to one server, over one connection, one at a time. It leaves retries to its user.

    Args:
        info: the key and its server.
    """

    def __init__(self, info: ApiInfo) -> None:
        self.info = info
        is_azure = info.backend_used == AZURE
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "User-Agent": f"p2pflows/{__version__}",
            **({"api-key": info.api_key} if is_azure else {"Authorization": f"Bearer {info.api_key}"}),
        }
        self._client = HttpClient(info.base, _tls_context(info.ca_file) if info.base.startswith("https") else None)

    @property
    def is_stale(self) -> bool:
        """Whether the last request went over a connection that an earlier one had left open, and got no answer."""
        return self._client.is_stale

    @property
    def is_broken_off(self) -> bool:
        """Whether somebody has broken off what it waited for, so that it is of no use any more."""
        return self._client.is_broken_off

    @contextlib.contextmanager
    def response(
        self, request: Mapping[str, Any], *, timeout: float, connect_timeout: float
    ) -> Iterator[Iterator[bytes]]:
        """Send a request for a chat completion, and yield the bytes of its response as they arrive.

        Args:
            request: the parameters of the request.
            timeout: seconds that the server may be silent.
            connect_timeout: seconds that connecting may take.

        Raises:
            RequestFailed: there was no response.
            Refused: the server answered with an error.
        """
        body = json.dumps(request, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
        path = _path(self.info, request["model"])
        response = self._client.post(path, self._headers, body, timeout=timeout, connect_timeout=connect_timeout)
        try:
            if not 200 <= response.status < 300:  # noqa: PLR2004 - HTTP's statuses of success
                raise _refusal(response)
            yield response.parts
            self._client.read_rest(response, MAX_REST_S)
        finally:
            self._client.finish()

    def break_off(self) -> None:
        """End what it waits for, from another thread; if it is connecting, as soon as it is connected."""
        self._client.break_off()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


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
        connection = self._take(info) or Connection(info)
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


def _path(info: ApiInfo, model: str) -> str:
    """Return the path and query of a request."""
    path = urlsplit(info.base).path.rstrip("/")
    if info.backend_used == AZURE:
        version = urlencode({"api-version": info.api_version})
        return f"{path}/openai/deployments/{quote(model, safe='')}/chat/completions?{version}"
    return f"{path}/chat/completions"


def _refusal(response: Response) -> Refused:
    read = b""
    with contextlib.suppress(RequestFailed):  # the status says enough
        for part in response.parts:
            read += part
            if len(read) > _MAX_ERROR_BYTES:
                break
    text = read.decode(errors="replace").strip()
    body: Any = text
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(text)
    if isinstance(body, dict):
        body = body.get("error", body)
    return Refused(response.status, body, response.headers)


@functools.lru_cache(maxsize=16)
def _tls_context(ca_file: str | None) -> ssl.SSLContext:
    """Return the TLS context for servers with certificates of these authorities; by default, those of the system.

    It is shared by all connections, as reading the certificates takes 40 ms.
    """
    return ssl.create_default_context(cafile=ca_file)
