"""Targets are loaded from real files, or refused with a reason."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import UsageError
from p2pflows.flows import state
from p2pflows.flows.config import effective_config
from p2pflows.flows.function import FlowFunction
from p2pflows.protocol.worker_frames import ClassTarget, ExecTarget, PythonTarget, TaskTarget, read_target
from p2pflows.worker import loading
from p2pflows.worker.loading import FlowClass, Loader, describe
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


# Projects side by side.


def write(folder: Path, **files: str) -> Path:
    """Write files into a folder, each named `stem__suffix`, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(textwrap.dedent(text))
    return folder


def project(folder: Path, name: str) -> Path:
    """A project with a class, its defaults, a base class in another module, and imports of every form."""
    write(
        folder,
        flows__py="""
            from __future__ import annotations
            import importlib
            import helpers
            from helpers import Base
            from part.inner import WHO as DEEP
            from p2pflows import AtomicFlow

            class Assistant(Base):
                def run(self, input_message):
                    import late
                    from part import lazy
                    named = importlib.import_module("named").WHO
                    return {"who": [helpers.WHO, DEEP, late.WHO, lazy.WHO, named, self.flow_config["system"]]}

            def f() -> list[str]:
                import late
                from part import lazy
                return [helpers.WHO, DEEP, late.WHO, lazy.WHO, importlib.import_module("part.lazy").WHO]
            """,
        helpers__py=f"from p2pflows import AtomicFlow\nWHO = {name!r}\nclass Base(AtomicFlow): ...\n",
        Assistant__yaml=f"name: {name}\nsystem: {name}\n",
        Base__yaml=f"description: base of {name}\n",
        late__py=f"WHO = {name!r}\n",
        named__py=f"WHO = {name!r}\n",
    )
    write(
        folder / "part",
        inner__py="from .other import WHO\n",
        other__py=f"WHO = {name!r}\n",
        lazy__py=f"WHO = {name!r}\n",
    )
    (folder / "part" / "__init__.py").touch()
    return folder


def flow_class(loader: Loader, folder: Path, endpoint: str, target: str = "flows:Assistant", revision: int = 1) -> Any:
    """Load a class that is served from a folder."""
    loaded = loader.load(endpoint, revision, ClassTarget(target, str(folder), {}))
    assert isinstance(loaded, FlowClass)
    return loaded


@pytest.mark.parametrize("target", ["flows:Assistant", "flows.py:Assistant"])
def test_two_projects_with_the_same_names(loader: Loader, tmp_path: Path, target: str) -> None:
    """Each class keeps the defaults, the bases and the modules of its own folder, also what it imports when it runs."""
    loaded = [flow_class(loader, project(tmp_path / name, name), name, target) for name in ("one", "two")]
    for name, each in zip(("one", "two"), loaded, strict=True):
        config = effective_config(each.flow_class, {})
        assert (config["system"], config["description"]) == (name, f"base of {name}")
        flow = each.flow_class(config)
        with ThreadPoolExecutor(1) as thread:  # it has no context of the load
            assert thread.submit(flow.run, None).result() == {"who": [name] * 6}
    assert len({each.release for each in loaded}) == 2


@pytest.mark.parametrize("target", ["flows:f", "flows.py:f"])
def test_functions_of_two_projects_run_at_the_same_time(loader: Loader, tmp_path: Path, target: str) -> None:
    """Imports of functions that run in several threads find the modules of their own project."""
    functions = [loader.load(name, 1, python(target, project(tmp_path / name, name))) for name in ("one", "two")]
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(each.invoke, b"{}") for _ in range(20) for each in functions]  # type: ignore[union-attr]
    assert [run.result() for run in runs] == [["one"] * 5, ["two"] * 5] * 20


def test_packages_of_two_projects(loader: Loader, tmp_path: Path) -> None:
    """Packages of one name, whose modules import each other by absolute and by relative names, stay apart."""
    for name in ("one", "two"):
        package = write(tmp_path / name / "app", text__py=f"WHO = {name!r}\n")
        (package / "__init__.py").write_text(f"from app.text import WHO as OUTER\nNAME = {name!r}\n")
        write(
            package,
            flows__py="""
            import app.text as text
            import app
            from . import text as again
            def f() -> list[str]:
                from app.text import WHO
                return [text.WHO, app.NAME, app.OUTER, again.WHO, app.text.WHO, WHO]
            """,
        )
    loaded = [loader.load(name, 1, python("app.flows:f", tmp_path / name)) for name in ("one", "two")]
    assert [each.invoke(b"{}") for each in loaded] == [["one"] * 6, ["two"] * 6]  # type: ignore[union-attr]
    assert "app" not in sys.modules


def test_a_module_named_like_one_of_python(loader: Loader, tmp_path: Path) -> None:
    """A project's own `calendar` is for that project alone."""
    write(tmp_path / "one", calendar__py="WHO = 'mine'\n", flows__py="import calendar\ndef f(): return calendar.WHO\n")
    write(tmp_path / "two", flows__py="import calendar\ndef f(): return calendar.MONDAY\n")
    assert call(loader, python("flows.py:f", tmp_path / "one")) == "mine"
    assert call(loader, python("flows.py:f", tmp_path / "two"), 2) == 0


def test_folders_that_modules_put_on_the_path(loader: Loader, tmp_path: Path) -> None:
    """What a module adds to sys.path is for its own project, and later imports find it."""
    before = list(sys.path)
    for name in ("one", "two"):
        write(tmp_path / name / "lib", tool__py=f"WHO = {name!r}\n", slow__py=f"WHO = {name!r}\n")
        write(
            tmp_path / name,
            flows__py=f"""
            import sys
            sys.path.insert(0, {str(tmp_path / name / "lib")!r})
            import tool
            def f():
                import slow
                return [tool.WHO, slow.WHO]
            """,
        )
    loaded = [loader.load(name, 1, python("flows.py:f", tmp_path / name)) for name in ("one", "two")]
    assert [each.invoke(b"{}") for each in loaded] == [["one"] * 2, ["two"] * 2]  # type: ignore[union-attr]
    assert sys.path == before


def test_transformations_of_two_projects(loader: Loader, tmp_path: Path) -> None:
    """A name that a project registers for its configs means nothing in another project."""
    for name in ("one", "two"):
        write(
            tmp_path / name,
            flows__py=f"""
            from p2pflows.interfaces import KeyInterface
            from p2pflows.transformations import DataTransformation, register
            @register
            class Sign(DataTransformation):
                def __call__(self, data_dict, **kwargs):
                    return {{**data_dict, "by": {name!r}}}
            def f() -> dict:
                return KeyInterface(additional_transformations=[{{"_target_": "Sign"}}])({{}})
            """,
        )
    loaded = [loader.load(name, 1, python("flows.py:f", tmp_path / name)) for name in ("one", "two", "one")]
    assert [each.invoke(b"{}") for each in loaded[:2]] == [{"by": "one"}, {"by": "two"}]  # type: ignore[union-attr]
    assert loader.load("one", 2, python("flows.py:f", tmp_path / "one")).invoke(b"{}") == {"by": "one"}  # type: ignore[union-attr]


@pytest.mark.parametrize("target", ["flows:f", "flows.py:f"])
@pytest.mark.parametrize("edited", ["helpers.py", "part/other.py", "part/lazy.py"])
def test_served_again_after_an_edit(loader: Loader, tmp_path: Path, target: str, edited: str) -> None:
    """All modules of the project are new for the new revision, and old for what still runs the old one."""
    folder = project(tmp_path, "old")
    old = loader.load("endpoint", 1, python(target, folder))
    text = (folder / edited).read_text()
    (folder / edited).write_text(text.replace("'old'", "'new'"))
    assert isinstance(old, FlowFunction)
    new = loader.load("endpoint", 2, python(target, folder))
    assert isinstance(new, FlowFunction)
    assert set(new.invoke(b"{}")) == {"old", "new"}
    assert set(old.invoke(b"{}")) <= {"old", "new"}
    if edited != "part/lazy.py":  # which no module imports at the load
        assert old.invoke(b"{}") == ["old"] * 5
        assert (old.release == new.release) is False
    (folder / edited).write_text(text)
    back = loader.load("endpoint", 3, python(target, folder))
    assert isinstance(back, FlowFunction)
    assert back.release == old.release


def test_defaults_are_fixed_when_a_class_is_loaded(loader: Loader, tmp_path: Path) -> None:
    """An edited config file takes effect when the class is served again, and is another release."""
    folder = project(tmp_path, "old")
    old = flow_class(loader, folder, "endpoint")
    (folder / "Assistant.yaml").write_text("name: new\nsystem: new\n")
    assert effective_config(old.flow_class, {})["system"] == "old"
    new = flow_class(loader, folder, "endpoint", revision=2)
    assert effective_config(new.flow_class, {})["system"] == "new"
    assert effective_config(old.flow_class, {})["system"] == "old"
    assert old.release != new.release


def test_a_release_depends_only_on_what_the_target_uses(tmp_path: Path) -> None:
    """The order in which endpoints are loaded, and modules that only others import, do not change a release."""
    folder = project(tmp_path, "one")
    write(folder, more__py="import helpers\ndef g(): ...\n")
    first, second = Loader(), Loader()
    alone = first.load("f", 1, python("flows:f", folder))
    second.load("g", 1, python("more:g", folder))
    together = second.load("f", 1, python("flows:f", folder))
    assert isinstance(alone, FlowFunction)
    assert isinstance(together, FlowFunction)
    assert alone.release == together.release != ""


def test_errors_name_modules_as_their_authors_do(loader: Loader, tmp_path: Path) -> None:
    """No name that p2pflows gives to modules is shown."""
    write(tmp_path, helpers__py="", a__py="import helpers.no", b__py="from helpers import no", c__py="from . import no")
    for stem in "abc":
        assert "p2pflows_served" not in refusal(loader, python(f"{stem}.py:f", tmp_path))
    assert "'helpers.no'" in refusal(loader, python("a:f", tmp_path))


def test_models_in_a_state_are_those_of_the_next_release_too(loader: Loader, tmp_path: Path) -> None:
    """A state names a model without the release that wrote it, so a new release reads it back as its class."""
    write(
        tmp_path,
        flows__py="from pydantic import BaseModel\nclass Note(BaseModel):\n    n: int = 1\ndef f(): return Note\n",
    )
    old, new = (loader.load("endpoint", revision, python("flows.py:f", tmp_path)) for revision in (1, 2))
    assert isinstance(old, FlowFunction)
    assert isinstance(new, FlowFunction)
    written = state.dumps({"note": old.invoke(b"{}")()})
    assert type(state.loads(written, [new.invoke(b"{}")])["note"]) is new.invoke(b"{}")


def test_a_file_whose_import_does_not_end_holds_up_no_other(
    loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait for it for a while only; it is loaded once its import ends."""
    monkeypatch.setattr(loading, "MAX_WAIT_FOR_LOAD_S", 0.1)
    monkeypatch.setattr(loading, "_POLL_INTERVAL_S", 0.05)
    waits = "import pathlib, time\nwhile not pathlib.Path(__file__).with_name('go').exists():\n    time.sleep(0.01)\n"
    (tmp_path / "waits.py").write_text(f"{waits}def last():\n    return 'last'\n")
    (tmp_path / "quick.py").write_text("def first():\n    return 'first'\n")
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(call, loader, python("waits.py:last", tmp_path))
        try:
            assert call(loader, python("quick.py:first", tmp_path), revision=2) == "first"
            assert not waiting.done()
        finally:
            (tmp_path / "go").touch()
        assert waiting.result(10) == "last"


def test_a_class_whose_own_file_holds_a_key_is_not_served(loader: Loader, tmp_path: Path) -> None:
    """Its defaults become the config of each instance, and are stored like what is set when it is served."""
    (tmp_path / "vault.py").write_text("from p2pflows import AtomicFlow\nclass Vault(AtomicFlow):\n    pass\n")
    (tmp_path / "Vault.yaml").write_text("name: Vault\ndescription: d\ndatabase: {password: hunter2}\n")
    loaded = loader.examine(ClassTarget("vault.py:Vault", str(tmp_path), {}))
    with pytest.raises(UsageError, match="'password' is stored and sent") as refused:
        describe(loaded)
    assert "hunter2" not in refused.value.message + refused.value.hint
