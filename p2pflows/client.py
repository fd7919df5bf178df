"""The local daemon from Python, in a synchronous and an asynchronous form.

    with p2pflows.connect() as me:
        answer = me.call("bob/User", {"api_output": "Neighbor, are you there?"})

    async with p2pflows.connect_async() as me:
        answers = await asyncio.gather(*(me.call("bob/sum", {"n": n}) for n in range(100)))

Both speak the control API on the home's socket: `Client` over HTTP, `AsyncClient` in JSON Lines on one connection.
Every failure is one of `p2pflows.errors`.
"""

from __future__ import annotations

import http.client
import itertools
import json
import os
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from p2pflows.errors import (
    BadInput,
    CallError,
    DaemonNotRunning,
    P2pflowsError,
    TooLarge,
    UsageError,
    from_kind,
)
from p2pflows.home import Home, home

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable

    from p2pflows.links.client_stream import ClientStream

MAX_REQUEST_BYTES = 1_000_000
"""More than any message may hold; the daemon names the exact limit for what is smaller."""


def connect(home: str | os.PathLike[str] | None = None) -> Client:
    """The client of the daemon on a home folder, by default the one that `P2PFLOWS_HOME` names."""
    return Client(home)


def connect_async(home: str | os.PathLike[str] | None = None) -> AsyncClient:
    """The asynchronous client of the daemon on a home folder, to be entered with `async with`."""
    return AsyncClient(home)


class Client:
    """The synchronous client; threads may share one, each has its own connection.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
        patience: seconds to wait for any one answer; by default as long as the daemon takes.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None, *, patience: float | None = None) -> None:
        self._home = _home(home)
        self._patience = patience
        self._user_id: str | None = None
        self._mine = threading.local()
        self._all: set[_Connection] = set()

    @property
    def worker_socket(self) -> Path:
        """Where its daemon takes the frames of workers on this machine."""
        return self._home.worker_socket

    @property
    def user_id(self) -> str:
        """Whose daemon this is, 64 hex digits."""
        if self._user_id is None:
            self._user_id = str(self.request("id")["user_id"])
        return self._user_id

    def get_user_id(self) -> str:
        """Whose daemon this is, by the predecessor's name."""
        return self.user_id

    def request(self, method: str, **params: Any) -> Any:
        """Ask the daemon anything of its control API; parameters that are None are left out.

        Raises:
            P2pflowsError: no daemon runs, or it gave this error.
        """
        body = _encode(params)
        connection = self._connection()
        try:
            connection.request("POST", f"/v1/{method}", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            status, content = response.status, response.read()
        except BaseException as error:
            # What the connection would say next belongs to this request, so it cannot serve another.
            self._drop(connection)
            if isinstance(error, (OSError, http.client.HTTPException)):
                raise _lost(self._home, error) from error
            raise
        return _result(status, content)

    def call(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> dict[str, Any]:
        """Invoke a flow or a human, wait, and give the data of the reply.

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: one mounted flow among those under the endpoint.
        """
        reply = self.request(
            "call",
            address=address,
            data=data or {},
            timeout=timeout,
            conversation=conversation,
            instance=instance,
        )
        return dict(reply["data"])

    def send(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> str:
        """Send a message that wants no reply; gives its id once the daemon has committed it."""
        sent = self.request(
            "send",
            address=address,
            data=data or {},
            timeout=timeout,
            conversation=conversation,
            instance=instance,
        )
        return str(sent["id"])

    def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait for a message sent earlier: gives the data of a call's reply, or the state of a post."""
        return _waited(self.request("wait", id=message_id, timeout=timeout))

    def inbox(self, *, all: bool = False) -> list[dict[str, Any]]:  # noqa: A002 - the word that the API uses
        """The prompts that wait for the human; with `all`, past ones too."""
        return list(self.request("inbox", all=all)["prompts"])

    def answer(self, prompt_id: str, text: str) -> str:
        """Answer a prompt; gives its id."""
        return str(self.request("answer", id=prompt_id, text=text)["id"])

    def decline(self, prompt_id: str, reason: str | None = None) -> str:
        """Decline a prompt; gives its id."""
        return str(self.request("decline", id=prompt_id, reason=reason)["id"])

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in list(self._all):
            self._drop(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._mine, "connection", None)
        if connection is not None and connection.is_closed_by_daemon():
            self._drop(connection)
        if connection is None or connection not in self._all:
            connection = self._mine.connection = _Connection(self._home, self._patience)
            self._all.add(connection)
        return connection

    def release(self) -> None:
        """Close this thread's connection; a thread that asks no more need not keep one."""
        connection: _Connection | None = getattr(self._mine, "connection", None)
        if connection is not None:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        connection.close()
        self._all.discard(connection)


class AsyncClient:
    """The asynchronous client: one connection; what is asked in one pass of the loop leaves together.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = _home(home)
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[int, Callable[[dict[str, Any]], None]] = {}
        self._closed = False
        self._stream: ClientStream
        self._events: asyncio.Queue[dict[str, Any] | None]

    @property
    def is_closed(self) -> bool:
        """Whether the connection has ended."""
        return self._closed

    def begin(self, method: str, **params: Any) -> asyncio.Future[Any]:
        """Ask the daemon without waiting; requests reach it in the order of these calls."""
        return self._begin(method, params)

    def _begin(
        self, method: str, params: dict[str, Any], on_progress: Callable[[dict[str, Any]], None] | None = None
    ) -> asyncio.Future[Any]:
        import asyncio

        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        number = next(self._ids)
        try:
            if self._closed:
                raise _gone(self._home)
            body = _encode(params)
        except P2pflowsError as error:
            _fail(future, error)
            return future
        self._pending[number] = future
        if on_progress is not None:
            self._listeners[number] = on_progress
        self._stream.request(b'{"id":%d,"method":"%s","params":%s}' % (number, method.encode(), body))
        return future

    async def request(self, method: str, **params: Any) -> Any:
        """Ask the daemon anything of its control API; parameters that are None are left out.

        Raises:
            P2pflowsError: the daemon went away, or it gave this error.
        """
        return await self.begin(method, **params)

    async def call(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the message
        conversation: str | None = None,
        instance: str | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Invoke a flow or a human, wait, and give the data of the reply; arguments as of `Client.call`.

        `on_progress` is told what the flow tells before it answers, such as the words of a model as they come.
        """
        params = {
            "address": address,
            "data": data or {},
            "timeout": timeout,
            "conversation": conversation,
            "instance": instance,
        }
        reply = await self._begin("call", params, on_progress)
        return dict(reply["data"])

    async def send(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the message
        conversation: str | None = None,
        instance: str | None = None,
    ) -> str:
        """Send a message that wants no reply; gives its id once the daemon has committed it."""
        sent = await self.begin(
            "send", address=address, data=data or {}, timeout=timeout, conversation=conversation, instance=instance
        )
        return str(sent["id"])

    async def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for a message sent earlier: gives the data of a call's reply, or the state of a post."""
        return _waited(await self.begin("wait", id=message_id, timeout=timeout))

    async def inbox(self, *, all: bool = False) -> list[dict[str, Any]]:  # noqa: A002 - the word that the API uses
        """The prompts that wait for the human; with `all`, past ones too."""
        return list((await self.begin("inbox", all=all))["prompts"])

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """The open prompts, and then every prompt that appears or changes, until the daemon goes away."""
        for prompt in (await self.begin("watch"))["prompts"]:
            yield prompt
        while (event := await self._events.get()) is not None:
            if event["event"] == "prompt":
                yield event["data"]
        raise _gone(self._home)

    async def answer(self, prompt_id: str, text: str) -> str:
        """Answer a prompt; gives its id."""
        return str((await self.begin("answer", id=prompt_id, text=text))["id"])

    async def decline(self, prompt_id: str, reason: str | None = None) -> str:
        """Decline a prompt; gives its id."""
        return str((await self.begin("decline", id=prompt_id, reason=reason))["id"])

    async def open(self) -> None:
        """Connect; `async with` does it for you.

        Raises:
            P2pflowsError: no daemon runs on this home.
        """
        import asyncio

        from p2pflows.links.client_stream import ClientStream

        self._events = asyncio.Queue()
        try:
            _, self._stream = await asyncio.get_running_loop().create_unix_connection(
                lambda: ClientStream(self._told, self._ended), str(self._home.socket)
            )
        except OSError as error:
            raise _unconnected(self._home, error) from error

    async def close(self) -> None:
        """Disconnect; what was asked and not answered fails."""
        self._stream.close()
        await self._stream.wait_closed()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _ended(self, garbled: bool) -> None:
        self._closed = True
        for future in self._pending.values():
            _fail(future, _unreadable("no JSON") if garbled else _gone(self._home))
        self._pending.clear()
        self._events.put_nowait(None)

    def _told(self, item: dict[str, Any]) -> None:
        if "event" in item:
            self._events.put_nowait(item)
            return
        if "progress" in item:
            self._progressed(item)
            return
        self._listeners.pop(item.get("id", 0), None)
        future = self._pending.pop(item.get("id", 0), None)
        if future is None or future.done():
            return
        if "error" in item:
            _fail(future, _error(item["error"]))
        else:
            future.set_result(item.get("result"))

    def _progressed(self, item: dict[str, Any]) -> None:
        """Tell the one who listens; what they raise ends their call, and nobody else's."""
        listener = self._listeners.get(item.get("id", 0))
        try:
            if listener is not None:
                listener(item["progress"])
        except Exception as error:  # noqa: BLE001 - handed on to the caller
            del self._listeners[item["id"]]
            _fail(self._pending.pop(item["id"]), error)


class _Connection(http.client.HTTPConnection):
    """HTTP over the daemon's socket."""

    def __init__(self, home: Home, patience: float | None) -> None:
        super().__init__("p2pflows", timeout=patience)
        self._home = home

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(str(self._home.socket))
        except OSError as error:
            raise _unconnected(self._home, error) from error

    def is_closed_by_daemon(self) -> bool:
        """Whether the idle connection has ended; asked first, so that no request ever has to be repeated."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


def _home(path: str | os.PathLike[str] | None) -> Home:
    return home() if path is None else Home(Path(path).expanduser().absolute())


def _encode(params: dict[str, Any]) -> bytes:
    given = {name: value for name, value in params.items() if value is not None}
    try:
        body = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"The data cannot be written as JSON: {error}.", "Send objects, lists, texts and numbers."
        ) from error
    if len(body) > MAX_REQUEST_BYTES:
        raise TooLarge(
            f"The data has {len(body):,} bytes, more than one message can hold.",
            "Send it in parts, or send where it can be found.",
        )
    return body


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # seen: asyncio must not complain when its owner has stopped waiting


def _result(status: int, content: bytes) -> Any:
    try:
        value = json.loads(content)
        if status == http.HTTPStatus.OK:
            return value
        error = _error(value["error"])
    except (ValueError, KeyError, TypeError):
        raise _unreadable(f"HTTP status {status}") from None
    raise error


def _unreadable(what: str) -> CallError:
    return CallError(
        f"The daemon gave an answer that this version cannot read ({what}).",
        "Use the same release for the daemon and the client.",
    )


def _error(content: dict[str, Any]) -> P2pflowsError:
    return from_kind(str(content["code"]), str(content["message"]), str(content.get("hint") or ""))


def _waited(answer: dict[str, Any]) -> dict[str, Any]:
    return dict(answer.get("data", answer))


def _unconnected(home: Home, error: BaseException) -> P2pflowsError:
    if isinstance(error, PermissionError):
        return UsageError(
            f"The daemon on {home.path} belongs to another user.", "Set P2PFLOWS_HOME to a home of your own."
        )
    if isinstance(error, OSError) and error.errno is None:
        return UsageError(f"The path {home.path} is too long for a socket.", "Set P2PFLOWS_HOME to a shorter path.")
    return DaemonNotRunning(f"No daemon runs on {home.path}.", "Start it with: p2pflows up")


def _lost(home: Home, error: BaseException) -> P2pflowsError:
    if isinstance(error, TimeoutError):
        return DaemonNotRunning(
            f"The daemon on {home.path} does not answer.", "Look at its log; if it hangs, start it again."
        )
    return _gone(home)


def _gone(home: Home) -> DaemonNotRunning:
    return DaemonNotRunning(
        f"The daemon on {home.path} went away.",
        "Start it with: p2pflows up. Calls that it had accepted were kept: p2pflows wait ID",
    )
