"""Records of a stream, whatever pieces it comes in."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.framing import FramingError, Records, record

CONTENTS = st.lists(st.binary(max_size=40), max_size=8)


@given(contents=CONTENTS, cuts=st.lists(st.integers(0, 400), max_size=12))
def test_what_was_sent_comes_whole_and_in_order(contents: list[bytes], cuts: list[int]) -> None:
    """Wherever the stream is cut."""
    stream = b"".join(map(record, contents))
    places = sorted({0, len(stream), *(min(cut, len(stream)) for cut in cuts)})
    records = Records(longest=40)
    found = [whole for start, end in pairwise(places) for whole in records.feed(stream[start:end])]
    assert found == contents


@given(before=CONTENTS, over=st.integers(1, 2**32 - 41))
def test_a_record_longer_than_any_may_be_is_refused_by_its_length(before: list[bytes], over: int) -> None:
    """Before any of it has come."""
    stream = b"".join(map(record, before)) + (40 + over).to_bytes(4, "big")
    with pytest.raises(FramingError):
        Records(longest=40).feed(stream)
