"""`flow.lock`: which modules a project has, at which commit, and the hash of each of their files.

The file is JSON, made to be kept beside the code it belongs to. It is replaced as a whole, and only under the lock
that `locked` takes.
"""

from __future__ import annotations

import contextlib
import errno
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pflows import files
from p2pflows.errors import UsageError
from p2pflows.modules import tree
from p2pflows.modules.source import PACKAGE, Source, SourceKind, is_module, parse, split

NAME = "flow.lock"
_VERSION = 1
_MODE = 0o644
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
        return self.source.kind is SourceKind.LINK

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
    hint = "Take it from your version control, or move it away and sync again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise UsageError(f"{path} has the version {content['version']!r}.", "Bring p2pflows up to date.")
        return {module: _entry(module, fields) for module, fields in content["modules"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}).", hint) from error


def write(root: Path, modules: Modules) -> None:
    """Replace the lock file, unless it would be the same."""
    path = root / NAME
    content = {"version": _VERSION, "modules": {name: _fields(modules[name]) for name in sorted(modules)}}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.replace(path, text, _MODE)


@contextlib.contextmanager
def locked(root: Path) -> Iterator[None]:
    """Hold the project for oneself; others wait, in other processes and in this one.

    A project that cannot be written needs no lock: nobody changes it, and whoever tries is told by the system.
    """
    folder = root / PACKAGE
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            held.enter_context(files.exclusive_lock(folder / ".lock"))
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise
        yield


def _fields(locked: Locked) -> dict[str, Any]:
    source = locked.source
    fields: dict[str, Any] = {"url": source.url, "revision": source.revision}
    if locked.is_link:
        return {**fields, "linked": True}
    hashes = dict(sorted(locked.files.items()))
    return {**fields, "commit": locked.commit, "sha256": tree.total(hashes), "files": hashes}


def _entry(module: str, fields: dict[str, Any]) -> Locked:
    url, revision = str(fields["url"]), str(fields["revision"])
    if not is_module(module):
        raise ValueError(f"{module!r} is no module")
    if fields.get("linked"):
        return Locked(Source(SourceKind.LINK, module, url, revision))
    source = _source(module, url, revision)
    hashes = {str(path): str(value) for path, value in fields["files"].items()}
    commit = fields["commit"]
    if source.module != module or source.kind is SourceKind.LINK or not isinstance(commit, str | None):
        raise ValueError(f"the entry of {module} does not fit")
    if tree.total(hashes) != fields["sha256"]:
        raise ValueError(f"the hashes of {module} do not add up")
    return Locked(source, commit, hashes)


def _source(module: str, url: str, revision: str) -> Source:
    """The source of an entry; a folder that was copied need not be there any more."""
    try:
        if url.startswith("file:"):
            split(url)
            return Source(SourceKind.COPY, module, url, "")
        return parse(url, revision or None, Path.cwd())
    except UsageError as error:  # its hint is for who types a url
        raise ValueError(error.message) from error
