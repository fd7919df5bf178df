"""The asynchronous client's end of the control socket: JSON Lines, many requests at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol.framing import Lines

_MAX_RECORD_BYTES = 2**31
"""The daemon is trusted, and a list of everything may be long."""
_CLOSE_TIMEOUT_S = 1.0
"""How long closing waits for the last requests to be sent."""
_MAX_WRITE_BYTES = 256 * 1024
"""Bytes of requests in one line, about."""
_MAX_SHARING_BYTES = 2_000
"""A longer request has a line of its own, whose data the daemon passes on as it is."""


class ClientStream(RecordStream):
    """A connection to the daemon; requests of one pass of the event loop are sent as one line.

    Args:
        on_item: takes each object that the daemon sends.
        on_end: called when the connection is closed; takes whether it was closed because the daemon sent no JSON.
    """

    def __init__(self, on_item: Callable[[dict[str, Any]], None], on_end: Callable[[bool], None]) -> None:
        super().__init__(Lines(_MAX_RECORD_BYTES))
        self._on_item = on_item
        self._on_end = on_end
        self._unsent: list[bytes] = []
        self._is_garbled = False
        self._closed = asyncio.Event()

    def request(self, request: bytes) -> None:
        """Send a request soon.

        Args:
            request: one JSON object.
        """
        self._unsent.append(request)
        self.flush_soon()

    async def wait_closed(self) -> None:
        """Wait until the connection is closed; abort it if the daemon does not read in time."""
        try:
            async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                await self._closed.wait()
        except TimeoutError:
            self.abort()
            await self._closed.wait()

    def on_records(self, records: list[bytes]) -> None:
        """Pass on each object in the lines."""
        for line in records:
            try:
                content = json.loads(line)
            except ValueError:  # another release listens here, or no daemon at all
                self._is_garbled = True
                self.abort()
                return
            for item in content if isinstance(content, list) else [content]:
                self._on_item(item)

    def flush(self) -> None:
        """Send requests until all are sent or writing is paused."""
        while self._unsent and not self.write_paused:
            self.send(_take_line(self._unsent))

    def on_close(self, error: Exception | None) -> None:
        """Report the end of the connection."""
        del error
        self._closed.set()
        self._on_end(self._is_garbled)


def _take_line(requests: list[bytes]) -> bytes:
    """Remove as many requests from the front as one line may hold, and return them as that line."""
    size = count = 0
    while count < len(requests) and len(requests[count]) <= _MAX_SHARING_BYTES and size <= _MAX_WRITE_BYTES:
        size += len(requests[count])
        count += 1
    count = count or 1
    line = b"[" + b",".join(requests[:count]) + b"]"
    del requests[:count]
    return line
