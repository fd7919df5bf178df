"""Length-prefixed parts: how several byte strings travel as one.

Layout: u32 count, then count times u32 length, then the parts end to end; all integers big-endian.
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


def record(content: bytes) -> bytes:
    """One record of a stream: u32 length, then the content."""
    return struct.pack(">I", len(content)) + content


class Records:
    """The records in a stream of bytes, whatever pieces it comes in.

    Args:
        longest: most bytes of one record.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest
        self._rest = b""

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
