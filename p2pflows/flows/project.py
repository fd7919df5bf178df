"""Projects: the modules of a served folder, kept apart from those of other folders and of earlier releases.

In `sys.modules`, the modules of a project have names of their own: `helpers` is `p2pflows_served_3.helpers`. What the
code of a project imports is looked up in the project first. This holds for a function that imports when it runs, in
any thread, because Python takes `__import__` from the globals of the importing function.

The modules of a project are those in its folders; p2pflows and installed packages are shared by all projects.
"""

from __future__ import annotations

import builtins
import contextlib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import os
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

_PREFIX = "p2pflows_served_"
_SHARED = frozenset({"p2pflows", "p2pflowsd", "__main__", *sys.builtin_module_names})
"""Top-level modules that no project has of its own."""
_INSTALLED = frozenset({"site-packages", "dist-packages"})
_RELEASE_DIGITS = 12

_numbers = itertools.count(1)
_projects: dict[str, Project] = {}
_plain_import_module = importlib.import_module


class Project:
    """The modules of some folders, as they are when they are first imported.

    Args:
        folders: where to look for modules, first the one that wins.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.name = f"{_PREFIX}{next(_numbers)}"
        self._folders = [str(folder) for folder in folders]
        self._first: list[str] = []
        self._last: list[str] = []
        self._path_before: list[str] | None = None
        self._contents: dict[Path, bytes | None] = {}
        self._files: dict[str, set[Path]] = {}
        self._uses: dict[str, set[str]] = {}
        package = ModuleType(self.name, "The modules of one project.")
        package.__path__ = self._folders
        sys.modules[self.name] = package
        self._package = package
        self._builtins = {**vars(builtins), "__import__": self._import}
        _projects[self.name] = self
        _install()

    @contextlib.contextmanager
    def loading(self) -> Iterator[None]:
        """While the block loads a target, take what its modules add to `sys.path` as further folders of the project."""
        self._path_before = list(sys.path)
        try:
            yield
        finally:
            first, last = self._added()
            self._first += [entry for entry in first if entry not in self._first]
            self._last += [entry for entry in last if entry not in self._last]
            sys.path[:] = [entry for entry in sys.path if entry not in {*first, *last}]
            self._path_before = None

    def owns(self, name: str) -> bool:
        """Whether a module, or the package that it is in, is one of this project."""
        return self._spec(name.partition(".")[0]) is not None

    def module(self, name: str) -> ModuleType:
        """Import a module of this project by the name that its authors use."""
        return _plain_import_module(f"{self.name}.{name}")

    def file(self, path: Path) -> ModuleType:
        """Import a file of this project, whatever its name."""
        name = f"{self.name}.{path.stem.replace('.', '_')}"
        known = sys.modules.get(name)
        if known is not None and getattr(known, "__file__", None) == str(path):
            return known
        spec = importlib.util.spec_from_file_location(name, path, loader=_SourceLoader(name, str(path), self))
        if spec is None or spec.loader is None:
            raise ImportError("it is no Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            sys.modules.pop(name, None)
            raise
        return module

    def is_current(self) -> bool:
        """Whether the files that were read are still the same."""
        return all(_content(path) == content for path, content in self._contents.items())

    def config_file(self, path: Path, module: str) -> bytes | None:
        """The content of a config file when a class of this module first needed it; None if there was no such file."""
        if path not in self._contents:
            self._contents[path] = _content(path)
        self._files.setdefault(module, set()).add(path)
        return self._contents[path]

    def release_of(self, module: str) -> str:
        """A fingerprint of a module's code: its file, all files of the project that it imports, and their configs."""
        digest = hashlib.sha256()
        for name in sorted(self._reached(module)):
            for path in sorted(self._files.get(name, ())):
                content = self._contents[path]
                if content is not None:
                    label = f"{self.public(name)} {path.name}"
                    digest.update(f"{len(label)} {label} {len(content)} ".encode() + content)
        return digest.hexdigest()[:_RELEASE_DIGITS]

    def public(self, text: str) -> str:
        """A text in which modules of this project have the names that their authors use."""
        return text.replace(f"{self.name}.", "").replace(f"'{self.name}'", "its folder")

    # Called by the import system.

    def find(self, name: str, path: Sequence[str] | None) -> ModuleSpec | None:
        """Find a module of this project by its name in `sys.modules`."""
        inner = name.removeprefix(f"{self.name}.")
        spec = PathFinder.find_spec(name, path) if "." in inner else self._spec(inner)
        if spec is not None and isinstance(spec.loader, SourceFileLoader) and spec.origin is not None:
            spec.loader = _SourceLoader(name, spec.origin, self)
            spec.cached = None
        return spec

    def execute(self, loader: SourceFileLoader, module: ModuleType) -> None:
        """Run the code of a module that imports from this project first."""
        vars(module)["__builtins__"] = self._builtins
        SourceFileLoader.exec_module(loader, module)

    def read(self, path: str, module: str) -> bytes:
        """Read a source file, and keep what was read."""
        content = Path(path).read_bytes()
        self._contents[Path(path)] = content
        self._files.setdefault(module, set()).add(Path(path))
        return content

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - the import system's name
        locals: Mapping[str, Any] | None = None,  # noqa: A002 - the import system's name
        fromlist: Sequence[str] = (),
        level: int = 0,
    ) -> ModuleType:
        is_own = level == 0 and self.owns(name)
        try:
            if not is_own:
                found = builtins.__import__(name, globals, locals, fromlist, level)
            else:
                found = builtins.__import__(f"{self.name}.{name}", globals, locals, fromlist, 0)
        except ModuleNotFoundError as error:
            if error.name is None or not error.name.startswith(f"{self.name}."):
                raise
            raise ModuleNotFoundError(self.public(str(error)), name=self.public(error.name)) from None
        if is_own:
            leaf = sys.modules[f"{self.name}.{name}"]
            if not fromlist:
                found = sys.modules[f"{self.name}.{name.partition('.')[0]}"]
        else:
            leaf = found
        self._note_use(globals, leaf, fromlist)
        return found

    def import_by_text(self, frame: FrameType, name: str) -> ModuleType:
        """Import a module that the code of a frame names in a text."""
        module = self.module(name)
        self._note_use(frame.f_globals, module, ())
        return module

    def _note_use(self, user: Mapping[str, Any] | None, used: ModuleType, fromlist: Sequence[str]) -> None:
        name = getattr(used, "__name__", "")
        if user is None or not name.startswith(f"{self.name}."):
            return
        inner = (f"{name}.{each}" for each in fromlist or ())
        self._uses.setdefault(str(user.get("__name__")), set()).update(
            {name, *(each for each in inner if each in sys.modules)}
        )

    def _reached(self, module: str) -> set[str]:
        reached: set[str] = set()
        waiting = [module]
        while waiting:
            name = waiting.pop()
            if name in reached or not name.startswith(f"{self.name}."):
                continue
            reached.add(name)
            waiting += [name.rpartition(".")[0], *self._uses.get(name, ())]
        return reached

    def _spec(self, top: str) -> ModuleSpec | None:
        """Find a top-level module; a mere folder only if no regular module has its name, as Python does."""
        if top in _SHARED or not top:
            return None
        name = f"{self.name}.{top}"
        self._package.__path__ = self._search_path()
        spec = PathFinder.find_spec(name, self._package.__path__)
        if spec is None or spec.origin is not None:
            return spec
        try:
            elsewhere = importlib.util.find_spec(top)
        except (ImportError, ValueError):
            return spec
        return spec if elsewhere is None or elsewhere.origin is None else None

    def _search_path(self) -> list[str]:
        first, last = self._added()
        beneath = [entry for entry in sys.path if self._is_beneath(entry) and not _is_installed(entry)]
        return list(dict.fromkeys([*first, *self._first, *self._folders, *self._last, *last, *beneath]))

    def _is_beneath(self, entry: str) -> bool:
        return any(entry.startswith(folder.rstrip(os.sep) + os.sep) for folder in self._folders)

    def _added(self) -> tuple[list[str], list[str]]:
        """What has been added to `sys.path` since the loading began: before what was there, and after it."""
        if self._path_before is None:
            return [], []
        path, before = list(sys.path), set(self._path_before)
        start = next((place for place, entry in enumerate(path) if entry in before), len(path))
        own = [entry for entry in path if entry not in before and not _is_installed(entry)]
        return [entry for entry in own if entry in path[:start]], [entry for entry in own if entry not in path[:start]]


class _SourceLoader(SourceFileLoader):
    """Runs a source file as it is now: cached bytecode overlooks an edit within one second."""

    def __init__(self, name: str, path: str, project: Project) -> None:
        super().__init__(name, path)
        self._project = project

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self._project.read(path, fullname), path)
        return code

    def exec_module(self, module: ModuleType) -> None:
        self._project.execute(self, module)


class _Finder(MetaPathFinder):
    """Finds the modules of all projects."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        project = project_of(fullname)
        return None if project is None or fullname == project.name else project.find(fullname, path)


def project_of(module: str) -> Project | None:
    """The project of a module, by its name in `sys.modules`; None if it belongs to none."""
    return _projects.get(module.partition(".")[0])


def public_name(module: str) -> str:
    """The name of a module without the project that it is in: what may be stored, and shown."""
    return module.partition(".")[2] if project_of(module) is not None else module


def calling_project() -> Project | None:
    """The project whose code has called, however indirectly; None if there is none."""
    found = _calling_frame(sys._getframe(1))  # noqa: SLF001 - there is no other way to find the caller
    return None if found is None else project_of(found.f_globals["__name__"])


def calling_line() -> str:
    """The line of a project's code that has called, however indirectly, as `FILE.py:LINE`; empty if there is none."""
    found = _calling_frame(sys._getframe(1))  # noqa: SLF001 - there is no other way to find the caller
    return "" if found is None else f"{Path(found.f_code.co_filename).name}:{found.f_lineno}"


def folder_of_installed(top: str) -> Path | None:
    """The folder from which Python imports a top-level module that is not installed for good; None if it is."""
    if top in _SHARED:
        return None
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return None
    folder = Path(spec.origin).absolute().parent
    folder = folder.parent if spec.submodule_search_locations is not None else folder
    return None if _is_installed(str(folder)) else folder


def written_path() -> list[Path]:
    """The folders of PYTHONPATH that hold no installed packages."""
    written = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [Path(entry).absolute() for entry in written if entry and not _is_installed(entry)]


@functools.cache
def _is_installed(entry: str) -> bool:
    """Whether a folder of `sys.path` holds the standard library or installed packages."""
    path = Path(entry).absolute()
    standard = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    return (
        bool(_INSTALLED & set(path.parts))
        or path.suffix == ".zip"
        or any(path.is_relative_to(each) for each in standard)
        or next(path.glob("*.dist-info"), None) is not None
    )


def _calling_frame(frame: FrameType | None) -> FrameType | None:
    while frame is not None and project_of(str(frame.f_globals.get("__name__"))) is None:
        frame = frame.f_back
    return frame


def _import_module(name: str, package: str | None = None) -> ModuleType:
    """Import a module by name, as `importlib.import_module` does, and for the code of a project from that project.

    A library that imports on behalf of a project, such as `importlib.resources`, finds the project's modules last.
    """
    caller = sys._getframe(1)  # noqa: SLF001 - there is no other way to find the caller
    frame = _calling_frame(caller)
    project = None if frame is None else project_of(frame.f_globals["__name__"])
    whole = importlib.util.resolve_name(name, package) if name.startswith(".") and package else name
    if frame is None or project is None or not project.owns(whole):
        return _plain_import_module(name, package)
    if frame is not caller and importlib.util.find_spec(whole.partition(".")[0]) is not None:
        return _plain_import_module(name, package)
    return project.import_by_text(frame, whole)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _install() -> None:
    """Let Python find the modules of projects, once."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
        importlib.import_module = _import_module
