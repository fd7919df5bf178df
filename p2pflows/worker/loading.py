"""Loads the target of an endpoint: a function or a class in a file or a package, or a shell command."""

from __future__ import annotations

import contextlib
import importlib
import logging
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.flows.config import SUBFLOWS, effective_config
from p2pflows.flows.flow import Flow
from p2pflows.flows.function import FlowFunction
from p2pflows.flows.overrides import check_keyless, open_keys
from p2pflows.flows.project import Project, folder_of_installed, project_of, written_path
from p2pflows.protocol.strict_json import compact
from p2pflows.protocol.worker_frames import ClassTarget, ExecTarget, PythonTarget, TaskTarget, UnknownTarget
from p2pflows.worker.shell import Command


@dataclass(frozen=True, slots=True)
class FlowClass:
    """A class of flows, and what its owner sets for every instance."""

    flow_class: type[Flow]
    config: dict[str, Any]
    release: str = ""
    """A fingerprint of its code; empty if it is installed, or of a notebook."""
    _defaults: dict[str, dict[str, Any]] = field(default_factory=dict, compare=False, repr=False)

    def defaults(self, config: dict[str, Any]) -> dict[str, Any]:
        """The defaults of the class, with what its owner sets; not to be changed.

        They are merged once for code of which a fingerprint is known, as its config files are read once, too.

        Raises:
            UsageError: a config file is wrong, or a required key is missing.
        """
        key = compact(config)
        defaults = self._defaults.get(key)
        if defaults is None:
            defaults = effective_config(self.flow_class, config, complete=False)
            if self.release:
                self._defaults.clear()
                self._defaults[key] = defaults
        return defaults


MAX_WAIT_FOR_LOAD_S = 10.0
"""How long a load may take before others no longer wait for it."""
_POLL_INTERVAL_S = 0.5

Loaded = FlowFunction | Command | FlowClass

_log = logging.getLogger(__name__)


class Loader:
    """Loads targets once for each endpoint and revision; may be used from many threads.

    Endpoints of the same folders share their modules until a file has changed, or one of them is served again.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[int, Loaded]] = {}
        self._lock = threading.Lock()
        self._began = 0.0
        self._projects: dict[tuple[Path, ...], tuple[Project, set[str]]] = {}

    def known(self, endpoint: str, revision: int) -> Loaded | None:
        """What was loaded for this revision; None if nothing was. It does not wait for a load that is under way."""
        latest = self._loaded.get(endpoint)
        return latest[1] if latest is not None and latest[0] == revision else None

    def load(self, endpoint: str, revision: int, target: TaskTarget) -> Loaded:
        """Load a target, unless an earlier call has loaded this revision.

        Raises:
            UsageError: it cannot be loaded; the message says why.
        """
        with self._one_at_a_time():
            known = self.known(endpoint, revision)
            if known is not None:
                return known
            loaded = self._load(target, endpoint)
            self._loaded[endpoint] = (revision, loaded)
            return loaded

    def examine(self, target: TaskTarget) -> Loaded:
        """Load a target as it is now, for no endpoint.

        Raises:
            UsageError: it cannot be loaded; the message says why.
        """
        with self._one_at_a_time():
            return self._load(target, None)

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        """Wait until no other load is under way: what a module adds to `sys.path` is taken as its project's.

        A load that takes long is not waited for: it may never end.
        """
        while not (lock := self._lock).acquire(timeout=_POLL_INTERVAL_S):
            if lock is self._lock and time.monotonic() - self._began > MAX_WAIT_FOR_LOAD_S:
                self._lock = threading.Lock()
        self._began = time.monotonic()
        try:
            yield
        finally:
            lock.release()

    def _load(self, target: TaskTarget, endpoint: str | None) -> Loaded:
        match target:
            case ExecTarget(command, cwd, errors):
                loaded = Command(command, cwd, errors)
                loaded.check()
                return loaded
            case PythonTarget(name, cwd):
                found, module = self._find(name, cwd, endpoint)
                return replace(FlowFunction.from_callable(found), release=_release(module))
            case ClassTarget(name, cwd, config):
                found, module = self._find(name, cwd, endpoint)
                if not (isinstance(found, type) and issubclass(found, Flow)):
                    raise UsageError(f"{name} is no class of flows.", "Derive it from AtomicFlow or CompositeFlow.")
                open_keys(effective_config(found, config, complete=False))
                return FlowClass(found, config, _release(module))
            case UnknownTarget():
                raise UsageError("This worker does not know that kind of target.", "Bring it up to date.")

    def _find(self, name: str, cwd: str, endpoint: str | None) -> tuple[object, ModuleType]:
        """The object that a target names, and its module."""
        module_name, _, attribute = name.rpartition(":")
        if not module_name or not attribute:
            raise UsageError(f"{name!r} names no function.", "Write flows.py:function or package.module:function.")
        path = Path(cwd, module_name).absolute() if module_name.endswith(".py") else None
        if path is not None and not path.is_file():
            raise UsageError(f"There is no file {path}.", "Check the path, and where the worker runs.")
        importlib.invalidate_caches()
        folders = _folders(module_name, path, Path(cwd).absolute())
        project, endpoints = self._project(folders, endpoint)
        try:
            if module_name == "__main__":
                module = _notebook(attribute)
            else:
                with project.loading():
                    module = _import_from(project, module_name, path)
        except BaseException as error:  # a flow's file may even call sys.exit
            _log.error("%s cannot be imported", module_name, exc_info=error)
            reason = project.public(_where(error, module_name))
            raise UsageError(f"{module_name} cannot be imported: {reason}.", "Mend the file.") from error
        if endpoint is not None:
            self._projects[folders] = (project, {*endpoints, endpoint})
        return _attribute(module, module_name, attribute), module

    def _project(self, folders: tuple[Path, ...], endpoint: str | None) -> tuple[Project, set[str]]:
        """The project of some folders: the latest, or a new one if that is too old; and what is loaded from it."""
        latest = self._projects.get(folders)
        if latest is None or endpoint is None or endpoint in latest[1] or not latest[0].is_current():
            return Project(folders), set()
        return latest


def describe(loaded: Loaded) -> dict[str, Any]:
    """Describe an endpoint: JSON Schemas of its input and output, a text, and whether it is asynchronous.

    Raises:
        UsageError: the config of a class has a setting that is unknown or means nothing, or a key.
    """
    if isinstance(loaded, Command):
        return {"schema": {"type": "object"}, "output": None, "description": "", "async": False}
    if isinstance(loaded, FlowClass):
        config = effective_config(loaded.flow_class, loaded.config, complete=False)
        check_keyless(config)
        loaded.flow_class.check_config(config)
        return {
            "schema": loaded.flow_class.describe_input(config),
            "output": loaded.flow_class.describe_output(config),
            "description": str(config.get("description") or ""),
            "async": False,
            "interleaved": loaded.flow_class.interleaves,
            "overridable": open_keys(config),
            "subflows": dict(config.get(SUBFLOWS) or {}),
        }
    return {
        "schema": loaded.input_schema,
        "output": loaded.output_schema,
        "description": loaded.description,
        "async": loaded.is_async,
    }


def release_of(loaded: Loaded) -> str:
    """A fingerprint of the code and defaults that were loaded; empty for commands, installed code and notebooks."""
    return "" if isinstance(loaded, Command) else loaded.release


def _folders(module_name: str, path: Path | None, cwd: Path) -> tuple[Path, ...]:
    """Where to look for the modules of a target: beside its file, where it is served, and where Python finds it."""
    if path is not None:
        own = [path.parent, cwd]
    else:
        elsewhere = None
        top = module_name.partition(".")[0]
        if not Path(cwd, f"{top}.py").is_file() and not Path(cwd, top).is_dir():
            elsewhere = folder_of_installed(top)
        own = [cwd] if elsewhere is None else [cwd, elsewhere]
    return tuple(dict.fromkeys([*own, *written_path()]))


def _import_from(project: Project, name: str, path: Path | None) -> ModuleType:
    if path is not None:
        return project.file(path)
    return project.module(name) if project.owns(name) else importlib.import_module(name)


def _release(module: ModuleType) -> str:
    """The fingerprint of a module's code; empty for modules that are installed, or of a notebook."""
    project = project_of(module.__name__)
    return "" if project is None else project.release_of(module.__name__)


def _notebook(attribute: str) -> ModuleType:
    module = sys.modules["__main__"]
    if not hasattr(module, attribute.partition(".")[0]):
        raise ImportError(
            f"{attribute} is defined in a notebook or script, which only workers started in it can run: "
            "write it to a file, or call run_dispatch_worker_thread there"
        )
    return module


def _attribute(module: ModuleType, module_name: str, attribute: str) -> object:
    found: object = module
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            own = sorted(
                name
                for name, value in vars(module).items()
                if callable(value)
                and getattr(value, "__module__", None) == module.__name__
                and not name.startswith("_")
            )
            has = f" It has: {', '.join(own)}." if own else ""
            raise UsageError(f"{module_name} has no {attribute!r}.{has}", "Check the name after the colon.") from None
    return found


def _where(error: BaseException, module_name: str) -> str:
    """What was raised, and at which line of the file."""
    is_file = module_name.endswith(".py")
    file_name = Path(module_name).name if is_file else module_name.rpartition(".")[2] + ".py"
    reason = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == file_name]
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == file_name:
        reason, lines = error.msg, [error.lineno]
    text = f"{type(error).__name__}: {reason}".removesuffix(": ").splitlines()[0]
    return f"line {lines[-1]}: {text}" if lines else text
