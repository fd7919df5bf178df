"""Byte strings joined into one frame, and records or lines read from a stream.

A frame is a u32 count, then `count` u32 lengths, then the parts end to end. All integers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

MAX_PARTS = 65_536
_INTEGER = 4


class FramingError(ValueError):
    """The bytes are not exactly one frame, or a record or line is too long."""


def pack(parts: Sequence[bytes], before: bytes = b"") -> bytes:
    """Join parts into one frame, behind some other bytes."""
    count = len(parts)
    return b"".join((before, struct.pack(f">{count + 1}I", count, *map(len, parts)), *parts))


def unpack(frame: bytes, max_parts: int = MAX_PARTS, start: int = 0) -> list[bytes]:
    """Return the parts of a frame.

    Args:
        frame: the bytes.
        max_parts: how many parts it may have.
        start: where it begins in the bytes.

    Raises:
        FramingError: the lengths do not add up to the frame, or it has too many parts.
    """
    if len(frame) < start + _INTEGER:
        raise FramingError("shorter than its part count")
    (count,) = struct.unpack_from(">I", frame, start)
    first = start + _INTEGER
    start = first + _INTEGER * count
    if count > max_parts or start > len(frame):
        raise FramingError("part count does not fit")
    lengths = struct.unpack_from(f">{count}I", frame, first)
    if start + sum(lengths) != len(frame):
        raise FramingError("part lengths do not add up")
    parts = []
    for length in lengths:
        parts.append(frame[start : start + length])
        start += length
    return parts


class Records:
    """Splits a stream of bytes into records, each a u32 length and then the content.

    Args:
        max_bytes: most bytes of one record.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = b""

    @staticmethod
    def wrap(content: bytes) -> bytes:
        """Return the bytes that carry one record in the stream."""
        return struct.pack(">I", len(content)) + content

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece of the stream, and return the records that it completes.

        Raises:
            FramingError: a record claims to be longer than `max_bytes`.
        """
        stream = self._rest + piece if self._rest else piece
        found, start = [], 0
        while len(stream) - start >= _INTEGER:
            (length,) = struct.unpack_from(">I", stream, start)
            if length > self._max_bytes:
                raise FramingError(f"a record of {length} bytes; at most {self._max_bytes} are allowed")
            end = start + _INTEGER + length
            if end > len(stream):
                break
            found.append(stream[start + _INTEGER : end])
            start = end
        self._rest = stream[start:]
        return found


class Lines:
    """Splits a stream of bytes into lines.

    Args:
        max_bytes: most bytes of one line.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._unfinished: list[bytes] = []
        self._size = 0

    @staticmethod
    def wrap(content: bytes) -> bytes:
        """Return the bytes that carry one line in the stream; the content must hold no line break."""
        return content + b"\n"

    def feed(self, piece: bytes) -> list[bytes]:
        """Take the next piece of the stream, and return the lines that it completes.

        Raises:
            FramingError: a line is longer than `max_bytes`.
        """
        *complete, unfinished = piece.split(b"\n")
        if complete:
            complete[0] = b"".join((*self._unfinished, complete[0]))
            self._unfinished, self._size = [], 0
        self._unfinished.append(unfinished)
        self._size += len(unfinished)
        if max((self._size, *map(len, complete))) > self._max_bytes:
            raise FramingError(f"a line of more than {self._max_bytes} bytes")
        return complete
