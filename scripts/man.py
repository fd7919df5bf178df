"""Writes man pages from the help of the commands: `p2pflows.1`, and `p2pflows-NAME.1` for each command.

click-man, the library for this, leaves out the examples, and takes lines that begin with a quote for macros.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click

from p2pflows import __version__
from p2pflows.cli import cli

ROOT = Path(__file__).parent.parent
_KEPT = "\b"
"""The line with which click begins a paragraph whose lines stay as they are."""


def main(folder: Path) -> int:
    """Write all pages into the `man1` of a folder, print where, and return the exit code."""
    target = folder / "man1"
    target.mkdir(parents=True, exist_ok=True)
    for name, text in pages(cli):
        (target / f"{name}.1").write_text(text, encoding="utf-8")
    print(target)
    return 0


def pages(program: click.Group) -> Iterator[tuple[str, str]]:
    """Yield the name and the text of each page; a group has one page, which describes its commands, too."""
    root = click.Context(program, info_name="p2pflows", help_option_names=["-h", "--help"])
    yield "p2pflows", _page(root, [])
    for name in program.list_commands(root):
        context = _child(root, name)
        yield f"p2pflows-{name}", _page(context, list(_children(context)))


def _child(parent: click.Context, name: str) -> click.Context:
    assert isinstance(parent.command, click.Group)
    command = parent.command.get_command(parent, name)
    assert command is not None
    return click.Context(command, info_name=name, parent=parent)


def _children(context: click.Context) -> Iterator[click.Context]:
    if isinstance(context.command, click.Group):
        for name in context.command.list_commands(context):
            yield _child(context, name)


def _page(context: click.Context, inner: list[click.Context]) -> str:
    name = context.command_path.replace(" ", "-")
    today = time.strftime("%Y-%m-%d", time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))))
    lines = [f'.TH "{name.upper()}" "1" "{today}" "p2pflows {__version__}" "User Commands"', ".SH NAME"]
    lines.append(f"{_escape(name)} \\- {_escape(context.command.get_short_help_str(100).removesuffix('.'))}")
    lines += [".SH SYNOPSIS", *_synopsis(context), ".SH DESCRIPTION", *_text(context.command.help)]
    lines += [".SH OPTIONS", *_options(context)]
    if not context.parent:
        lines += [".SH COMMANDS"]
        for child in _children(context):
            title = f"{_escape(context.command_path)}\\-{_escape(child.info_name or '')}"
            lines += [".TP", f".BR {title} (1)", _escape(child.command.get_short_help_str(100))]
    for child in inner:
        lines += [f'.SH "{_escape(child.command_path)}"', *_synopsis(child), ".PP", *_text(child.command.help)]
        lines += [*_options(child), ".PP", "Examples:", *_text(child.command.epilog)]
    lines += [".SH EXAMPLES", *_text(context.command.epilog)]
    if context.parent:
        lines += [".SH SEE ALSO", ".BR p2pflows (1)"]
    return "\n".join([*_without_empty_paragraphs(lines), ""])


def _without_empty_paragraphs(lines: list[str]) -> Iterator[str]:
    for before, line, after in zip(["", *lines], lines, [*lines[1:], ""], strict=False):
        if line != ".PP" or not (before.startswith(".SH") or after.startswith((".TP", ".SH", ".PP"))):
            yield line


def _synopsis(context: click.Context) -> list[str]:
    usage = " ".join(context.command.collect_usage_pieces(context))
    return [f".B {_escape(context.command_path)}", _escape(usage)]


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and record[1]:
            yield from (".TP", f".B {_escape(record[0])}", _escape(record[1]))


def _text(help_text: str | None) -> Iterator[str]:
    """Yield a help text as lines for man: its paragraphs, and those that keep their lines."""
    for paragraph in inspect.cleandoc(help_text or "").split("\n\n"):
        lines = paragraph.strip("\n").split("\n")
        if lines == [""]:
            continue
        yield ".PP"
        if lines[0].strip(" ") == _KEPT:
            yield from (".nf", *map(_escape, lines[2:] if lines[1] == "Examples:" else lines[1:]), ".fi")
        else:
            yield _escape(" ".join(lines))


def _escape(text: str) -> str:
    """Return a text as man shows it; a dot or a quote at its beginning is no macro."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("^", "\\(ha")
    escaped = escaped.replace("`", "\\(ga").replace("~", "\\(ti")
    return f"\\&{escaped}" if escaped.startswith(".") else escaped


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "man"))
