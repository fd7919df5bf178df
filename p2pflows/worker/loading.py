"""From an endpoint's target to what can be run: a function in a file or a package, or a shell command."""

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
from p2pflows.flows.config import effective_config, input_schema
from p2pflows.flows.flow import Flow
from p2pflows.flows.function import FlowFunction
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
    """Loads targets once for each endpoint and revision; for use from many threads."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[int, Loaded]] = {}
        # One at a time: imports change sys.path and sys.modules, and two lanes may want the same endpoint.
        self._lock = threading.Lock()
        self._folders: list[Path] = []
        self._stamps: dict[str, _Stamp] = {}

    def known(self, endpoint: str, revision: int) -> Loaded | None:
        """What was loaded for this revision, without waiting for anything."""
        latest = self._loaded.get(endpoint)
        return latest[1] if latest is not None and latest[0] == revision else None

    def load(self, endpoint: str, revision: int, target: dict[str, Any]) -> Loaded:
        """Load a target, or give what an earlier call loaded for this revision.

        Raises:
            UsageError: it cannot be loaded, and why.
        """
        with self._lock:
            known = self.known(endpoint, revision)
            if known is not None:
                return known
            loaded = self._load(target, again=endpoint in self._loaded)
            self._loaded[endpoint] = (revision, loaded)
            return loaded

    def examine(self, target: dict[str, Any]) -> Loaded:
        """Load a target as it is now, for no endpoint.

        Raises:
            UsageError: it cannot be loaded, and why.
        """
        with self._lock:
            return self._load(target, again=False)

    def _load(self, target: dict[str, Any], *, again: bool) -> Loaded:
        match target:
            case {"kind": "exec", "command": str(command), "cwd": str(cwd)}:
                loaded = Command(command, cwd)
                loaded.check()
                return loaded
            case {"kind": "python", "target": str(text), "cwd": str(cwd)}:
                return FlowFunction.from_callable(self._find(text, cwd, again=again))
            case {"kind": "class", "target": str(text), "cwd": str(cwd), "config": dict(config)}:
                found = self._find(text, cwd, again=again)
                if not (isinstance(found, type) and issubclass(found, Flow)):
                    raise UsageError(f"{text} is no class of flows.", "Derive it from AtomicFlow or CompositeFlow.")
                effective_config(found, config, complete=False)
                return FlowClass(found, config)
            case _:
                raise UsageError("This worker does not know that kind of target.", "Bring it up to date.")

    def _find(self, text: str, cwd: str, *, again: bool) -> object:
        place, _, attribute = text.rpartition(":")
        if not place or not attribute:
            raise UsageError(f"{text!r} names no function.", "Write flows.py:function or package.module:function.")
        path = Path(cwd, place) if place.endswith(".py") else None
        if path is not None and not path.is_file():
            raise UsageError(f"There is no file {path}.", "Check the path, and where the worker runs.")
        for folder in dict.fromkeys([Path(cwd).absolute(), *([path.absolute().parent] if path else [])]):
            self._prefer(folder)
        try:
            if place == "__main__":
                module = _notebook(attribute)
            elif path is None:
                module = _import_package(place, again=again)
            else:
                module = _import_file(path, f"{_SERVED}{next(_NUMBERS)}")
        except BaseException as error:  # a flow's file may even call sys.exit
            _log.error("%s cannot be imported", place, exc_info=error)
            reason = _where(error, place)
            raise UsageError(f"{place} cannot be imported: {reason}.", "Mend the file.") from error
        self._stamps = {name: stamp for name, imported in self._imported() if (stamp := _stamp(imported)) is not None}
        return _attribute(module, place, attribute)

    def _prefer(self, folder: Path) -> None:
        """Have imports find what is in a folder, as it is now, before what other served folders have by that name."""
        if str(folder) in sys.path:
            sys.path.remove(str(folder))
        sys.path.insert(0, str(folder))
        for name, file in self._imported():
            changed = name in self._stamps and _stamp(file) != self._stamps[name]
            others = [file.relative_to(other) for other in self._folders if file.is_relative_to(other)]
            if changed or any(folder / place != file and (folder / place).exists() for place in others):
                del sys.modules[name]
        if folder not in self._folders:
            self._folders.append(folder)
        importlib.invalidate_caches()

    def _imported(self) -> list[tuple[str, Path]]:
        """The modules that come from served folders, with their files; not those that are served themselves."""
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
    """What the daemon tells others about an endpoint."""
    if isinstance(loaded, Command):
        return {"schema": {"type": "object"}, "output": None, "description": "", "async": False}
    if isinstance(loaded, FlowClass):
        config = effective_config(loaded.flow_class, loaded.config, complete=False)
        description = str(config.get("description") or "")
        return {"schema": input_schema(config), "output": None, "description": description, "async": False}
    return {
        "schema": loaded.input_schema,
        "output": loaded.output_schema,
        "description": loaded.description,
        "async": loaded.is_async,
    }


def _stamp(file: Path) -> _Stamp | None:
    """What tells whether a file was changed; None if it is gone."""
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


def _attribute(module: ModuleType, place: str, attribute: str) -> object:
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
            raise UsageError(f"{place} has no {attribute!r}.{has}", "Check the name after the colon.") from None
    return found


def _where(error: BaseException, place: str) -> str:
    """What was raised, and at which line of the file."""
    name = Path(place).name if place.endswith(".py") else place.rpartition(".")[2] + ".py"
    said = str(error)
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).name == name]
    if isinstance(error, SyntaxError) and Path(error.filename or "").name == name:
        said, lines = error.msg, [error.lineno]
    text = f"{type(error).__name__}: {said}".removesuffix(": ").splitlines()[0]
    return f"line {lines[-1]}: {text}" if lines else text
