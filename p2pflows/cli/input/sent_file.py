"""Files that a command sends beside its message."""

from __future__ import annotations

import mimetypes
from pathlib import Path
from typing import Any

import click

import p2pflows
from p2pflows.cli.printing.progress import waiting
from p2pflows.home import expand_user

attach_option = click.option(
    "--attach", "attached", multiple=True, metavar="FILE", help="Send this file along; may be given several times."
)


def put_file(path: Path) -> dict[str, Any]:
    """Put a file into the daemon's store, and return the reference that a message needs.

    Raises:
        P2pflowsError: it cannot be read, is too large, or there is no room for it.
    """
    whole = path.absolute()
    with p2pflows.connect() as me, waiting(f"Copying {path}"):
        found = me.request("files_put", path=str(whole), type=mimetypes.guess_type(path.name)[0])
    return dict(found["file"])


def put_attached(names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Put the files of `--attach` into the daemon's store, and return their references."""
    return [put_file(expand_user(name)) for name in names]


def attach(names: tuple[str, ...]) -> dict[str, Any]:
    """Put the files of `--attach` into the daemon's store, and return them as parameters of a method."""
    return {"files": put_attached(names)} if names else {}
