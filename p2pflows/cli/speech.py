"""Who says what in a conversation."""

from __future__ import annotations

import click

from p2pflows.cli.output import block, plain, style


def speech(name: str, text: object) -> None:
    """Print what somebody says; later lines are indented, so that none looks like another speaker."""
    indented = block(text).replace("\n", "\n" + " " * (len(name) + 2))
    click.echo(f"{style(f'{name}:', bold=True)} {indented}")


def labelled(name: str, label: str) -> str:
    """Who asks, and what their flow calls the one whom it asks."""
    return f"{name} ({plain(label)})" if label else name
