"""How byte strings travel: several as one, and one after the other in a stream.

`pack` gives u32 count, then count times u32 length, then the parts end to end; all integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_PARTS = 65_536
_INTEGER = 4


class FramingError(ValueError):
    """The bytes are not a whole, exact sequence of parts."""


def pack(parts: Sequence[bytes]) -> bytes:
    """Join parts so that `unpack` gives them back."""
    count = len(parts)
    return b"".join((struct.pack(f">{count + 1}I", count, *map(len, parts)), *parts))


def unpack(frame: bytes) -> list[bytes]:
    """Split what `pack` joined.

    Raises:
        FramingError: a length runs past the end, or bytes are left over.
    """
    if len(frame) < _INTEGER:
        raise FramingError("shorter than its part count")
    (count,) = struct.unpack_from(">I", frame)
    start = _INTEGER * (count + 1)
    if count > MAX_PARTS or start > len(frame):
        raise FramingError("part count does not fit")
    lengths = struct.unpack_from(f">{count}I", frame, _INTEGER)
    if start + sum(lengths) != len(frame):
        raise FramingError("part lengths do not add up")
    parts = []
    for length in lengths:
        parts.append(frame[start : start + length])
        start += length
    return parts


class Records:
    """The records in a stream of bytes, whatever pieces it comes in: u32 length, then the content.

    Args:
        longest: most bytes of one record.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = b""

    @staticmethod
    def wrap(content: bytes) -> bytes:
        """One record as the stream has it."""
        return struct.pack(">I", len(content)) + content

    def feed(self, piece: bytes) -> list[bytes]:
        """The records that are whole with this piece.

        Raises:
            FramingError: one claims to be longer than any may be.
        """
        stream = self._rest + piece if self._rest else piece
        found, start = [], 0
        while len(stream) - start >= _INTEGER:
            (length,) = struct.unpack_from(">I", stream, start)
            if length > self._longest:
                raise FramingError("a record longer than any may be")
            end = start + _INTEGER + length
            if end > len(stream):
                break
            found.append(stream[start + _INTEGER : end])
            start = end
        self._rest = stream[start:]
        return found


class Lines:
    """The lines in a stream of bytes, whatever pieces it comes in.

    Args:
        longest: most bytes of one line.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._begun: list[bytes] = []
        self._size = 0

    @staticmethod
    def wrap(content: bytes) -> bytes:
        """One line as the stream has it; the content holds no line break."""
        return content + b"\n"

    def feed(self, piece: bytes) -> list[bytes]:
        """The lines that are whole with this piece.

        Raises:
            FramingError: one is longer than any may be.
        """
        *ended, begun = piece.split(b"\n")
        if ended:
            ended[0] = b"".join((*self._begun, ended[0]))
            self._begun, self._size = [], 0
        self._begun.append(begun)
        self._size += len(begun)
        if max((self._size, *map(len, ended))) > self._longest:
            raise FramingError("a line longer than any may be")
        return ended
