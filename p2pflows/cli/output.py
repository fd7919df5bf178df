"""What commands print: data on stdout, talk on stderr, and nothing raw that a stranger wrote."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from p2pflows.errors import P2pflowsError

_GAP = "  "
_CELL_COLUMNS = 24
_WORD_COLUMNS = 64
"""An id or a name is there to be typed, so the longest of them fits."""
_TEXT_COLUMNS = 20
_MAX_TEXT_LINES = 20
_MAX_TEXT_CHARS = 4_000

# Control characters, and those that reorder or hide what stands beside them.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Interrupted(P2pflowsError):
    """You pressed Ctrl-C; the hint says how to go on."""

    kind = "interrupted"
    exit_code = 130


def say(text: str) -> None:
    """Talk to the person, on stderr."""
    click.echo(text, err=True)


def complain(error: P2pflowsError) -> None:
    """Say what went wrong in the middle of a talk that goes on."""
    say(block(f"Error [{error.kind}]: {error.message} {error.hint}".rstrip()))


def style(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    """The text in colour, which `click.echo` takes off again where no terminal is; NO_COLOR means never."""
    return text if os.environ.get("NO_COLOR") else click.style(text, fg=fg, bold=bold)


def compact(value: Any) -> str:
    """One JSON document on one line, text as it is except for what a terminal could take for an order."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def document(value: Any) -> None:
    """Print data for a program: one JSON document in UTF-8, whatever the locale."""
    click.echo(compact(value).encode())


def done(result: Any, sentence: str, as_json: bool) -> None:
    """Say that a command has worked: the daemon's answer for programs, a sentence for people."""
    if as_json:
        document(result)
    else:
        say(sentence)


def plain(value: object) -> str:
    """Somebody's text on one line, with what could steer a terminal made visible."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def block(value: object) -> str:
    """Somebody's text on its own lines, otherwise like `plain`."""
    return "\n".join(plain(line.expandtabs(4)) for line in str(value).split("\n"))


def short(message_id: str) -> str:
    """The end of an id, which commands take for the whole."""
    return plain(message_id[-8:])


def who(name: str | None, user: str) -> str:
    """A petname, or the start of a user id that has none."""
    return plain(name or f"{user[:8]}…")


def is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def span(seconds: float) -> str:
    """A length of time in one unit."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def ago(moment: str) -> str:
    """How long a moment (RFC 3339) has passed."""
    return f"{span(-_seconds_until(moment))} ago"


def left(moment: str) -> str:
    """How far a moment (RFC 3339) is off."""
    seconds = _seconds_until(moment)
    return span(seconds) if seconds > 0 else "over"


def _seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in columns that line up, numbers to the right.

    On a terminal the last column is folded to the width there is; elsewhere every row is one line, and whole.
    """
    folds = is_terminal()
    cells = [[plain("" if cell is None else cell) for cell in row[:-1]] for row in rows]
    if folds:
        cells = [[cut(cell, _CELL_COLUMNS if " " in cell else _WORD_COLUMNS) for cell in row] for row in cells]
    widths = [max(map(width, column)) for column in zip(head[:-1], *cells, strict=True)]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(widths))]
    margin = sum(widths) + len(_GAP) * len(widths)
    columns = max(shutil.get_terminal_size().columns - margin, _TEXT_COLUMNS)

    def line(front: Sequence[str], last: str) -> str:
        padded = (_pad(*column) for column in zip(front, widths, right, strict=True))
        return _GAP.join([*padded, last]).rstrip()

    click.echo(style(line(head[:-1], head[-1]), bold=True))
    for front, row in zip(cells, rows, strict=True):
        text = "" if row[-1] is None else str(row[-1])
        first, *more = fold(text, columns) if folds else [plain(text)]
        click.echo(line(front, first))
        for rest in more:
            click.echo(" " * margin + rest)


def facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns; a pair without a value is left out."""
    shown = [(name, value) for name, value in pairs if value]
    longest = max((len(name) for name, _ in shown), default=0)
    for name, value in shown:
        click.echo(f"{style(name.ljust(longest), bold=True)}{_GAP}{value}")


def width(text: str) -> int:
    """How many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def cut(text: str, columns: int) -> str:
    """The text, or as much of it as fits with an ellipsis."""
    if width(text) <= columns:
        return text
    while width(text) >= columns:
        text = text[:-1]
    return text + "…"


def fold(text: str, columns: int) -> list[str]:
    """Somebody's text as a few lines of at most so many columns; a long word, such as a URL, stays whole."""
    lines: list[str] = []
    for paragraph in block(text[:_MAX_TEXT_CHARS]).split("\n"):
        line = ""
        for word in _pieces(paragraph, columns):
            if line and width(line) + width(word.rstrip()) > columns:
                lines.append(line.rstrip())
                line = ""
            line += word
        lines.append(line.rstrip())
    if len(lines) > _MAX_TEXT_LINES or len(text) > _MAX_TEXT_CHARS:
        lines = [*lines[: _MAX_TEXT_LINES - 1], "… (with --json you see all of it)"]
    return lines


def _pieces(paragraph: str, columns: int) -> Iterable[str]:
    """Where a line may break: after spaces, and between the characters of scripts that have none."""
    for word in re.findall(r"\S+\s*|\s+", paragraph):
        if word.isascii() or width(word) <= columns:
            yield word
        else:
            yield from word


def _pad(cell: str, columns: int, is_number: bool) -> str:
    space = " " * (columns - width(cell))
    return space + cell if is_number else cell + space
