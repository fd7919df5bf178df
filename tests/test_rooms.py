"""Who may import whom, read from the syntax tree: by folder, by outside library, and the core without I/O."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY, DAEMON = ROOT / "p2pflows", ROOT / "daemon" / "p2pflowsd"

OUTSIDE_LIBRARIES = {
    "paho": {"p2pflows.links.mqtt_connection"},
    "nacl": {"p2pflows.protocol"},
    "sqlite3": {"p2pflowsd.journal"},
    "click": {"p2pflows.cli"},
    "segno": {"p2pflows.cli"},
    "prompt_toolkit": {"p2pflows.cli.chat.chat_terminal"},
    "aiohttp": {
        "p2pflowsd.api.http_server",
        "p2pflows.openai_server.server",
        "p2pflows.web.server",
        "p2pflows.web.transfers",
    },
    "yaml": {
        "p2pflows.yaml_file",
        "p2pflows.flows.yaml_config",
    },
    "huggingface_hub": {"p2pflows.modules"},
    "iotcore": {"p2pflowsd.processes.iotcore_child"},
    "openai": {"p2pflows.models"},
    "jinja2": {"p2pflows.models"},
    "jiter": {"p2pflows.protocol.strict_json"},
    "jsonschema": {"p2pflows.forms"},
}
"""Each outside library, and the modules or folders that alone import it."""

FLOORS = (
    {"p2pflowsd.__main__"},
    {"p2pflowsd.app"},
    {"p2pflowsd.api", "p2pflowsd.processes"},
    {"p2pflowsd.transfers"},
    {"p2pflowsd.node"},
    {"p2pflowsd.receiving"},
    {"p2pflowsd.human", "p2pflowsd.asking"},
    {"p2pflowsd.running"},
    {"p2pflowsd.sending"},
    {"p2pflowsd.owners_log", "p2pflowsd.worker_socket", "p2pflowsd.checkpoints"},
    {"p2pflowsd.journal"},
    {"p2pflowsd.callbacks", "p2pflowsd.lifecycle", "p2pflowsd.clock", "p2pflowsd.batch_times", "p2pflowsd.counts"},
    {"p2pflowsd.faults", "p2pflowsd.link", "p2pflowsd.private_socket", "p2pflowsd.steps"},
    {"p2pflows.__main__"},
    {"p2pflows.cli"},
    {"p2pflows", "p2pflows.serving", "p2pflows.chat", "p2pflows.interfaces", "p2pflows.transformations"},
    {"p2pflows.humans", "p2pflows.worker", "p2pflows.flow_verse"},
    {
        "p2pflows.models",
        "p2pflows.modules",
        "p2pflows.local",
        "p2pflows.openai_server",
        "p2pflows.web",
        "p2pflows.doctor",
    },
    {"p2pflows.flows", "p2pflows.service", "p2pflows.notifying"},
    {"p2pflows.sent_files"},
    {"p2pflows.client", "p2pflows.config", "p2pflows.contacts"},
    {"p2pflows.contact_names"},
    {"p2pflows.links", "p2pflows.forms", "p2pflows.settings"},
    {"p2pflows.protocol"},
    {"p2pflows.yaml_file", "p2pflows.strict_modes", "p2pflows.petnames"},
    {
        "p2pflows.home",
        "p2pflows.files",
        "p2pflows.hints",
        "p2pflows.logs",
        "p2pflows.memory",
        "p2pflows.short_ids",
        "p2pflows.terminal",
        "p2pflows.backoff",
    },
    {"p2pflows.errors", "p2pflows.foreign_text", "p2pflows.units"},
)
"""Folders and single modules, from top to bottom: each imports only what stands below it."""

CORE = (
    "node", "receiving", "running", "human", "asking", "sending", "journal", "lifecycle", "owners_log",
)  # fmt: skip
"""What decides; time, randomness and the broker are passed in."""

IO_AND_CHANCE = {"asyncio", "threading", "time", "random", "secrets", "subprocess", "socketserver", "select"}
CHEAP = {
    "p2pflows.errors",
    "p2pflows.protocol.framing",
    "p2pflows.protocol.topics",
    "p2pflows.home",
    "p2pflows.links.broker_url",
}
"""What every command imports; so it imports no outside library."""
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}


def _modules() -> Iterator[tuple[str, Path]]:
    for top in (LIBRARY, DAEMON):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


@functools.cache
def _imports(module: str) -> set[str]:
    """Every module that one imports, wherever in it; names from a package count as modules of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(package), names=names, level=0):
                found |= {package, *(f"{package}.{alias.name}" for alias in names)}
    return found


def _within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _folder(module: str) -> str:
    """The folder that a module lies in, or itself where it lies directly in its package."""
    return ".".join(module.split(".")[:2])


def _level(module: str) -> int:
    return next(level for level, floor in enumerate(FLOORS) if _folder(module) in floor)


@pytest.mark.parametrize("library", OUTSIDE_LIBRARIES)
def test_each_outside_library_is_imported_in_one_place(library: str) -> None:
    """Only the modules named for it import an outside library, so that it could be replaced there."""
    allowed = OUTSIDE_LIBRARIES[library]
    users = {name for name in MODULES if library in map(_top, _imports(name))}
    assert {user for user in users if not _within(user, allowed)} == set()
    assert {place for place in allowed if not any(_within(user, {place}) for user in users)} == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_module_imports_only_from_floors_below_its_own(module: str) -> None:
    """Folders form floors: imports point downwards, or stay inside one folder, so there is no circle."""
    used = {name for name in _imports(module) if name in MODULES and _folder(name) != _folder(module)}
    used -= {"p2pflows", "p2pflowsd"}  # the empty package around a module, but for the public names
    assert {name for name in used if _level(name) <= _level(module)} == set()


def test_every_folder_stands_on_a_floor() -> None:
    """A new folder or top-level module says where it belongs, and none that is gone is listed."""
    assert {_folder(module) for module in MODULES} - {"p2pflowsd"} == set().union(*FLOORS)


def test_the_library_never_imports_the_daemon() -> None:
    """`p2pflowsd` imports `p2pflows`, and never the reverse."""
    assert [name for name in MODULES if _top(name) == "p2pflows" and "p2pflowsd" in map(_top, _imports(name))] == []


@pytest.mark.parametrize("part", CORE)
def test_the_core_has_no_clock_no_threads_and_no_chance(part: str) -> None:
    """What decides imports neither time, randomness, threads nor the event loop, so a simulator can supply them."""
    inside = [name for name in MODULES if _within(name, {f"p2pflowsd.{part}"})]
    assert inside
    assert {used for name in inside for used in map(_top, _imports(name)) if used in IO_AND_CHANCE} == set()


@pytest.mark.parametrize("module", sorted(CHEAP))
def test_what_every_command_imports_stays_cheap(module: str) -> None:
    """Modules that every command imports use only each other and the standard library."""
    used = _imports(module) - {"p2pflows", "p2pflows.protocol", "p2pflows.links"}
    assert {name for name in used if _top(name) == "p2pflows" and not _within(name, CHEAP)} == set()
    assert {_top(name) for name in used} - set(sys.stdlib_module_names) <= {"p2pflows"}


def test_no_module_has_a_vague_name() -> None:
    """Every module is named for what it is, and none for being useful."""
    assert [name for name in MODULES if VAGUE_NAMES & set(name.split("."))] == []


def test_nothing_is_imported_that_is_not_declared() -> None:
    """Every library that is imported stands in pyproject.toml as a dependency."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {"paho": "paho-mqtt", "nacl": "pynacl", "yaml": "pyyaml", "pydantic_core": "pydantic"}
    foreign = {_top(used) for name in MODULES for used in _imports(name)} - set(sys.stdlib_module_names)
    missing = {name for name in foreign - {"p2pflows", "p2pflowsd"} if f'"{names.get(name, name)}>=' not in declared}
    assert missing == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_what_it_is(module: str) -> None:
    """Each module begins with a docstring."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
