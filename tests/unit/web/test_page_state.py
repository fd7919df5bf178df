"""What the page's process prints is read by its daemon, and whatever else is printed does no harm."""

from __future__ import annotations

import pytest

from p2pflows.web.page_state import MAX_CHARS, PageState


def test_what_is_said_is_read() -> None:
    """In one line of a bounded length."""
    for state in (PageState(), PageState(url="http://x"), PageState(problem="a\nb", next="c")):
        assert PageState.read(state.line().encode()) == state
        assert state.line().count("\n") == 1
    long = PageState.read(PageState(problem="\u202e" * 100_000).line().encode())
    assert long is not None
    assert len(long.problem or "") == MAX_CHARS


@pytest.mark.parametrize("line", [b"", b"Warning: x\n", b"{}\n", b"[]\n", b'{"url": 1}\n', b"\xff\n"])
def test_what_is_no_report_is_passed_over(line: bytes) -> None:
    """As a library may print something."""
    assert PageState.read(line) is None
