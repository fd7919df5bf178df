"""The files of a module, known by their hashes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from p2pflows.errors import P2pflowsError

CHANGED, MISSING, EXTRA = "changed", "missing", "extra"
BYTECODE = "__pycache__"

_LEFT_OUT = (".git", BYTECODE, "flow_modules")
_LINK = "-> "
_MAX_SHOWN = 5
_TELL = "Tell its author."


class ContentDiffers(P2pflowsError):
    """What came is not what was promised: the files differ from the lock, or from what their server told."""

    kind = "content_differs"


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file below a folder, by path; of a symbolic link, its target.

    Python's own `__pycache__` is no part of a module.
    """
    return {path.relative_to(folder).as_posix(): _hash(path) for path in sorted(_files(folder))}


def total(files: Mapping[str, str]) -> str:
    """One SHA-256 over all paths and hashes."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def differences(there: Mapping[str, str], locked: Mapping[str, str]) -> dict[str, str]:
    """What is not as it was locked, by path: `changed`, `missing` or `extra`."""
    found = {path: MISSING for path in locked if path not in there}
    found |= {path: EXTRA for path in there if path not in locked}
    found |= {path: CHANGED for path in there if locked.get(path, there[path]) != there[path]}
    return dict(sorted(found.items()))


def told(differing: Mapping[str, str]) -> str:
    """Differences in words, the first few by name."""
    shown = [f"{path} ({what})" for path, what in list(differing.items())[:_MAX_SHOWN]]
    more = len(differing) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def git_blob(path: Path) -> str:
    """The name that git gives to a file's content."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(folder: Path, to: Path) -> None:
    """Copy a folder, without its git history, bytecode and its own flow modules.

    Raises:
        ContentDiffers: something in it is neither file, folder nor link.
    """
    left_out = shutil.ignore_patterns(*_LEFT_OUT)
    shutil.copytree(folder, to, symlinks=True, ignore=left_out, dirs_exist_ok=True, copy_function=_copy_file)


def purge(folder: Path) -> None:
    """Take away what no module may bring: git's own folder, and bytecode, which no hash would cover.

    Raises:
        ContentDiffers: a symbolic link leads out of the folder, something is neither file nor folder, or a name is
            no text.
    """
    shutil.rmtree(folder / ".git", ignore_errors=True)
    for at, folders, files in os.walk(folder):
        if BYTECODE in (*folders, *files):
            found = Path(at, BYTECODE)
            shutil.rmtree(found) if found.is_dir() and not found.is_symlink() else found.unlink()
    inside = folder.resolve()
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        _check_text(name, name)
        if path.is_symlink():
            _check_link(path, name, inside)
        elif not path.is_file():
            raise ContentDiffers(f"{name} is no file.", _TELL)


def _check_link(path: Path, name: str, inside: Path) -> None:
    target = path.readlink()
    _check_text(str(target), name)
    try:
        leads_out = target.is_absolute() or not path.resolve().is_relative_to(inside)
    except RuntimeError as error:  # what Python says of a circle, up to 3.12
        raise ContentDiffers(f"The link {name} leads in a circle.", _TELL) from error
    if leads_out:
        raise ContentDiffers(f"The link {name} leads out of the module.", _TELL)


def _check_text(text: str, name: str) -> None:
    """Refuse what flow.lock, a file in UTF-8, could not hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ContentDiffers(f"The name of {name!r}, or where it leads, is no UTF-8.", _TELL) from error


def _copy_file(path: str, to: str) -> str:
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ContentDiffers(f"{path} is no file, so it cannot be copied.", "Move it out of the module's folder.")
    return shutil.copy2(path, to)


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, links to folders included."""
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != BYTECODE]
        yield from (Path(at, name) for name in files)
        yield from (Path(at, name) for name in folders if Path(at, name).is_symlink())


def _hash(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"{_LINK}{path.readlink()}"
    return sha256(path) if stat.S_ISREG(mode) else "no file"
