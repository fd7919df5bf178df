"""What others want of our files: pieces that wait to be read, sealed and sent, the users in turn."""

from __future__ import annotations

from collections import OrderedDict, deque
from pathlib import Path
from typing import NamedTuple

from p2pflows.protocol.file_frames import MAX_PIECE_BYTES, MAX_WANTED_BYTES, Want

MAX_WAITING_BYTES = MAX_WANTED_BYTES
"""How many bytes may wait for one user; what they ask for beyond that is dropped, and they ask again."""
MAX_WAITING_PARTS = 64
"""How many parts of files may wait for one user."""
MAX_USERS = 100
"""How many users are served at a time; others ask again."""
MIN_PIECE_BYTES = 4_096


class Part(NamedTuple):
    """A piece to send: the bytes of a file from `start` to the one before `end`."""

    peer: str
    file: str
    path: Path
    start: int
    end: int
    n: int


class Uploads:
    """The parts of files that wait to be sent."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Part]] = OrderedDict()
        self._bytes: dict[str, int] = {}
        self.piece_bytes = MAX_PIECE_BYTES

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, peer: str, want: Want, path: Path, size: int) -> bool:
        """Queue what a user wants; return False if nothing of it can be sent.

        Args:
            peer: the user.
            want: what they want.
            path: where the file lies.
            size: how many bytes it has.
        """
        queue = self._waiting.get(peer)
        if queue is None and len(self._waiting) >= MAX_USERS:
            return True
        used = self._bytes.get(peer, 0)
        end = min(want.end, size, want.start + MAX_WAITING_BYTES - used)
        if want.start >= min(want.end, size):
            return False
        if end <= want.start or (queue is not None and len(queue) >= MAX_WAITING_PARTS):
            return True
        self._waiting.setdefault(peer, deque()).append(Part(peer, want.file, path, want.start, end, want.n))
        self._bytes[peer] = used + end - want.start
        return True

    def take(self, max_bytes: int) -> list[Part]:
        """Take the next pieces of the user whose turn it is.

        Args:
            max_bytes: how many bytes they may have together; at least one is taken.
        """
        peer, queue = next(iter(self._waiting.items()))
        taken: list[Part] = []
        size = 0
        while queue and (not taken or size < max_bytes):
            part = queue.popleft()
            end = min(part.end, part.start + self.piece_bytes)
            taken.append(part._replace(end=end))
            size += end - part.start
            if end < part.end:
                queue.appendleft(part._replace(start=end))
        self._bytes[peer] -= size
        if queue:
            self._waiting.move_to_end(peer)
        else:
            del self._waiting[peer], self._bytes[peer]
        return taken

    def clear(self) -> None:
        """Drop everything, as the link is down; it is asked for again."""
        self._waiting.clear()
        self._bytes.clear()
