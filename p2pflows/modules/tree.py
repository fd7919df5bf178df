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

_BYTECODE = "__pycache__"
_LEFT_OUT = (".git", _BYTECODE, "flow_modules")
_LINK = "-> "
_SHOWN = 5


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
    shown = [f"{path} ({what})" for path, what in list(differing.items())[:_SHOWN]]
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
    """Copy a folder, without its git history, bytecode and its own flow modules."""
    shutil.copytree(folder, to, symlinks=True, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)


def purge(folder: Path) -> None:
    """Take away what no module may bring: git's own folder, and bytecode, which no hash would cover.

    Raises:
        ContentDiffers: a symbolic link leads out of the folder, or something is neither file nor folder.
    """
    shutil.rmtree(folder / ".git", ignore_errors=True)
    for found in list(folder.rglob(_BYTECODE)):
        found.unlink() if found.is_symlink() or found.is_file() else shutil.rmtree(found)
    inside = folder.resolve()
    for path in _files(folder):
        name = path.relative_to(folder)
        if path.is_symlink():
            if path.readlink().is_absolute() or not path.resolve().is_relative_to(inside):
                raise ContentDiffers(f"The link {name} leads out of the module.", "Tell its author.")
        elif not path.is_file():
            raise ContentDiffers(f"{name} is no file.", "Tell its author.")


def _files(folder: Path) -> Iterator[Path]:
    """Everything below a folder that is no folder, links to folders included."""
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != _BYTECODE]
        yield from (Path(at, name) for name in files)
        yield from (Path(at, name) for name in folders if Path(at, name).is_symlink())


def _hash(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"{_LINK}{path.readlink()}"
    return sha256(path) if stat.S_ISREG(mode) else "no file"
