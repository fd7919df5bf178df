"""Printing what the people and flows of a conversation say."""

from __future__ import annotations

import shutil
from typing import Any

import click

from p2pflows.cli.printing.output import display_name, fold, stdout_is_terminal, style
from p2pflows.foreign_text import escape, escape_lines

_MIN_COLUMNS = 30
_NO_BREAK = "\ue000"
"""Stands for a space where no line may be broken."""


def print_speech(name: str, text: object) -> None:
    """Print a speaker and their text, with later lines indented so that none looks like another speaker's."""
    indented = escape_lines(text).replace("\n", "\n" + " " * (len(name) + 2))
    click.echo(f"{style(f'{name}:', bold=True)} {indented}")


def speech(who: str, verb: str, text: str, mark: str = "") -> str:
    """Return what somebody says, with later lines indented so that none looks like another speaker's."""
    indent = " " * (len(who) + 2)
    if stdout_is_terminal():
        # The first line has less room: the name takes the place of a first word, which no break divides.
        head = f"{who}{verb}:".replace(" ", _NO_BREAK)
        first, *more = fold(f"{head} {text}{mark}", _columns() - len(indent))
        lines = [style(who, bold=True) + first.replace(_NO_BREAK, " ")[len(who) :], *more]
    else:
        first, *more = escape_lines(text + mark).split("\n")
        lines = [f"{style(who, bold=True)}{verb}: {first}", *more]
    return ("\n" + indent).join(lines)


def aside(text: str) -> str:
    """Return what a chat says about itself, folded to the terminal."""
    return style("\n".join(fold(text, _columns())), fg="bright_black")


def _columns() -> int:
    return max(shutil.get_terminal_size().columns - 1, _MIN_COLUMNS)


def with_label(name: str, label: str) -> str:
    """Return an asker's name, followed by the label under which their flow knows the user whom it asks."""
    return f"{name} ({escape(label)})" if label else name


def asker(prompt: dict[str, Any]) -> str:
    """Return who asks a question: the name, the flow if it is not that user in person, and its label."""
    name = display_name(prompt["name"], prompt["from"])
    by = f", flow {escape(prompt['flow'])}" if prompt.get("flow") else ""
    return with_label(f"{name}{by}", prompt.get("label", ""))
