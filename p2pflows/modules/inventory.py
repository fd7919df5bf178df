"""What modules a project has, and whether they are what `flow.lock` says."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.machinery import all_suffixes
from pathlib import Path

from p2pflows.modules import lock, tree
from p2pflows.modules.lock import Locked
from p2pflows.modules.source import PACKAGE, package


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was locked; `path` is empty when it is the module as a whole."""

    module: str
    path: str
    what: str

    def __str__(self) -> str:
        return f"{self.module}/{self.path}: {self.what}" if self.path else f"{self.module}: {self.what}"


@dataclass(frozen=True, slots=True)
class Module:
    """One module of a project; `state` is `ok`, `changed`, `missing` or `linked`."""

    module: str
    package: str
    folder: Path
    url: str
    revision: str
    commit: str | None
    state: str


def list_modules(root: str | os.PathLike[str] | None = None) -> list[Module]:
    """The modules that a project's `flow.lock` has.

    Raises:
        UsageError: the lock is damaged.
    """
    project = Path(root or ".").absolute()
    return [_module(project, name, locked) for name, locked in sorted(lock.read(project).items())]


def verify(root: str | os.PathLike[str] | None = None) -> list[Problem]:
    """Compare every file of every module with the lock; nothing to tell is an empty list.

    Files that were changed, are missing or are extra are problems, and so is all that could be imported and that the
    lock does not know. What is in a linked folder is its owner's business.

    Raises:
        UsageError: the lock is damaged.
    """
    project = Path(root or ".").absolute()
    modules = lock.read(project)
    problems = [problem for name, locked in sorted(modules.items()) for problem in _problems(project, name, locked)]
    return problems + [Problem(name, "", "not in flow.lock") for name in _placed(project) if name not in modules]


def _module(project: Path, name: str, locked: Locked) -> Module:
    problems = _problems(project, name, locked)
    missing = any(not problem.path and problem.what == tree.MISSING for problem in problems)
    state = tree.MISSING if missing else tree.CHANGED if problems else "linked" if locked.is_link else "ok"
    source = locked.source
    return Module(name, package(name), project / PACKAGE / name, source.url, source.revision, locked.commit, state)


def _problems(project: Path, name: str, locked: Locked) -> list[Problem]:
    place = project / PACKAGE / name
    if not place.is_dir():
        return [Problem(name, "", tree.MISSING)]
    if locked.is_link:
        same = place.is_symlink() and place.resolve() == locked.source.folder.resolve()
        return [] if same else [Problem(name, "", f"no link to {locked.source.folder}")]
    if place.is_symlink():
        return [Problem(name, "", "a link to another place")]
    found = tree.differences(tree.hashes(place), locked.files)
    return [Problem(name, path, what) for path, what in found.items()]


def _placed(project: Path) -> list[str]:
    """All that could be imported as a module, or runs when one is: folders, links to them, and files of code."""
    top = project / PACKAGE
    found = [path for path in top.glob("*") if not path.is_dir()] + list(top.glob("*/*"))
    return sorted(path.relative_to(top).as_posix() for path in found if _is_importable(path))


def _is_importable(path: Path) -> bool:
    if any(part.startswith(".") or part == tree.BYTECODE for part in path.parts[-2:]):
        return False
    return path.is_dir() or path.is_symlink() or path.name.endswith(tuple(all_suffixes()))
