"""Typed texts: the schema of the flow decides what they are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import create_model

from p2pflowsd.running.catalog import HUMAN_SCHEMA
from p2pflowsd.running.typed_texts import read_typed, read_typed_body


def _read(text: str, field: Any, **more: Any) -> Any:
    schema = {"type": "object", "properties": {"key": field}, **more}
    return read_typed({"key": json.loads(text)}, {"key": text}, schema)["key"]


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("1.10", {"type": "string"}, "1.10"),
        ("1.10", {"type": "number"}, 1.1),
        ("3", {"type": "number"}, 3),
        ("3", {"type": "integer"}, 3),
        (" 3\n", {"type": "integer"}, 3),
        ("true", {"type": "boolean"}, True),
        ("true", {"type": "string"}, "true"),
        ("[1]", {"type": "array"}, [1]),
        ('{"a":1}', {"type": "object"}, {"a": 1}),
        ("null", {"type": ["integer", "null"]}, None),
        ("null", {"anyOf": [{"type": "string"}, {"type": "null"}]}, "null"),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "null"}]}, 5),
        ("5", {"anyOf": [{"type": "integer"}, {"type": "string"}]}, "5"),
        ("5", {"enum": [1, 5]}, 5),
        ("5", {"enum": [1, "5"]}, "5"),
        ("5", {"const": 5}, 5),
        ("5", {}, "5"),
        ("5", True, "5"),
    ],
)
def test_the_schema_decides(text: str, field: Any, value: object) -> None:
    """A text stays one wherever the schema takes texts or does not say; else it is the JSON that it says."""
    read = _read(text, field)
    assert read == value
    assert type(read) is type(value)


def test_references_are_followed() -> None:
    """A named type, as pydantic writes them for models and enums, is looked up in the same schema."""
    inner = create_model("Size", width=(int, ...))
    schema = create_model("Input", size=(inner, ...), n=(int | None, None)).model_json_schema()
    data = {"size": {"width": 3}, "n": 4}
    assert read_typed(data, {"size": '{"width":3}', "n": "4"}, schema) == data


@pytest.mark.parametrize("reference", ["#/$defs/Loop", "#/$defs/Gone", "https://x/y", "#/properties/key", 5])
def test_a_reference_that_leads_nowhere_changes_nothing(reference: object) -> None:
    """The schema of a flow may hold anything; a circle ends."""
    assert _read("5", {"$ref": reference}, **{"$defs": {"Loop": {"$ref": "#/$defs/Loop"}}}) == "5"


def test_only_what_was_typed_is_a_text() -> None:
    """A program that sends a number where a text belongs is refused, as before; keys without a value stay away."""
    schema = {"properties": {"text": {"type": "string"}}}
    assert read_typed({"text": 5}, {}, schema) == {"text": 5}
    assert read_typed({"text": 5}, {"more": "6"}, schema) == {"text": 5}


def test_without_a_schema_all_is_text() -> None:
    """A flow that does not say what it takes gets what was typed."""
    assert read_typed({"n": 5}, {"n": "5"}, None) == {"n": "5"}
    assert read_typed({"n": 5}, {"n": "5"}, {"type": "object"}) == {"n": "5"}


def test_a_human_gets_the_text_that_was_typed() -> None:
    """`text=42` is a question to a human like any other."""
    assert read_typed({"text": 42}, {"text": "42"}, HUMAN_SCHEMA) == {"text": "42"}


def test_an_answer_is_not_read_by_the_schema_of_the_asker() -> None:
    """Only requests hold typed texts; a peer cannot have those of its answers changed."""
    body = b'{"type":"%b","data":{"n":5},"typed":{"n":"5"}}'
    assert read_typed_body(body % b"call", None)["data"] == {"n": "5"}
    assert read_typed_body(body % b"reply", None)["data"] == {"n": 5}


@given(st.text(), st.recursive(st.text() | st.integers(), lambda inner: st.dictionaries(st.text(), inner)))
def test_no_schema_breaks_it(text: str, schema: Any) -> None:
    """A schema of any form is harmless."""
    assert read_typed({"key": 5}, {"key": text}, {"properties": {"key": schema}})["key"] in (5, text)
