"""Printing what the people and flows of a conversation say."""

from __future__ import annotations

import click

from p2pflows.cli.output import style
from p2pflows.foreign_text import escape, escape_lines


def print_speech(name: str, text: object) -> None:
    """Print a speaker and their text, with later lines indented so that none looks like another speaker's."""
    indented = escape_lines(text).replace("\n", "\n" + " " * (len(name) + 2))
    click.echo(f"{style(f'{name}:', bold=True)} {indented}")


def with_label(name: str, label: str) -> str:
    """Return an asker's name, followed by the label under which their flow knows the user whom it asks."""
    return f"{name} ({escape(label)})" if label else name
