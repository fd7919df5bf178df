"""KeyInterface: the order of its steps, dicts and messages, errors; and the page about it."""

from __future__ import annotations

import doctest
import re
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import UsageError
from p2pflows.flows import interfaces
from p2pflows.flows.interfaces import KeyInterface
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.transformations import EndOfInteraction, KeyMatchInput, MissingKey, WrongValue

PAGE = Path(__file__).parents[3] / "docs" / "INTERFACES.md"


class Destination:
    """A flow that describes its input."""

    def get_interface_description(self) -> dict[str, list[str]]:
        """Return the description of the input."""
        return {"input": ["question"]}


def test_without_arguments_nothing_changes() -> None:
    """The result is equal, and a deep copy."""
    data: dict[str, Any] = {"a": {"b": [1]}, "e": {}}
    given = KeyInterface()(data)
    assert given == data
    given["a"]["b"].append(2)
    assert data == {"a": {"b": [1]}, "e": {}}


def test_the_steps_have_an_order() -> None:
    """Rename, copy, set, the additional ones as listed, select, delete: each sees the result of the one before."""
    seen = []

    def watch(data_dict: dict[str, Any]) -> dict[str, Any]:
        seen.append(dict(data_dict))
        return {**data_dict, "d": 4}

    interface = KeyInterface(
        keys_to_delete=["c"],
        keys_to_select=["b", "c", "d", "n"],
        additional_transformations=[watch, {"_target_": "KeyRename", "old_key2new_key": {"d": "n"}}, watch],
        keys_to_set={"c": 3},
        keys_to_copy={"b": "c"},
        keys_to_rename={"a": "b"},
    )
    assert interface({"a": 1, "z": 0}) == {"b": 1, "d": 4, "n": 4}
    assert seen == [{"b": 1, "z": 0, "c": 3}, {"b": 1, "z": 0, "c": 3, "n": 4}]


def test_a_message_keeps_all_but_its_data() -> None:
    """The same message is returned with new data; the old data stays unchanged."""
    data = {"human_input": "Tea?"}
    message = FlowMessage(data=data, src_flow="User1", reply_data={"mode": "reply", "message": "0" * 32})
    fields = {**message.to_dict(), "data": {"api_output": "Tea?"}}
    assert KeyInterface(keys_to_rename={"human_input": "api_output"})(message) is message
    assert message.to_dict() == fields
    assert data == {"human_input": "Tea?"}


def test_what_fails_leaves_a_message_as_it_was() -> None:
    """A message is never left half transformed."""
    message = FlowMessage(data={"a": 1})
    with pytest.raises(MissingKey):
        KeyInterface(keys_to_rename={"a": "b"}, keys_to_select=["c"])(message)
    assert message.data == {"a": 1}


@pytest.mark.parametrize("data", [None, "text", ["a"], FlowMessage(data="text")])  # type: ignore[arg-type]
def test_only_dicts_and_messages_are_taken(data: Any) -> None:
    """Any other value is refused, and the error names its type."""
    with pytest.raises(UsageError, match=type(data).__name__):
        KeyInterface()(data)


def test_what_it_is_called_with_reaches_the_transformations() -> None:
    """`goal`, `src_flow`, `dst_flow` and any other keyword are passed on; none is added."""
    told: list[dict[str, Any]] = []

    def listen(data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        told.append(kwargs)
        return data_dict

    interface = KeyInterface(additional_transformations=[listen, {"_target_": "KeyMatchInput"}])
    keywords = {"goal": "tea", "src_flow": None, "dst_flow": Destination(), "more": 1}
    assert interface({"question": "Tea?", "mood": "thirsty"}, **keywords) == {"question": "Tea?"}
    with pytest.raises(KeyError):
        interface({"question": "Tea?"})
    assert told == [keywords, {}]


def test_transformations_may_be_objects_too() -> None:
    """Objects and configs of transformations can be mixed."""
    ends = EndOfInteraction("end", "<END>", "human_input")
    assert KeyInterface(additional_transformations=(ends,))({"human_input": "<end>"})["end"] is True


def test_a_function_that_returns_nothing_is_named() -> None:
    """The error of a function that does not return the data names the function."""

    def forgetful(data_dict: dict[str, Any]) -> None:
        data_dict["seen"] = True

    with pytest.raises(WrongValue, match="forgetful returned a NoneType"):
        KeyInterface(additional_transformations=[forgetful])({})  # type: ignore[list-item]


def test_empty_settings_are_none() -> None:
    """A YAML key without a value counts as missing; selecting nothing keeps everything."""
    assert KeyInterface(None, None, None, None, None, None)({"a": 1}) == {"a": 1}
    assert KeyInterface({}, {}, {}, [], [], [])({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"keys_to_rename": ["a"]}, "keys_to_rename must be a mapping, not list"),
        ({"keys_to_copy": "a"}, "keys_to_copy must be a mapping, not str"),
        ({"keys_to_set": 5}, "keys_to_set must be a mapping, not int"),
        ({"keys_to_select": "answer"}, "keys_to_select must be a list, not str"),
        ({"keys_to_delete": ["a", None]}, "An entry of keys_to_delete is not the name of a key"),
        ({"additional_transformations": {"_target_": "KeyMatchInput"}}, "additional_transformations must be a list"),
        ({"additional_transformations": [{"_target_": "os.system", "command": "true"}]}, "No transformation is named"),
        ({"additional_transformations": [{}]}, "has no _target_"),
        ({"additional_transformations": ["KeyMatchInput"]}, "'KeyMatchInput' is not a transformation"),
        ({"additional_transformations": [KeyMatchInput]}, "KeyMatchInput is a class"),
        ({"additional_transformations": [None]}, "None is not a transformation"),
    ],
)
def test_wrong_settings_are_refused_by_the_constructor(arguments: dict[str, Any], told: str) -> None:
    """A wrong setting is an error of the constructor, before the first message."""
    with pytest.raises(UsageError, match=told):
        KeyInterface(**arguments)


def test_the_page_s_examples_are_true() -> None:
    """Every Python example in docs/INTERFACES.md has the result that the page shows."""
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    examples = doctest.DocTestParser().get_doctest("\n".join(blocks), {"__name__": "page"}, PAGE.name, str(PAGE), 0)
    assert len(examples.examples) > len(blocks)
    assert doctest.DocTestRunner(verbose=False).run(examples).failed == 0


def test_the_page_names_every_argument() -> None:
    """The page's table lists the arguments in the order in which they apply."""
    rows = re.findall(r"^\| `(\w+_\w+)` \| [`a]", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == list(interfaces.KeyInterface.__init__.__annotations__)[:-1]
