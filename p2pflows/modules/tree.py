"""The files of a module: hash, compare, copy and check them."""

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

_NOT_COPIED = (".git", BYTECODE, "flow_modules")
_LINK = "-> "
_MAX_SHOWN = 5
_AUTHOR_HINT = "Report this to the author of the module."


class ContentDiffers(P2pflowsError):
    """The files differ from the lock or from what their server announced, or a module may not contain them."""

    kind = "content_differs"


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file in a folder, by path; for a symbolic link, its target.

    Python's `__pycache__` is not part of a module.
    """
    return {path.relative_to(folder).as_posix(): _hash(path) for path in sorted(_files(folder))}


def total(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over all paths and hashes."""
    return hashlib.sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def differences(present: Mapping[str, str], locked: Mapping[str, str]) -> dict[str, str]:
    """Compare hashes with the locked ones: `changed`, `missing` or `extra`, by path."""
    found = {path: MISSING for path in locked if path not in present}
    found |= {path: EXTRA for path in present if path not in locked}
    found |= {path: CHANGED for path in present if locked.get(path, present[path]) != present[path]}
    return dict(sorted(found.items()))


def describe(differences: Mapping[str, str]) -> str:
    """Return differences as text, the first few by path."""
    shown = [f"{path} ({what})" for path, what in list(differences.items())[:_MAX_SHOWN]]
    more = len(differences) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def git_blob(path: Path) -> str:
    """Return git's blob id of a file."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy(folder: Path, to: Path) -> None:
    """Copy a folder, without its git history, bytecode and flow modules.

    Raises:
        ContentDiffers: something in it is neither a file nor a folder nor a link.
    """
    ignore = shutil.ignore_patterns(*_NOT_COPIED)
    shutil.copytree(folder, to, symlinks=True, ignore=ignore, dirs_exist_ok=True, copy_function=_copy_file)


def remove_forbidden(folder: Path) -> None:
    """Remove git's folder and bytecode, which hashes do not cover, and refuse a module with unsafe files.

    Raises:
        ContentDiffers: a symbolic link leads out of the folder, something is neither a file nor a folder, or a name
            is not UTF-8.
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
            raise ContentDiffers(f"{name} is not a regular file.", _AUTHOR_HINT)


def _check_link(path: Path, name: str, inside: Path) -> None:
    target = path.readlink()
    _check_text(str(target), name)
    try:
        leads_out = target.is_absolute() or not path.resolve().is_relative_to(inside)
    except RuntimeError as error:  # Python before 3.13 raises it for a circle of links
        raise ContentDiffers(f"The link {name} leads in a circle.", _AUTHOR_HINT) from error
    if leads_out:
        raise ContentDiffers(f"The link {name} leads out of the module.", _AUTHOR_HINT)


def _check_text(text: str, name: str) -> None:
    """Refuse a text that flow.lock, a file in UTF-8, cannot hold."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ContentDiffers(f"The name or the link target of {name!r} is not UTF-8.", _AUTHOR_HINT) from error


def _copy_file(path: str, to: str) -> str:
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise ContentDiffers(
            f"{path} is not a regular file, so it cannot be copied.", "Move it out of the module's folder."
        )
    return shutil.copy2(path, to)


def _files(folder: Path) -> Iterator[Path]:
    """Yield everything in a folder that is not a folder, including links to folders."""
    for at, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if name != BYTECODE]
        yield from (Path(at, name) for name in files)
        yield from (Path(at, name) for name in folders if Path(at, name).is_symlink())


def _hash(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"{_LINK}{path.readlink()}"
    return sha256(path) if stat.S_ISREG(mode) else "no file"
