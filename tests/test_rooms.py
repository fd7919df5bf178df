"""Who may import whom, read from the syntax tree: each outside thing has one room, and the heart does no I/O."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIBRARY, DAEMON = ROOT / "p2pflows", ROOT / "daemon" / "p2pflowsd"

ROOMS = {
    "paho": {"p2pflows.mqtt"},
    "nacl": {"p2pflows.identity", "p2pflows.envelope", "p2pflows.channel"},
    "sqlite3": {"p2pflowsd.journal"},
    "click": {"p2pflows.cli"},
    "segno": {"p2pflows.cli"},
    "aiohttp": {"p2pflowsd.control"},
    "yaml": {
        "p2pflows.files",
        "p2pflows.flows.config",
        "p2pflows.local",
    },
    "huggingface_hub": {"p2pflows.modules"},
    "iotcore": {"p2pflowsd.iotcore_child"},
    "openai": {"p2pflows.chat"},
    "jinja2": {"p2pflows.chat"},
}
"""Each outside thing, and the modules (or packages) that alone import it."""

HEART = (
    "node", "admission", "outbox", "intake", "notices", "dispatch", "scheduler", "inbox", "gate", "served", "lifecycle",
    "instances", "runs", "owners_log", "conversations", "journal", "frames",
)  # fmt: skip
"""What decides; time, randomness and the broker are passed in."""

OUTSIDE = {"asyncio", "threading", "time", "random", "secrets", "subprocess", "socketserver", "select"}
LEAVES = {"p2pflows.errors", "p2pflows.framing", "p2pflows.topics", "p2pflows.home", "p2pflows.broker_url"}
ATTICS = {"utils", "util", "helpers", "helper", "common", "misc"}


def _modules() -> Iterator[tuple[str, Path]]:
    for top in (LIBRARY, DAEMON):
        for path in sorted(top.rglob("*.py")):
            parts = path.relative_to(top.parent).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(_modules())


def _imports(path: Path) -> set[str]:
    """Every module that a file imports, wherever in it; names from a package count as modules of it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                found |= {alias.name for alias in names}
            case ast.ImportFrom(module=str(module), names=names, level=0):
                found |= {module, *(f"{module}.{alias.name}" for alias in names)}
    return found


IMPORTS = {name: _imports(path) for name, path in MODULES.items()}


def _within(module: str, rooms: set[str]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def _top(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("outside", ROOMS)
def test_each_outside_thing_has_its_room(outside: str) -> None:
    """Only the rooms named for it import an outside library, so that it could be replaced there."""
    users = {name for name, imports in IMPORTS.items() if outside in map(_top, imports)}
    assert {user for user in users if not _within(user, ROOMS[outside])} == set()
    assert {room for room in ROOMS[outside] if not any(_within(user, {room}) for user in users)} == set()


def test_the_library_never_imports_the_daemon() -> None:
    """`p2pflowsd` imports `p2pflows`, and never the reverse."""
    assert [name for name in IMPORTS if _top(name) == "p2pflows" and "p2pflowsd" in map(_top, IMPORTS[name])] == []


def test_nobody_imports_the_command_line() -> None:
    """The commands are a face: nothing but themselves and `python -m p2pflows` knows them."""
    users = {name for name, imports in IMPORTS.items() if any(_within(used, {"p2pflows.cli"}) for used in imports)}
    assert {user for user in users if not _within(user, {"p2pflows.cli"})} <= {"p2pflows.__main__"}


def test_nobody_but_the_meeting_place_imports_the_rim() -> None:
    """The app builds the parts; no part knows the app, the control socket or the processes."""
    rim = {"p2pflowsd.app", "p2pflowsd.control", "p2pflowsd.methods", "p2pflowsd.workers", "p2pflowsd.broker"}
    allowed = {"p2pflowsd.app", "p2pflowsd.__main__", "p2pflowsd.control"}
    assert {name for name, imports in IMPORTS.items() if imports & rim} <= allowed


@pytest.mark.parametrize("room", HEART)
def test_the_heart_has_no_clock_no_threads_and_no_dice(room: str) -> None:
    """What decides imports neither time, randomness, threads nor the event loop, so a simulator can own them."""
    inside = [name for name in MODULES if _within(name, {f"p2pflowsd.{room}"})]
    assert inside
    assert {used for name in inside for used in map(_top, IMPORTS[name]) if used in OUTSIDE} == set()


@pytest.mark.parametrize("leaf", sorted(LEAVES))
def test_a_leaf_imports_only_leaves_and_the_standard_library(leaf: str) -> None:
    """What every command needs stays cheap to import, and free of cycles."""
    used = IMPORTS[leaf]
    assert {
        name for name in used if _top(name) == "p2pflows" and name != "p2pflows" and not _within(name, LEAVES)
    } == set()
    assert {_top(name) for name in used} - set(sys.stdlib_module_names) <= {"p2pflows"}


def test_no_module_is_an_attic() -> None:
    """Every module is named for what it is, and none for being useful."""
    assert [name for name in MODULES if ATTICS & set(name.split("."))] == []


def test_nothing_is_imported_that_is_not_declared() -> None:
    """Every library that is imported stands in pyproject.toml as a dependency."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    names = {"paho": "paho-mqtt", "nacl": "pynacl", "yaml": "pyyaml", "pydantic_core": "pydantic"}
    foreign = {_top(used) for imports in IMPORTS.values() for used in imports} - set(sys.stdlib_module_names)
    missing = {name for name in foreign - {"p2pflows", "p2pflowsd"} if f'"{names.get(name, name)}>=' not in declared}
    assert missing == set()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_every_module_says_what_it_is(module: str) -> None:
    """Each module begins with a docstring."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
