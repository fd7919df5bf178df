"""The asynchronous client's end of the control socket: JSON Lines, many requests at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol.framing import Lines

_MAX_RECORD_BYTES = 2**31
"""The daemon is trusted: a list of everything may be long."""
_CONNECT_TIMEOUT_S = 1.0
"""Seconds for what was asked last to leave when the connection is closed."""
_MAX_WRITE_BYTES = 256 * 1024
"""Bytes of requests in one line, unless one alone has more."""


class ClientStream(RecordStream):
    """A connection; what is asked in one pass of the loop leaves as one line.

    Args:
        told: takes each object that the daemon sends.
        ended: the connection is gone; takes whether what came last was no JSON.
    """

    def __init__(self, told: Callable[[dict[str, Any]], None], ended: Callable[[bool], None]) -> None:
        super().__init__(Lines(_MAX_RECORD_BYTES))
        self._told = told
        self._ended = ended
        self._asked: list[bytes] = []
        self._garbled = False
        self._gone = asyncio.Event()

    def ask(self, request: bytes) -> None:
        """Send a request soon.

        Args:
            request: one JSON object.
        """
        self._asked.append(request)
        self.leave_soon()

    async def close(self) -> None:
        """End the connection; a daemon that does not read is not waited for."""
        self.finish()
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                await self._gone.wait()
        except TimeoutError:
            self.abort()
            await self._gone.wait()

    def arrived(self, records: list[bytes]) -> None:
        """Tell what lines say."""
        for line in records:
            try:
                content = json.loads(line)
            except ValueError:  # some other release listens here, or no daemon at all
                self._garbled = True
                self.abort()
                return
            for item in content if isinstance(content, list) else [content]:
                self._told(item)

    def leave(self) -> None:
        """Send what was asked, as far as there is room."""
        while self._asked and not self.full:
            self.send(_together(self._asked))

    def lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        del error
        self._gone.set()
        self._ended(self._garbled)


def _together(requests: list[bytes]) -> bytes:
    """Remove from the front what fits into one line, and join it."""
    size = count = 0
    while count < len(requests) and (not count or size + len(requests[count]) <= _MAX_WRITE_BYTES):
        size += len(requests[count])
        count += 1
    line = b"[" + b",".join(requests[:count]) + b"]"
    del requests[:count]
    return line
