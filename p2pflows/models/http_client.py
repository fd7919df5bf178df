"""One HTTP/1.1 connection to a server, which another thread can break off.

It is built on the standard library, as a request takes a tenth of the processor time that the client library of OpenAI
needs, and as that takes a second to be imported.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import select
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

MAX_IDLE_S = 30.0
"""How long an unused connection is used again; many servers close theirs sooner, which is noticed."""
_PART_BYTES = 65_536


class RequestFailed(Exception):
    """A request got no answer, or only a part of one; `__cause__` has the error of the system."""


class NotConnected(RequestFailed):
    """There is no connection to the server."""


class TooSilent(RequestFailed):
    """The server sent nothing for too long."""


class HungUp(RequestFailed):
    """The server closed the connection, or what it sent is no HTTP."""


@dataclass(frozen=True, slots=True)
class Response:
    """The beginning of a response.

    Args:
        status: its status.
        headers: its headers; names in any case.
        parts: the bytes of its body as they arrive. They raise RequestFailed.
    """

    status: int
    headers: http.client.HTTPMessage
    parts: Iterator[bytes]


class HttpClient:
    """Sends requests to one server, one after the other, and keeps the connection between them.

    It follows no redirect, and asks the proxy that the environment names (`HTTPS_PROXY`, `NO_PROXY`).

    Args:
        url: the URL of the server; its path is not used.
        tls: how to speak TLS, for https.
    """

    def __init__(self, url: str, tls: ssl.SSLContext | None) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port
        self._authority = parts.netloc
        self._tls = tls if parts.scheme == "https" else None
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._socket: socket.socket | None = None
        self._prefix = ""
        """What stands before the path in a request: the URL of the server, if a proxy for plain HTTP has to know it."""
        self._proxy_headers: dict[str, str] = {}
        self._used_at = 0.0
        self._response: http.client.HTTPResponse | None = None
        self.is_broken_off = False
        """Whether somebody has broken off what it waited for, so that it is of no use any more."""
        self.is_stale = False
        """Whether the last request went over a connection that an earlier one had left open, and got no answer."""

    def post(
        self, path: str, headers: Mapping[str, str], body: bytes, *, timeout: float, connect_timeout: float
    ) -> Response:
        """Send a request, and wait for the beginning of the response.

        Args:
            path: the path and query.
            headers: the headers, beside those that say where it goes and how long it is.
            body: the body.
            timeout: seconds that the server may be silent.
            connect_timeout: seconds that connecting may take.

        Raises:
            RequestFailed: there was no response.
        """
        sock = self._reusable()
        self.is_stale = sock is not None
        if sock is None:
            sock = self._connect(connect_timeout)
        all_headers = {"Host": self._authority, "Content-Length": str(len(body)), **headers, **self._proxy_headers}
        lines = [f"POST {self._prefix}{path} HTTP/1.1", *(f"{name}: {value}" for name, value in all_headers.items())]
        try:
            sock.settimeout(timeout)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have refused before it read all
                sock.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            _acknowledge_at_once(sock)
            response = http.client.HTTPResponse(sock, method="POST")
            response.begin()
        except (OSError, http.client.HTTPException) as error:
            self.close()
            raise _failure(error) from error
        self.is_stale = False
        self._response = response
        return Response(response.status, response.headers, self._parts(sock, response))

    def finish(self) -> None:
        """Say that the response is read; what was not read of it closes the connection."""
        response, self._response = self._response, None
        if response is None or not response.isclosed():
            self.close()
        else:
            self._used_at = time.monotonic()

    def read_rest(self, response: Response, seconds: float) -> None:
        """Read the end of a response of which the rest does not matter, as a connection can be used again only then.

        That is nearly always there already. A server that goes on for longer is left.
        """
        until = time.monotonic() + seconds
        if self._socket is not None:
            self._socket.settimeout(seconds)
        with contextlib.suppress(RequestFailed):
            for _ in response.parts:
                if time.monotonic() > until:
                    return

    def break_off(self) -> None:
        """End what it waits for, from another thread; if it is connecting, as soon as it is connected."""
        self.is_broken_off = True
        sock = self._socket
        if sock is not None:
            _shut(sock)

    def close(self) -> None:
        """Close the connection."""
        sock, self._socket = self._socket, None
        if sock is not None:
            sock.close()

    def _parts(self, sock: socket.socket, response: http.client.HTTPResponse) -> Iterator[bytes]:
        left = response.length
        will_close = response.will_close
        try:
            while left is None or left > 0:
                part = _read(response, left)
                if not part:
                    break
                if left is not None:
                    left -= len(part)
                yield part
                _acknowledge_at_once(sock)
            if left:
                raise http.client.IncompleteRead(b"", left)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise _failure(error) from error
        response.close()
        if will_close:
            self.close()

    def _reusable(self) -> socket.socket | None:
        """Return the connection that an earlier request has left open, if the server has not closed it."""
        sock = self._socket
        if sock is not None and (time.monotonic() - self._used_at > MAX_IDLE_S or _is_readable(sock)):
            self.close()
        return self._socket

    def _connect(self, timeout: float) -> socket.socket:
        try:
            connection = self._new_connection(timeout)
            connection.connect()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotConnected(str(error)) from error
        self._socket = connection.sock
        if self.is_broken_off:
            _shut(self._socket)
        return self._socket

    def _new_connection(self, timeout: float) -> http.client.HTTPConnection:
        proxy = _find_proxy(self._origin)
        host, port, credentials = (self._host, self._port, {}) if proxy is None else _read_proxy(proxy)
        if self._tls is None:
            if proxy is not None:
                self._prefix, self._proxy_headers = self._origin, credentials
            return http.client.HTTPConnection(host, port, timeout=timeout)
        connection = http.client.HTTPSConnection(host, port, timeout=timeout, context=self._tls)
        if proxy is not None:
            connection.set_tunnel(self._host, self._port or http.client.HTTPS_PORT, credentials)
        return connection


def _read(response: http.client.HTTPResponse, left: int | None) -> bytes:
    """Return what has come of a body, at least a byte; nothing at its end."""
    if response.chunked:
        return response.read1(_PART_BYTES)
    # `response.read1` of Python 3.11 does not count what it has returned.
    return response.fp.read1(_PART_BYTES if left is None else min(left, _PART_BYTES))


def _failure(error: Exception) -> RequestFailed:
    return TooSilent(str(error)) if isinstance(error, TimeoutError) else HungUp(str(error))


def _acknowledge_at_once(sock: socket.socket) -> None:
    """Have the system acknowledge what comes next at once.

    A server that writes a header and a body one by one waits for that: otherwise 40 ms, for each answer.
    """
    if hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _is_readable(sock: socket.socket) -> bool:
    """Whether something has come that nobody asked for, which is nearly always the end."""
    if not hasattr(select, "poll"):
        return bool(select.select([sock], [], [], 0)[0])
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _shut(sock: socket.socket) -> None:
    """End a connection that another thread reads; closing it would leave that thread waiting."""
    with contextlib.suppress(OSError):
        # The method of a TLS socket would also take away what the other thread uses.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _find_proxy(origin: str) -> str | None:
    """Return the URL of the proxy that the system names for a server."""
    parts = urlsplit(origin)
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _read_proxy(url: str) -> tuple[str, int | None, dict[str, str]]:
    """Return the host and port of a proxy, and the header with its password.

    Raises:
        ValueError: it is a proxy of another kind.
    """
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError(f"the proxy must have an http URL, not one of {parts.scheme}")
    if parts.username is None:
        return parts.hostname, parts.port, {}
    words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    return parts.hostname, parts.port, {"Proxy-Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
