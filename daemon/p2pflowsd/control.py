"""The control socket: HTTP for `curl` and scripts, one WebSocket for what streams or needs speed.

A private unix socket in the home folder; who can open it is its user.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from aiohttp import WSMsgType, web

from p2pflows import strict_json
from p2pflows.errors import P2pflowsError, UsageError
from p2pflowsd.methods import Method
from p2pflowsd.private_socket import private_socket

MAX_BYTES = 4_000_000
MOST_WAITING = 1_000
"""What waits to be sent to one client before progress is dropped; it may be lost anyway."""
STATUS = {2: 400, 3: 503, 4: 403, 5: 504}
"""HTTP status by exit code; all else is 422."""


class Call(Protocol):
    """Accepts a call without a task of its own."""

    def __call__(
        self,
        params: dict[str, Any],
        respond: Callable[[Any], None],
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Callable[[], None]:
        """Respond once; gives what stops the waiting."""


class Control:
    """Serves the methods on a unix socket.

    Args:
        path: the socket.
        methods: what can be asked.
        call: the method that has to be fast, without a task for each request.
        prompts: the open prompts, for those who watch.
    """

    def __init__(
        self,
        *,
        path: Path,
        methods: dict[str, Method],
        call: Call,
        prompts: Callable[[], Awaitable[Any]],
    ) -> None:
        self._path = path
        self.call = call
        self._methods = methods
        self._prompts = prompts
        self._sessions: set[_Session] = set()
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Begin to serve; a socket left by a dead daemon is replaced.

        Raises:
            UsageError: the path is too long for a unix socket, or cannot be written.
        """
        app = web.Application(client_max_size=MAX_BYTES)
        app.router.add_route("*", "/v1/ws", self._websocket)
        app.router.add_route("*", "/v1/{method}", self._http)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, private_socket(self._path)).start()

    async def close(self) -> None:
        """Stop serving."""
        self._path.unlink(missing_ok=True)
        for session in list(self._sessions):
            await session.close()
        if self._runner is not None:
            await self._runner.cleanup()

    def tell(self, event: str, data: dict[str, Any]) -> None:
        """Tell all who watch."""
        for session in self._sessions:
            if session.watches:
                session.put({"event": event, "data": data})

    async def ask(self, name: str, params: Any, session: _Session | None = None) -> dict[str, Any]:
        """Run a method; `{"result": ...}` or `{"error": ...}`. Only a WebSocket's session can watch."""
        try:
            if name == "watch" and session is not None:
                return {"result": await self._watch(session)}
            method = self._methods.get(name)
            if method is None:
                raise UsageError(f"There is no method {name!r}.", "See docs/CONTROL.md.")
            if not isinstance(params, dict):
                raise UsageError("The parameters are not a JSON object.", "See docs/CONTROL.md.")
            return {"result": await method(params)}
        except P2pflowsError as error:
            return {"error": error.as_json(), "exit": error.exit_code}

    async def _http(self, request: web.Request) -> web.Response:
        try:
            content = await request.read()
            params = strict_json.loads(content) if content.strip() else {}
        except (ValueError, RecursionError) as error:
            answer: dict[str, Any] = {"error": UsageError(f"The request is not JSON: {error}.").as_json(), "exit": 2}
        else:
            answer = await self.ask(request.match_info["method"], params)
        code = STATUS.get(answer.pop("exit"), 422) if "error" in answer else 200
        text = json.dumps(answer if "error" in answer else answer["result"], ensure_ascii=False) + "\n"
        # An error may quote half a character of what was asked; so written it is JSON.
        body = text.encode(errors="backslashreplace")
        return web.Response(body=body, status=code, content_type="application/json", charset="utf-8")

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        connection = web.WebSocketResponse(max_msg_size=MAX_BYTES, compress=False, heartbeat=None)
        await connection.prepare(request)
        session = _Session(connection, self)
        self._sessions.add(session)
        try:
            async for frame in connection:
                if frame.type is WSMsgType.TEXT:
                    session.receive(frame.data)
        finally:
            self._sessions.discard(session)
            session.stop()
        return connection

    async def _watch(self, session: _Session) -> dict[str, Any]:
        """Begin to tell a session what changes."""
        session.watches = True
        return {"prompts": await self._prompts()}


class _Session:
    """One WebSocket: requests run side by side; what is ready in one pass of the loop leaves as one frame."""

    def __init__(self, connection: web.WebSocketResponse, control: Control) -> None:
        self._connection = connection
        self._control = control
        self._ready: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._calls: dict[object, Callable[[], None]] = {}
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._write())
        self.watches = False

    def receive(self, text: str) -> None:
        """Take in one frame: a request, or an array of them."""
        try:
            content = strict_json.loads(text)
        except (ValueError, RecursionError) as error:
            self.put({"id": None, "error": UsageError(f"The frame is not JSON: {error}.").as_json()})
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
            task.add_done_callback(self._tasks.discard)

    def put(self, answer: dict[str, Any]) -> None:
        """Send something soon."""
        self._ready.append(answer)
        self._wake.set()

    def stop(self) -> None:
        """The other side has left: what it waits for goes on without it."""
        for task in [*self._tasks, self._writer]:
            task.cancel()
        for stop in list(self._calls.values()):
            stop()

    async def close(self) -> None:
        """Say goodbye."""
        await self._connection.close()

    def _call(self, request_id: Any, params: dict[str, Any]) -> None:
        key = object()

        def respond(result: Any) -> None:
            self._calls.pop(key, None)
            failed = isinstance(result, P2pflowsError)
            self.put({"id": request_id, **({"error": result.as_json()} if failed else {"result": result})})

        self._calls[key] = lambda: None

        def progress(data: dict[str, Any]) -> None:
            if len(self._ready) < MOST_WAITING:  # who does not read must not fill our memory
                self.put({"id": request_id, "progress": data})

        stop = self._control.call(params, respond, progress)
        if key in self._calls:
            self._calls[key] = stop

    async def _run(self, request: dict[str, Any]) -> None:
        answer = await self._control.ask(request["method"], request.get("params", {}), self)
        answer.pop("exit", None)
        self.put({"id": request.get("id"), **answer})

    async def _write(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            ready, self._ready = self._ready, []
            text = json.dumps(ready if len(ready) > 1 else ready[0], ensure_ascii=False)
            await self._connection.send_str(text.encode(errors="backslashreplace").decode())
