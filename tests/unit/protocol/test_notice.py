"""Notices: how much of what a peer says is read, and what is no notice."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pflows.protocol.notice import (
    MAX_NOTICE_BYTES,
    MAX_PROGRESS_LINES,
    MAX_RECEIPTS,
    MAX_STREAM_LINES,
    Notice,
)

BOB, ANN = "b" * 64, "a" * 64


def ids(count: int, start: int = 0) -> list[str]:
    """Return message ids."""
    return [f"{number:032x}" for number in range(start, start + count)]


def body(to: str = BOB, **fields: Any) -> bytes:
    """Return the body of a notice."""
    return json.dumps({"to": to, **fields}, separators=(",", ":")).encode()


def filled(size: int, **fields: Any) -> bytes:
    """Return the body of a notice that has so many bytes, by a field at its end that nobody reads."""
    empty = len(body(**fields, fill=""))
    return body(**fields, fill="x" * (size - empty))


def test_the_notices_of_one_bundle_are_one() -> None:
    """All lines of all notices count, and repetitions once."""
    notice = Notice.from_bodies([body(received=ids(2)), body(received=ids(2, 1), gaps=[["x", 1, 0]])])
    assert notice.received == ids(3)
    assert notice.gaps == [("x", 1, 0)]


def test_notices_for_different_users_are_no_notice() -> None:
    """A bundle cannot carry what is meant for somebody else beside what is meant for its recipient."""
    with pytest.raises(ValueError, match="different users"):
        Notice.from_bodies([body(), body(ANN)])


def test_a_bundle_without_a_body_is_no_notice() -> None:
    """There is nothing to read in it."""
    with pytest.raises(ValueError, match=r"."):
        Notice.from_bodies([])


def test_all_lists_of_receipts_share_one_limit() -> None:
    """The first lists are read first, and the rest comes again."""
    notice = Notice.from_bodies([body(received=ids(600), held=ids(600), waiting=ids(9))])
    assert (len(notice.received), len(notice.held), len(notice.waiting)) == (600, MAX_RECEIPTS - 600, 0)


def test_lists_of_streams_and_progress_are_bounded() -> None:
    """Each list of streams, and that of progress, has a limit of its own."""
    streams = [[f"e{number}", 1, 0] for number in range(MAX_STREAM_LINES + 50)]
    progress = [[message_id, {}] for message_id in ids(MAX_PROGRESS_LINES + 50)]
    notice = Notice.from_bodies([body(gaps=streams, skips=streams, progress=progress)])
    assert (len(notice.gaps), len(notice.skips)) == (MAX_STREAM_LINES, MAX_STREAM_LINES)
    assert len(notice.progress) == MAX_PROGRESS_LINES


def test_the_last_line_about_a_stream_counts() -> None:
    """A stream is named once in each list."""
    assert Notice.from_bodies([body(skips=[["x", 1, 3], ["x", 1, 7]])]).skips == [("x", 1, 7)]


def test_what_fits_exactly_is_read_and_the_next_notice_is_not() -> None:
    """The limit is for all notices of a bundle together."""
    notice = Notice.from_bodies([filled(MAX_NOTICE_BYTES, received=ids(1)), body(held=ids(1, 9))])
    assert (notice.received, notice.held) == (ids(1), [])


def test_the_beginning_of_a_notice_that_is_too_long_is_read() -> None:
    """The line that is cut off is lost, and so is everything behind it, whatever it is."""
    most = ids(3_000)
    notice = Notice.from_bodies([body(gaps=[["x", 1, 0]], received=most)])
    assert notice.gaps == [("x", 1, 0)]
    assert notice.received == most[: len(notice.received)]
    assert len(notice.received) == MAX_RECEIPTS
    tail = Notice.from_bodies([body(received=ids(1), fill="x" * MAX_NOTICE_BYTES, held=ids(1, 9))])
    assert (tail.received, tail.held) == (ids(1), [])
    twice = body(received=ids(1), fill="x" * MAX_NOTICE_BYTES)[:-1] + b',"to":"' + ANN.encode() + b'"}'
    assert Notice.from_bodies([twice]).to == BOB


@pytest.mark.parametrize("last", [{"a": "x" * MAX_NOTICE_BYTES}, "x" * MAX_NOTICE_BYTES, [["x" * MAX_NOTICE_BYTES]]])
def test_a_notice_that_is_cut_off_in_something_unknown_is_read(last: Any) -> None:
    """The value in which a notice that is too long is cut off may have any form."""
    assert Notice.from_bodies([body(received=ids(1), later=last)]).received == ids(1)


@pytest.mark.parametrize(
    "text",
    [
        b"[" + b"1," * MAX_NOTICE_BYTES + b"1]",
        b"{" + b" " * MAX_NOTICE_BYTES + b"}",
        b'"' + b"x" * MAX_NOTICE_BYTES + b'"',
        b'{"to":1,"to":2}',
        b'{"to":"' + BOB.encode() + b'","held":[],"held":["' + b"0" * 32 + b'"]}',
        b"{}",
        b"",
    ],
    ids=["list", "empty", "text", "twice", "two lists", "nobody", "nothing"],
)
def test_what_is_no_notice_is_refused(text: bytes) -> None:
    """A body that is no object, or that does not say for whom it is, is refused whole, however long it is."""
    with pytest.raises(ValueError, match=r"."):
        Notice.from_bodies([text])
