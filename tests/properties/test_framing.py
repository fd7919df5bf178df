"""Records and lines of a stream, for any split of the stream."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.protocol.framing import FramingError, Lines, Records

CONTENTS = st.lists(st.binary(max_size=40), max_size=8)
TEXTS = st.lists(st.binary(max_size=40).map(lambda content: content.replace(b"\n", b"")), max_size=8)
CUTS = st.lists(st.integers(0, 400), max_size=12)


def _pieces(stream: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    for start, end in pairwise(places):
        yield stream[start:end]


@given(contents=CONTENTS, cuts=CUTS)
def test_what_was_sent_comes_whole_and_in_order(contents: list[bytes], cuts: list[int]) -> None:
    """Records are complete and in order, wherever the stream is split."""
    records = Records(max_bytes=40)
    stream = b"".join(map(records.wrap, contents))
    assert [whole for piece in _pieces(stream, cuts) for whole in records.feed(piece)] == contents


@given(contents=TEXTS, cuts=CUTS)
def test_lines_come_whole_and_in_order(contents: list[bytes], cuts: list[int]) -> None:
    """Lines are complete and in order, wherever the stream is split, and with empty lines."""
    lines = Lines(max_bytes=40)
    stream = b"".join(map(lines.wrap, contents))
    assert [whole for piece in _pieces(stream, cuts) for whole in lines.feed(piece)] == contents


@given(before=CONTENTS, over=st.integers(1, 2**32 - 41))
def test_a_record_over_the_limit_is_refused_by_its_length(before: list[bytes], over: int) -> None:
    """A record that is too long is refused before its content arrives."""
    stream = b"".join(map(Records.wrap, before)) + (40 + over).to_bytes(4, "big")
    with pytest.raises(FramingError):
        Records(max_bytes=40).feed(stream)


@given(before=TEXTS, cuts=CUTS, ended=st.booleans())
def test_a_line_over_the_limit_is_refused(before: list[bytes], cuts: list[int], ended: bool) -> None:
    """A line that is too long is refused, even before its end arrives."""
    lines = Lines(max_bytes=40)
    stream = b"".join(map(lines.wrap, before)) + b"x" * 41 + (b"\n" if ended else b"")
    with pytest.raises(FramingError):
        list(map(lines.feed, _pieces(stream, cuts)))
