"""Frames about files: what is written is read again, and anything else is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.protocol.file_frames import (
    MAX_HEADER_BYTES,
    MAX_PIECE_BYTES,
    Fetched,
    Frame,
    NoRoom,
    NotHere,
    Piece,
    Want,
    pack,
    unpack,
)

FILE = "0" * 32


@pytest.mark.parametrize(
    ("frame", "content"),
    [
        (Want(file=FILE, start=0, end=10, n=3), b""),
        (Piece(file=FILE, start=5, n=3), b"abc"),
        (NotHere(file=FILE), b""),
        (NoRoom(file=FILE), b""),
        (Fetched(file=FILE), b""),
    ],
)
def test_a_frame_is_read_as_it_was_written(frame: Frame, content: bytes) -> None:
    """Also with fields of a later version."""
    bodies = pack(frame, content)
    assert unpack(bodies) == (frame, content)
    assert unpack([bodies[0][:-1] + b',"later":1}', *bodies[1:]]) == (frame, content)


@pytest.mark.parametrize(
    "bodies",
    [
        [b"{}"],
        [b"[]"],
        [b"\xff"],
        [b'{"op":"give","file":"%s"}' % FILE.encode()],
        [b'{"op":"want","file":"x","start":0,"end":1}'],
        [b'{"op":"want","file":"%s","start":-1,"end":1}' % FILE.encode()],
        [b'{"op":"want","file":"%s","start":0.5,"end":1}' % FILE.encode()],
        [b'{"op":"none","op":"done","file":"%s"}' % FILE.encode()],
        [pack(NotHere(file=FILE))[0], b"x"],
        [pack(Piece(file=FILE, start=0))[0]],
        [pack(Piece(file=FILE, start=0))[0], b""],
        [pack(Piece(file=FILE, start=0))[0], b"x", b"y"],
        [pack(Piece(file=FILE, start=0))[0], bytes(MAX_PIECE_BYTES + 1)],
        [pack(NotHere(file=FILE))[0] + b" " * MAX_HEADER_BYTES],
    ],
)
def test_anything_else_is_refused(bodies: list[bytes]) -> None:
    """Other operations, wrong fields, a wrong number of bodies, and what is too large."""
    with pytest.raises(ValueError, match=r"."):
        unpack(bodies)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=3))
def test_no_bytes_raise_anything_else(bodies: list[bytes]) -> None:
    """Whatever a peer seals."""
    with contextlib.suppress(ValueError):
        unpack(bodies)
