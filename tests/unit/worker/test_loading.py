"""Targets are loaded from real files, or refused with a reason."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import UsageError
from p2pflows.flows.function import FlowFunction
from p2pflows.protocol.worker_frames import ExecTarget, PythonTarget, TaskTarget, read_target
from p2pflows.worker.loading import Loader, describe
from p2pflows.worker.shell import Command


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    """What a test puts on the import path, or imports from it, is gone after it."""
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("p2pflows_served_", "probe_")):
            del sys.modules[name]


@pytest.fixture
def loader() -> Loader:
    """A loader that has loaded nothing."""
    return Loader()


def python(target: str, cwd: Path) -> PythonTarget:
    """A function as a target."""
    return PythonTarget(target, str(cwd))


def call(loader: Loader, target: TaskTarget, revision: int = 1, data: bytes = b"{}") -> Any:
    """Load a function and invoke it."""
    loaded = loader.load("endpoint", revision, target)
    assert isinstance(loaded, FlowFunction)
    return loaded.invoke(data)


def refusal(loader: Loader, target: TaskTarget) -> str:
    """The sentence with which a target is refused."""
    with pytest.raises(UsageError) as caught:
        loader.load("endpoint", 1, target)
    return caught.value.message


def test_a_function_in_a_file(loader: Loader, tmp_path: Path) -> None:
    """A function in a file can be invoked, and finds the modules beside it and in its serving folder."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "probe_near.py").write_text("NAME = 'near'")
    (tmp_path / "inner" / "probe_beside.py").write_text("NAME = 'beside'")
    (tmp_path / "inner" / "flows.py").write_text(
        "import probe_beside, probe_near\ndef f(a: int): return a, probe_beside.NAME, probe_near.NAME"
    )
    target = python(f"{tmp_path}/inner/flows.py:f", tmp_path)
    assert call(loader, target, data=b'{"a": 1}') == (1, "beside", "near")


def test_what_a_decorated_flow_says(loader: Loader, tmp_path: Path) -> None:
    """A decorated flow whose annotations are strings loads, and is described as the daemon will publish it."""
    (tmp_path / "flows.py").write_text(
        "from __future__ import annotations\nfrom p2pflows import flow\n"
        "@flow(description='Adds.')\nasync def add(a: int, b: int = 1) -> int: return a + b"
    )
    assert describe(loader.load("add", 1, python(f"{tmp_path}/flows.py:add", tmp_path))) == {
        "schema": {
            "type": "object",
            "properties": {"a": {"type": "integer"}, "b": {"type": "integer", "default": 1}},
            "required": ["a"],
            "additionalProperties": False,
        },
        "output": {"type": "object", "properties": {"result": {"type": "integer"}}, "required": ["result"]},
        "description": "Adds.",
        "async": True,
    }


def test_classes_of_the_file_as_hints(loader: Loader, tmp_path: Path) -> None:
    """A model and a dataclass that the file itself defines can be hints, as texts too."""
    (tmp_path / "flows.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\nfrom pydantic import BaseModel\n"
        "class Item(BaseModel):\n    name: str\n"
        "@dataclass\nclass Box:\n    items: list[Item]\n"
        "def f(box: Box) -> str: return box.items[0].name"
    )
    data = b'{"box": {"items": [{"name": "tea"}]}}'
    assert call(loader, python(f"{tmp_path}/flows.py:f", tmp_path), data=data) == "tea"


def test_a_method_of_an_object(loader: Loader, tmp_path: Path) -> None:
    """The name after the colon may have dots."""
    (tmp_path / "flows.py").write_text(
        "class Counter:\n    n = 41\n    def more(self, by: int): return self.n + by\ncounter = Counter()"
    )
    target = python(f"{tmp_path}/flows.py:counter.more", tmp_path)
    assert call(loader, target, data=b'{"by": 1}') == 42


def test_loaded_once_for_each_revision(loader: Loader, tmp_path: Path) -> None:
    """One revision is loaded once; the next is read fresh, even if it has the same size and second."""
    file = tmp_path / "flows.py"
    target = python(f"{file}:f", tmp_path)
    file.write_text("def f(): return 1")
    assert loader.known("endpoint", 1) is None
    assert call(loader, target, 1) == 1
    file.write_text("def f(): return 2")
    assert call(loader, target, 1) == 1
    assert loader.known("endpoint", 1) is loader.load("endpoint", 1, target)
    assert call(loader, target, 2) == 2
    assert loader.known("endpoint", 1) is None


def test_a_function_in_a_package(loader: Loader, tmp_path: Path) -> None:
    """A module is imported by name from the folder it is served from, and reloaded for a new revision."""
    package = tmp_path / "probe_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "flows.py").write_text("def f(): return 'first'")
    target = python("probe_package.flows:f", tmp_path)
    assert call(loader, target, 1) == "first"
    (package / "flows.py").write_text("def f(): return 'second one'")
    assert call(loader, target, 1) == "first"
    assert call(loader, target, 2) == "second one"


def test_two_endpoints_of_a_package_share_it(loader: Loader, tmp_path: Path) -> None:
    """A second endpoint does not reload the module that the first one runs in."""
    (tmp_path / "probe_shared.py").write_text("import itertools\nn = itertools.count()\ndef f(): return next(n)")
    target = python("probe_shared:f", tmp_path)
    first, second = loader.load("one", 1, target), loader.load("two", 1, target)
    assert isinstance(first, FlowFunction)
    assert isinstance(second, FlowFunction)
    assert [first.invoke(b"{}"), second.invoke(b"{}")] == [0, 1]


def test_a_command(loader: Loader, tmp_path: Path) -> None:
    """A command is checked, and takes any object."""
    loaded = loader.load("endpoint", 1, ExecTarget("cat", str(tmp_path)))
    assert loaded == Command("cat", str(tmp_path))
    assert describe(loaded) == {
        "schema": {"type": "object"},
        "output": None,
        "description": "",
        "async": False,
    }
    assert "no program ./no" in refusal(Loader(), ExecTarget("./no", str(tmp_path)))


def test_what_is_missing(loader: Loader, tmp_path: Path) -> None:
    """The error for a missing file, module or name says what is missing, and what the file has instead."""
    (tmp_path / "flows.py").write_text("from json import loads\ndef translate(): ...\ndef _hidden(): ...")
    assert refusal(loader, python(f"{tmp_path}/no.py:f", tmp_path)) == f"There is no file {tmp_path}/no.py."
    assert refusal(loader, python(f"{tmp_path}/flows.py:f", tmp_path)) == (
        f"{tmp_path}/flows.py has no 'f'. It has: translate."
    )
    assert "No module named 'probe_missing'" in refusal(loader, python("probe_missing:f", tmp_path))
    assert "names no function" in refusal(loader, python(f"{tmp_path}/flows.py", tmp_path))


def test_what_is_no_function(loader: Loader, tmp_path: Path) -> None:
    """A value and a class are not served."""
    (tmp_path / "flows.py").write_text("value = 5\nclass Kind: ...")
    assert "is not a function" in refusal(loader, python(f"{tmp_path}/flows.py:value", tmp_path))
    assert "is not a function" in refusal(loader, python(f"{tmp_path}/flows.py:Kind", tmp_path))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "x = 1\n\nimport probe_not_there\n",
            "line 3: ModuleNotFoundError: No module named 'probe_not_there'",
        ),
        ("def f(:\n", "line 1: SyntaxError: "),
        ("def f():\n    return\n  x\n", "line 3: IndentationError: "),
        ("def g(): raise ValueError('two\\nlines')\ng()\n", "line 1: ValueError: two."),
        ("import sys\nsys.exit(3)\n", "line 2: SystemExit: 3"),
        ("raise KeyboardInterrupt\n", "line 1: KeyboardInterrupt"),
    ],
)
def test_a_file_that_does_not_import(loader: Loader, tmp_path: Path, text: str, reason: str) -> None:
    """The error for a file that raises names the line, and the worker goes on."""
    (tmp_path / "flows.py").write_text(text)
    said = refusal(loader, python(f"{tmp_path}/flows.py:f", tmp_path))
    assert said.startswith(f"{tmp_path}/flows.py cannot be imported: {reason}")
    assert "\n" not in said


def test_a_mended_file_loads(loader: Loader, tmp_path: Path) -> None:
    """A failure is not remembered: once the file is mended, the same revision loads."""
    file = tmp_path / "flows.py"
    file.write_text("nonsense")
    target = python(f"{file}:f", tmp_path)
    refusal(loader, target)
    file.write_text("def f(): return 1")
    assert call(loader, target) == 1


def test_an_unknown_kind(loader: Loader) -> None:
    """A kind of target that a newer daemon may know is refused in words."""
    assert "does not know" in refusal(loader, read_target({"kind": "wasm", "target": "x", "cwd": "/"}))


def test_helpers_of_one_name_in_two_folders(loader: Loader, tmp_path: Path) -> None:
    """Each flow imports the helper beside it, not the one that another flow has imported before."""
    targets = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flows.py").write_text("from probe_common import who\n\ndef f() -> str:\n    return who\n")
        (tmp_path / name / "probe_common.py").write_text(f"who = {name!r}\n")
        targets.append(python("flows.py:f", tmp_path / name))
    assert [call(Loader(), targets[0]), call(loader, targets[0]), call(loader, targets[1], 2)] == ["one", "one", "two"]
    (tmp_path / "two" / "probe_fresh.py").write_text("who = 'not this one'\n")
    (tmp_path / "one" / "probe_fresh.py").write_text("who = 'fresh'\n")
    (tmp_path / "one" / "flows.py").write_text("from probe_fresh import who\n\ndef f() -> str:\n    return who\n")
    assert call(loader, targets[0], 3) == "fresh"


def test_a_helper_that_has_changed(loader: Loader, tmp_path: Path) -> None:
    """What a flow imports is as new as the flow itself."""
    (tmp_path / "flows.py").write_text("from probe_common import who\n\ndef f() -> str:\n    return who\n")
    (tmp_path / "probe_common.py").write_text("who = 'old'\n")
    assert call(loader, python("flows.py:f", tmp_path)) == "old"
    (tmp_path / "probe_common.py").write_text("who = 'changed'\n")
    assert call(loader, python("flows.py:f", tmp_path), 2) == "changed"


def test_a_package_that_has_changed_under_another_endpoint(loader: Loader, tmp_path: Path) -> None:
    """A new endpoint of a module runs what is in its file now."""
    (tmp_path / "probe_packed.py").write_text("def f() -> str:\n    return 'old'\n")
    assert call(loader, python("probe_packed:f", tmp_path)) == "old"
    (tmp_path / "probe_packed.py").write_text("def f() -> str:\n    return 'changed'\n")
    loaded = loader.load("other", 2, python("probe_packed:f", tmp_path))
    assert isinstance(loaded, FlowFunction)
    assert loaded.invoke(b"{}") == "changed"
