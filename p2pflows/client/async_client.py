"""The asynchronous client of the local daemon.

    async with p2pflows.connect_async() as me:
        answers = await asyncio.gather(*(me.call("bob/sum", {"n": n}) for n in range(100)))

It sends all requests side by side on one connection. Every error that it raises is one of `p2pflows.errors`.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Any, Self

from p2pflows.client.control_lines import (
    MAX_INBOX,
    MAX_PAGE,
    NO_DEFAULT,
    cannot_connect,
    data_or_state,
    default_of,
    home_of,
    human_of,
    message_params,
    read_error,
    unreadable,
    went_away,
    write_params,
)
from p2pflows.errors import P2pflowsError

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Callable, Mapping

    from p2pflows.client.streams import AsyncCallStream
    from p2pflows.forms.python import Answer
    from p2pflows.links.client_stream import ClientStream


def connect_async(home: str | os.PathLike[str] | None = None) -> AsyncClient:
    """Return an asynchronous client of the daemon on a home folder; enter it with `async with`."""
    return AsyncClient(home)


class AsyncClient:
    """The asynchronous client; requests of one pass of the event loop are sent together on its one connection.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None) -> None:
        self._home = home_of(home)
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
        message = message_params(address, data, timeout, conversation, instance)
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
        from p2pflows.client.streams import AsyncCallStream

        message = message_params(address, data, timeout, conversation, instance)
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
        message = message_params(address, data, timeout, conversation, instance)
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
                "ask", **ask_params(who, text, typed, timeout), need=need, quorum=quorum, **default_of(typed, default)
            )
        )["id"]
        try:
            return typed.answer_in(await self.begin("wait", id=question))
        except asyncio.CancelledError:
            self.begin("cancel", id=question)
            raise

    async def tell(self, who: str, text: str, *, timeout: float | None = None) -> str:  # noqa: ASYNC109
        """Leave a note for a person, and return its id once the daemon has committed it."""
        return await self.send(human_of(who), {"api_output": text}, timeout=timeout)

    async def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:  # noqa: ASYNC109
        """Wait for the end of a message sent earlier.

        Returns:
            The data of a call's reply, or the `id` and `state` of a post.
        """
        return data_or_state(await self.begin("wait", id=message_id, timeout=timeout))

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
        raise went_away(self._home)

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
            raise cannot_connect(self._home, error) from error

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
                raise went_away(self._home)
            body = write_params(params)
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
            _fail(future, unreadable("no JSON") if is_garbled else went_away(self._home))
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
                _fail(future, read_error(item["error"]))
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


def _fail(future: asyncio.Future[Any], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # marks it as retrieved: asyncio must not complain if nobody waits for it any more
