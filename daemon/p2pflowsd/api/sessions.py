"""One connection that asks many things side by side, be it a WebSocket or a socket with JSON Lines.

What is asked comes as JSON texts, each a request or an array of them; what is ready in one pass of the loop leaves as
one text (docs/CONTROL.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol import strict_json
from p2pflows.protocol.framing import FramingError, Lines

MAX_TEXT_BYTES = 4_000_000
"""The longest text that may be asked."""
MAX_WAITING_ANSWERS = 1_000
"""What waits to be sent to one client before progress is dropped; it may be lost anyway."""


class Call(Protocol):
    """Accepts a call without a task of its own."""

    def __call__(
        self,
        params: dict[str, Any],
        respond: Callable[[Any], None],
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Callable[[], None]:
        """Respond once; gives what stops the waiting."""


class Asked(Protocol):
    """Whom a session asks."""

    call: Call

    async def ask(self, name: str, params: Any, session: Session | None = None) -> dict[str, Any]:
        """Run a method; `{"result": ...}` or `{"error": ...}`."""

    def opened(self, session: Session) -> None:
        """A session begins."""

    def ended(self, session: Session) -> None:
        """A session is over."""


class Session:
    """What one connection asks and is told.

    Args:
        asked: who answers.
        leave: told when there is something to `take`, or when it may have become idle; may be told too often.
        close: says goodbye to the other side.
    """

    def __init__(self, asked: Asked, leave: Callable[[], None], close: Callable[[], Awaitable[object]]) -> None:
        self.close = close
        self._asked = asked
        self._leave = leave
        self._ready: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[object, Callable[[], None]] = {}
        self.watches = False
        asked.opened(self)

    def receive(self, text: str | bytes) -> None:
        """Take in one text: a request, or an array of them."""
        try:
            content = strict_json.loads(text)
        except (ValueError, RecursionError) as error:
            self.put({"id": None, "error": UsageError(f"What was sent is not JSON: {error}.").as_json()})
            return
        for request in content if isinstance(content, list) else [content]:
            if not isinstance(request, dict) or not isinstance(request.get("method"), str):
                self.put({"id": None, "error": UsageError("A request has an id, a method and params.").as_json()})
                continue
            if request["method"] == "call" and isinstance(request.get("params"), dict):
                self._call(request.get("id"), request["params"])
                continue
            task = asyncio.create_task(self._run(request))
            self._tasks.add(task)
            task.add_done_callback(self._done)

    @property
    def is_idle(self) -> bool:
        """Whether nothing will ever be told any more, unless something is asked."""
        return not (self._tasks or self._calls or self._ready or self.watches)

    def put(self, answer: dict[str, Any]) -> None:
        """Send something soon."""
        self._ready.append(answer)
        self._leave()

    def take(self) -> bytes:
        """All that is ready, as one text; empty when nothing is."""
        ready, self._ready = self._ready, []
        if not ready:
            return b""
        # An error may quote half a character of what was asked; so written it is JSON.
        return strict_json.dumps(ready if len(ready) > 1 else ready[0], errors="backslashreplace")

    def end(self) -> None:
        """The other side has left: what it waits for goes on without it."""
        self._asked.ended(self)
        for task in list(self._tasks):
            task.cancel()
        for stop in list(self._calls.values()):
            stop()

    def _call(self, request_id: Any, params: dict[str, Any]) -> None:
        key = object()

        def respond(result: Any) -> None:
            self._calls.pop(key, None)
            failed = isinstance(result, P2pflowsError)
            self.put({"id": request_id, **({"error": result.as_json()} if failed else {"result": result})})

        self._calls[key] = lambda: None

        def progress(data: dict[str, Any]) -> None:
            if len(self._ready) < MAX_WAITING_ANSWERS:  # who does not read must not fill our memory
                self.put({"id": request_id, "progress": data})

        stop = self._asked.call(params, respond, progress)
        if key in self._calls:
            self._calls[key] = stop

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._leave()

    async def _run(self, request: dict[str, Any]) -> None:
        answer = await self._asked.ask(request["method"], request.get("params", {}), self)
        answer.pop("exit", None)
        self.put({"id": request.get("id"), **answer})


class LineConnection(RecordStream):
    """A session whose texts are the lines of a socket."""

    def __init__(self, asked: Asked) -> None:
        super().__init__(Lines(MAX_TEXT_BYTES))
        self._asked = asked
        self._all_asked = False
        self._session: Session

    def opened(self) -> None:
        """Begin the session."""
        self._session = Session(self._asked, self.leave_soon, self._goodbye)

    def arrived(self, records: list[bytes]) -> None:
        """Take lines in; empty ones say nothing."""
        for line in records:
            if line.strip():
                self._session.receive(line)

    def on_framing_error(self, error: FramingError) -> None:
        """Say what is wrong, and end."""
        del error
        self._session.put({"id": None, "error": UsageError(f"A line has over {MAX_TEXT_BYTES:,} bytes.").as_json()})
        self.leave()
        self.finish()

    def leave(self) -> None:
        """Send what is ready, if there is room."""
        if not self.full and (text := self._session.take()):
            self.send(text)
        if self._all_asked and self._session.is_idle:
            self.finish()

    def eof_received(self) -> bool:
        """The other side asks no more, as a pipe does at its end; unless it has left, it still gets its answers."""
        self._all_asked = True
        self.leave_soon()
        return not self.peer_closed

    def lost(self, error: Exception | None) -> None:
        """End the session."""
        del error
        self._session.end()

    async def _goodbye(self) -> None:
        self.leave()
        self.finish()
