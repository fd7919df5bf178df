"""A call whose answer is read while it grows; made by `Client.stream` and `AsyncClient.stream`.

    with me.stream("bob/Assistant", {"query": "Tell me a story"}) as story:
        for piece in story:
            print(piece.text, end="", flush=True)
    print(story.answer())

Pieces may be lost, and an answer may begin again; `answer` is what counts.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, Self

from p2pflows.errors import Cancelled, P2pflowsError
from p2pflows.protocol.progress import Piece, Reader

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Iterator

MAX_UNREAD = 1_000
"""How many reports wait for a slow reader before the oldest is dropped."""


class CallStream:
    """Iterates over the pieces of one call's answer, once. Leaving `with` before the end withdraws the call.

    Args:
        items: what the daemon sends for the call, in order: `accepted`, `progress` and at last `result`.
        withdraw: withdraws the call of an id.
        close: closes the connection.

    Attributes:
        id: the id of the call; empty until the daemon has accepted it.
    """

    def __init__(
        self,
        items: Iterator[dict[str, Any]],
        *,
        withdraw: Callable[[str], object],
        close: Callable[[], None],
    ) -> None:
        self.id = ""
        self._items = items
        self._withdraw = withdraw
        self._close = close
        self._reader = Reader()
        self._data: dict[str, Any] | None = None
        self._error: P2pflowsError | None = None

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Piece:
        """Return the next piece.

        Raises:
            P2pflowsError: the call has failed, or the daemon went away.
        """
        while not self._is_over:
            item = self._next_item()
            if "progress" in item:
                return self._reader.read(item["progress"])
        if self._error is not None:
            raise self._error
        raise StopIteration

    def answer(self) -> dict[str, Any]:
        """Wait for the end of the call, and return the data of the reply.

        Raises:
            P2pflowsError: the call has failed, or the daemon went away.
        """
        for _ in self:
            pass
        return dict(self._data or {})

    def close(self) -> None:
        """Withdraw the call unless it has ended."""
        while not self.id and not self._is_over:
            self._next_item()
        if not self._is_over:
            with contextlib.suppress(P2pflowsError):  # it has ended meanwhile, or the daemon went away
                self._withdraw(self.id)
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _is_over(self) -> bool:
        return self._data is not None or self._error is not None

    def _next_item(self) -> dict[str, Any]:
        try:
            item = next(self._items, None)
        except P2pflowsError as error:
            self._error = error
            self._close()
            return {}
        if item is None:  # the iteration was broken off
            self._error = Cancelled("You stopped reading the answer.")
            return {}
        self.id = item.get("accepted", self.id)
        if "result" in item:
            self._data = item["result"]["data"]
            self._close()
        return item


class AsyncCallStream:
    """Iterates with `async for` over the pieces of one call's answer, once.

    Leaving `async with` before the end withdraws the call.

    Args:
        begin: starts the call, and returns the future of its result; takes what to call with each item before it.
        withdraw: withdraws the call of an id.

    Attributes:
        id: the id of the call; empty until the daemon has accepted it.
    """

    def __init__(
        self,
        begin: Callable[[Callable[[dict[str, Any]], None]], asyncio.Future[Any]],
        *,
        withdraw: Callable[[str], Awaitable[object]],
    ) -> None:
        import asyncio

        self.id = ""
        self._withdraw = withdraw
        self._reader = Reader()
        self._unread: deque[dict[str, Any]] = deque(maxlen=MAX_UNREAD)
        self._news = asyncio.Event()
        self._end = begin(self._on_item)
        self._end.add_done_callback(lambda _: self._news.set())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Piece:
        """Return the next piece.

        Raises:
            P2pflowsError: the call has failed, or the daemon went away.
        """
        while not self._unread:
            if self._end.done():
                self._end.result()
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        return self._reader.read(self._unread.popleft())

    async def answer(self) -> dict[str, Any]:
        """Wait for the end of the call, and return the data of the reply.

        Raises:
            P2pflowsError: the call has failed, or the daemon went away.
        """
        async for _ in self:
            pass
        return dict(self._end.result()["data"])

    async def close(self) -> None:
        """Withdraw the call unless it has ended."""
        while not self.id and not self._end.done():
            self._news.clear()
            await self._news.wait()
        if not self._end.done():
            with contextlib.suppress(P2pflowsError):  # it has ended meanwhile, or the daemon went away
                await self._withdraw(self.id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _on_item(self, item: dict[str, Any]) -> None:
        self.id = item.get("accepted", self.id)
        if "progress" in item:
            self._unread.append(item["progress"])
        self._news.set()
