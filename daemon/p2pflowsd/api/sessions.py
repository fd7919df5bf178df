"""A connection to the control socket that speaks JSON Lines: many requests side by side, and events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol import strict_json
from p2pflows.protocol.framing import FramingError, Lines
from p2pflowsd.api.daemon import Written
from p2pflowsd.api.methods import Methods

MAX_LINE_BYTES = 4_000_000
"""The longest line that a client may send."""
MAX_UNSENT_ITEMS = 1_000
"""How many objects may wait for a slow client before its progress reports are dropped, and no more is read from it."""
MAX_UNSENT_EVENTS = 10_000
"""How many may wait for a client that watches; then its connection ends, and it can watch again."""

EVENT_OF = {"watch": "prompt", "chat": "line", "news": "news_item"}
"""The event that a client gets once it has called a method."""


class Session(RecordStream):
    """One client's connection.

    Each line from the client is one request or an array of them. All that becomes ready in one pass of the event loop
    is sent as one line (docs/CONTROL.md).

    Args:
        methods: what can be requested.
        open_sessions: where the session lists itself while its connection is open.
    """

    def __init__(self, methods: Methods, open_sessions: set[Session]) -> None:
        super().__init__(Lines(MAX_LINE_BYTES))
        self._methods = methods
        self._open_sessions = open_sessions
        self._unsent: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[object, Callable[[], None]] = {}
        self._watched: set[str] = set()
        """The names of the events that the client gets."""
        self._held_events: list[dict[str, Any]] | None = None
        """Events that wait for the result of `watch`; None if it does not run."""
        self._is_half_closed = False

    def watches(self, event: str) -> bool:
        """Return whether the client gets an event."""
        return event in self._watched

    def send_event(self, event: str, data: dict[str, Any]) -> None:
        """Send an event if the client watches for it."""
        if event not in self._watched:
            return
        if self._held_events is not None:
            self._held_events.append({"event": event, "data": data})
        elif len(self._unsent) < MAX_UNSENT_EVENTS:
            self._put({"event": event, "data": data})
        else:
            self.abort()

    def flush_and_close(self) -> None:
        """Send what is ready, and close the connection."""
        self.flush()
        self.close()

    # The connection.

    def on_open(self) -> None:
        """List the session."""
        self._open_sessions.add(self)

    def on_records(self, records: list[bytes]) -> None:
        """Take in lines; empty ones mean nothing."""
        for line in records:
            if line.strip():
                self._receive(line)

    def on_framing_error(self, error: FramingError) -> None:
        """Report the error, and close the connection."""
        del error
        self._put_error(None, UsageError(f"A line has over {MAX_LINE_BYTES:,} bytes."))
        self.flush_and_close()

    def flush(self) -> None:
        """Send what is ready as one line, and close the connection if nothing more can become ready."""
        if self._unsent and not self.write_paused:
            items, self._unsent = self._unsent, []
            written = [_written(item) for item in items]
            self.send(b"[" + b",".join(written) + b"]" if len(written) > 1 else written[0])
            self.resume_reading()
        if self._is_half_closed and not (self._tasks or self._calls or self._unsent or self._watched):
            self.close()

    def eof_received(self) -> bool:
        """The client sends no more, like a pipe at its end; unless it has left, it still gets its answers."""
        self._is_half_closed = True
        self.flush_soon()
        return not self.peer_closed

    def on_close(self, error: Exception | None) -> None:
        """Stop waiting for answers; accepted calls go on without this client."""
        del error
        self._open_sessions.discard(self)
        for task in list(self._tasks):
            task.cancel()
        for stop_waiting in list(self._calls.values()):
            stop_waiting()

    # Requests.

    def _receive(self, line: bytes) -> None:
        try:
            content = _read(line)
        except (ValueError, RecursionError) as error:
            self._put_error(None, UsageError(f"What was sent is not JSON: {error}."))
            return
        for request in content if isinstance(content, list) else [content]:
            match request:
                case {"method": "call", "params": dict(params)}:
                    self._start_call(request.get("id"), params)
                case {"method": str(method)}:
                    task = asyncio.create_task(self._run(request.get("id"), method, request.get("params", {})))
                    self._tasks.add(task)
                    task.add_done_callback(self._on_task_done)
                case _:
                    self._put_error(None, UsageError("A request has an id, a method and params."))

    def _start_call(self, request_id: Any, params: dict[str, Any]) -> None:
        call = object()

        def on_outcome(outcome: Any) -> None:
            self._calls.pop(call, None)
            if isinstance(outcome, P2pflowsError):
                self._put_error(request_id, outcome)
            else:
                self._put({"id": request_id, "result": outcome})

        def on_accepted(message_id: str) -> None:
            if call in self._calls:
                self._put({"id": request_id, "accepted": message_id})

        def on_progress(data: dict[str, Any]) -> None:
            if len(self._unsent) < MAX_UNSENT_ITEMS:  # a client that does not read must not fill our memory
                self._put({"id": request_id, "progress": data})

        self._calls[call] = lambda: None
        stop_waiting = self._methods.start_call(params, on_outcome, on_accepted, on_progress)
        if call in self._calls:
            self._calls[call] = stop_waiting

    async def _run(self, request_id: Any, method: str, params: Any) -> None:
        event = EVENT_OF.get(method)
        shown: list[dict[str, Any]] = []
        if event is not None:
            self._watched.add(event)
            self._held_events = []
        try:
            result = await self._methods.run(method, params)
        except P2pflowsError as error:
            self._put_error(request_id, error)
        else:
            self._put({"id": request_id, "result": result})
            shown = result[f"{event}s"] if event is not None else []
        finally:
            if event is not None:
                self._send_held_events(shown)

    def _send_held_events(self, shown: list[dict[str, Any]]) -> None:
        """Send what happened since the watch was requested, without what its result shows as it is now."""
        held, self._held_events = self._held_events, None
        for item in held or ():
            if item["data"] not in shown:
                self._put(item)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.flush_soon()

    def _put(self, item: dict[str, Any]) -> None:
        self._unsent.append(item)
        if self.write_paused and len(self._unsent) >= MAX_UNSENT_ITEMS:
            self.pause_reading()
        self.flush_soon()

    def _put_error(self, request_id: Any, error: P2pflowsError) -> None:
        self._put({"id": request_id, "error": error.as_reply()})


def _read(line: bytes) -> Any:
    """Return what a line says; long data of a request that is alone in its line keeps its text.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """
    for end in (b"}}]", b"}}"):
        parts = strict_json.split(line, "data", end)
        if parts is None:
            continue
        rest, data = parts
        with contextlib.suppress(ValueError):
            match content := strict_json.loads(rest):
                case {"params": dict(params)} | [{"params": dict(params)}] if "data" not in params:
                    params["data"] = data
                    return content
    return strict_json.loads(line)


def _written(item: dict[str, Any]) -> bytes:
    """Return the JSON of what a client is sent; the answer to a call is JSON already."""
    match item:
        case {"id": request_id, "result": {"data": Written(data), **rest}}:
            head = strict_json.dumps({"id": request_id, "result": rest})
            return b'%s,"data":%s}}' % (head[:-2], data.replace(b"\n", b" "))  # no line break may be in a line
        case _:
            # An error may quote a lone surrogate from its request, which UTF-8 lacks; JSON can escape it.
            return strict_json.dumps(item, errors="backslashreplace")
