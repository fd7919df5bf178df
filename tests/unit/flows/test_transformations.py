"""Each transformation: its result, and the settings and data that it refuses."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import UsageError
from p2pflows.flows import transformations
from p2pflows.flows.transformations import (
    DataTransformation,
    EndOfInteraction,
    Json2Obj,
    KeyCopy,
    KeyDelete,
    KeyMatchInput,
    KeyRename,
    KeySelect,
    KeySet,
    MissingKey,
    Obj2Json,
    PrintPreviousMessages,
    RegexFirstOccurrenceExtractor,
    UnNesting,
    WrongValue,
    make,
    register,
    resolve,
)


class Destination:
    """A flow that describes its input."""

    def __init__(self, wanted: object) -> None:
        self.wanted = wanted

    def get_interface_description(self) -> dict[str, object]:
        """Return the description of input and output."""
        return {"input": self.wanted, "output": ["answer"]}


class Chat:
    """A flow with a conversation in its state."""

    def __init__(self, *contents: str) -> None:
        self.flow_config = {"name": "Assistant"}
        self.flow_state = {"previous_messages": [{"role": "user", "content": content} for content in contents]}


def extractor(regex: str, **settings: Any) -> RegexFirstOccurrenceExtractor:
    """Return an extractor from `text` to `found`, not strict by default."""
    chosen = {"output_key": "found", "assert_unique": False, "strip": False, "input_key": "text", **settings}
    return RegexFirstOccurrenceExtractor(regex, **chosen)


@pytest.mark.parametrize(
    ("renames", "data", "expected"),
    [
        ({"a": "b"}, {"a": 1}, {"b": 1}),
        ({"a": "b"}, {"a": 1, "b": 2}, {"b": 1}),
        ({"a": "b"}, {"c": 1}, {"c": 1}),
        ({"a": "a"}, {"a": 1}, {"a": 1}),
        ({"a": "x.y"}, {"a": 1}, {"x": {"y": 1}}),
        ({"a.b": "c"}, {"a": {"b": 1}}, {"a": {}, "c": 1}),
        ({"a.b": "a"}, {"a": {"b": 1, "c": 2}}, {"a": 1}),
        ({"a": "a.b"}, {"a": 1}, {"a": {"b": 1}}),
        ({"a": "b"}, {"a": {"x": {}}}, {"b": {"x": {}}}),
        ({"a.b": "c"}, {"a": "abc"}, {"a": "abc"}),
        ({"a.0": "c"}, {"a": ["x"]}, {"a": ["x"]}),
        ({"a.b": "c"}, {"a.b": 1, "a": {"b": 2}}, {"c": 1, "a": {"b": 2}}),
        ({"a.b.c": "d"}, {"a.b": {"c": 1}}, {"a.b": {}, "d": 1}),
        ({1: "one"}, {1: "x", None: 2}, {"one": "x", None: 2}),
    ],
)
def test_rename(renames: dict[Any, Any], data: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """A value moves to its new name with everything in it; the dict that held it stays."""
    assert KeyRename(renames)(data) == expected


@pytest.mark.parametrize(
    ("renames", "data", "expected"),
    [
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": "b", "b": "a"}, {"a": 1}, {"b": 1}),
        ({"a": "b", "b": "a"}, {"b": 2}, {"a": 2}),
        ({"a": "b", "b": "c", "c": "a"}, {"a": 1, "b": 2, "c": 3}, {"b": 1, "c": 2, "a": 3}),
        ({"a": "b", "b": "c"}, {"a": 1, "b": 2}, {"b": 1, "c": 2}),
        ({"b": "c", "a": "b"}, {"a": 1, "b": 2}, {"b": 1, "c": 2}),
        ({"a": "b", "b": "c"}, {"a": 1}, {"c": 1}),
        ({"b": "c", "a": "b"}, {"a": 1}, {"b": 1}),
        ({"a": "x", "x.y": "z"}, {"a": {"y": 1}}, {"x": {}, "z": 1}),
        ({"a": "b", "b": "a", "x": "a.y"}, {"b": {}, "x": 1}, {"a": {"y": 1}}),
        ({"x": "a", "a": "b", "b": "a"}, {"x": 1}, {"a": 1}),
    ],
)
def test_several_renames(renames: dict[str, str], data: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each rename takes the value from the original data, or else from an earlier rename."""
    assert KeyRename(renames)(data) == expected


@pytest.mark.parametrize(
    ("copies", "data", "expected"),
    [
        ({"a": "b"}, {"a": {"x": 1}}, {"a": {"x": 1}, "b": {"x": 1}}),
        ({"a": "a.b"}, {"a": {"x": 1}}, {"a": {"x": 1, "b": {"x": 1}}}),
        ({"a": "b"}, {"a": {}}, {"a": {}, "b": {}}),
        ({"a": "b"}, {"e": {}}, {"e": {}}),
        ({"a": "b", "b": "a"}, {"a": 1, "b": 2}, {"a": 2, "b": 1}),
        ({"a": "b", "b": "c"}, {"a": 1}, {"a": 1, "b": 1, "c": 1}),
    ],
)
def test_copy(copies: dict[str, str], data: dict[str, Any], expected: dict[str, Any]) -> None:
    """A dict can be copied, and is found as for a rename."""
    assert KeyCopy(copies)(data) == expected


def test_a_copy_is_deep() -> None:
    """Changes of the copy do not reach the original."""
    data = KeyCopy({"a": "b"})({"a": {"list": [1]}})
    data["b"]["list"].append(2)
    assert data["a"] == {"list": [1]}


@pytest.mark.parametrize(
    ("values", "data", "expected"),
    [
        ({"a": 1}, {}, {"a": 1}),
        ({"a": {"x": 1}}, {"a": {"y": 2}, "e": {}}, {"a": {"x": 1}, "e": {}}),
        ({"a.b.c": 1}, {"a": {"d": 2}}, {"a": {"d": 2, "b": {"c": 1}}}),
        ({"a.b": 1}, {"a.b": 0}, {"a.b": 1}),
        ({"a": {"b.c": 1}}, {}, {"a": {"b.c": 1}}),
        ({"a": {}, "a.b": 1}, {}, {"a": {"b": 1}}),
        ({1: "one"}, {}, {1: "one"}),
    ],
)
def test_set(values: dict[Any, Any], data: dict[Any, Any], expected: dict[Any, Any]) -> None:
    """A value replaces the one with that name, or is added at the path of the name."""
    assert KeySet(values)(data) == expected


def test_values_that_are_set_are_each_message_s_own() -> None:
    """Changes of a message or of the config do not reach the next message."""
    config: dict[str, Any] = {"list": []}
    setting = KeySet(config)
    setting({})["list"].append("mine")
    config["list"].append("the config's")
    assert setting({}) == {"list": []}


@pytest.mark.parametrize("value", ["text", 5, None, [1], True])
def test_nothing_is_set_through_what_is_not_a_dict(value: Any) -> None:
    """The error names the key in the way, and does not show its value."""
    with pytest.raises(WrongValue, match=r"'a.b' cannot be set: the value of 'a' must be a dict, not \w+"):
        KeySet({"a.b": 1})({"a": value})


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a"], {"a": {"x": 1, "y": {}}}),
        (["a.x"], {"a": {"x": 1}}),
        (["a.y", "b.c"], {"a": {"y": {}}, "b.c": 2}),
        (["a.x", "a"], {"a": {"x": 1, "y": {}}}),
        (["a", "a.x"], {"a": {"x": 1, "y": {}}}),
        ([3], {3: "three"}),
        ([], {}),
    ],
)
def test_select(names: list[Any], expected: dict[Any, Any]) -> None:
    """Selected values stay at their paths."""
    data: dict[Any, Any] = {"a": {"x": 1, "y": {}}, "b.c": 2, 3: "three"}
    assert KeySelect(names)(data) == expected


@pytest.mark.parametrize("name", ["b", "a.b", "a.x.y", "a.0", 1, "l.0", ""])
def test_selecting_what_is_not_there_is_an_error(name: Any) -> None:
    """The error is a KeyError and a UsageError, and lists the keys that exist."""
    with pytest.raises(KeyError) as caught:
        KeySelect([name])({"a": {"x": "yes"}, "l": [0]})
    assert isinstance(caught.value, MissingKey)
    assert isinstance(caught.value, UsageError)
    assert str(caught.value) == f"The data has no key {name!r}."
    assert caught.value.hint == "Its keys are: a, l."


def test_a_missing_key_is_explained_briefly() -> None:
    """The error lists a few of many keys, and says when there are none."""
    with pytest.raises(MissingKey) as caught:
        KeySelect(["x"])({str(number): 0 for number in range(100)})
    assert caught.value.hint.endswith(" 16, 17 and more.")
    with pytest.raises(MissingKey) as caught:
        KeySelect(["x"])({})
    assert caught.value.hint == "The data is empty."


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["a"], {"b.c": 2, "e": {}}),
        (["a.x"], {"a": {}, "b.c": 2, "e": {}}),
        (["b.c", "e", "nothing", "a.x.y"], {"a": {"x": 1}}),
        (["a", "a.x"], {"b.c": 2, "e": {}}),
    ],
)
def test_delete(names: list[str], expected: dict[str, Any]) -> None:
    """A value is removed with everything below it; empty dicts stay."""
    assert KeyDelete(names)({"a": {"x": 1}, "b.c": 2, "e": {}}) == expected


@pytest.mark.parametrize(
    ("transformation", "expected"),
    [
        (KeyRename({"a.b": "c.d"}, nested_keys=False), {"a": {"b": 2}, "c.d": 1}),
        (KeyCopy({"a.b": "c.d"}, nested_keys=False), {"a.b": 1, "a": {"b": 2}, "c.d": 1}),
        (KeySet({"c.d": 3}, nested_keys=False), {"a.b": 1, "a": {"b": 2}, "c.d": 3}),
        (KeySelect(["a.b"], nested_keys=False), {"a.b": 1}),
        (KeyDelete(["a.b", "a.c"], nested_keys=False), {"a": {"b": 2}}),
    ],
)
def test_dots_can_be_meant_as_dots(transformation: DataTransformation, expected: dict[str, Any]) -> None:
    """With `nested_keys: false`, a name is one key and no path."""
    assert transformation({"a.b": 1, "a": {"b": 2}}) == expected


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (["question"], {"question": "Tea?"}),
        ("question", {"question": "Tea?"}),
        ({"question": "what is asked", "user.name": "by whom"}, {"question": "Tea?", "user": {"name": "Ann"}}),
        ([], {}),
    ],
)
def test_match_input(wanted: object, expected: dict[str, Any]) -> None:
    """The destination's input is a list, one name, or a mapping; all other keys are dropped."""
    data = {"question": "Tea?", "mood": "thirsty", "user": {"name": "Ann", "age": 7}}
    assert KeyMatchInput()(data, dst_flow=Destination(wanted), goal="tea") == expected


def test_match_input_needs_a_destination_that_describes_its_input() -> None:
    """A missing destination is a KeyError; one that describes no input, or needs a missing key, is an error, too."""
    with pytest.raises(KeyError, match="destination"):
        KeyMatchInput()({"a": 1})
    with pytest.raises(MissingKey, match="'b'"):
        KeyMatchInput()({"a": 1}, dst_flow=Destination(["a", "b"]))
    for silent in (object(), Destination(None)):
        with pytest.raises(WrongValue, match="does not describe its input"):
            KeyMatchInput()({"a": 1}, dst_flow=silent)


@pytest.mark.parametrize(
    ("text", "ends"), [("well, <end> then", True), ("<END>", True), ("the end", False), ("", False)]
)
def test_end_of_interaction(text: str, ends: bool) -> None:
    """The words count anywhere and in any case; the text stays."""
    data = EndOfInteraction("end", "<END>", "human_input")({"human_input": text})
    assert data == {"human_input": text, "end": ends}


@pytest.mark.parametrize(
    "transformation", [EndOfInteraction("o", "END", "i"), extractor("x", input_key="i"), Json2Obj("i")]
)
def test_a_text_is_needed(transformation: DataTransformation) -> None:
    """Data without the key, or with a value that is not a text, is refused by name."""
    with pytest.raises(MissingKey, match="no key 'i'"):
        transformation({"j": "text"})
    with pytest.raises(WrongValue, match="The value of 'i' must be text, not NoneType"):
        transformation({"i": None})


@pytest.mark.parametrize(
    ("transformation", "found"),
    [
        (extractor(r"\d+"), "12"),
        (extractor(r" \d+ "), " 12 "),
        (extractor(r" \d+ ", strip=True), "12"),
        (extractor(r"b (\d)(\d)", match_group=2), "2"),
        (extractor(r"b (?P<first>\d)", match_group="first"), "1"),
        (extractor(r"x"), None),
        (extractor(r"x", strip=True), None),
        (extractor(r"x", regex_fallback=r"\w$"), "d"),
        (extractor(r"x", regex_fallback=["y", "b", "a"]), "b"),
        (extractor(r"x", regex_fallback=["y", "z"]), None),
        (extractor(r"b|(x)", match_group=1), None),
        (extractor(r"b|(x)", match_group=1, regex_fallback="(c)"), "c"),
        (extractor(r"(b) (12)", assert_unique=True), "b 12"),
        (extractor(r"x", assert_unique=True), None),
        (extractor(r"x", assert_unique=True, regex_fallback="b"), "b"),
    ],
)
def test_the_first_match(transformation: RegexFirstOccurrenceExtractor, found: str | None) -> None:
    """The first match of the first expression that matches is used; None when none matches."""
    assert transformation({"text": "a b 12 c 345 d"}) == {"text": "a b 12 c 345 d", "found": found}


@pytest.mark.parametrize(
    "transformation", [extractor(r"\d", assert_unique=True), extractor("x", assert_unique=True, regex_fallback=r"\d")]
)
def test_a_match_that_must_be_unique(transformation: RegexFirstOccurrenceExtractor) -> None:
    """A second match of the expression that matched is an error, with any groups."""
    assert transformation({"text": "a 1"})["found"] == "1"
    with pytest.raises(WrongValue, match="more than once"):
        transformation({"text": "a 1 2"})


def test_json() -> None:
    """JSON text becomes a value and back, in place or under another key."""
    assert Json2Obj("text", "value.read")({"text": '{"a": [1, null]}'})["value"] == {"read": {"a": [1, None]}}
    assert Json2Obj("text")({"text": "[true]"}) == {"text": [True]}
    assert Obj2Json("a.b", "text")({"a": {"b": {"c": 1.5}}})["text"] == '{"c": 1.5}'
    assert Obj2Json("a")({"a": {"b": "é"}}) == {"a": '{"b": "\\u00e9"}'}


@pytest.mark.parametrize("text", ["", "yes", "{'a': 1}", "NaN", '{"a": 1} and more', "[" * 10_000])
def test_what_is_no_json(text: str) -> None:
    """Text that is not JSON is refused."""
    with pytest.raises(WrongValue, match="The value of 'text' is not JSON"):
        Json2Obj("text")({"text": text})


@pytest.mark.parametrize("value", [{1, 2}, math.nan, b"bytes", {(1, 2): 3}, object()])
def test_what_json_cannot_hold(value: Any) -> None:
    """A value that JSON cannot hold is refused, and so is a missing one."""
    with pytest.raises(WrongValue, match="The value of 'v' cannot be written as JSON"):
        Obj2Json("v")({"v": [value]})
    with pytest.raises(MissingKey):
        Obj2Json("v")({})


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a", {"a": {"b": 1, "c": {}}, "b": 0}, {"b": 1, "c": {}}),
        ("a", {"a": {"a": 1}}, {"a": 1}),
        ("a", {"a": {}}, {}),
        ("a.b", {"a": {"b": {"c": 1}, "d": 2}}, {"a": {"c": 1, "d": 2}}),
    ],
)
def test_unnesting(name: str, data: dict[str, Any], expected: dict[str, Any]) -> None:
    """The keys of a dict replace it, and overwrite existing keys."""
    assert UnNesting(name)(data) == expected


def test_only_a_dict_can_be_unnested() -> None:
    """A missing key, and a value that is not a dict, are refused."""
    with pytest.raises(MissingKey):
        UnNesting("a")({"b": {}})
    with pytest.raises(WrongValue, match="The value of 'a' must be a dict, not list"):
        UnNesting("a")({"a": [1]})


@pytest.mark.parametrize(
    ("settings", "contents", "lines"),
    [
        ({}, ["Tea?", "Yes."], ["[Assistant] user: Tea?", "[Assistant] user: Yes."]),
        ({"last_message_only": True}, ["Tea?", "Yes."], ["[Assistant] user: Yes."]),
        ({"last_message_only": True}, [], []),
    ],
)
def test_previous_messages_are_logged(
    settings: dict[str, Any],
    contents: list[str],
    lines: list[str],
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The conversation is logged at INFO and not printed, and the data stays."""
    caplog.set_level(logging.INFO)
    assert PrintPreviousMessages(**settings)({"a": 1}, src_flow=Chat(*contents)) == {"a": 1}
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [("INFO", line) for line in lines]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("keywords", [{}, {"src_flow": None}, {"src_flow": object()}])
def test_previous_messages_need_a_chat(keywords: dict[str, Any]) -> None:
    """A flow without a conversation is a KeyError."""
    with pytest.raises(KeyError, match="finds no conversation"):
        PrintPreviousMessages()({"a": 1}, **keywords)


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: KeyRename(["a"]), "keys_to_rename must be a mapping, not list"),  # type: ignore[arg-type]
        (lambda: KeyRename({"a": None}), "The new name for 'a' in keys_to_rename is not the name of a key"),
        (lambda: KeyRename({"a": ["b"]}), "The new name for 'a'"),
        (lambda: KeyRename({"a": "b"}, nested_keys="no"), "nested_keys must be true or false, not str"),  # type: ignore[arg-type]
        (lambda: KeyCopy("ab"), "keys_to_copy must be a mapping, not str"),  # type: ignore[arg-type]
        (lambda: KeySet({None: 1}), "A key of keys_to_set is not the name of a key"),
        (lambda: KeySelect("answer"), "keys_to_select must be a list, not str"),
        (lambda: KeySelect([["a"]]), "An entry of keys_to_select is not the name of a key"),
        (lambda: KeyDelete({"a": 1}), "keys_to_delete must be a list, not dict"),
        (lambda: KeyDelete(5), "keys_to_delete must be a list, not int"),  # type: ignore[arg-type]
        (lambda: EndOfInteraction("end", None, "text"), "end_of_interaction_string must be text, not NoneType"),  # type: ignore[arg-type]
        (lambda: EndOfInteraction(None, "END", "text"), "output_key is not the name of a key"),
        (lambda: extractor("(unclosed"), "regex '\\(unclosed' is not a regular expression"),
        (lambda: extractor("x", regex_fallback=["ok", "*"]), "regex_fallback '\\*' is not a regular expression"),
        (lambda: extractor("x", regex_fallback=5), "regex_fallback must be a list, not int"),
        (lambda: extractor("x{99999999999999999999}"), "is not a regular expression"),
        (lambda: extractor("(x)", match_group=2), "has no group 2"),
        (lambda: extractor("(x)", match_group=-1), "has no group -1"),
        (lambda: extractor("(x)", match_group=1.0), "has no group 1.0"),
        (lambda: extractor("(x)", match_group="x"), "has no group 'x'"),
        (lambda: extractor("(x)", match_group=1, regex_fallback="y"), "regex_fallback 'y' has no group 1"),
        (lambda: extractor("x", strip=1), "strip must be true or false, not int"),
        (lambda: Json2Obj(["a"]), "input_key is not the name of a key"),  # type: ignore[arg-type]
        (lambda: Obj2Json("a", ["b"]), "output_key is not the name of a key"),  # type: ignore[arg-type]
        (lambda: UnNesting(None), "input_key is not the name of a key"),
        (lambda: PrintPreviousMessages("yes"), "last_message_only must be true or false, not str"),  # type: ignore[arg-type]
    ],
)
def test_wrong_settings_are_refused_at_once(build: Callable[[], object], told: str) -> None:
    """A wrong setting is a UsageError that names it and says what to write."""
    with pytest.raises(UsageError, match=told) as caught:
        build()
    assert caught.value.hint.endswith((".", "]", "}", "text"))


@pytest.mark.parametrize(
    "target",
    [
        "KeyDelete",
        "p2pflows.transformations.KeyDelete",
        "elsewhere.data_transformations.key_delete.KeyDelete",
        ".KeyDelete",
    ],
)
def test_a_class_is_named_by_the_last_part(target: str) -> None:
    """The short name, and any dotted text that ends with it, name the class."""
    made = make({"_target_": target, "keys_to_delete": ["a"]})
    assert isinstance(made, KeyDelete)
    assert made({"a": 1, "b": 2}) == {"b": 2}


def test_every_transformation_can_be_named() -> None:
    """A config can name each class of the package."""
    offered = [getattr(transformations, name) for name in transformations.__all__]
    classes = [one for one in offered if isinstance(one, type) and issubclass(one, DataTransformation)]
    named = [one for one in classes if one is not DataTransformation]
    assert len(named) == 12
    assert [resolve(one.__name__) for one in named] == named


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"_target_": "os.system", "command": "true"}, "No transformation is named 'os.system'"),
        ({"_target_": "subprocess.Popen"}, "No transformation is named"),
        ({"_target_": "DataTransformation"}, "No transformation is named"),
        ({"_target_": "KeyDelete.__init__"}, "No transformation is named"),
        ({"_target_": ""}, "No transformation is named ''"),
        ({"_target_": 5}, "_target_ must be text, not int"),
        ({"keys_to_delete": ["a"]}, "has no _target_"),
        ({"_target_": "KeyDelete"}, "KeyDelete: missing a required argument: 'keys_to_delete'"),
        ({"_target_": "KeyDelete", "keys": ["a"]}, "KeyDelete: "),
        ({"_target_": "KeyMatchInput", "keys": ["a"]}, "KeyMatchInput: got an unexpected keyword argument 'keys'"),
        ({"_target_": "KeyDelete", "keys_to_delete": "a"}, "keys_to_delete must be a list, not str"),
        ({"_target_": "KeyDelete", 5: "a"}, "A setting's name must be text, not int"),
        ("KeyDelete", "A transformation must be a mapping, not str"),
    ],
)
def test_a_config_that_does_not_fit(config: Any, told: str) -> None:
    """Classes that are not registered are not searched for, and settings are checked by name."""
    with pytest.raises(UsageError, match=told):
        make(config)


def test_nothing_is_imported_for_a_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `_target_` loads no module, even if one has a class of that name."""
    (tmp_path / "trap.py").write_text("class KeyDelete:\n    pass\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    assert resolve("trap.KeyDelete") is KeyDelete
    with pytest.raises(UsageError):
        resolve("trap.Spring")
    assert "trap" not in sys.modules


def test_a_config_may_change_afterwards() -> None:
    """A transformation has its own copy of its config."""
    config: dict[str, Any] = {"_target_": "KeySet", "key2value": {"a": [1]}}
    made = make(config)
    config["key2value"]["a"].append(2)
    assert made({}) == {"a": [1]}
    assert config["_target_"] == "KeySet"


def test_register() -> None:
    """A class of the program can be registered and loaded again, and never replaces another class."""

    def build(name: str, base: type = DataTransformation) -> type:
        def call(self: Any, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: ARG001 - a method
            return {**data_dict, "by": name}

        return type(name, (base,), {"__call__": call, "__module__": "elsewhere"})

    first = register(build("Signed"))
    assert make({"_target_": "my.flows.Signed"})({}) == {"by": "Signed"}
    again = register(build("Signed"))
    assert resolve("Signed") is again is not first
    with pytest.raises(UsageError, match="'KeyDelete' already names p2pflows"):
        register(build("KeyDelete"))
    for wrong in (build("Plain", object), 5):
        with pytest.raises(UsageError, match="not a class of transformations"):
            register(wrong)  # type: ignore[type-var]
