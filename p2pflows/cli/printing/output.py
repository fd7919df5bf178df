"""Printing: data to stdout, messages for the person to stderr, and foreign text only with its controls escaped."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import click

from p2pflows.cli.printing import fields
from p2pflows.errors import P2pflowsError
from p2pflows.foreign_text import escape, escape_lines, quote

_GAP = "  "
_MAX_PHRASE_COLUMNS = 24
"""Width of a cell that holds a space."""
_MAX_WORD_COLUMNS = 64
"""Width of a cell without spaces; people type ids and names, so the longest of them fits."""
_MIN_TEXT_COLUMNS = 20
_MAX_TEXT_LINES = 20
_MAX_TEXT_CHARS = 4_000

_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Interrupted(P2pflowsError):
    """You pressed Ctrl-C; the hint says how to continue."""

    kind = "interrupted"
    exit_code = 130


def colour() -> bool | None:
    """Return whether the user wants colours (bixense.com/clicolors): yes, no, or None for only on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") not in ("", "0"):
        return True
    return False if os.environ.get("CLICOLOR") == "0" or os.environ.get("TERM") == "dumb" else None


def say(text: str) -> None:
    """Print a message for the person, to stderr; if nobody reads that any more, the command goes on."""
    try:
        click.echo(text, err=True, color=colour())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def say_error(error: P2pflowsError) -> None:
    """Print an error that does not end the command."""
    say(" ".join([f"Error [{error.kind}]:", *error_lines(error)]))


def error_lines(error: P2pflowsError) -> list[str]:
    """Return what an error says and what it advises; the words of another user are quoted, and give no advice."""
    if error.user:
        return [quote(display_name(error.name, error.user), error.message, error.hint)]
    return [escape_lines(text) for text in (error.message, error.hint) if text]


def style(text: str, *, fg: str | None = None, bold: bool = False) -> str:
    """Return the text in colour, if the user wants any; `click.echo` removes the colour where no terminal is."""
    return text if colour() is False else click.style(text, fg=fg, bold=bold)


def to_json(value: Any) -> str:
    """Return one line of JSON, with non-ASCII text as it is but without characters that could control a terminal."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def print_json(value: Any) -> None:
    """Print one line of JSON, in UTF-8 whatever the locale; or with `-o FIELD` that field of it, as text.

    Raises:
        UsageError: there is no such field.
    """
    context = click.get_current_context(silent=True)
    field = None if context is None else context.meta.get(fields.META)
    if field is None:
        click.echo(to_json(value).encode())
        return
    for found in fields.select(value, field):
        text = found if isinstance(found, str) else to_json(found)
        click.echo((escape_lines(text) if stdout_is_terminal() else text).encode(errors="backslashreplace"))


def print_result(result: Any, sentence: str, as_json: bool) -> None:
    """Report success: print the daemon's result as JSON for programs, or a sentence for people."""
    if as_json:
        print_json(result)
    else:
        say(sentence)


def short_id(message_id: str) -> str:
    """Return the last 8 digits of an id, which commands accept for the whole."""
    return escape(message_id[-8:])


def display_name(name: str | None, user: str) -> str:
    """Return a user's petname, or the start of the user id if there is none."""
    return escape(name or f"{user[:8]}…")


def clock_text(clock: dict[str, Any]) -> str:
    """Return how far a user's clock is from the one of this daemon, as `status` lists it."""
    side = "ahead" if clock["ahead_ms"] > 0 else "behind"
    return f"{display_name(clock['name'], clock['user'])} is {in_one_unit(abs(clock['ahead_ms']) / 1000)} {side}"


def stdout_is_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def number_of(count: int, noun: str) -> str:
    """Return a number with its noun, such as 1 note, or 2 notes."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def in_one_unit(seconds: float) -> str:
    """Return a length of time in its largest whole unit, such as 3m."""
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f}{unit}"
    return f"{max(seconds, 0):.0f}s"


def ago(moment: str) -> str:
    """Return how long ago a moment (RFC 3339) was."""
    return f"{in_one_unit(-_seconds_until(moment))} ago"


def time_left(moment: str) -> str:
    """Return how long it is until a moment (RFC 3339); `over` when it has passed."""
    return "over" if is_over(moment) else in_one_unit(_seconds_until(moment))


def is_over(moment: str) -> bool:
    """Whether a moment (RFC 3339) has passed."""
    return _seconds_until(moment) <= 0


def local_time(moment: str) -> str:
    """Return a moment (RFC 3339) in the time zone of this machine, with the date unless it is today."""
    at = datetime.fromisoformat(moment).astimezone()
    return at.strftime("%H:%M" if at.date() == datetime.now(UTC).astimezone().date() else "%Y-%m-%d %H:%M")


def _seconds_until(moment: str) -> float:
    return (datetime.fromisoformat(moment) - datetime.now(UTC)).total_seconds()


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows in aligned columns, with columns of numbers aligned to the right.

    On a terminal, the last column is wrapped to the remaining width. If too little remains, each cell gets a line of
    its own, after the name of its column. Elsewhere each row is one line, never cut.
    """
    on_terminal = stdout_is_terminal()
    cells = [[escape("" if cell is None else cell) for cell in row[:-1]] for row in rows]
    if on_terminal:
        cells = [[_fit_cell(cell) for cell in row] for row in cells]
    widths = [max(map(width, column)) for column in zip(head[:-1], *cells, strict=True)]
    are_numbers = [all(isinstance(row[i], int) for row in rows) for i in range(len(widths))]
    margin = sum(widths) + len(_GAP) * len(widths)
    texts = ["" if row[-1] is None else str(row[-1]) for row in rows]
    columns = shutil.get_terminal_size().columns - margin
    needed = max(width(escape(text)) for text in [head[-1], *texts])
    if on_terminal and columns < min(needed, _MIN_TEXT_COLUMNS):
        _print_blocks(head, [[*front, text] for front, text in zip(cells, texts, strict=True)])
        return

    def line(front: Sequence[str], last: str) -> str:
        padded = (_pad(*column) for column in zip(front, widths, are_numbers, strict=True))
        return _GAP.join([*padded, last]).rstrip()

    click.echo(style(line(head[:-1], head[-1]), bold=True))
    for front, text in zip(cells, texts, strict=True):
        first, *more = wrap(text, columns) if on_terminal else [escape(text)]
        click.echo(line(front, first))
        for continuation in more:
            click.echo(" " * margin + continuation)


def _print_blocks(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print each row as a block of lines, one for each cell that is not empty."""
    for number, row in enumerate(rows):
        if number:
            click.echo()
        _print_lines([(name, cell) for name, cell in zip(head, row, strict=True) if cell], wrap)


def _fit_cell(cell: str) -> str:
    return truncate(cell, _MAX_PHRASE_COLUMNS if " " in cell else _MAX_WORD_COLUMNS)


def print_facts(pairs: Iterable[tuple[str, str]]) -> None:
    """Print names and values in two columns, leaving out pairs without a value; on a terminal, values are wrapped."""
    on_terminal = stdout_is_terminal()
    _print_lines(
        [(name, value) for name, value in pairs if value], _fold_escaped if on_terminal else lambda value, _: [value]
    )


def _print_lines(pairs: Sequence[tuple[str, str]], fold_to: Callable[[str, int], list[str]]) -> None:
    """Print names and values in two columns.

    Args:
        pairs: the names and values.
        fold_to: breaks a value into lines of so many columns.
    """
    longest = max((width(name) for name, _ in pairs), default=0)
    columns = max(shutil.get_terminal_size().columns - longest - len(_GAP), 1)
    for name, value in pairs:
        first, *more = fold_to(value, columns)
        click.echo(f"{style(_pad(name, longest, is_number=False), bold=True)}{_GAP}{first}")
        for continuation in more:
            click.echo(" " * (longest + len(_GAP)) + continuation)


def draw_qr_code(text: str) -> None:
    """Draw a text as a QR code, in capitals, which make a smaller code."""
    import io

    import segno

    drawn = io.StringIO()
    segno.make(text.upper(), micro=False).terminal(drawn, border=2, compact=True)
    click.echo(drawn.getvalue())


def width(text: str) -> int:
    """Return how many columns of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in text
    )


def truncate(text: str, columns: int) -> str:
    """Return the text if it fits, else its beginning and an ellipsis."""
    if width(text) <= columns:
        return text
    while width(text) >= columns:
        text = text[:-1]
    return text + "…"


def fold(text: str, columns: int) -> list[str]:
    """Escape foreign text and break it into lines; a long word, such as a URL, stays whole."""
    return _fold_escaped(escape_lines(text), columns)


def _fold_escaped(text: str, columns: int) -> list[str]:
    """Break text into lines that is escaped, and may have colours."""
    lines: list[str] = []
    for paragraph in text.split("\n"):
        line = ""
        for piece in _unbreakable_pieces(paragraph, columns):
            if line and width(click.unstyle(line + piece.rstrip())) > columns:
                lines.append(line.rstrip())
                line = ""
            line += piece
        lines.append(line.rstrip())
    return lines


def wrap(text: str, columns: int) -> list[str]:
    """Escape foreign text and wrap it into a limited number of lines."""
    lines = fold(text[:_MAX_TEXT_CHARS], columns)
    if len(lines) > _MAX_TEXT_LINES or len(text) > _MAX_TEXT_CHARS:
        lines = [*lines[: _MAX_TEXT_LINES - 1], "… (for the whole text: --json)"]
    return lines


def _unbreakable_pieces(paragraph: str, columns: int) -> Iterable[str]:
    """Split after spaces, and in scripts without spaces between any two characters."""
    for word in re.findall(r"\S+\s*|\s+", paragraph):
        if word.isascii() or width(word) <= columns:
            yield word
        else:
            yield from word


def _pad(cell: str, columns: int, is_number: bool) -> str:
    space = " " * (columns - width(cell))
    return space + cell if is_number else cell + space
