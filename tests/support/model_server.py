"""A model server on this machine that speaks the OpenAI protocol, answers as scripted, and keeps its requests.

Without a script it repeats the last message: `You said: ...`.
"""

from __future__ import annotations

import contextlib
import json
import select
import ssl
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self


@dataclass(frozen=True)
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        """The key of the request."""
        return self.headers.get("authorization", "").removeprefix("Bearer ") or self.headers.get("api-key", "")


@dataclass(frozen=True)
class Says:
    """Answers with texts, one for each requested choice; the last text repeats for further choices.

    Args:
        texts: the answers.
        at_most: how many choices it returns at most.
        breaks_after: the number of stream chunks after which the connection breaks.
        unfinished: whether a stream ends without its end marker.
        hangs_up: whether the connection, which may be used again, is closed a moment after the answer.
    """

    texts: tuple[str, ...]
    at_most: int = 100
    breaks_after: int | None = None
    unfinished: bool = False
    hangs_up: bool = False


@dataclass(frozen=True)
class Answers:
    """Answers with this content: a JSON document with a status, or a stream with one document for each chunk."""

    document: Any = None
    chunks: tuple[Any, ...] | None = None
    content_type: str = "text/event-stream"
    status: int = 200


@dataclass(frozen=True)
class Fails:
    """Answers with an error."""

    status: int
    message: str = "It failed."
    code: str | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Drops:
    """Closes the connection without an answer."""


@dataclass(frozen=True)
class Hangs:
    """Does not answer until the server is closed."""


@dataclass(frozen=True)
class Trickles:
    """Answers with the same piece again and again, for a minute or until the client has gone.

    Args:
        piece: the piece.
        times: after how many pieces it only waits.
        content_type: what it says that it sends.
        ends: whether the response ends after that.
    """

    piece: str
    times: int = 3_000
    content_type: str = "text/event-stream"
    ends: bool = False


Script = str | Says | Answers | Fails | Drops | Hangs | Trickles


class ModelServer:
    """The server, which runs inside `with`.

    Args:
        certificate: a file with a certificate and its key, for a server that speaks TLS.
        is_prompt: whether it sends each piece of an answer at once; otherwise, as many servers do, it waits until the
            client has acknowledged the piece before.
    """

    def __init__(self, certificate: Path | None = None, *, is_prompt: bool = False) -> None:
        self.requests: list[Asked] = []
        self.connections = 0
        """How many connections clients have made."""
        self.client_gone = threading.Event()
        """Set when a client closed its connection before a `Trickles` had ended."""
        self._script: deque[Script] = deque()
        self._closing = threading.Event()
        self._http = _Server(("127.0.0.1", 0), _PromptHandler if is_prompt else _Handler)
        self._http.model = self
        self._scheme = "http" if certificate is None else "https"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), name="model server")

    @property
    def host(self) -> str:
        """The address of the server without a path."""
        return f"{self._scheme}://127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        """The base URL for a client."""
        return f"{self.host}/v1"

    def script(self, *what: Script) -> Self:
        """Script the next answers, one for each request; a string is a whole answer."""
        self._script.extend(what)
        return self

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()

    def take(self, asked: Asked) -> Script:
        """Keep a request, and return its scripted answer."""
        self.requests.append(asked)
        with contextlib.suppress(IndexError):
            return self._script.popleft()
        last = asked.body["messages"][-1]["content"]
        return f"You said: {last if isinstance(last, str) else last[0]['text']}"

    def wait_until_closed(self, timeout: float | None = None) -> bool:
        """Wait until the server is closed, and return whether it is."""
        return self._closing.wait(timeout)


class _Server(ThreadingHTTPServer):
    model: ModelServer
    daemon_threads = True  # a client may keep its connection open
    block_on_close = False
    request_queue_size = 128  # else the system refuses some of many connections, which then wait for a second

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that has gone is what some tests are about."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        """Count the connection."""
        super().setup()
        self.server.model.connections += 1

    def do_POST(self) -> None:
        """Answer as scripted; a whole answer leaves the connection open."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        match self.server.model.take(Asked(self.path, headers, body)):
            case Drops():
                self.close_connection = True
            case Hangs():
                self.server.model.wait_until_closed()
                self.close_connection = True
            case Fails() as fails:
                error = {"message": fails.message, "type": "error", "code": fails.code, "param": None}
                self._send(fails.status, fails.headers, json.dumps({"error": error}))
            case Answers(document, None, _, status):
                self._send(status, {}, json.dumps(document))
            case Answers(_, tuple(chunks), content_type):
                lines = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks)
                self._send(200, {"Content-Type": content_type}, f"{lines}data: [DONE]\n\n")
            case Trickles() as trickles:
                self._trickle(trickles)
            case str(text):
                self._say(body, Says((text,)))
            case Says() as says:
                self._say(body, says)

    def _say(self, body: dict[str, Any], says: Says) -> None:
        count = min(body.get("n") or 1, says.at_most)
        texts = [*says.texts, *says.texts[-1:] * count][:count]
        if not body.get("stream"):
            self._send(200, {}, json.dumps(_completion(body["model"], texts)))
            self.close_connection = says.hangs_up
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, chunk in enumerate(_chunks(body["model"], texts, says)):
            if number == says.breaks_after:
                self.close_connection = True
                return
            self._write_chunk(f"data: {json.dumps(chunk)}\n\n")
        if not says.unfinished:
            self._write_chunk("data: [DONE]\n\n")
        self._write_chunk("")
        self.close_connection = says.hangs_up

    def _write_chunk(self, text: str) -> None:
        self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

    def _trickle(self, trickles: Trickles) -> None:
        self.send_response(200)
        self.send_header("Content-Type", trickles.content_type)
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(3_000):
            if self.server.model.wait_until_closed(0.02):
                return
            if trickles.ends and number == trickles.times:
                return
            if number < trickles.times:
                self.wfile.write(trickles.piece.encode())
            if select.select([self.connection], [], [], 0)[0]:
                self.server.model.client_gone.set()
                return

    def _send(self, status: int, headers: dict[str, str], text: str) -> None:
        content = text.encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Say nothing on stderr."""


class _PromptHandler(_Handler):
    disable_nagle_algorithm = True


def _completion(model: str, texts: list[str]) -> dict[str, Any]:
    choices = [
        {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for index, text in enumerate(texts)
    ]
    return {"id": "c1", "object": "chat.completion", "created": 0, "model": model, "choices": choices}


def _chunks(model: str, texts: list[str], says: Says) -> Iterator[dict[str, Any]]:
    """The words of all answers in turn, then the end of each."""
    whole = {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": model}
    words = [text.split(" ") for text in texts]
    for number in range(max(map(len, words))):
        for index, pieces in enumerate(words):
            if number < len(pieces):
                piece = pieces[number] if number == 0 else f" {pieces[number]}"
                yield {**whole, "choices": [{"index": index, "delta": {"content": piece}, "finish_reason": None}]}
    if not says.unfinished:
        for index in range(len(texts)):
            yield {**whole, "choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
