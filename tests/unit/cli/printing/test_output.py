"""What commands print: JSON, escaped text, times and tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.cli.printing import output
from p2pflows.foreign_text import escape, escape_lines

EVIL = "\x1b[2J\x07\x9b31m\u202egnp.exe\r\x00"


def test_json_is_one_compact_line() -> None:
    """JSON is one line without spaces, with non-ASCII text as it is."""
    assert output.to_json({"human_input": "Grüße, 你好 👋\n"}) == '{"human_input":"Grüße, 你好 👋\\n"}'


@given(st.text())
def test_json_cannot_control_a_terminal(text: str) -> None:
    """For any text, the line has no control characters, can be encoded, and reads back the same."""
    line = output.to_json(text)
    line.encode()
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2028\u2066" for c in line)
    assert json.loads(line) == text


@given(st.text())
def test_escaped_text_cannot_control_a_terminal(text: str) -> None:
    """Foreign text becomes one printable line."""
    shown = escape(text + EVIL)
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u202e\u2028\u2066" for c in shown)
    shown.encode()


def test_escape_lines_keeps_line_breaks_only() -> None:
    """Line breaks stay, and other control characters are escaped."""
    assert escape_lines("one\n\ttwo\x1b[0m") == "one\n    two\\x1b[0m"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (7200, "2h"), (90_000, "1d"), (-5, "0s")],
)
def test_a_length_of_time_has_one_unit(seconds: float, shown: str) -> None:
    """Times are rounded down to one unit, and short enough for a column."""
    assert output.in_one_unit(seconds) == shown


def test_moments_are_relative_to_now() -> None:
    """A moment is printed as its distance from now."""
    now = datetime.now(UTC)
    assert output.ago((now - timedelta(minutes=3, seconds=5)).isoformat()) == "3m ago"
    assert output.time_left((now + timedelta(hours=2, seconds=5)).isoformat().replace("+00:00", "Z")) == "2h"
    assert output.time_left((now - timedelta(seconds=1)).isoformat()) == "over"


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide characters and numbers do not shift a column; a pipe gets whole rows without padding."""
    output.print_table(["NAME", "N", "TEXT"], [["bob", 5, "one\ntwo"], ["日本", 12345, None], ["e\u0301", 1, "x"]])
    rows = capsys.readouterr().out.splitlines()
    assert rows == ["NAME      N  TEXT", "bob       5  one\\ntwo", "日本  12345", "e\u0301         1  x"]


def test_a_terminal_wraps_the_last_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal, long text wraps within its column, no line is wider than the screen, and long phrases are cut."""
    monkeypatch.setattr(output, "stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    output.print_table(["NAME", "TEXT"], [["n n" * 22, "word " * 40], ["bob", "你好" * 40]])
    rows = capsys.readouterr().out.splitlines()
    assert all(output.width(row) <= 60 for row in rows)
    assert rows[1].startswith(("n n" * 22)[:23] + "…  word word")
    assert rows[2].startswith(" " * 26 + "word")
    assert "".join(rows).replace(" ", "").count("你好") == 40


def test_a_terminal_shows_ids_and_names_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cell without spaces, such as the id of an instance, is not cut, even on a narrow screen."""
    monkeypatch.setattr(output, "stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "60")
    output.print_table(["INSTANCE", "ENDPOINT", "FOR"], [["0123" * 8, "e" * 64, "me"]])
    assert capsys.readouterr().out.splitlines() == [
        f"INSTANCE  {'0123' * 8}",
        f"ENDPOINT  {'e' * 64}",
        "FOR       me",
    ]


def test_a_narrow_terminal_gets_a_block_for_each_row(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No line is wider than the screen, empty cells are left out, and foreign text controls nothing."""
    monkeypatch.setattr(output, "stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    row = ["61ca0a3b", "bob", 3, "arrived at the other side", "word " * 12 + EVIL]
    output.print_table(["ID", "FROM", "N", "STATE", "TEXT"], [row, ["0739f151", "bob", 0, None, "Hi"]])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "ID     61ca0a3b",
        "FROM   bob",
        "N      3",
        "STATE  arrived at the other si…",
        "TEXT   " + ("word " * 6).rstrip(),
    ]
    assert lines[-5:] == ["", "ID    0739f151", "FROM  bob", "N     0", "TEXT  Hi"]
    assert all(output.width(line) <= 40 for line in lines if "\\x1b" not in line)
    assert not any("\x1b" in line for line in lines)


def test_facts_are_wrapped_under_each_other(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A colour takes no room; a pipe gets one line for each."""
    facts = [("home", "here"), ("problem", "\x1b[31m" + "word " * 9 + "end\x1b[0m"), ("none", "")]
    output.print_facts(facts)
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(output, "stdout_is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    output.print_facts(facts)
    lines = [click.unstyle(line) for line in capsys.readouterr().out.splitlines()]
    assert lines == ["home     here", "problem  word word word word word word", "         word word word end"]


def test_a_long_word_stays_whole_and_a_long_text_does_not() -> None:
    """A URL can be copied from a wrapped cell; a very long text is cut, with a note."""
    url = "https://example.org/" + "a" * 100
    assert output.wrap(f"see {url} now\n\n {url}", 40) == ["see", url, "now", "", "", url]
    flood = output.wrap("line\n" * 10_000, 40)
    assert len(flood) <= 20
    assert "--json" in flood[-1]


def test_a_user_without_petname_is_shown_by_id() -> None:
    """A user without a petname is shown by the start of the user id."""
    assert output.display_name(None, "ab" * 32) == "abababab…"
    assert output.display_name("bob", "ab" * 32) == "bob"
