"""Clients of the local daemon, synchronous and asynchronous.

    with p2pflows.connect() as me:
        answer = me.call("bob/User", {"api_output": "Neighbor, are you there?"})

    async with p2pflows.connect_async() as me:
        answers = await asyncio.gather(*(me.call("bob/sum", {"n": n}) for n in range(100)))

Both send JSON Lines to the home's control socket: `Client` one request after the other on a connection for each thread,
`AsyncClient` all requests side by side on one connection.
Every error that they raise is one of `p2pflows.errors`.
"""

from __future__ import annotations

import contextlib
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
from p2pflows.hints import for_reader
from p2pflows.home import Home, expand_user, home
from p2pflows.links.socket_options import send_in_one_piece

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping

    from p2pflows.forms.python import Answer, TypedForm
    from p2pflows.links.client_stream import ClientStream
    from p2pflows.streams import AsyncCallStream, CallStream

NO_DEFAULT: Any = object()
"""Stands for a default that was not given, since None may be one."""
MAX_REQUEST_BYTES = 1_000_000
"""More than any message may hold; below it, the daemon checks the exact limit."""

_READ_BYTES = 2**16
"""How much of a response is read at once; Python's default is 8 KB."""
MAX_PAGE = 1_000
"""The most prompts that the daemon returns at once."""
MAX_INBOX = 10_000
"""The most prompts that `inbox` returns, unless it is asked for more or fewer."""


def connect(home: str | os.PathLike[str] | None = None) -> Client:
    """Return a client of the daemon on a home folder, by default the one that `P2PFLOWS_HOME` names."""
    return Client(home)


def connect_async(home: str | os.PathLike[str] | None = None) -> AsyncClient:
    """Return an asynchronous client of the daemon on a home folder; enter it with `async with`."""
    return AsyncClient(home)


class Client:
    """The synchronous client; threads may share one, and each gets a connection of its own.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
        timeout: seconds to wait for each response of the daemon; by default there is no limit.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None, *, timeout: float | None = None) -> None:
        self._home = _home(home)
        self._timeout = timeout
        self._user_id: str | None = None
        self._of_thread = threading.local()
        self._connections: set[_Connection] = set()

    @property
    def worker_socket(self) -> Path:
        """The daemon's socket for workers on this machine."""
        return self._home.worker_socket

    @property
    def contacts_file(self) -> Path:
        """The address book of the daemon's user."""
        return self._home.contacts

    @property
    def user_id(self) -> str:
        """The user id of the daemon's user, 64 hex digits."""
        if self._user_id is None:
            self._user_id = str(self.request("id")["user_id"])
        return self._user_id

    def get_user_id(self) -> str:
        """Return `user_id`, under the predecessor's name."""
        return self.user_id

    def request(self, method: str, **params: Any) -> Any:
        """Call a method of the control API and return its result (docs/CONTROL.md).

        Args:
            method: its name.
            params: its parameters; those that are None are left out.

        Raises:
            P2pflowsError: no daemon runs, or it returned this error.
        """
        body = _encode(params)
        connection = self._connection()
        try:
            response = connection.request(method, body)
        except BaseException as error:
            # The response may still come, and must not be taken for that of another request.
            self._drop(connection)
            if isinstance(error, OSError):
                raise _no_response(self._home, error) from error
            raise
        if "error" in response:
            raise _error(response["error"])
        return response["result"]

    def call(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> dict[str, Any]:
        """Call a flow or a human, wait, and return the data of the reply.

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: the mounted flow to call, among those under the endpoint.
        """
        message = _message(address, data, timeout, conversation, instance)
        return dict(self.request("call", **message)["data"])

    def stream(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> CallStream:
        """Call a flow, and return what reads the answer while it grows (`p2pflows.streams`).

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: the mounted flow to call, among those under the endpoint.
            typed: texts that a person typed for keys of the data; they count where the flow's schema takes texts.
        """
        from p2pflows.streams import CallStream

        message = _message(address, data, timeout, conversation, instance)
        body = _encode({**message, "typed": typed, "progress": True})
        connection = _Connection(self._home, self._timeout)
        self._connections.add(connection)
        return CallStream(
            self._call_items(connection, body),
            withdraw=lambda message_id: self.request("cancel", id=message_id),
            close=lambda: self._drop(connection),
        )

    def send(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> str:
        """Send a message that wants no reply, and return its id once the daemon has committed it."""
        message = _message(address, data, timeout, conversation, instance)
        return str(self.request("send", **message)["id"])

    def ask(
        self,
        who: str | list[str],
        text: str,
        *,
        form: Any = None,
        edit: Any = None,
        default: Any = NO_DEFAULT,
        need: str = "first",
        quorum: int | None = None,
        timeout: float | None = None,
    ) -> Answer[Any]:
        """Ask a human, wait, and return the answer.

        Args:
            who: a contact or user id, the address of a human, or a group such as `@team`; or a list of them.
            text: the question.
            form: what the answer is: a type such as `bool` or a pydantic model, a list of texts to choose from, or a
                JSON Schema; None for a text.
            edit: a document that the answer is an edited copy of: an object or list, or a pydantic model.
            default: what holds if nobody answers in time; by default, that is an error.
            need: of several people, whose answers decide: the `first`, `all` (then the value is a list), all unless one
                says no (`unanimous`), or the same one of `quorum` people (`quorum`).
            quorum: how many have to give the same answer.
            timeout: seconds until the deadline (by default ten minutes).

        Raises:
            Declined: the human does not want to answer.
            DeadlinePassed: nobody has answered in time.
            CallError: the question could not be asked, or ended in another way without an answer.
        """
        from p2pflows.forms.python import TypedForm, ask_params

        typed = TypedForm(form, edit)
        question = self.request(
            "ask", **ask_params(who, text, typed, timeout), need=need, quorum=quorum, **_default(typed, default)
        )["id"]
        try:
            return typed.answer_in(self.request("wait", id=question))
        except KeyboardInterrupt:
            self.request("cancel", id=question)
            raise

    def tell(self, who: str, text: str, *, timeout: float | None = None) -> str:
        """Leave a note for a person, and return its id once the daemon has committed it."""
        return self.send(_human(who), {"api_output": text}, timeout=timeout)

    def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end of a message sent earlier.

        Returns:
            The data of a call's reply, or the `id` and `state` of a post.
        """
        return _data_or_state(self.request("wait", id=message_id, timeout=timeout))

    def inbox(self, *, all: bool = False, limit: int = MAX_INBOX) -> list[dict[str, Any]]:  # noqa: A002 - the API's word
        """Return the prompts that wait for the human, questions before notes; with `all`, past ones too.

        Args:
            all: whether to return past ones too.
            limit: the most prompts to return; `request("inbox", ...)` reads page by page.
        """
        found: list[dict[str, Any]] = []
        page: str | None = None
        while len(found) < limit:
            part = self.request("inbox", all=all, limit=min(limit - len(found), MAX_PAGE), page=page)
            found += part["prompts"]
            page = part.get("next")
            if page is None:
                break
        return found

    def answer(self, prompt_id: str, text: str, *, remark: str | None = None) -> str:
        """Answer a prompt, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            text: the answer, as a person types it.
            remark: what goes with the answer.
        """
        params = {"id": prompt_id, "text": text, "remark": remark}
        return str(self.request("answer", **params)["id"])

    def decline(self, prompt_id: str, reason: str | None = None) -> str:
        """Decline a question, and return its id."""
        return str(self.request("decline", id=prompt_id, reason=reason)["id"])

    def claim(self, prompt_id: str, seconds: float | None = None) -> str:
        """Say that you work on the answer to a question of which others are asked, too, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            seconds: for how long, by default half an hour; 0 if you do so no more.
        """
        return str(self.request("claim", id=prompt_id, seconds=seconds)["id"])

    def dismiss(self, *note_ids: str) -> list[str]:
        """Put notes away, and return their ids."""
        return list(self.request("dismiss", ids=list(note_ids))["ids"])

    def open(self) -> None:
        """Connect to the daemon now, and not only with the first request of this thread.

        Raises:
            P2pflowsError: no daemon runs, or it is another user's.
        """
        self._connection()

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in list(self._connections):
            self._drop(connection)

    def release(self) -> None:
        """Close the connection of this thread; its next request opens another."""
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None:
            self._drop(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None and connection.is_closed_by_daemon():
            self._drop(connection)
        if connection is None or connection not in self._connections:
            connection = self._of_thread.connection = _Connection(self._home, self._timeout)
            self._connections.add(connection)
        return connection

    def _call_items(self, connection: _Connection, body: bytes) -> Iterator[dict[str, Any]]:
        """Make a call, and yield what the daemon says about it, at last its `result`.

        Raises:
            P2pflowsError: the daemon went away, or it returned this error.
        """
        try:
            for item in connection.items("call", body):
                if "error" in item:
                    raise _error(item["error"])
                yield item
        except OSError as error:
            raise _no_response(self._home, error) from error

    def _drop(self, connection: _Connection) -> None:
        connection.close()
        self._connections.discard(connection)


class AsyncClient:
    """The asynchronous client; requests of one pass of the event loop are sent together on its one connection.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = _home(home)
        self._ids = itertools.count(1)
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._listeners: dict[int, Callable[[dict[str, Any]], None]] = {}
        """What takes what the daemon says about a request before its response."""
        self._is_closed = False
        self._stream: ClientStream
        self._events: asyncio.Queue[dict[str, Any] | None]

    @property
    def is_closed(self) -> bool:
        """Whether the connection is closed."""
        return self._is_closed

    def begin(self, method: str, **params: Any) -> asyncio.Future[Any]:
        """Call a method of the control API without waiting; the daemon gets requests in the order of these calls."""
        return self._begin(method, params)

    async def request(self, method: str, **params: Any) -> Any:
        """Call a method of the control API and return its result (docs/CONTROL.md).

        Args:
            method: its name.
            params: its parameters; those that are None are left out.

        Raises:
            P2pflowsError: the daemon went away, or it returned this error.
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
        typed: Mapping[str, str] | None = None,
        on_progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Call a flow or a human, wait, and return the data of the reply.

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: the mounted flow to call, among those under the endpoint.
            typed: texts that a person typed for keys of the data; they count where the flow's schema takes texts.
            on_progress: takes what the flow reports before its reply, such as the words of a model as they come.
        """
        message = _message(address, data, timeout, conversation, instance)
        if on_progress is None:
            return dict((await self._begin("call", {**message, "typed": typed}))["data"])

        def on_item(item: dict[str, Any]) -> None:
            if "progress" in item:
                on_progress(item["progress"])

        return dict((await self._begin("call", {**message, "typed": typed, "progress": True}, on_item))["data"])

    def stream(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> AsyncCallStream:
        """Call a flow, and return what reads the answer while it grows; the arguments are those of `call`."""
        from p2pflows.streams import AsyncCallStream

        message = _message(address, data, timeout, conversation, instance)
        return AsyncCallStream(
            lambda on_item: self._begin("call", {**message, "typed": typed, "progress": True}, on_item),
            withdraw=lambda message_id: self.begin("cancel", id=message_id),
        )

    async def send(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the message
        conversation: str | None = None,
        instance: str | None = None,
    ) -> str:
        """Send a message that wants no reply, and return its id once the daemon has committed it."""
        message = _message(address, data, timeout, conversation, instance)
        return str((await self.begin("send", **message))["id"])

    async def ask(
        self,
        who: str | list[str],
        text: str,
        *,
        form: Any = None,
        edit: Any = None,
        default: Any = NO_DEFAULT,
        need: str = "first",
        quorum: int | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the question
    ) -> Answer[Any]:
        """Ask a human, wait, and return the answer.

        Args:
            who: a contact or user id, the address of a human, or a group such as `@team`; or a list of them.
            text: the question.
            form: what the answer is: a type such as `bool` or a pydantic model, a list of texts to choose from, or a
                JSON Schema; None for a text.
            edit: a document that the answer is an edited copy of: an object or list, or a pydantic model.
            default: what holds if nobody answers in time; by default, that is an error.
            need: of several people, whose answers decide: the `first`, `all` (then the value is a list), all unless one
                says no (`unanimous`), or the same one of `quorum` people (`quorum`).
            quorum: how many have to give the same answer.
            timeout: seconds until the deadline (by default ten minutes).

        Raises:
            Declined: the human does not want to answer.
            DeadlinePassed: nobody has answered in time.
            CallError: the question could not be asked, or ended in another way without an answer.
        """
        import asyncio

        from p2pflows.forms.python import TypedForm, ask_params

        typed = TypedForm(form, edit)
        question = (
            await self.begin(
                "ask", **ask_params(who, text, typed, timeout), need=need, quorum=quorum, **_default(typed, default)
            )
        )["id"]
        try:
            return typed.answer_in(await self.begin("wait", id=question))
        except asyncio.CancelledError:
            self.begin("cancel", id=question)
            raise

    async def tell(self, who: str, text: str, *, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Leave a note for a person, and return its id once the daemon has committed it."""
        return await self.send(_human(who), {"api_output": text}, timeout=timeout)

    async def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for the end of a message sent earlier.

        Returns:
            The data of a call's reply, or the `id` and `state` of a post.
        """
        return _data_or_state(await self.begin("wait", id=message_id, timeout=timeout))

    async def inbox(self, *, all: bool = False, limit: int = MAX_INBOX) -> list[dict[str, Any]]:  # noqa: A002
        """Return the prompts that wait for the human, questions before notes; with `all`, past ones too.

        Args:
            all: whether to return past ones too.
            limit: the most prompts to return; `request("inbox", ...)` reads page by page.
        """
        found: list[dict[str, Any]] = []
        page: str | None = None
        while len(found) < limit:
            part = await self.begin("inbox", all=all, limit=min(limit - len(found), MAX_PAGE), page=page)
            found += part["prompts"]
            page = part.get("next")
            if page is None:
                break
        return found

    async def watch(self) -> AsyncIterator[dict[str, Any]]:
        """Yield the open prompts, and then each prompt that appears or changes, each time once.

        Raises:
            DaemonNotRunning: the daemon went away.
        """
        part = await self.begin("watch")
        for prompt in part["prompts"]:
            yield prompt
        while part.get("next"):
            part = await self.begin("inbox", page=part["next"], limit=MAX_PAGE)
            self._forget_events(part["prompts"])
            for prompt in part["prompts"]:
                yield prompt
        while (event := await self._events.get()) is not None:
            if event["event"] == "prompt":
                yield event["data"]
        raise _went_away(self._home)

    async def lines(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each line that the user and others say, once `chat` was requested, until the daemon goes away."""
        while (event := await self._events.get()) is not None:
            if event["event"] == "line":
                yield event["data"]

    async def news(self) -> AsyncIterator[dict[str, Any]]:
        """Yield each prompt and line that appears or changes, once `news` was requested, until the daemon goes away."""
        while (event := await self._events.get()) is not None:
            if event["event"] == "news_item":
                yield event["data"]

    async def answer(self, prompt_id: str, text: str, *, remark: str | None = None) -> str:
        """Answer a prompt, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            text: the answer, as a person types it.
            remark: what goes with the answer.
        """
        params = {"id": prompt_id, "text": text, "remark": remark}
        return str((await self.begin("answer", **params))["id"])

    async def decline(self, prompt_id: str, reason: str | None = None) -> str:
        """Decline a question, and return its id."""
        return str((await self.begin("decline", id=prompt_id, reason=reason))["id"])

    async def claim(self, prompt_id: str, seconds: float | None = None) -> str:
        """Say that you work on the answer to a question of which others are asked, too, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            seconds: for how long, by default half an hour; 0 if you do so no more.
        """
        return str((await self.begin("claim", id=prompt_id, seconds=seconds))["id"])

    async def dismiss(self, *note_ids: str) -> list[str]:
        """Put notes away, and return their ids."""
        return list((await self.begin("dismiss", ids=list(note_ids)))["ids"])

    async def open(self) -> None:
        """Connect; `async with` calls this.

        Raises:
            P2pflowsError: no daemon runs on this home.
        """
        import asyncio

        from p2pflows.links.client_stream import ClientStream

        self._events = asyncio.Queue()
        try:
            _, self._stream = await asyncio.get_running_loop().create_unix_connection(
                lambda: ClientStream(self._on_item, self._on_end), str(self._home.socket)
            )
        except OSError as error:
            raise _cannot_connect(self._home, error) from error

    async def close(self) -> None:
        """Disconnect; requests without an answer fail."""
        self._stream.close()
        await self._stream.wait_closed()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _begin(
        self, method: str, params: dict[str, Any], on_item: Callable[[dict[str, Any]], None] | None = None
    ) -> asyncio.Future[Any]:
        import asyncio

        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        request_id = next(self._ids)
        try:
            if self._is_closed:
                raise _went_away(self._home)
            body = _encode(params)
        except P2pflowsError as error:
            _fail(future, error)
            return future
        self._pending[request_id] = future
        if on_item is not None:
            self._listeners[request_id] = on_item
        self._stream.request(b'{"id":%d,"method":"%s","params":%s}' % (request_id, method.encode(), body))
        return future

    def _forget_events(self, shown: list[dict[str, Any]]) -> None:
        """Drop the events that say no more than a page that came after them."""
        waiting = [self._events.get_nowait() for _ in range(self._events.qsize())]
        for event in waiting:
            if event is None or event.get("data") not in shown:
                self._events.put_nowait(event)

    def _on_end(self, is_garbled: bool) -> None:
        self._is_closed = True
        for future in self._pending.values():
            _fail(future, _unreadable("no JSON") if is_garbled else _went_away(self._home))
        self._pending.clear()
        self._events.put_nowait(None)

    def _on_item(self, item: dict[str, Any]) -> None:
        request_id = item.get("id", 0)
        if "event" in item:
            self._events.put_nowait(item)
        elif "result" not in item and "error" not in item:
            self._tell_listener(request_id, item)
        else:
            self._listeners.pop(request_id, None)
            future = self._pending.pop(request_id, None)
            if future is None or future.done():
                return
            if "error" in item:
                _fail(future, _error(item["error"]))
            else:
                future.set_result(item.get("result"))

    def _tell_listener(self, request_id: int, item: dict[str, Any]) -> None:
        """Pass an item on that comes before the response; an error of the listener ends its own call, and no other."""
        listener = self._listeners.get(request_id)
        try:
            if listener is not None:
                listener(item)
        except Exception as error:  # noqa: BLE001 - raised again by the call
            del self._listeners[request_id]
            _fail(self._pending.pop(request_id), error)


class _Connection:
    """A connection to the daemon's socket that sends one request after the other."""

    def __init__(self, home: Home, timeout: float | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        send_in_one_piece(self._socket)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(home.socket))
        except OSError as error:
            self._socket.close()
            raise _cannot_connect(home, error) from error
        self._responses = self._socket.makefile("rb", buffering=_READ_BYTES)

    def request(self, method: str, params: bytes) -> dict[str, Any]:
        """Send a request and return its response, an object with `result` or `error`; raises as `items`."""
        for item in self.items(method, params):
            if "result" in item or "error" in item:
                return item
        raise ConnectionResetError

    def items(self, method: str, params: bytes) -> Iterator[dict[str, Any]]:
        """Send a request and yield what the daemon says about it, up to the response.

        Raises:
            OSError: the daemon closed the connection, or did not answer in time.
            CallError: a line is not one of this protocol.
        """
        self._socket.sendall(b'{"id":1,"method":%s,"params":%s}\n' % (json.dumps(method).encode(), params))
        while line := self._read_line():
            for item in _items(line):
                yield item
                if "result" in item or "error" in item:
                    return
        raise ConnectionResetError

    def _read_line(self) -> bytes:
        try:
            return self._responses.readline()
        except ValueError:  # another thread has closed it a moment ago
            raise ConnectionResetError from None

    def is_closed_by_daemon(self) -> bool:
        """Whether this idle connection is closed; checked before each request, so that none has to be repeated."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection; a thread that waits for a response gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._responses.close()
        self._socket.close()


def _items(line: bytes) -> list[dict[str, Any]]:
    try:
        content = json.loads(line)
        items = content if isinstance(content, list) else [content]
        if all(isinstance(item, dict) for item in items):
            return items
    except ValueError:
        pass
    raise _unreadable("no JSON")


def _home(path: str | os.PathLike[str] | None) -> Home:
    return home() if path is None else Home(expand_user(str(path)).absolute())


def _default(typed: TypedForm, default: Any) -> dict[str, Any]:
    """Return the parameter with what holds if nobody answers in time."""
    return {} if default is NO_DEFAULT else {"default": typed.to_json(default)}


def _human(who: str) -> str:
    """Return the address of a contact's human."""
    return who if "/" in who else f"{who}/User"


def _message(
    address: str, data: dict[str, Any] | None, timeout: float | None, conversation: str | None, instance: str | None
) -> dict[str, Any]:
    """The parameters of `call` and `send`."""
    return {
        "address": address,
        "data": data or {},
        "timeout": timeout,
        "conversation": conversation,
        "instance": instance,
    }


def _encode(params: dict[str, Any]) -> bytes:
    given = {name: value for name, value in params.items() if value is not None}
    if "data" in given:
        given["data"] = given.pop("data")  # last, where the daemon passes it on as it is
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
        future.exception()  # marks it as retrieved: asyncio must not complain if nobody waits for it any more


def _unreadable(what: str) -> CallError:
    return CallError(
        f"The daemon sent a response that this version cannot read ({what}).",
        "Use the same release for the daemon and the client.",
    )


def _error(content: dict[str, Any]) -> P2pflowsError:
    error = from_kind(
        str(content["code"]),
        str(content["message"]),
        for_reader(str(content.get("hint") or "")),
        content.get("retry_after_s"),
    )
    return error.said_by(str(content["from"]), content.get("name")) if content.get("from") else error


def _data_or_state(result: dict[str, Any]) -> dict[str, Any]:
    return dict(result.get("data", result))


def _cannot_connect(home: Home, error: BaseException) -> P2pflowsError:
    if isinstance(error, PermissionError):
        return UsageError(
            f"The daemon on {home.path} belongs to another user.", "Set P2PFLOWS_HOME to a home of your own."
        )
    if isinstance(error, OSError) and error.errno is None:
        return UsageError(f"The path {home.path} is too long for a socket.", "Set P2PFLOWS_HOME to a shorter path.")
    return DaemonNotRunning(f"No daemon runs on {home.path}.", "Start it with: p2pflows up")


def _no_response(home: Home, error: BaseException) -> P2pflowsError:
    if isinstance(error, TimeoutError):
        return DaemonNotRunning(
            f"The daemon on {home.path} does not answer.", "Look at its log; if it hangs, start it again."
        )
    return _went_away(home)


def _went_away(home: Home) -> DaemonNotRunning:
    return DaemonNotRunning(
        f"The daemon on {home.path} went away.",
        "Start it with: p2pflows up. Calls that it had accepted were kept: p2pflows wait ID",
    )
