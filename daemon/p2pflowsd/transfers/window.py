"""Which bytes of a file to ask for, and when. Pure: it knows neither disk nor network nor time.

At most a window of bytes is under way. The window grows while pieces come as fast as the first ones did, and shrinks as
soon as they wait somewhere, so that a transfer fills the way without building a queue on it in which small messages
would wait (as in LEDBAT, RFC 6817). Pieces may be lost, repeated and reordered.
"""

from __future__ import annotations

from typing import NamedTuple

PIECE_BYTES = 131_072
MIN_WINDOW_BYTES = PIECE_BYTES
INITIAL_WINDOW_BYTES = 4 * PIECE_BYTES
MAX_WINDOW_BYTES = 1_048_576
MAX_AHEAD_BYTES = 2 * MAX_WINDOW_BYTES
"""How many bytes that came before their turn are held."""
MAX_DELAY_S = 0.02
"""How long a piece may wait on its way until the window shrinks."""
INITIAL_TIMEOUT_S = 1.0
MIN_TIMEOUT_S = 0.3
MAX_TIMEOUT_S = 60.0
_MAX_REMEMBERED_WANTS = 256


class Wanted(NamedTuple):
    """A part of a file to ask for: from the byte `start` to the one before `end`, under a number."""

    start: int
    end: int
    n: int


class Window:
    """How far one file has got.

    Args:
        size: how many bytes it has.
        position: how many of them, from the beginning, are here.

    Attributes:
        position: how many bytes, from the beginning, have been taken.
        width: how many bytes may be under way.
    """

    def __init__(self, size: int, position: int = 0) -> None:
        self._size = size
        self.position = position
        self.width = INITIAL_WINDOW_BYTES
        self._asked = self._most_asked = position
        self._ahead: dict[int, bytes] = {}
        self._ahead_bytes = 0
        self._wants: dict[int, float] = {}
        self._count = 0
        self._shortest: float | None = None
        self._usual: float | None = None
        self._steady = False
        self._narrowed_at = 0.0
        self._heard_at: float | None = None
        self._repaired_at: float | None = None
        self._timeouts = 0

    @property
    def is_complete(self) -> bool:
        """Whether every byte has come."""
        return self.position >= self._size

    @property
    def timeouts(self) -> int:
        """How often in a row nothing has come in time."""
        return self._timeouts

    def take(self, start: int, content: bytes, n: int, now: float) -> bytes | None:
        """Take a piece.

        Args:
            start: where it begins.
            content: its bytes.
            n: the number of the want that it answers.
            now: the time in seconds.

        Returns:
            What follows the bytes that were taken before, maybe nothing; None if the piece was not asked for.
        """
        end = start + len(content)
        if end > self._most_asked or end > self._size or n not in self._wants:
            return None
        if end <= self.position or start in self._ahead:
            return b""
        self._measure(n, len(content), now)
        self._heard_at = now
        self._timeouts = 0
        if start > self.position:
            if self._ahead_bytes + len(content) <= MAX_AHEAD_BYTES:
                self._ahead[start] = content
                self._ahead_bytes += len(content)
            return b""
        parts = [content[self.position - start :]]
        self.position = end
        while self._ahead and (first := min(self._ahead)) <= self.position:
            piece = self._ahead.pop(first)
            self._ahead_bytes -= len(piece)
            if first + len(piece) > self.position:
                parts.append(piece[self.position - first :])
                self.position = first + len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def wants(self, now: float) -> list[Wanted]:
        """Return what to ask for now; each part is under way then."""
        if self.is_complete:
            return []
        if self._heard_at is None:
            self._heard_at = now
        if self._asked > self.position and now - self._heard_at >= self.timeout_s:
            self._timeouts += 1
            self.width = MIN_WINDOW_BYTES
            self._steady = True
            self._heard_at = now
            self._forget_ahead()
            self._asked = self.position
        found = []
        hole = self._hole(now)
        if hole is not None:
            found.append(self._number(*hole, now))
        room = self.width - (self._asked - self.position - self._ahead_bytes)
        left = self._size - self._asked
        room = min(room, left, self.position + MAX_AHEAD_BYTES - self._asked)
        if room > 0 and (room >= min(PIECE_BYTES, left)):
            found.append(self._number(self._asked, self._asked + room, now))
            self._asked += room
            self._most_asked = max(self._most_asked, self._asked)
        return found

    @property
    def timeout_s(self) -> float:
        """How long to wait for a piece until it counts as lost."""
        usual = INITIAL_TIMEOUT_S if self._usual is None else max(MIN_TIMEOUT_S, 4 * self._usual)
        return min(MAX_TIMEOUT_S, usual * 2.0 ** min(self._timeouts, 16))

    def wait_s(self, now: float) -> float:
        """Return for how many seconds there is nothing to ask for, if nothing comes."""
        heard_at = now if self._heard_at is None else self._heard_at
        return max(0.0, heard_at + self.timeout_s - now)

    def retry_now(self) -> None:
        """Count everything that is under way as lost, as the way to the holder works again."""
        self._timeouts = 0
        self._heard_at = None
        self._forget_ahead()
        self._asked = self.position

    def _hole(self, now: float) -> tuple[int, int] | None:
        """Return the first part that is missing, if a piece behind it has come.

        Pieces keep their order on the way, unless one is lost. It is asked for again once in the usual time.
        """
        if not self._ahead:
            self._repaired_at = None
            return None
        if self._repaired_at is not None and now - self._repaired_at < max(2 * (self._usual or 0.0), 0.05):
            return None
        self._repaired_at = now
        return self.position, min(*self._ahead, self.position + self.width)

    def _number(self, start: int, end: int, now: float) -> Wanted:
        self._count += 1
        self._wants[self._count] = now
        if len(self._wants) > _MAX_REMEMBERED_WANTS:
            del self._wants[next(iter(self._wants))]
        return Wanted(start, end, self._count)

    def _measure(self, n: int, count: int, now: float) -> None:
        """Fit the window to how long a piece took."""
        took = now - self._wants[n]
        self._shortest = took if self._shortest is None else min(self._shortest, took)
        self._usual = took if self._usual is None else self._usual + (took - self._usual) / 8
        if took - self._shortest > MAX_DELAY_S:
            self._steady = True
            if now - self._narrowed_at > took:
                self._narrowed_at = now
                self.width = max(MIN_WINDOW_BYTES, int(self.width * 0.7))
        elif self._steady:
            self.width = min(MAX_WINDOW_BYTES, self.width + max(1, PIECE_BYTES * count // self.width))
        else:
            self.width = min(MAX_WINDOW_BYTES, self.width + count)

    def _forget_ahead(self) -> None:
        self._ahead.clear()
        self._ahead_bytes = 0
