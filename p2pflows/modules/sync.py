"""Bringing modules into a project: fetch, check against `flow.lock`, place whole, and never run any of it.

- What the lock has and the project holds unchanged stays as it is, and nobody is asked over the network.
- What the lock has and the project lacks is fetched at the locked commit, and must have the locked hashes.
- What somebody changed by hand, and what is locked otherwise than asked, is replaced only with `overwrite`.
- What a module needs itself is brought before the module; for those the lock decides, and only a person changes it.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.modules import declared, lock, source, tree, trust
from p2pflows.modules.fetch import NoRevision, fetch
from p2pflows.modules.lock import Locked
from p2pflows.modules.source import PACKAGE, Source, SourceKind, Wanted

_STAGING = ".staging-"
_DISCARD = "Use --overwrite (in Python: overwrite=True) to replace it."
_KEEP = "Replace it with --overwrite, or keep it as a folder of your own and sync that by its path."

_log = logging.getLogger(__name__)


class How(Enum):
    """What a sync did with a module."""

    KEPT = "kept"
    PLACED = "placed"
    REPLACED = "replaced"
    LINKED = "linked"


@dataclass(frozen=True, slots=True)
class Synced:
    """One module after a sync."""

    module: str
    folder: Path
    locked: Locked
    how: How

    @property
    def requirements(self) -> Path | None:
        """The list of packages that it needs, which nobody installs unasked."""
        return declared.requirements(self.folder)

    @property
    def needs(self) -> str:
        """What to install, as a sentence; empty if the module needs nothing."""
        listed = self.requirements
        return f"{self.module} needs packages: pip install -r {shlex.quote(str(listed))}" if listed else ""


@dataclass(frozen=True, slots=True)
class Way:
    """How a sync may go about its work."""

    offline: bool = False
    trusted: bool | None = None
    endpoint: str | None = None
    may_ask: bool = True
    overwrite_all: bool = False
    tell: Callable[[str], None] = field(default=_log.info)
    """Takes one line of progress."""


def sync_dependencies(
    dependencies: Sequence[Mapping[str, Any] | str],
    all_overwrite: bool = False,
    *,
    root: str | os.PathLike[str] | None = None,
    offline: bool = False,
    trust: bool | None = None,
    endpoint: str | None = None,
    interactive: bool | None = None,
) -> list[str]:
    """Bring modules under `flow_modules/` and make them importable as `flow_modules.<author>.<Name>`.

    Args:
        dependencies: entries `{"url": ..., "revision": ..., "overwrite": ...}`; only the url is needed. It is
            author/Name on the hub, git+https://..., https://...git, git+file://... or file:///folder. A revision is a
            branch, tag or commit, or a path such as ./folder, which is linked.
        all_overwrite: fetch everything anew, whatever was locked or changed by hand.
        root: the project; by default the current folder, and for a module's own call the project it is in.
        offline: reach out to nobody.
        trust: True trusts each new source for good, of what the modules need, too; False means that nobody is asked
            about one.
        endpoint: which hub; by default HF_ENDPOINT, else the usual one. Only those two are given your hub token.
        interactive: False never asks. Nobody is asked where stdin is no terminal, and by a module's own call.

    Returns:
        The folders of all modules that the project has now, the asked ones first.

    Raises:
        UsageError: an entry makes no sense, a new source is not trusted, or something would be lost.
        FetchFailed: a source cannot be reached.
        ContentDiffers: what came is not what was promised.
    """
    caller = _calling_module()
    project = Path(root or (caller[0] if caller else ".")).absolute()
    way = Way(
        offline=offline,
        trusted=trust,
        endpoint=endpoint,
        may_ask=interactive is not False and caller is None,
        overwrite_all=all_overwrite,
    )
    if caller is None:
        asked = [source.wanted(entry, Path.cwd()) for entry in dependencies]
        synced = synchronise(asked, project, way)
    else:
        synced = synchronise_needs(dependencies, caller[1], project, way)
    for module in synced:
        if module.how is not How.KEPT and module.needs:
            _log.warning("%s", module.needs)
    asked_first = [str(module.folder) for module in synced]
    others = [str(project / PACKAGE / name) for name in lock.read(project) if (project / PACKAGE / name).is_dir()]
    return list(dict.fromkeys([*asked_first, *others]))


def synchronise(asked: Sequence[Wanted], root: Path, way: Way, *, rest: bool = False) -> list[Synced]:
    """Bring what is asked, and all that it needs; gives what was asked first, then the others.

    With `rest`, all else that the lock has is brought, too.

    Raises:
        UsageError, FetchFailed, ContentDiffers: as `sync_dependencies` does.
    """
    with _held(root, way) as project:
        project.bring_asked(asked)
        if rest:
            project.bring_rest()
    return project.told([entry.source.module for entry in asked])


def synchronise_needs(needs: Sequence[declared.Entry], module: str, root: Path, way: Way) -> list[Synced]:
    """Bring what a module of the project asks for in its code.

    Raises:
        UsageError, FetchFailed, ContentDiffers: as `sync_dependencies` does.
    """
    with _held(root, way) as project:
        first = project.bring_needed(needs, module)
    return project.told(first)


@contextlib.contextmanager
def _held(root: Path, way: Way) -> Iterator[_Project]:
    """A project for oneself; what was brought can be imported afterwards."""
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}.", "Check the path.")
    with lock.locked(root):
        yield _Project(root, way)
    _make_importable(root)


class _Project:
    """One project while it is locked."""

    def __init__(self, root: Path, way: Way) -> None:
        self._root = root
        self._folder = root / PACKAGE
        self._way = way
        self._endpoint = (way.endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        self._modules = lock.read(root)
        self._trusted = trust.TrustList()
        self._asked: set[str] = set()
        self._begun: set[str] = set()
        self._done: dict[str, Synced] = {}
        for left in self._folder.glob(f"{_STAGING}*"):  # of a sync that was killed
            shutil.rmtree(left, ignore_errors=True)

    def told(self, first: Sequence[str]) -> list[Synced]:
        """What was done with each module, these first."""
        return [self._done[name] for name in dict.fromkeys([*first, *self._done]) if name in self._done]

    def bring_asked(self, entries: Sequence[Wanted]) -> None:
        by_module: dict[str, Source] = {}
        for entry in entries:
            other = by_module.setdefault(entry.source.module, entry.source)
            if other != entry.source:
                raise UsageError(f"{entry.source.module} is asked for twice: {other}, and {entry.source}.", "Take one.")
        self._asked = set(by_module)
        for entry in entries:
            if entry.source.module not in self._begun:
                self._begun.add(entry.source.module)
                self._bring(entry.source, overwrite=entry.overwrite or self._way.overwrite_all)

    def bring_rest(self) -> None:
        """Bring what the lock has and nobody asked for."""
        for name, known in sorted(self._modules.items()):
            if name not in self._begun:
                self._begun.add(name)
                self._bring(known.source, overwrite=self._way.overwrite_all)

    def bring_needed(self, entries: Sequence[declared.Entry], module: str) -> list[str]:
        """Bring what a module of this project asks for in its code."""
        known = self._modules.get(module)
        self._begun.add(module)
        return self._bring_all(entries, module, known.source if known else None, self._folder / module)

    def _bring_all(self, entries: Sequence[declared.Entry], module: str, by: Source | None, folder: Path) -> list[str]:
        """Bring what a module needs; which of it must be overwritten is not for the module to say."""
        names = []
        base = by.folder if by and by.is_own_folder else folder
        for entry in entries:
            wanted = source.wanted(entry, base).source
            if wanted.is_local and not (by and by.is_own_folder):
                raise UsageError(
                    f"{module} asks for {wanted}, a folder of this machine.", "Only your own folders may do that."
                )
            names.append(wanted.module)
            if wanted.module in self._begun or wanted.module in self._asked:
                continue
            self._begun.add(wanted.module)
            known = self._modules.get(wanted.module)
            if known and not known.pins(wanted):
                self._way.tell(f"{module} asks for {wanted}; {known.source} is kept, because flow.lock has it.")
            self._bring(known.source if known else wanted, overwrite=self._way.overwrite_all)
        return names

    def _bring(self, wanted: Source, *, overwrite: bool) -> None:
        place = self._folder / wanted.module
        known = self._modules.get(wanted.module)
        there = os.path.lexists(place)
        if wanted.kind is SourceKind.LINK and not wanted.folder.is_dir():
            raise UsageError(
                f"{wanted.module} is linked to {wanted.folder}, and that folder is not on this machine.",
                f"Link one that is: p2pflows modules sync {shlex.quote(wanted.url)} --revision FOLDER --overwrite",
            )
        if there and not overwrite:
            self._check_may_stay(wanted, known, place)
            self._bring_needs_of(place, wanted)
            self._note(wanted.module, place, How.KEPT)
        elif wanted.kind is SourceKind.LINK:
            self._bring_needs_of(wanted.folder, wanted)
            with self._staging() as staging:
                (staging / "new").symlink_to(wanted.folder, target_is_directory=True)
                self._place(staging, place, Locked(wanted))
            self._way.tell(f"{wanted.module} is linked to {wanted.folder}.")
            self._note(wanted.module, place, How.LINKED)
        else:
            pinned = None if overwrite else known
            if pinned and not pinned.pins(wanted):
                raise self._locked_otherwise(wanted, pinned)
            with self._staging() as staging:
                fetched = self._fetch(wanted, pinned, staging / "new")
                self._bring_needs_of(staging / "new", wanted)
                self._place(staging, place, fetched)
            self._note(wanted.module, place, How.REPLACED if there else How.PLACED)

    def _check_may_stay(self, wanted: Source, known: Locked | None, place: Path) -> None:
        """What is in place is what was asked for, and nobody has changed it."""
        name = f"{PACKAGE}/{wanted.module}"
        if known is None:
            raise UsageError(f"{name} is there, but flow.lock does not know it.", _DISCARD)
        if not known.pins(wanted):
            raise self._locked_otherwise(wanted, known)
        if known.is_link:
            if not place.is_symlink() or place.resolve() != wanted.folder:
                raise UsageError(f"{name} is no link to {wanted.folder} any more.", _DISCARD)
            return
        changed = {".": tree.CHANGED} if place.is_symlink() else tree.differences(tree.hashes(place), known.files)
        if changed:
            raise UsageError(f"{name} was changed by hand: {tree.told(changed)}.", _KEEP)

    def _locked_otherwise(self, wanted: Source, known: Locked) -> UsageError:
        return UsageError(f"{wanted.module} is locked to {known.source}, and {wanted} was asked for.", _DISCARD)

    def _bring_needs_of(self, folder: Path, of: Source) -> None:
        self._bring_all(declared.dependencies(folder), of.module, of, folder)

    def _fetch(self, wanted: Source, pinned: Locked | None, folder: Path) -> Locked:
        """Fetch into a new folder, once the source is trusted; what was pinned must be what comes."""
        if self._way.offline and not wanted.is_local:
            raise UsageError(f"{wanted.module} is not here, and fetching it is not allowed.", "Try without --offline.")
        is_new = self._is_newly_trusted(wanted)
        revision = (pinned.commit if pinned else None) or wanted.revision
        self._way.tell(f"Fetching {wanted.url}{f' at {revision}' if revision else ''}")
        folder.mkdir()
        try:
            commit = fetch(wanted, revision, folder, self._endpoint, locked=pinned is not None)
        except NoRevision as error:
            if revision == wanted.revision:
                raise
            raise UsageError(
                f"The commit that flow.lock has for {wanted.module} is no longer in {wanted.url}: {revision}.",
                f"--overwrite takes what {wanted.revision} is now.",
            ) from error
        fetched = Locked(wanted, commit, tree.hashes(folder))
        changed = tree.differences(fetched.files, pinned.files) if pinned else {}
        if pinned and (changed or fetched.commit != pinned.commit):
            raise tree.ContentDiffers(
                f"What came for {wanted.module} is not what flow.lock has: {tree.told(changed) or fetched.commit}.",
                "Nothing was placed. Ask its author why; --overwrite takes what there is now.",
            )
        if is_new:
            self._trust(wanted)
        return pinned or fetched

    def _is_newly_trusted(self, wanted: Source) -> bool:
        """Whether it is trusted just now; what is not trusted at all is an error."""
        identity, way = wanted.identity(self._endpoint), self._way
        if wanted.is_own_folder or identity in self._trusted.sources():
            return False
        if not way.trusted and not (way.trusted is None and way.may_ask and trust.can_ask() and trust.ask(identity)):
            raise trust.Untrusted(identity)
        return True

    def _trust(self, wanted: Source) -> None:
        identity = wanted.identity(self._endpoint)
        self._trusted.add(identity)
        self._way.tell(f"Trusted from now on: {identity}")

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """A folder beside the modules, so that moving from it is one step."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_STAGING) as staging:
            yield Path(staging)

    def _place(self, staging: Path, place: Path, locked: Locked) -> None:
        """Move what is ready to its place; whatever cuts this short, the lock and the place do not disagree.

        The old one leaves first, the lock is written next, and the new one comes last: in between the place is empty,
        and an empty place is filled again with what the lock has.
        """
        place.parent.mkdir(exist_ok=True)
        old = staging / "old"
        before = dict(self._modules)
        try:
            if os.path.lexists(place):
                place.rename(old)
            self._modules[locked.source.module] = locked
            lock.write(self._root, self._modules)
            (staging / "new").rename(place)
        except BaseException:
            if not os.path.lexists(place):  # else it was cut short before the first step, or after the last
                self._modules = before
                if os.path.lexists(old):
                    old.rename(place)
                lock.write(self._root, before)
            raise
        if locked.source.package in sys.modules:
            _log.warning("%s is imported already; start again to use what is new.", locked.source.package)

    def _note(self, module: str, place: Path, how: How) -> None:
        self._done[module] = Synced(module, place, self._modules[module], how)


def _calling_module() -> tuple[Path, str] | None:
    """The project and the module of the code that called, if it is a flow module's own."""
    frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to know who calls
    while frame.f_back is not None and _of_this_package(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    parts = str(frame.f_globals.get("__name__", "")).split(".")
    file = frame.f_globals.get("__file__")
    if parts[0] != PACKAGE or len(parts) < len((PACKAGE, "author", "Name")) or not file:
        return None
    depth = len(parts) if "__path__" in frame.f_globals else len(parts) - 1
    return Path(file).absolute().parents[depth], f"{parts[1]}/{parts[2]}"


def _of_this_package(name: str) -> bool:
    return name.partition(".")[0] == __name__.partition(".")[0]


def _make_importable(root: Path) -> None:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
