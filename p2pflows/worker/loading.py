"""Loads the target of an endpoint: a function or a class in a file or a package, or a shell command."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import logging
import sys
import threading
import traceback
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.flows.config import SUBFLOWS, effective_config, input_schema
from p2pflows.flows.flow import Flow
from p2pflows.flows.function import FlowFunction
from p2pflows.flows.overrides import open_keys
from p2pflows.protocol.worker_frames import ClassTarget, ExecTarget, PythonTarget, TaskTarget, UnknownTarget
from p2pflows.worker.shell import Command


@dataclass(frozen=True, slots=True)
class FlowClass:
    """A class of flows, and what its owner sets for every instance."""

    flow_class: type[Flow]
    config: dict[str, Any]


Loaded = FlowFunction | Command | FlowClass

_Stamp = tuple[int, int]
_SERVED = "p2pflows_served_"
_NUMBERS = itertools.count(1)

_log = logging.getLogger(__name__)


class Loader:
    """Loads targets once for each endpoint and revision; may be used from many threads."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[int, Loaded]] = {}
        # One at a time: imports change sys.path and sys.modules, and two lanes may need the same endpoint.
        self._lock = threading.Lock()
        self._folders: list[Path] = []
        self._stamps: dict[str, _Stamp] = {}

    def known(self, endpoint: str, revision: int) -> Loaded | None:
        """What was loaded for this revision; None if nothing was. It does not wait for a load that is under way."""
        latest = self._loaded.get(endpoint)
        return latest[1] if latest is not None and latest[0] == revision else None

    def load(self, endpoint: str, revision: int, target: TaskTarget) -> Loaded:
        """Load a target, unless an earlier call has loaded this revision.

        Raises:
            UsageError: it cannot be loaded; the message says why.
        """
        with self._lock:
            known = self.known(endpoint, revision)
            if known is not None:
                return known
            loaded = self._load(target, again=endpoint in self._loaded)
            self._loaded[endpoint] = (revision, loaded)
            return loaded

    def examine(self, target: TaskTarget) -> Loaded:
        """Load a target as it is now, for no endpoint.

        Raises:
            UsageError: it cannot be loaded; the message says why.
        """
        with self._lock:
            return self._load(target, again=False)

    def _load(self, target: TaskTarget, *, again: bool) -> Loaded:
        match target:
            case ExecTarget(command, cwd):
                loaded = Command(command, cwd)
                loaded.check()
                return loaded
            case PythonTarget(name, cwd):
                return FlowFunction.from_callable(self._find(name, cwd, again=again))
            case ClassTarget(name, cwd, config):
                found = self._find(name, cwd, again=again)
                if not (isinstance(found, type) and issubclass(found, Flow)):
                    raise UsageError(f"{name} is no class of flows.", "Derive it from AtomicFlow or CompositeFlow.")
                open_keys(effective_config(found, config, complete=False))
                return FlowClass(found, config)
            case UnknownTarget():
                raise UsageError("This worker does not know that kind of target.", "Bring it up to date.")

    def _find(self, name: str, cwd: str, *, again: bool) -> object:
        module_name, _, attribute = name.rpartition(":")
        if not module_name or not attribute:
            raise UsageError(f"{name!r} names no function.", "Write flows.py:function or package.module:function.")
        path = Path(cwd, module_name) if module_name.endswith(".py") else None
        if path is not None and not path.is_file():
            raise UsageError(f"There is no file {path}.", "Check the path, and where the worker runs.")
        for folder in dict.fromkeys([Path(cwd).absolute(), *([path.absolute().parent] if path else [])]):
            self._prefer(folder)
        try:
            if module_name == "__main__":
                module = _notebook(attribute)
            elif path is None:
                module = _import_package(module_name, again=again)
            else:
                module = _import_file(path, f"{_SERVED}{next(_NUMBERS)}")
        except BaseException as error:  # a flow's file may even call sys.exit
            _log.error("%s cannot be imported", module_name, exc_info=error)
            reason = _where(error, module_name)
            raise UsageError(f"{module_name} cannot be imported: {reason}.", "Mend the file.") from error
        self._stamps = {name: stamp for name, file in self._imported() if (stamp := _stamp(file)) is not None}
        return _attribute(module, module_name, attribute)

    def _prefer(self, folder: Path) -> None:
        """Let imports find the modules of a folder, as they are now, before those of the same name in other folders."""
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.path.insert(0, str(folder))
        for name, file in self._imported():
            is_changed = name in self._stamps and _stamp(file) != self._stamps[name]
            relative = [file.relative_to(other) for other in self._folders if file.is_relative_to(other)]
            if is_changed or any(folder / path != file and (folder / path).exists() for path in relative):
                del sys.modules[name]
        if folder not in self._folders:
            self._folders.append(folder)
        importlib.invalidate_caches()

    def _imported(self) -> list[tuple[str, Path]]:
        """The modules that served files have imported from their folders, with their files."""
        found = []
        for name, module in list(sys.modules.items()):
            file = Path(getattr(module, "__file__", None) or "")
            if not name.startswith(_SERVED) and name != "__main__" and any(map(file.is_relative_to, self._folders)):
                found.append((name, file))
        return found


class _SourceLoader(SourceFileLoader):
    """Always compiles the file as it is now: cached bytecode overlooks an edit within one second."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def describe(loaded: Loaded) -> dict[str, Any]:
    """Describe an endpoint: JSON Schemas of its input and output, a text, and whether it is asynchronous."""
    if isinstance(loaded, Command):
        return {"schema": {"type": "object"}, "output": None, "description": "", "async": False}
    if isinstance(loaded, FlowClass):
        config = effective_config(loaded.flow_class, loaded.config, complete=False)
        description = str(config.get("description") or "")
        facts = {"schema": input_schema(config), "output": None, "description": description, "async": False}
        return {
            **facts,
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


def _stamp(file: Path) -> _Stamp | None:
    """The time and size of a file, which change with it; None if it is gone."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _import_file(path: Path, name: str) -> ModuleType:
    loader = _SourceLoader(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise ImportError("it is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import_package(name: str, *, again: bool) -> ModuleType:
    known = sys.modules.get(name)
    return importlib.reload(known) if again and known is not None else importlib.import_module(name)


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
