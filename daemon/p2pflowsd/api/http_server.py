"""HTTP on the control socket, for `curl`: each method is a POST to `/v1/<method>`.

Only this module imports aiohttp, which takes longer than the rest of a daemon's start; so it is imported when the first
client speaks HTTP.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

from aiohttp import web

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol import strict_json
from p2pflowsd.api.methods import Methods
from p2pflowsd.api.sessions import MAX_LINE_BYTES

HTTP_STATUS = {2: 400, 3: 503, 4: 403, 5: 504}
"""HTTP status by an error's exit code; 422 for all others."""


class HttpServer:
    """Serves methods over HTTP, on connections that the control socket has accepted.

    Args:
        methods: what clients can request.
    """

    def __init__(self, methods: Methods) -> None:
        self._methods = methods
        self._runner: web.AppRunner

    async def start(self) -> None:
        """Start the server."""
        app = web.Application(client_max_size=MAX_LINE_BYTES)
        app.router.add_route("*", "/v1/{method}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()

    def protocol(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        server = self._runner.server
        assert server is not None  # noqa: S101 - `start` makes it
        return server()

    async def close(self) -> None:
        """Close all connections."""
        await self._runner.cleanup()

    async def _handle(self, request: web.Request) -> web.Response:
        method = request.match_info["method"]
        try:
            content = await request.read()
        except ConnectionError:  # the client has left in the middle of its request
            return web.Response(status=400)
        try:
            params = _parse(content)
            if method == "watch":
                raise UsageError("HTTP sends no events.", "Use JSON Lines; see the page about the control socket.")
            return _response(200, await self._methods.run(method, params))
        except P2pflowsError as error:
            return _response(HTTP_STATUS.get(error.exit_code, 422), {"error": error.as_reply()})


def _parse(content: bytes) -> Any:
    if not content.strip():
        return {}
    try:
        return strict_json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The request is not JSON: {error}.") from None


def _response(status: int, content: Any) -> web.Response:
    text = json.dumps(content, ensure_ascii=False) + "\n"
    # An error may quote a lone surrogate from its request, which UTF-8 lacks; JSON can escape it.
    body = text.encode(errors="backslashreplace")
    return web.Response(body=body, status=status, content_type="application/json", charset="utf-8")
