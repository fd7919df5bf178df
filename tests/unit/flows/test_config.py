"""Configs of flow classes: defaults, merging, overrides by callers, and subflows."""

from __future__ import annotations

import copy
import functools
import importlib.util
import itertools
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pflows.errors import BadInput, NotAllowed, TooLarge, UsageError
from p2pflows.flows.config import (
    check_required,
    default_config,
    effective_config,
    input_schema,
    merge,
    required_keys,
    subflow_specs,
)
from p2pflows.flows.flow import AtomicFlow, CompositeFlow
from p2pflows.flows.overrides import (
    FORBIDDEN,
    MAX_OVERRIDE_BYTES,
    MAX_OVERRIDE_DEPTH,
    PREFIXES,
    SUFFIXES,
    check_keyless,
    check_overrides,
    declared_keys,
    is_forbidden,
    open_keys,
)

BOB = "b" * 64
NUMBERS = itertools.count()
Load = Callable[..., type[Any]]

PLAIN = st.sampled_from(["temperature", "model", "options", "a", "b"])
NEVER = st.sampled_from(
    ["_target_", "backend", "api_infos", "system_template", "Path", "user_id", "base-url", "a.class"]
)
NOTHING: st.SearchStrategy[dict[str, Any]] = st.builds(dict)
LEAVES = st.sampled_from([None, True, False, 0, -3, 10**20, 0.5, "", "x", "yes"])


@functools.cache
def trees(keys: st.SearchStrategy[str]) -> st.SearchStrategy[dict[str, Any]]:
    """Return configs with these keys at every depth."""
    below = st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
        max_leaves=10,
    )
    return st.dictionaries(keys, below, max_size=4)


def shaped(level: int = 3) -> st.SearchStrategy[dict[str, Any]]:
    """Return configs in which a key always has a mapping or never one, like configs of one class."""
    keys: dict[str, st.SearchStrategy[Any]] = dict.fromkeys(("a", "b"), LEAVES | st.lists(LEAVES, max_size=2))
    if level:
        keys |= dict.fromkeys(("x", "y"), shaped(level - 1))
    return st.fixed_dictionaries({}, optional=keys)


@st.composite
def changes(draw: st.DrawFn, of: dict[str, Any], keys: st.SearchStrategy[str]) -> dict[str, Any]:
    """Draw overrides of some keys of a config, at their depths, and sometimes of other keys."""
    over: dict[str, Any] = {}
    for key in draw(st.lists(st.sampled_from(sorted(of)), min_size=1, unique=True)) if of else []:
        deeper = isinstance(of[key], dict) and draw(st.booleans())
        over[key] = draw(changes(of[key], keys) if deeper else LEAVES | trees(keys))
    return {**over, **draw(st.one_of(NOTHING, NOTHING, NOTHING, trees(keys)))}


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    """Write a module and YAML files beside it, import it, and return one of its classes."""

    def import_class(source: str, class_name: str = "Child", **files: str) -> type[Any]:
        name = f"flow_config_sample_{next(NUMBERS)}"
        path = tmp_path / f"{name}.py"
        path.write_text("from p2pflows.flows.flow import AtomicFlow\n" + textwrap.dedent(source), encoding="utf-8")
        for stem, content in files.items():
            (tmp_path / f"{stem}.yaml").write_text(textwrap.dedent(content), encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, module)
        spec.loader.exec_module(module)
        found: type[Any] = getattr(module, class_name)
        return found

    return import_class


def refused(defaults: dict[str, Any], overrides: Any, declared: list[str]) -> str:
    """Return the error text for a stranger's overrides."""
    with pytest.raises(NotAllowed) as caught:
        check_overrides(defaults, overrides, declared=declared, trusted=False)
    return caught.value.message


# Merging.


@pytest.mark.parametrize(
    ("base", "over", "merged"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [1, 2, 3]}, {"a": [4]}, {"a": [4]}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": {"b": 1}}, {"a": {}}, {"a": {"b": 1}}),
    ],
)
def test_what_merging_does(base: dict[str, Any], over: dict[str, Any], merged: dict[str, Any]) -> None:
    """Mappings are merged; a list, None, or a value of another kind replaces the old value."""
    assert merge(base, over) == merged


@given(base=trees(PLAIN), over=trees(PLAIN))
def test_merging_leaves_its_inputs_alone(base: dict[str, Any], over: dict[str, Any]) -> None:
    """Merging changes neither input, and a later change of the result does not either."""
    kept = copy.deepcopy((base, over))
    wreck(merge(base, over))
    assert (base, over) == kept


def wreck(value: Any) -> None:
    """Empty every mapping and list in a value."""
    for inner in list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else []):
        wreck(inner)
    if isinstance(value, (dict, list)):
        value.clear()


@given(config=trees(PLAIN), over=trees(PLAIN))
def test_merging_nothing_and_the_same_changes_nothing(config: dict[str, Any], over: dict[str, Any]) -> None:
    """An empty config changes nothing on either side, and merging the same overrides twice is merging them once."""
    assert merge(config, {}) == merge({}, config) == config
    assert merge(merge(config, over), over) == merge(config, over)


@given(one=shaped(), two=shaped(), three=shaped())
def test_merging_may_be_grouped_in_any_way(one: dict[str, Any], two: dict[str, Any], three: dict[str, Any]) -> None:
    """Merging is associative as long as each key keeps its kind of value."""
    assert merge(merge(one, two), three) == merge(one, merge(two, three))


# Defaults.


def test_the_file_beside_the_class_holds_its_defaults(load: Load) -> None:
    """`<ClassName>.yaml` overrides the file of the first base class, and `???` stays."""
    child = load(
        """
        class Base(AtomicFlow): ...
        class Mixin:
            default_config = {"mixed": True}
        class Child(Base, Mixin): ...
        """,
        Base="{name: base, description: d, options: {a: 1, b: 2}}",
        Child="""
            name: child
            options: {b: 3}
            user_id: ???
            """,
    )
    assert default_config(child) == {
        "private_keys": [], "unsent_keys": [],
        "name": "child", "description": "d", "options": {"a": 1, "b": 3}, "user_id": "???",
    }  # fmt: skip


def test_a_class_without_a_file_may_have_a_dict(load: Load) -> None:
    """A class may define `default_config` or `__default_flow_config`; its file takes precedence over both."""
    source = """
        class Base(AtomicFlow):
            default_config = {"name": "base", "description": "d"}
        class _Middle(Base):
            __default_flow_config = {"name": "middle", "extra": 1}
        class Child(_Middle):
            default_config = {"name": "dict"}
        """
    assert default_config(load(source, "_Middle"))["name"] == "middle"
    assert default_config(load(source))["name"] == "dict"
    child = default_config(load(source, Child="name: file"))
    assert (child["name"], child["extra"], child["description"]) == ("file", 1, "d")


def test_a_class_of_a_notebook_needs_no_file() -> None:
    """A class whose module has no file uses the defaults of its dict (D27)."""
    own = {"name": "n", "description": "d"}
    child = type("Child", (AtomicFlow,), {"__module__": "no_such_notebook", "default_config": own})
    config = default_config(child)
    config["name"] = "changed"
    assert own["name"] == "n"
    assert default_config(type("Bare", (AtomicFlow,), {"__module__": "no_such_notebook"})) == {
        "private_keys": [],
        "unsent_keys": [],
    }


def test_dates_and_question_marks_in_a_file_are_text(load: Load) -> None:
    """A config holds JSON values only."""
    child = load("class Child(AtomicFlow): ...", Child="due: 2024-01-02\nopen: ???\nn: 1.5\nt: true")
    config = default_config(child)
    assert [config[key] for key in ("due", "open", "n", "t")] == ["2024-01-02", "???", 1.5, True]


def test_references_within_a_file(load: Load) -> None:
    """`${dotted.key}` refers to a value of the same file, alone or within a text."""
    child = load(
        "class Child(AtomicFlow): ...",
        Child=r"""
            name: chat
            model: {name: small, sizes: [1, 2]}
            copy: ${model}
            title: "${name} with ${model.name}, \\${not} replaced"
            again: [{x: "${title}"}]
            """,
    )
    config = default_config(child)
    assert config["copy"] == {"name": "small", "sizes": [1, 2]}
    assert config["title"] == "chat with small, ${not} replaced"
    assert config["again"] == [{"x": config["title"]}]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: ${b}", "no such key"),
        ("a: ${b}\nb: ${a}", "itself"),
        ("a: {b: '${a}'}", "itself"),
        ("a: '${oc.env:HOME} x'", "does not refer to"),
        ("a: ${oc.env:HOME}", "does not refer to"),
        ("a: 'x ${b}'\nb: [1]", "does not refer to"),
        ("a: 'x ${'", "does not refer to"),
        ("- a", "not a mapping"),
        ("a: [", "cannot be read"),
        ("a: 1\na: 2", "twice"),
        ("1: a", "key 1"),
        ("a: {yes: 1}", "key True at a"),
        ("a: !!binary aGk=", "bytes at a"),
        ("a: !!python/object/apply:os.system [x]", "cannot be read"),
        ("a: &a [*a]", "contains itself"),
    ],
)
def test_a_file_that_cannot_be_used_is_told(load: Load, content: str, said: str) -> None:
    """The error names the file and what is wrong in it."""
    with pytest.raises(UsageError, match=r"Child\.yaml") as caught:
        default_config(load("class Child(AtomicFlow): ...", Child=content))
    assert said in caught.value.message


def test_a_target_is_completed_and_never_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `_target_` that starts with a dot is made absolute, at any depth, and stays a text (D20)."""
    package = tmp_path / "flow_config_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "Child.py").write_text("from p2pflows.flows.flow import AtomicFlow\nclass Child(AtomicFlow): ...\n")
    (package / "Child.yaml").write_text("{_target_: .No.such, x: [{_target_: .Other}], y: {_target_: os.system}}")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("flow_config_package.Child")
    config = default_config(module.Child)
    assert config["_target_"] == "flow_config_package.No.such"
    assert config["x"] == [{"_target_": "flow_config_package.Other"}]
    assert config["y"] == {"_target_": "os.system"}


def test_required_keys_add_up_over_the_hierarchy() -> None:
    """A composite requires a name and a description besides its subflows (D24)."""

    class Strict(CompositeFlow):
        REQUIRED_KEYS_CONFIG = ["rounds", "name"]  # noqa: RUF012 - as authors write it

    assert required_keys(CompositeFlow) == ["name", "description", "subflows_config"]
    assert required_keys(Strict) == ["name", "description", "subflows_config", "rounds"]
    full = {"name": "n", "description": "d", "subflows_config": {}, "rounds": 0}
    check_required(Strict, full)
    for key in full:
        with pytest.raises(UsageError, match=f"'{key}'"):
            check_required(Strict, {name: value for name, value in full.items() if name != key})
        with pytest.raises(UsageError, match=f"'{key}'"):
            check_required(Strict, {**full, key: "???"})


def test_the_effective_config_is_complete() -> None:
    """Overrides replace defaults; a required key that is still missing is an error."""

    class Child(AtomicFlow):
        default_config = {"name": "n", "options": {"a": 1}}  # noqa: RUF012 - as authors write it

    assert effective_config(Child, {"description": "d", "options": {"b": 2}})["options"] == {"a": 1, "b": 2}
    with pytest.raises(UsageError, match="'description'"):
        effective_config(Child, {})


# Overrides.


DEFAULTS = {
    "name": "n", "temperature": 0.3, "options": {"a": 1, "deep": {"b": 2}}, "extra": None, "steps": [1],
    "tools": [{"_target_": "x"}], "store": {"path": "/", "size": 1}, "backend": {"_target_": "x"},
    "subflows_config": {"User": {"user_id": "local"}}, "human_message_prompt_template": {"template": "{{query}}"},
}  # fmt: skip


@pytest.mark.parametrize(
    "overrides",
    [
        {"temperature": 1},
        {"name": "x"},
        {"options": {"deep": {"b": [1, {"x": 2}]}}},
        {"options": {"unknown": 1}},
        {"options": {}},
        {"options": 5},
        {"extra": {"x": 1}},
        {"steps": []},
        {"store": {"size": 2}},
        {"unknown": 1},
        {"": 1},
        {"program": "sh"},
        {"is_admin": True},
        {"overridable": ["name"]},
        {"initial_state": {}},
    ],
)
def test_a_caller_sets_nothing_that_the_owner_did_not_list(overrides: dict[str, Any]) -> None:
    """Without `overridable`, another user overrides nothing: not even a plain value that the class has."""
    defaults = {**DEFAULTS, "program": "ls", "is_admin": False}
    (key,) = overrides
    if overrides != {"options": {}}:  # which changes nothing
        assert f"'{key}" in refused(defaults, overrides, declared_keys(defaults))
    check_overrides(defaults, {}, declared=declared_keys(defaults), trusted=False)
    check_overrides(defaults, overrides, declared=declared_keys(defaults), trusted=True)


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        ({"unknown": 1}, "unknown"),
        ({"backend": {}}, "backend"),
        ({"_target_": "os.system"}, "_target_"),
        ({"extra": {"x": [{"_target_": "y"}]}}, "extra.x._target_"),
        ({"tools": []}, "tools._target_"),
        ({"store": None}, "store.path"),
        ({"store": {"path": "/etc"}}, "store.path"),
        ({"subflows_config": {"User": {"user_id": BOB}}}, "subflows_config"),
        ({"human_message_prompt_template": {"template": "x"}}, "human_message_prompt_template"),
        ({"private_keys": []}, "private_keys"),
    ],
)
def test_a_stranger_may_change_nothing_else(overrides: dict[str, Any], key: str) -> None:
    """Overrides that are unknown, that choose code or people, or that hold such keys are refused by name (D19, D20)."""
    defaults = {**DEFAULTS, "private_keys": ["x"]}
    assert f"'{key}'" in refused(defaults, overrides, list(defaults))


@pytest.mark.parametrize(
    ("declared", "overrides", "passes"),
    [
        (["temperature"], {"temperature": 1}, True),
        (["temperature"], {"name": "x"}, False),
        ([], {"temperature": 1}, False),
        (["options"], {"options": {"new": {"x": 1}}}, True),
        (["options"], {"options": 5}, True),
        (["options.deep.b"], {"options": {"deep": {"b": 1}}}, True),
        (["options.deep.b"], {"options": {"a": 1}}, False),
        (["options.deep.b"], {"options": 5}, False),
        (["options.deep.b"], {"options.deep.b": 5}, False),
        (["new.size"], {"new": {"size": 1}}, True),
        (["new.size"], {"new": {}}, False),
        (["new.size"], {"new": {"size": 1, "other": 2}}, False),
        (["temperature.x"], {"temperature": {"x": 1}}, False),
        (["backend"], {"backend": {}}, False),
        (["store"], {"store": 5}, False),
        (["store"], {"store": {"size": 5}}, True),
        (["subflows_config.User.user_id"], {"subflows_config": {"User": {"user_id": BOB}}}, False),
    ],
)
def test_a_class_may_list_what_may_be_changed(declared: list[str], overrides: dict[str, Any], passes: bool) -> None:
    """`overridable` lists dotted keys: each allows the keys below it, but no forbidden one."""
    if passes:
        check_overrides(DEFAULTS, overrides, declared=declared, trusted=False)
    else:
        refused(DEFAULTS, overrides, declared)


def test_the_owner_may_change_all_but_the_class() -> None:
    """The owner may override users, backends and templates, but not the class that is served (D20)."""
    owner = {"backend": {"_target_": "y"}, "new": 1, "subflows_config": {"User": {"user_id": BOB}}}
    check_overrides(DEFAULTS, owner, declared=[], trusted=True)
    with pytest.raises(NotAllowed, match="_target_"):
        check_overrides(DEFAULTS, {"_target_": "y"}, declared=[], trusted=True)


@pytest.mark.parametrize("trusted", [True, False])
def test_overrides_are_bounded(trusted: bool) -> None:
    """Overrides that are too deep, too large or not JSON are refused, from every caller."""
    deep: Any = 1
    for _ in range(MAX_OVERRIDE_DEPTH):
        deep = {"a": deep}
    loop: dict[str, Any] = {}
    loop["a"] = loop
    for overrides, error in (
        (deep, BadInput), (loop, BadInput), ({"a": "x" * MAX_OVERRIDE_BYTES}, TooLarge), ([1], BadInput),
        ({1: 2}, BadInput), ({"a": float("nan")}, BadInput), ({"a": {1, 2}}, BadInput),
    ):  # fmt: skip
        with pytest.raises(error):
            check_overrides({"a": {}}, overrides, declared=["a"], trusted=trusted)  # type: ignore[arg-type]
    check_overrides({"a": {}}, deep["a"], declared=["a"], trusted=trusted)


@pytest.mark.parametrize(
    "key",
    [*sorted(FORBIDDEN), *(f"{start}x" for start in PREFIXES), *(f"x{end}" for end in SUFFIXES), "BACKEND", "base-url",
     "x.backend.y", " path "],
)  # fmt: skip
def test_forbidden_names(key: str) -> None:
    """Each forbidden name is refused in any spelling, and as part of a dotted key."""
    assert is_forbidden(key)


@pytest.mark.parametrize("key", ["name", "temperature", "gpt-3.5-turbo", "n_api_retries", "max_rounds", "profile"])
def test_names_that_are_not_forbidden(key: str) -> None:
    """Ordinary names are allowed."""
    assert not is_forbidden(key)


@settings(max_examples=100)
@given(data=st.data(), defaults=st.dictionaries(PLAIN, LEAVES | trees(PLAIN | NEVER), min_size=1))
def test_no_stranger_changes_a_forbidden_key(data: st.DataObject, defaults: dict[str, Any]) -> None:
    """Whatever the class lists, overrides that pass change no value under a forbidden key (D20)."""
    lists = st.lists(st.builds(".".join, st.lists(PLAIN | NEVER, min_size=1, max_size=3)), max_size=5)
    declared = data.draw(st.just(list(defaults)) | lists)
    overrides = data.draw(changes(defaults, data.draw(st.sampled_from([PLAIN, PLAIN | NEVER]))))
    try:
        check_overrides(defaults, overrides, declared=declared, trusted=False)
    except NotAllowed:
        return
    assert forbidden_in(overrides) == []
    assert forbidden_in(merge(defaults, overrides)) == forbidden_in(defaults)


def forbidden_in(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Return the path and the value of each forbidden key in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = []
    for key, inner in items:
        here = f"{path}/{key}"
        if isinstance(key, str) and is_forbidden(key):
            found.append((here, repr(inner)))
        found += forbidden_in(inner, here)
    return sorted(found)


def test_the_list_of_a_class_must_be_one() -> None:
    """`overridable` is a list of texts, or missing."""
    assert declared_keys({}) == []
    assert declared_keys({"overridable": ["a.b"]}) == ["a.b"]
    assert open_keys({"overridable": ["a.b", "backend", "a.base_url"]}) == ["a.b"]
    for wrong in ("a", [1], {"a": 1}):
        with pytest.raises(UsageError, match="overridable"):
            declared_keys({"overridable": wrong})


# Subflows.


def specs_of(entry: Any, **options: Any) -> Any:
    """Return the spec of the only subflow in a composite's config."""
    return subflow_specs({"subflows_config": {"User2": entry}}, **options)["User2"]


def test_a_subflow_is_local_by_default() -> None:
    """A subflow without a user is this user's own, both for serving and for getting instances (D7)."""
    spec = specs_of({"flow_endpoint": "User"})
    assert (spec.user, spec.endpoint, spec.instance, spec.overrides) == ("local", "User", None, {})
    assert subflow_specs({}) == subflow_specs({"subflows_config": None}) == {}


def test_the_rest_of_a_subflow_is_overrides_of_its_own_config() -> None:
    """Keys about serving stay here; all others override the subflow's own config, nested subflows included."""
    spec = specs_of(
        {
            "_target_": "x.Y.instantiate", "name": "User2", "description": "d", "flow_endpoint": "Chat",
            "user_id": "local", "flow_class_name": "x.Y", "singleton": True, "parallel_dispatch": False,
            "dispatch_point": "gpu", "temperature": 1, "subflows_config": {"A": {"k": 2}},
        }
    )  # fmt: skip
    assert spec.overrides == {
        "name": "User2", "description": "d", "temperature": 1, "subflows_config": {"A": {"k": 2}},
    }  # fmt: skip
    assert (spec.class_name, spec.dispatch_point, spec.singleton, spec.parallel_dispatch) == ("x.Y", "gpu", True, False)
    assert spec.config == {"name": "User2", "description": "d", "user_id": "local", "flow_endpoint": "Chat"}


def test_what_we_call_a_neighbours_flow_is_not_laid_over_its_config() -> None:
    """Name, description and interface of another user's flow describe it here, and override nothing there."""
    entry = {"name": "x", "description": "d", "input_interface": ["q"], "flow_endpoint": "User", "k": 1}
    assert specs_of({**entry, "user_id": BOB}).overrides == {"k": 1}
    assert specs_of({**entry, "user_id": BOB.upper()}).user == BOB
    mine = specs_of({**entry, "user_id": BOB}, me=BOB)
    assert (mine.user, mine.overrides["name"]) == ("local", "x")


def test_an_instance_may_be_bound_beforehand() -> None:
    """A subflow may name an existing instance."""
    assert specs_of({"flow_endpoint": "A", "flow_id": "1" * 32}).instance == "1" * 32


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"flow_endpoint": "User", "user_id": "???"}, r"subflows_config\.User2\.user_id is still to be filled in"),
        ({"flow_endpoint": "???"}, r"subflows_config\.User2\.flow_endpoint is still"),
        ({}, "has no flow_endpoint"),
        ({"flow_endpoint": "a/b"}, "cannot name an endpoint"),
        ({"flow_endpoint": "A", "flow_id": "x"}, "not an instance id"),
        ({"flow_endpoint": "A", "singleton": "False"}, "true or false"),
        ({"flow_endpoint": "A", "dispatch_point": "a b"}, "dispatch point"),
        ({"flow_endpoint": "A", "user_id": 5}, "must be text"),
        ("User", "must be a mapping"),
    ],
)
def test_a_subflow_that_cannot_be_got_is_named(entry: Any, said: str) -> None:
    """The error names the key to correct, before anything is sent (D8, D10, D23)."""
    with pytest.raises(UsageError, match=said):
        specs_of(entry)
    with pytest.raises(UsageError, match="mapping"):
        subflow_specs({"subflows_config": [entry]})


def test_for_serving_an_open_user_is_let_through() -> None:
    """A class can be served while the user of a subflow is open; only a local endpoint must be known."""
    spec = specs_of({"flow_endpoint": "User", "user_id": "???"}, complete=False)
    assert (spec.user, spec.endpoint) == ("???", "User")
    assert specs_of({"user_id": "???"}, complete=False).endpoint == "???"
    with pytest.raises(UsageError, match="flow_endpoint"):
        specs_of({"flow_endpoint": "???"}, complete=False)


# Secrets.

KEY = "sk-proj-0123456789abcdefghij"


@pytest.mark.parametrize(
    "config",
    [
        {"backend": {"api_key": "0123"}},
        {"backend": {"api-key": "0123"}},
        {"OPENAI_API_KEY": "0123"},
        {"backend": {"headers": {"Authorization": "Basic x"}}},
        {"broker": {"password": "hunter2"}},
        {"client_secret": "x"},
        {"tools": [{"access_token": "x"}]},
        {"note": KEY},
        {"texts": ["a", f"use {KEY}"]},
        {"x": "ghp_0123456789abcdefghij"},
        {"x": "hf_0123456789abcdefghij"},
        {"x": "Bearer 0123456789abcdefghij"},
        {"x": "-----BEGIN OPENSSH PRIVATE KEY-----"},
        {"backend": {"api_infos": [{"api_key": "x"}]}},
        {"api_keys": ["0123"]},
        {"backend": {"dbPassword": "hunter2"}},
        {"password": 123},
        {"database": "postgres://me:hunter2@host/data"},
        {"output_schema": {"properties": {"password": {"default": KEY}}}},
    ],
)
def test_what_looks_like_a_key_is_refused_in_configs(config: dict[str, Any]) -> None:
    """By its name or its form; the error names the setting, says where keys belong, and does not repeat the value."""
    with pytest.raises(UsageError) as refused:
        check_keyless(config)
    assert "worker" in refused.value.hint
    for secret in (KEY, "hunter2", "0123"):
        assert secret not in refused.value.message + refused.value.hint


@pytest.mark.parametrize(
    "config",
    [
        {"backend": {"api_key": "???", "api_infos": "???", "max_tokens": 100, "wait_time_per_key": 0}},
        {"private_keys": ["x"], "unsent_keys": ["y"], "key": "a", "keywords": "sk-learn", "token": "the"},
        {"input_interface": {"password": "of the account"}, "output_interface_initialized": {"secret": "what it is"}},
        {"tools": {"log_in": {"parameters": {"properties": {"password": {"type": "string", "description": "yours"}}}}}},
        {"url": "https://host:8080/a@b", "time": "at 12:30 write to me@host", "has_password": True},
        {"api_key": None, "password": "", "text": "The secret of sk-8 is a bearer of news.", "max_token": "5"},
    ],
)
def test_plain_settings_do_not_look_like_keys(config: dict[str, Any]) -> None:
    """Numbers, lists of names, values to be filled in and ordinary words stay settings."""
    check_keyless(config)


@pytest.mark.parametrize(
    ("interface", "fields"),
    [
        ("only", ["only"]),
        (["a", "b"], ["a", "b"]),
        ({"a": "what a is"}, ["a"]),
        ({"_target_": "aiflows.interfaces.KeyInterface", "keys_to_rename": {"a": "b"}, "keys_to_select": ["b"]}, ["a"]),
        ({"_target_": ".KeyInterface", "keys_to_select": ["a", "b"]}, ["a", "b"]),
        ({"_target_": "KeyInterface", "keys_to_copy": {"a": "c"}}, ["a"]),
    ],
)
def test_known_forms_of_an_interface(interface: Any, fields: list[str]) -> None:
    """The fields of the input are read from the forms of this release and of the predecessor."""
    assert list(input_schema({"input_interface": interface})["properties"]) == fields


@pytest.mark.parametrize("interface", [5, [1], [{"a": 1}], {"_target_": "aiflows.data_transformations.Unknown"}])
def test_unknown_forms_of_an_interface(interface: Any) -> None:
    """An interface that cannot be read is refused, and the error names it."""
    with pytest.raises(UsageError, match="input_interface"):
        input_schema({"input_interface": interface})
