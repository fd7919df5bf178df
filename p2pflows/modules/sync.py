"""Sync modules into a project: fetch them, check them against `flow.lock`, and add each as a whole; run none.

- A locked module that is in the project unchanged stays as it is, without any use of the network.
- A locked module that is missing is fetched at the locked commit, and must have the locked hashes.
- A module that was changed by hand, or is locked to another source, is replaced only with `overwrite`.
- A folder of this machine is linked or copied without a question only if the user names it in this sync, or the list of
  a folder that the user names, or if it lies inside the folder that asks for it; all else may come from elsewhere.
- The dependencies of a module are synced before it. A locked dependency stays locked; only the user changes that.
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
from p2pflows.flows.project import public_name
from p2pflows.modules import declared, lock, source, tree, trust
from p2pflows.modules.fetch import NoRevision, fetch
from p2pflows.modules.lock import Locked
from p2pflows.modules.source import PACKAGE, Source, SourceKind, Wanted

_STAGING_PREFIX = ".staging-"
_OVERWRITE_HINT = "To replace it, use --overwrite (in Python: overwrite=True)."
_KEEP_HINT = "Replace it with --overwrite, or keep it: copy it to a folder of your own, and sync that by its path."

_log = logging.getLogger(__name__)


class Outcome(Enum):
    """What a sync did to a module."""

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
    outcome: Outcome

    @property
    def requirements(self) -> Path | None:
        """The path of its list of required packages, which sync does not install; None if it needs none."""
        return declared.requirements(self.folder)

    @property
    def needs(self) -> str:
        """How to install the packages that it needs, as a sentence; empty if it needs none."""
        path = self.requirements
        return f"{self.module} needs packages: pip install -r {shlex.quote(str(path))}" if path else ""


@dataclass(frozen=True, slots=True)
class SyncOptions:
    """What a sync may do.

    Attributes:
        offline: use no network.
        trust: True trusts new sources, False refuses them, None asks about them.
        endpoint: the hub; None for HF_ENDPOINT, or else the usual one.
        may_ask: whether to ask the user, if stdin is a terminal.
        overwrite_all: fetch and replace every module.
        report: called with each line of progress.
    """

    offline: bool = False
    trust: bool | None = None
    endpoint: str | None = None
    may_ask: bool = True
    overwrite_all: bool = False
    report: Callable[[str], None] = field(default=_log.info)


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
    """Fetch modules into `flow_modules/`, and make them importable as `flow_modules.<author>.<Name>`.

    Args:
        dependencies: entries `{"url": ..., "revision": ..., "overwrite": ...}`, or just urls. A url is author/Name on
            the hub, git+https://..., https://...git, git+file://... or file:///folder. A revision is a branch, tag
            or commit; or a path such as ./folder, to link that folder.
        all_overwrite: fetch and replace every module, even if it is locked or was changed by hand.
        root: the project's folder; by default the current folder. For a call in the code of a flow module, the
            default is the project of that module.
        offline: use no network.
        trust: True trusts each new source permanently, including those of dependencies; False refuses new sources;
            None asks about them.
        endpoint: the hub; by default HF_ENDPOINT, or else the usual one. Only these two get your hub token.
        interactive: False never asks. A call in the code of a flow module never asks either, nor does any call if
            stdin is not a terminal.

    Returns:
        The folders of all modules in the project, the requested ones first.

    Raises:
        UsageError: an entry has a wrong form, a new source is not trusted, or a change by hand would be lost.
        FetchFailed: a source cannot be reached.
        ContentDiffers: the files are not those that were locked or announced.
    """
    caller = _calling_module()
    project = Path(root or (caller[0] if caller else ".")).absolute()
    options = SyncOptions(
        offline=offline,
        trust=trust,
        endpoint=endpoint,
        may_ask=interactive is not False and caller is None,
        overwrite_all=all_overwrite,
    )
    if caller is None:
        requested = [source.read_entry(entry, Path.cwd()) for entry in dependencies]
        synced = sync_sources(requested, project, options)
    else:
        synced = sync_needs_of(caller[1], dependencies, project, options)
    for module in synced:
        if module.outcome is not Outcome.KEPT and module.needs:
            _log.warning("%s", module.needs)
    requested_first = [str(module.folder) for module in synced]
    others = [str(project / PACKAGE / name) for name in lock.read(project) if (project / PACKAGE / name).is_dir()]
    return list(dict.fromkeys([*requested_first, *others]))


def sync_sources(
    requested: Sequence[Wanted], root: Path, options: SyncOptions, *, with_locked: bool = False
) -> list[Synced]:
    """Sync the requested modules and their dependencies.

    Args:
        requested: the requested modules.
        root: the project's folder.
        options: what the sync may do.
        with_locked: also sync all other modules in the lock.

    Returns:
        The requested modules, then the others.

    Raises:
        UsageError, FetchFailed, ContentDiffers: as for `sync_dependencies`.
    """
    with _locked_project(root, options) as project:
        project.sync_requested(requested)
        if with_locked:
            project.sync_locked()
    return project.results([entry.source.module for entry in requested])


def sync_needs_of(
    module: str, dependencies: Sequence[declared.Entry], root: Path, options: SyncOptions
) -> list[Synced]:
    """Sync the dependencies that the code of a module in the project requests.

    Raises:
        UsageError, FetchFailed, ContentDiffers: as for `sync_dependencies`.
    """
    with _locked_project(root, options) as project:
        names = project.sync_needs_of(module, dependencies)
    return project.results(names)


@contextlib.contextmanager
def _locked_project(root: Path, options: SyncOptions) -> Iterator[_Project]:
    """Hold the lock of a project, and make its modules importable afterwards."""
    if not root.is_dir():
        raise UsageError(f"There is no folder {root}.", "Check the path.")
    with lock.exclusive(root):
        yield _Project(root, options)
    _make_importable(root)


class _Project:
    """A project whose lock is held: its state, and the results of the sync so far."""

    def __init__(self, root: Path, options: SyncOptions) -> None:
        self._root = root
        self._folder = root / PACKAGE
        self._options = options
        self._endpoint = (options.endpoint or os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None
        self._modules = lock.read(root)
        self._trusted = trust.TrustList()
        self._requested: set[str] = set()
        self._started: set[str] = set()
        self._results: dict[str, Synced] = {}
        self._named: set[Source] = set()
        """The folders of this machine that the user names in this sync."""
        self._unasked: set[Source] = set()
        """Those that are linked or copied without a question."""
        for folder in self._folder.glob(f"{_STAGING_PREFIX}*"):  # left by a sync that was killed
            shutil.rmtree(folder, ignore_errors=True)

    def results(self, first: Sequence[str]) -> list[Synced]:
        """Return the results of all modules, beginning with those named."""
        return [self._results[name] for name in dict.fromkeys([*first, *self._results]) if name in self._results]

    def sync_requested(self, entries: Sequence[Wanted]) -> None:
        """Sync the modules that the user requests, and their dependencies."""
        by_module: dict[str, Source] = {}
        for entry in entries:
            other = by_module.setdefault(entry.source.module, entry.source)
            if other != entry.source:
                raise UsageError(
                    f"{entry.source.module} is requested twice: {other}, and {entry.source}.", "Request one of them."
                )
        self._requested = set(by_module)
        self._named = {entry.source for entry in entries if entry.source.is_own_folder}
        self._unasked |= self._named
        for entry in entries:
            if entry.source.module not in self._started:
                self._started.add(entry.source.module)
                self._sync(entry.source, overwrite=entry.overwrite or self._options.overwrite_all)

    def sync_locked(self) -> None:
        """Sync the modules in the lock that are not synced yet."""
        for name, known in sorted(self._modules.items()):
            if name not in self._started:
                self._started.add(name)
                self._sync(known.source, overwrite=self._options.overwrite_all)

    def sync_needs_of(self, module: str, entries: Sequence[declared.Entry]) -> list[str]:
        """Sync the dependencies that the code of a module in this project requests; return their modules."""
        known = self._modules.get(module)
        self._started.add(module)
        return self._sync_dependencies(entries, module, known.source if known else None, self._folder / module)

    def _sync_dependencies(
        self, entries: Sequence[declared.Entry], module: str, by: Source | None, folder: Path
    ) -> list[str]:
        """Sync the dependencies of a module; its entries cannot set `overwrite`."""
        names = []
        base = by.folder if by and by.is_own_folder else folder
        for entry in entries:
            wanted = source.read_entry(entry, base).source
            if wanted.is_local and not (by and by.is_own_folder):
                raise UsageError(
                    f"{module} requests {wanted}, which is on this machine.",
                    "Only a module in a folder of your own may do that.",
                )
            if (
                wanted.is_own_folder
                and by
                and (by in self._named or wanted.folder.resolve().is_relative_to(by.folder.resolve()))
            ):
                self._unasked.add(wanted)
            names.append(wanted.module)
            if wanted.module in self._started or wanted.module in self._requested:
                continue
            self._started.add(wanted.module)
            known = self._modules.get(wanted.module)
            if known and not known.pins(wanted):
                self._options.report(f"{module} requests {wanted}; flow.lock keeps {known.source}.")
            self._sync(known.source if known else wanted, overwrite=self._options.overwrite_all)
        return names

    def _sync(self, wanted: Source, *, overwrite: bool) -> None:
        place = self._folder / wanted.module
        known = self._modules.get(wanted.module)
        exists = os.path.lexists(place)
        if wanted.kind is SourceKind.LINK and not wanted.folder.is_dir():
            raise UsageError(
                f"{wanted.module} is linked to {wanted.folder}, but there is no such folder on this machine.",
                f"Link another: p2pflows modules sync {shlex.quote(wanted.url)} --revision FOLDER --overwrite",
            )
        if exists and not overwrite:
            self._check_intact(wanted, known, place)
            self._sync_needs_in(place, wanted)
            self._record(wanted.module, place, Outcome.KEPT)
        elif wanted.kind is SourceKind.LINK:
            is_new = self._is_newly_trusted(wanted)
            self._sync_needs_in(wanted.folder, wanted)
            with self._staging() as staging:
                (staging / "new").symlink_to(wanted.folder, target_is_directory=True)
                self._place(staging, place, Locked(wanted))
            if is_new:
                self._trust(wanted)
            self._options.report(f"{wanted.module} is linked to {wanted.folder}.")
            self._record(wanted.module, place, Outcome.LINKED)
        else:
            pinned = None if overwrite else known
            if pinned and not pinned.pins(wanted):
                raise _locked_to_another(wanted, pinned)
            with self._staging() as staging:
                fetched = self._fetch(wanted, pinned, staging / "new")
                self._sync_needs_in(staging / "new", wanted)
                self._place(staging, place, fetched)
            self._record(wanted.module, place, Outcome.REPLACED if exists else Outcome.PLACED)

    def _check_intact(self, wanted: Source, known: Locked | None, place: Path) -> None:
        """Check that the module in the project is the requested one, and unchanged."""
        name = f"{PACKAGE}/{wanted.module}"
        if known is None:
            raise UsageError(f"{name} exists, but is not in flow.lock.", _OVERWRITE_HINT)
        if not known.pins(wanted):
            raise _locked_to_another(wanted, known)
        if known.is_link:
            if not place.is_symlink() or place.resolve() != wanted.folder:
                raise UsageError(f"{name} is no longer a link to {wanted.folder}.", _OVERWRITE_HINT)
            return
        changed = {".": tree.CHANGED} if place.is_symlink() else tree.differences(tree.hashes(place), known.files)
        if changed:
            raise UsageError(f"{name} was changed by hand: {tree.describe(changed)}.", _KEEP_HINT)

    def _sync_needs_in(self, folder: Path, of: Source) -> None:
        self._sync_dependencies(declared.dependencies(folder), of.module, of, folder)

    def _fetch(self, wanted: Source, pinned: Locked | None, folder: Path) -> Locked:
        """Fetch a trusted source into a new folder; if it is pinned, check that the files are the locked ones."""
        if self._options.offline and not wanted.is_local:
            raise UsageError(f"{wanted.module} must be fetched, but this sync is offline.", "Sync without --offline.")
        is_new = self._is_newly_trusted(wanted)
        revision = (pinned.commit if pinned else None) or wanted.revision
        self._options.report(f"Fetching {wanted.url}{f' at {revision}' if revision else ''}")
        folder.mkdir()
        try:
            commit = fetch(wanted, revision, folder, self._endpoint, locked=pinned is not None)
        except NoRevision as error:
            if revision == wanted.revision:
                raise
            raise UsageError(
                f"{wanted.url} no longer has the commit {revision}, to which flow.lock pins {wanted.module}.",
                f"To use the present {wanted.revision} instead, add --overwrite.",
            ) from error
        fetched = Locked(wanted, commit, tree.hashes(folder))
        changed = tree.differences(fetched.files, pinned.files) if pinned else {}
        if pinned and (changed or fetched.commit != pinned.commit):
            raise tree.ContentDiffers(
                f"The files of {wanted.module} are not those in flow.lock: {tree.describe(changed) or fetched.commit}.",
                "Nothing was added. Ask its author why. To accept the new files, add --overwrite.",
            )
        if is_new:
            self._trust(wanted)
        return pinned or fetched

    def _is_newly_trusted(self, wanted: Source) -> bool:
        """Return whether the user trusts a source now, and did not before.

        Raises:
            Untrusted: the user does not trust it.
        """
        identity, options = wanted.identity(self._endpoint), self._options
        if wanted in self._unasked:  # nor is the user asked next time
            self._trusted.add(identity)
            return False
        if identity in self._trusted.sources():
            return False
        may_ask = options.trust is None and options.may_ask
        if not options.trust and not (may_ask and trust.can_ask() and trust.ask(identity)):
            raise trust.Untrusted(identity)
        return True

    def _trust(self, wanted: Source) -> None:
        identity = wanted.identity(self._endpoint)
        self._trusted.add(identity)
        self._options.report(f"Trusted from now on: {identity}")

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """Make a temporary folder on the file system of the modules, so that a move from it is atomic."""
        with tempfile.TemporaryDirectory(dir=self._folder, prefix=_STAGING_PREFIX) as staging:
            yield Path(staging)

    def _place(self, staging: Path, place: Path, locked: Locked) -> None:
        """Move a fetched module into the project; the lock and the module agree even if this is interrupted.

        The old module is moved away first, then the lock is written, and the new module is moved in last. Meanwhile
        the module is missing, and the next sync fetches a missing module as the lock has it.
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
            if not os.path.lexists(place):  # else the interruption came before the first step, or after the last
                self._modules = before
                if os.path.lexists(old):
                    old.rename(place)
                lock.write(self._root, before)
            raise
        if locked.source.package in sys.modules:
            _log.warning("%s is already imported; restart Python to use the new version.", locked.source.package)

    def _record(self, module: str, place: Path, outcome: Outcome) -> None:
        self._results[module] = Synced(module, place, self._modules[module], outcome)


def _locked_to_another(wanted: Source, known: Locked) -> UsageError:
    return UsageError(f"{wanted.module} is locked to {known.source}, but {wanted} is requested.", _OVERWRITE_HINT)


def _calling_module() -> tuple[Path, str] | None:
    """Return the project and the module of the calling code, if that is the code of a flow module."""
    frame = sys._getframe(1)  # noqa: SLF001 - there is no other way to find the caller
    while frame.f_back is not None and _is_in_p2pflows(frame.f_globals.get("__name__", "")):
        frame = frame.f_back
    parts = public_name(str(frame.f_globals.get("__name__", ""))).split(".")
    file = frame.f_globals.get("__file__")
    if parts[0] != PACKAGE or len(parts) < len((PACKAGE, "author", "Name")) or not file:
        return None
    depth = len(parts) if "__path__" in frame.f_globals else len(parts) - 1
    return Path(file).absolute().parents[depth], f"{parts[1]}/{parts[2]}"


def _is_in_p2pflows(name: str) -> bool:
    return name.partition(".")[0] == __name__.partition(".")[0]


def _make_importable(root: Path) -> None:
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    importlib.invalidate_caches()
