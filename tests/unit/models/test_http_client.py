"""Requests over real sockets to servers that keep, break and misuse HTTP, and through proxies."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from support.model_server import ModelServer

from p2pflows.models import http_client
from p2pflows.models.http_client import HttpClient, HungUp, NotConnected, TooSilent

QUESTION = json.dumps({"model": "m", "messages": [{"role": "user", "content": "Hello"}]}).encode()
OK = b"HTTP/1.1 200 OK\r\n"


@contextlib.contextmanager
def serving(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """Run a server that hands each connection to a function; yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection, contextlib.suppress(OSError):
                        answer(connection)

        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def sending(*pieces: bytes) -> Callable[[socket.socket], None]:
    """Return a server that reads each request, sends these bytes, and hangs up."""

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        for piece in pieces:
            connection.sendall(piece)

    return answer


def read_request(connection: socket.socket) -> bytes:
    """Read a request with its body."""
    read = b""
    while b"\r\n\r\n" not in read or len(read.partition(b"\r\n\r\n")[2]) < _length(read):
        part = connection.recv(65536)
        if not part:
            raise OSError
        read += part
    return read


def _length(request: bytes) -> int:
    return next((int(line[15:]) for line in request.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)


def ask(client: HttpClient, body: bytes = QUESTION, timeout: float = 5.0) -> tuple[int, bytes]:
    """Send a question, and return the status and body of the response."""
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/chat/completions", headers, body, timeout=timeout, connect_timeout=5.0)
    try:
        return response.status, b"".join(response.parts)
    finally:
        client.finish()


@pytest.mark.parametrize(
    ("pieces", "body"),
    [
        ((OK + b"Content-Length: 4\r\n\r\n", b"ab", b"cd"), b"abcd"),
        ((OK + b"Content-Length: 0\r\n\r\n",), b""),
        ((OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", b"2;x=y\r\ncd\r\n0\r\nA: b\r\n\r\n"), b"abcd"),
        ((OK + b"\r\n", b"ab", b"cd"), b"abcd"),
        ((b"HTTP/1.0 200 OK\r\n\r\nabcd",), b"abcd"),
        ((b"HTTP/1.1 100 Continue\r\n\r\n", OK + b"Content-Length: 4\r\n\r\nabcd"), b"abcd"),
    ],
)
def test_bodies_in_each_form(pieces: tuple[bytes, ...], body: bytes) -> None:
    """A body ends with its length, its last chunk, or the connection."""
    with serving(sending(*pieces)) as url, contextlib.closing(HttpClient(url, None)) as client:
        assert ask(client) == (200, body)


@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"what?\r\n\r\n",),
        (OK + b"Content-Length: 5\r\n\r\nabcd",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n9\r\nabcd",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n",),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabcd",),
        (OK + b"A: b\r\n" * 200 + b"\r\n",),
    ],
)
def test_a_response_that_breaks_off(pieces: tuple[bytes, ...]) -> None:
    """No part of a response passes for the whole."""
    with serving(sending(*pieces)) as url, contextlib.closing(HttpClient(url, None)) as client, pytest.raises(HungUp):
        ask(client)


def test_a_silent_server_and_one_that_is_not_there() -> None:
    """Each has an error of its own, and the connection is not used again."""
    with serving(lambda _: time.sleep(0.5)) as url, contextlib.closing(HttpClient(url, None)) as client:
        with pytest.raises(TooSilent):
            ask(client, timeout=0.1)
        with pytest.raises(TooSilent):
            ask(client, timeout=0.1)
        assert not client.is_stale
    with contextlib.closing(HttpClient(url, None)) as client, pytest.raises(NotConnected) as failed:
        ask(client)
    assert isinstance(failed.value.__cause__, ConnectionRefusedError)


def test_a_server_that_refuses_before_it_has_read_everything() -> None:
    """Its answer is read, though it takes no more of the request."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")

    with serving(refuse) as url, contextlib.closing(HttpClient(url, None)) as client:
        assert ask(client, b"x" * 30_000_000) == (413, b"no")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system acknowledges as it likes")
def test_a_server_that_writes_header_and_body_one_by_one_answers_at_once() -> None:
    """It does not wait for acknowledgements that the system of the client delays: 40 ms for each answer."""

    def answer(connection: socket.socket) -> None:
        while True:
            read_request(connection)
            for piece in (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"2\r\nab\r\n", b"2\r\ncd\r\n", b"0\r\n\r\n"):
                connection.sendall(piece)

    with serving(answer) as url, contextlib.closing(HttpClient(url, None)) as client:
        ask(client)
        began = time.monotonic()
        for _ in range(20):
            assert ask(client) == (200, b"abcd")
        assert time.monotonic() - began < 0.4  # otherwise 0.8


def test_a_connection_that_was_unused_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A firewall between may have forgotten it without a word."""
    with ModelServer() as server, contextlib.closing(HttpClient(server.host, None)) as client:
        ask(client)
        ask(client)
        assert server.connections == 1
        monkeypatch.setattr(http_client, "MAX_IDLE_S", 0.0)
        ask(client)
        assert server.connections == 2


def test_what_nobody_asked_for_is_no_answer() -> None:
    """Bytes after the end of a response are not taken for the next response."""
    late = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"
    pieces = iter([late, b""])

    def answer(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(OK + b"Content-Length: 4\r\n\r\ngood")
        time.sleep(0.05)
        connection.sendall(next(pieces))
        select.select([connection], [], [], 5.0)

    with serving(answer) as url, contextlib.closing(HttpClient(url, None)) as client:
        assert ask(client) == (200, b"good")
        time.sleep(0.1)
        assert ask(client) == (200, b"good")


# Proxies.


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Name a proxy in the environment."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


def test_a_proxy_for_plain_http(proxied: Callable[[str, str], None]) -> None:
    """It gets the whole URL, and its own password."""
    seen: list[bytes] = []

    def proxy(connection: socket.socket) -> None:
        seen.append(read_request(connection))
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nby")

    with serving(proxy) as url:
        proxied("HTTP_PROXY", url.replace("//", "//me:p%40ss@"))
        with contextlib.closing(HttpClient("http://model.invalid:81", None)) as client:
            assert ask(client) == (200, b"by")
    assert seen[0].startswith(
        b"POST http://model.invalid:81/v1/chat/completions HTTP/1.1\r\nHost: model.invalid:81\r\n"
    )
    assert b"\r\nProxy-Authorization: Basic bWU6cEBzcw==\r\n" in seen[0]


def test_a_proxy_for_https_sees_neither_question_nor_key(proxied: Callable[[str, str], None], tmp_path: Path) -> None:
    """It is asked for a tunnel, through which the client speaks TLS with the server itself."""
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(pem)
    tls = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
    seen: list[bytes] = []

    with ModelServer(pem) as server:

        def proxy(connection: socket.socket) -> None:
            seen.append(connection.recv(65536))
            connection.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            with socket.create_connection(("127.0.0.1", int(server.host.rpartition(":")[2]))) as onward:
                ends = {connection: onward, onward: connection}
                while True:
                    for ready in select.select([*ends], [], [], 5.0)[0]:
                        if not (part := ready.recv(65536)):
                            return
                        seen.append(part)
                        ends[ready].sendall(part)

        with serving(proxy) as url:
            proxied("HTTPS_PROXY", url)
            name = server.host.replace("127.0.0.1", "localhost")
            with contextlib.closing(HttpClient(name, tls)) as client:
                status, body = ask(client)
                assert (status, json.loads(body)["choices"][0]["message"]["content"]) == (200, "You said: Hello")
                assert ask(client)[0] == 200
    assert seen[0].startswith(b"CONNECT localhost:")
    assert sum(part.startswith(b"CONNECT") for part in seen) == 1
    assert not any(b"Hello" in part for part in seen)


def test_servers_that_need_no_proxy(proxied: Callable[[str, str], None]) -> None:
    """`NO_PROXY` names them."""
    proxied("HTTP_PROXY", "http://127.0.0.1:9")
    proxied("NO_PROXY", "127.0.0.1")
    with ModelServer() as server, contextlib.closing(HttpClient(server.host, None)) as client:
        assert ask(client)[0] == 200


@pytest.mark.parametrize(
    ("proxy", "says"),
    [("socks5://127.0.0.1:9", "socks5"), ("", "407")],
)
def test_a_proxy_that_cannot_be_used_is_named(proxied: Callable[[str, str], None], proxy: str, says: str) -> None:
    """The error says that it is the proxy, and what it said."""
    with serving(sending(b"HTTP/1.1 407 Say who you are\r\n\r\n")) as url:
        proxied("ALL_PROXY", proxy or url)
        tls = ssl.create_default_context()
        with (
            contextlib.closing(HttpClient("https://model.invalid", tls)) as client,
            pytest.raises(NotConnected) as failed,
        ):
            ask(client)
    assert says in str(failed.value)
