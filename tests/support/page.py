"""The server of the page, and a browser that asks it as the page does."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from p2pflows.home import Home
from p2pflows.settings.web import WebSettings
from p2pflows.web.logins import Logins
from p2pflows.web.place import Place
from p2pflows.web.server import KEY_HEADER, Server


class Browser:
    """A browser that asks as our page does.

    Attributes:
        url: the origin of the page.
        session: its connections and cookies.
        key: the key that the page has stored.
    """

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session
        self.key = ""

    async def post(self, method: str, params: object = None, **headers: str) -> tuple[int, Any]:
        """Call a method; returns the status and what was answered."""
        sent = {"Origin": self.url, "Sec-Fetch-Site": "same-origin", KEY_HEADER: self.key, **headers}
        async with self.session.post(
            f"{self.url}/api/{method}", json={} if params is None else params, headers=sent
        ) as response:
            return response.status, await response.json()

    async def log_in(self, token: str) -> int:
        """Log in; returns the status."""
        status, answer = await self.post("login", {"token": token})
        self.key = answer["result"]["key"] if status == 200 else ""
        return status

    async def events(self) -> AsyncGenerator[tuple[str, Any]]:
        """Yield the events of the stream."""
        headers = {"Sec-Fetch-Site": "same-origin", KEY_HEADER: self.key}
        async with self.session.get(f"{self.url}/api/events", headers=headers) as response:
            assert response.status == 200, await response.text()
            assert response.content_type == "text/event-stream"
            event = ""
            async for line in response.content:
                name, _, rest = line.decode().rstrip("\n").partition(": ")
                if name == "event":
                    event = rest
                elif name == "data":
                    yield event, json.loads(rest)


@contextlib.asynccontextmanager
async def serving(home: Path) -> AsyncIterator[tuple[Browser, Logins]]:
    """Run a server; yields a browser that is not logged in, and the logins."""
    logins = Logins(Home(home))
    running = Server(Place.of(WebSettings(listen="127.0.0.1:0")), Home(home), logins)
    port = await running.start()
    jar = aiohttp.CookieJar(unsafe=True)
    try:
        async with aiohttp.ClientSession(cookie_jar=jar, timeout=aiohttp.ClientTimeout(20)) as session:
            yield Browser(f"http://127.0.0.1:{port}", session), logins
    finally:
        await running.close()


@contextlib.asynccontextmanager
async def logged_in(home: Path) -> AsyncIterator[Browser]:
    """Run a server; yields a browser that is logged in."""
    async with serving(home) as (browser, logins):
        assert await browser.log_in(logins.new_link()) == 200
        yield browser
