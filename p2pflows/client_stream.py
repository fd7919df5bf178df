"""The asynchronous client's end of the control socket: JSON Lines, many requests at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from p2pflows.framing import Lines
from p2pflows.record_stream import RecordStream

_LONGEST = 2**31
"""The daemon is trusted: a list of everything may be long."""
_MOST_TOGETHER = 256 * 1024
"""Bytes of requests in one line, unless one alone has more."""


class ClientStream(RecordStream):
    """A connection; what is asked in one pass of the loop leaves as one line.

    Args:
        told: takes each object that the daemon sends.
        ended: the connection is gone.
    """

    def __init__(self, told: Callable[[dict[str, Any]], None], ended: Callable[[], None]) -> None:
        super().__init__(Lines(_LONGEST))
        self._told = told
        self._ended = ended
        self._asked: list[bytes] = []
        self._due = False
        self.gone = asyncio.Event()

    def ask(self, request: bytes) -> None:
        """Send a request soon.

        Args:
            request: one JSON object.
        """
        self._asked.append(request)
        if not self._due:
            self._due = True
            asyncio.get_running_loop().call_soon(self.relieved)

    def arrived(self, records: list[bytes]) -> None:
        """Tell what lines say."""
        for line in records:
            content = json.loads(line)
            for item in content if isinstance(content, list) else [content]:
                self._told(item)

    def relieved(self) -> None:
        """Send what was asked, as far as there is room."""
        self._due = False
        while self._asked and not self.full:
            self.send(_together(self._asked))

    def lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        del error
        self.gone.set()
        self._ended()


def _together(requests: list[bytes]) -> bytes:
    """Remove from the front what fits into one line, and join it."""
    size = count = 0
    while count < len(requests) and (not count or size + len(requests[count]) <= _MOST_TOGETHER):
        size += len(requests[count])
        count += 1
    line = b"[" + b",".join(requests[:count]) + b"]"
    del requests[:count]
    return line
