"""`flow.lock`: which modules a project has, at which commit, and the hash of each of their files.

The file is JSON, made to be kept beside the code it belongs to. It is replaced as a whole, and only under the lock
that `locked` takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.modules import tree
from p2pflows.modules.source import PACKAGE, Kind, Source, is_module, parse

NAME = "flow.lock"
_VERSION = 1
_READ_ONLY = {errno.EACCES, errno.EROFS, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Locked:
    """One module as it was placed; a linked folder has neither commit nor hashes."""

    source: Source
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_link(self) -> bool:
        """Whether the module is somebody's own folder, which may change at any time."""
        return self.source.kind is Kind.LINK

    def pins(self, source: Source) -> bool:
        """Whether this is what a source asks for, by its revision or by the commit itself."""
        mine = self.source
        return mine == source or (
            (mine.kind, mine.url) == (source.kind, source.url) and self.commit == source.revision is not None
        )


Modules = dict[str, Locked]


def read(root: Path) -> Modules:
    """What is locked in a project, by module; nothing if there is no lock file.

    Raises:
        UsageError: the file is damaged.
    """
    path = root / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise UsageError(f"{path} has the version {content['version']!r}.", "Bring p2pflows up to date.")
        return {module: _entry(module, fields) for module, fields in content["modules"].items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} is damaged ({type(error).__name__}: {error}).",
            "Take it from your version control, or move it away and sync again.",
        ) from error


def write(root: Path, modules: Modules) -> None:
    """Replace the lock file, unless it would be the same."""
    path = root / NAME
    content = {"version": _VERSION, "modules": {name: _fields(modules[name]) for name in sorted(modules)}}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    handle, temporary = tempfile.mkstemp(dir=root, prefix=f".{NAME}-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the project for oneself; others wait, in other processes and in this one.

    A project that cannot be written needs no lock: nobody changes it, and whoever tries is told by the system.
    """
    handle = _open(root / PACKAGE)
    try:
        if handle is not None:
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        if handle is not None:
            os.close(handle)


def _open(folder: Path) -> int | None:
    """What to lock, and the folder that it is in; None where nothing can be written."""
    try:
        folder.mkdir(exist_ok=True)
        if not (folder / ".gitignore").exists():
            (folder / ".gitignore").write_text("*\n", encoding="utf-8")
        return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        return None


def _fields(locked: Locked) -> dict[str, Any]:
    source = locked.source
    fields: dict[str, Any] = {"url": source.url, "revision": source.revision}
    if locked.is_link:
        return {**fields, "linked": True}
    files = dict(sorted(locked.files.items()))
    return {**fields, "commit": locked.commit, "sha256": tree.total(files), "files": files}


def _entry(module: str, fields: dict[str, Any]) -> Locked:
    url, revision = str(fields["url"]), str(fields["revision"])
    if not is_module(module):
        raise ValueError(f"{module!r} is no module")
    if fields.get("linked"):
        return Locked(Source(Kind.LINK, module, url, revision))
    source = Source(Kind.COPY, module, url, "") if url.startswith("file:") else parse(url, revision or None, Path.cwd())
    files = {str(path): str(value) for path, value in fields["files"].items()}
    commit = fields["commit"]
    if source.module != module or source.kind is Kind.LINK or not isinstance(commit, str | None):
        raise ValueError(f"the entry of {module} does not fit")
    if tree.total(files) != fields["sha256"]:
        raise ValueError(f"the hashes of {module} do not add up")
    return Locked(source, commit, files)
