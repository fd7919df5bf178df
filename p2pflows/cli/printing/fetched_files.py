"""The files that came with an answer: fetched, and shown with the path where they lie."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import p2pflows
from p2pflows.cli.printing.output import truncate
from p2pflows.cli.printing.sizes import as_size
from p2pflows.errors import FileLost, UsageError
from p2pflows.foreign_text import escape
from p2pflows.protocol import file_reference
from p2pflows.protocol.file_reference import MARK, is_reference

POLL_S = 0.5
"""How often the terminal shows how far a file has got."""


def fetch_files(me: p2pflows.Client, data: Any, save: Path | None = None) -> Any:
    """Fetch the files that data refers to, and return the data with the `path` of each.

    Args:
        me: the client.
        data: the data.
        save: the folder to which they are copied under their names; None leaves them in the store.

    Raises:
        P2pflowsError: one cannot be fetched, or not be copied.
    """
    if isinstance(data, list):
        return [fetch_files(me, item, save) for item in data]
    if not isinstance(data, dict):
        return data
    if is_reference(data):
        try:
            reference = file_reference.read(data)
        except ValueError:  # what is malformed is data, and its name may be a path
            return data
        path = fetch(me, reference.id)
        return {MARK: {**data[MARK], "path": str(path if save is None else copy_to(path, save, reference.name))}}
    return {key: fetch_files(me, item, save) for key, item in data.items()}


def fetch(me: p2pflows.Client, file_id: str) -> Path:
    """Fetch a file, show on a terminal how far it has got, and return where it lies.

    Raises:
        P2pflowsError: it cannot be fetched.
    """
    show = _progress()
    try:
        while True:
            found = me.request("files_get", id=file_id, timeout=POLL_S)
            if found["path"] is not None:
                return Path(found["path"])
            if found["state"] != "wanted":
                raise FileLost(f"The file {found['name']!r} is not here.", "See: p2pflows files list")
            show(found)
    finally:
        show(None)


def copy_to(path: Path, folder: Path, name: str) -> Path:
    """Copy a file into a folder, under a name that is free there, and return the path of the copy.

    Raises:
        UsageError: it cannot be written.
    """
    stem, suffix = Path(name).stem, Path(name).suffix
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(10_000):
            target = folder / (name if not number else f"{stem}-{number}{suffix}")
            try:
                with path.open("rb") as source, target.open("xb") as copy:
                    shutil.copyfileobj(source, copy, 1_048_576)
            except FileExistsError:
                continue
            return target
    except OSError as error:
        raise UsageError(f"Cannot write to {folder}: {error.strerror or error}.", "Check the folder.") from error
    raise UsageError(f"{folder} has too many files that are called {name!r}.", "Choose another folder.")


def _progress() -> Callable[[dict[str, Any] | None], None]:
    """Return what shows a line with how far a file has got; nothing if stderr is no terminal."""
    if sys.stderr is None or not sys.stderr.isatty():
        return lambda _found: None
    shown = False

    def show(found: dict[str, Any] | None) -> None:
        nonlocal shown
        if found is None:
            if shown:
                sys.stderr.write("\r\x1b[K")
        else:
            shown = True
            share = found["done"] / found["size"] if found["size"] else 1.0
            bar = "#" * int(20 * share)
            line = f"{escape(found['name'])} [{bar:20}] {as_size(found['done'])} of {as_size(found['size'])}"
            if found["error"]:
                line += f" ({found['error']})"
            sys.stderr.write(f"\r{truncate(line, shutil.get_terminal_size().columns - 1)}\x1b[K")
        sys.stderr.flush()

    return show
