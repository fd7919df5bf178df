"""The hub: follows the daemon on one connection, and passes what it says on to every page."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from p2pflows.client.async_client import AsyncClient
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.home import Home
from p2pflows.web import cards

MAX_STREAMS = 32
MAX_UNSENT = 1_000
"""How many events may wait for a slow page; then its stream ends, and it reads everything again."""
RECONNECT_S = 0.5
PULSE_S = 3.0
"""How often the hub looks at what the daemon sends no events about, while a page looks on."""
MAX_SHARE = 0.1
"""Of the time, how much it may look at most: less often if there are many contacts."""
CONTACTS_IN_A_PAGE = 1_000


class TooManyStreams(Exception):
    """As many pages look on as may."""


class Stream:
    """The events for one page, in the form of server-sent events."""

    def __init__(self) -> None:
        self._unsent: asyncio.Queue[bytes] = asyncio.Queue(MAX_UNSENT)
        self._is_lost = False

    def put(self, event: bytes) -> None:
        """Add an event; if too many wait, the stream ends."""
        try:
            self._unsent.put_nowait(event)
        except asyncio.QueueFull:
            self._is_lost = True

    def end(self) -> None:
        """End the stream, as the server does."""
        self._is_lost = True
        with contextlib.suppress(asyncio.QueueFull):
            self._unsent.put_nowait(b": the end\n\n")

    async def events(self, keep_alive_s: float) -> AsyncGenerator[bytes]:
        """Yield what is to be sent, and a comment whenever nothing was for a while."""
        while not self._is_lost:
            try:
                async with asyncio.timeout(keep_alive_s):
                    yield await self._unsent.get()
            except TimeoutError:
                yield b": still here\n\n"


class Hub:
    """Passes events on to pages: `state`, `pulse`, `prompt` and `line`.

    Args:
        home: whose daemon it follows.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._streams: set[Stream] = set()
        self._looked_on = asyncio.Event()
        self._state = encode("state", {"daemon": "away"})
        self._pulse: bytes | None = None

    @contextmanager
    def stream(self) -> Iterator[Stream]:
        """Yield a new stream, which begins with how things are.

        Raises:
            TooManyStreams: as many pages look on as may.
        """
        if len(self._streams) >= MAX_STREAMS:
            raise TooManyStreams
        stream = Stream()
        stream.put(self._state)
        if self._pulse is not None:
            stream.put(self._pulse)
        self._streams.add(stream)
        self._looked_on.set()
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            if not self._streams:
                self._looked_on.clear()

    def close(self) -> None:
        """End all streams."""
        for stream in self._streams:
            stream.end()

    async def run(self) -> None:
        """Follow the daemon, again and again, until cancelled."""
        while True:
            try:
                await self._follow()
            except P2pflowsError as error:
                self._say_state("away", error)
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with AsyncClient(self._home.path) as client:
            await client.request("news")
            self._say_state("up", None)
            looking = asyncio.create_task(self._look(client))
            try:
                async for item in client.news():
                    self._say(item)
            finally:
                looking.cancel()
                await asyncio.gather(looking, return_exceptions=True)
        raise DaemonNotRunning("The daemon went away.", "Start it with: p2pflows up")

    def _say(self, item: Mapping[str, Any]) -> None:
        """Pass on what the daemon says of a prompt or a line."""
        if "line" in item:
            self._publish(encode("line", cards.line(item["line"])))
        else:
            self._publish(encode("prompt", cards.card(item["prompt"])))

    def _say_state(self, daemon: str, error: P2pflowsError | None) -> None:
        state = encode("state", {"daemon": daemon, "error": None if error is None else error.as_reply()})
        if state != self._state:
            self._state, self._pulse = state, None
            self._publish(state)

    async def _look(self, client: AsyncClient) -> None:
        """Look at the counts, strangers and presence as long as a page looks on; say so when they change."""
        while True:
            await self._looked_on.wait()
            began = time.monotonic()
            try:
                pulse = encode("pulse", await _take_pulse(client))
            except P2pflowsError as error:
                pulse = encode("pulse", {"problem": error.message})
            if pulse != self._pulse:
                self._pulse = pulse
                self._publish(pulse)
            await asyncio.sleep(max(PULSE_S, (time.monotonic() - began) / MAX_SHARE))

    def _publish(self, event: bytes) -> None:
        for stream in self._streams:
            stream.put(event)


def encode(event: str, data: Mapping[str, Any]) -> bytes:
    """Return an event as the stream has it."""
    return f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()


async def _take_pulse(client: AsyncClient) -> dict[str, Any]:
    status, requests = await asyncio.gather(client.begin("status"), client.begin("requests"))
    broker = status["broker"]
    return {
        "problem": status["problem"],
        "broker": {"connected": broker["connected"], "reason": broker["reason"]},
        "waiting": {"pending": status["pending"], "dead": status["dead"]},
        "requests": [request["user"] for request in requests["requests"]],
        "contacts": await _fingerprint_of_contacts(client),
    }


async def _fingerprint_of_contacts(client: AsyncClient) -> str:
    """Return what changes when a contact does, or goes online or offline."""
    seen = hashlib.sha256()
    page: str | None = ""
    while page is not None:
        part = await client.request("contacts", page=page, limit=CONTACTS_IN_A_PAGE)
        seen.update(json.dumps(part["contacts"]).encode())
        page = part["next"]
    return seen.hexdigest()
