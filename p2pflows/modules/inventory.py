"""List the modules of a project, and compare them with `flow.lock`."""

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
    """One difference from the lock; `path` is empty if it concerns the module as a whole."""

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
    """List the modules in a project's `flow.lock`.

    Args:
        root: the project's folder; by default the current folder.

    Raises:
        UsageError: the lock is damaged.
    """
    project = Path(root or ".").absolute()
    return [_module(project, name, locked) for name, locked in sorted(lock.read(project).items())]


def verify(root: str | os.PathLike[str] | None = None) -> list[Problem]:
    """Compare every file of every module with the lock.

    A file that is changed, missing or extra is a problem. So is anything beside the modules that could be imported
    but is not in the lock. The content of a linked folder is not checked.

    Args:
        root: the project's folder; by default the current folder.

    Returns:
        The problems; an empty list if there are none.

    Raises:
        UsageError: the lock is damaged.
    """
    project = Path(root or ".").absolute()
    modules = lock.read(project)
    problems = [problem for name, locked in sorted(modules.items()) for problem in _problems(project, name, locked)]
    return problems + [Problem(name, "", "not in flow.lock") for name in _importable(project) if name not in modules]


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
        is_intact = place.is_symlink() and place.resolve() == locked.source.folder.resolve()
        return [] if is_intact else [Problem(name, "", f"not a link to {locked.source.folder}")]
    if place.is_symlink():
        return [Problem(name, "", "replaced by a link")]
    found = tree.differences(tree.hashes(place), locked.files)
    return [Problem(name, path, what) for path, what in found.items()]


def _importable(project: Path) -> list[str]:
    """Return everything that could be imported as a module, or with one: folders, links, and files of code."""
    top = project / PACKAGE
    found = [path for path in top.glob("*") if not path.is_dir()] + list(top.glob("*/*"))
    return sorted(path.relative_to(top).as_posix() for path in found if _is_importable(path))


def _is_importable(path: Path) -> bool:
    if any(part.startswith(".") or part == tree.BYTECODE for part in path.parts[-2:]):
        return False
    return path.is_dir() or path.is_symlink() or path.name.endswith(tuple(all_suffixes()))
