"""`flow.lock`: the modules of a project, their commits, and the hash of each of their files.

The file is JSON and belongs into version control. It is always replaced as a whole, by a holder of `exclusive`.
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
_READ_ONLY_ERRORS = {errno.EACCES, errno.EROFS, errno.EPERM}


@dataclass(frozen=True, slots=True)
class Locked:
    """The entry of one module: its source, commit and hashes; a linked folder has neither commit nor hashes."""

    source: Source
    commit: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_link(self) -> bool:
        """Whether the module is a linked folder, which its owner may change at any time."""
        return self.source.kind is SourceKind.LINK

    def pins(self, source: Source) -> bool:
        """Whether the entry is what a source asks for: the same revision, or the locked commit by its id."""
        mine = self.source
        return mine == source or (
            (mine.kind, mine.url) == (source.kind, source.url) and self.commit == source.revision is not None
        )


Modules = dict[str, Locked]


def read(root: Path) -> Modules:
    """Read the lock file of a project: entries by module, none if there is no file.

    Raises:
        UsageError: the file cannot be read, or is damaged.
    """
    path = root / NAME
    hint = "Restore it from your version control, or move it away and sync again."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["version"] != _VERSION:
            raise UsageError(f"{path} has the unknown version {content['version']!r}.", "Update p2pflows.")
        return {module: _from_json(module, fields) for module, fields in content["modules"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise UsageError(f"Cannot read {path}: {error.strerror}.", hint) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(f"{path} is damaged ({type(error).__name__}: {error}).", hint) from error


def write(root: Path, modules: Modules) -> None:
    """Replace the lock file, unless it would stay the same."""
    path = root / NAME
    content = {"version": _VERSION, "modules": {name: _to_json(modules[name]) for name in sorted(modules)}}
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        files.replace(path, text, _MODE)


@contextlib.contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Hold the lock of a project; other holders wait, in this process and in others.

    A read-only project needs no lock: nobody can change it, and an attempt fails with an error of the system.
    """
    folder = root / PACKAGE
    with contextlib.ExitStack() as held:
        try:
            folder.mkdir(exist_ok=True)
            if not (folder / ".gitignore").exists():
                (folder / ".gitignore").write_text("*\n", encoding="utf-8")
            held.enter_context(files.exclusive_lock(folder / ".lock"))
        except OSError as error:
            if error.errno not in _READ_ONLY_ERRORS:
                raise
        yield


def _to_json(locked: Locked) -> dict[str, Any]:
    source = locked.source
    fields: dict[str, Any] = {"url": source.url, "revision": source.revision}
    if locked.is_link:
        return {**fields, "linked": True}
    hashes = dict(sorted(locked.files.items()))
    return {**fields, "commit": locked.commit, "sha256": tree.total(hashes), "files": hashes}


def _from_json(module: str, fields: dict[str, Any]) -> Locked:
    url, revision = str(fields["url"]), str(fields["revision"])
    if not is_module(module):
        raise ValueError(f"{module!r} is not a module name")
    if fields.get("linked"):
        if not Path(revision).is_absolute():
            raise ValueError(f"the link of {module} names no absolute path")
        return Locked(Source(SourceKind.LINK, module, url, revision))
    source = _source(module, url, revision)
    hashes = {str(path): str(value) for path, value in fields["files"].items()}
    commit = fields["commit"]
    if source.module != module or source.kind is SourceKind.LINK or not isinstance(commit, str | None):
        raise ValueError(f"the entry of {module} has a wrong url, revision or commit")
    if tree.total(hashes) != fields["sha256"]:
        raise ValueError(f"the files of {module} do not match their total")
    return Locked(source, commit, hashes)


def _source(module: str, url: str, revision: str) -> Source:
    """Return the source of an entry; a folder that was copied need not exist any more."""
    try:
        if url.startswith("file:"):
            split(url)
            return Source(SourceKind.COPY, module, url, "")
        return parse(url, revision or None, Path.cwd())
    except UsageError as error:  # its hint is for a url that the user types
        raise ValueError(error.message) from error
