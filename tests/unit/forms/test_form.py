"""Forms: what a person types becomes what the schema wants, or is refused with the name of the field."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import BaseModel, Field

from p2pflows.errors import BadAnswer, BadInput
from p2pflows.forms import Form
from p2pflows.forms.schema import MAX_NODES, MAX_PATTERN_CHARS
from p2pflows.forms.wire import Reply, form_of, read_reply, reply_data, with_form


class Address(BaseModel):
    """A model inside of another."""

    city: str
    zip: str | None = None


class Deployment(BaseModel):
    """A model as authors write them."""

    replicas: int = Field(ge=1, le=10)
    address: Address
    share: float = 0.5
    urgent: bool = False
    tags: list[str] = []


def form(schema: Any, draft: Any = None) -> Form:
    """Return a form that exists."""
    found = Form.read(schema, draft)
    assert found is not None
    return found


def problem(schema: Any, answer: str | list[str], draft: Any = None) -> str:
    """Return why an answer is refused."""
    with pytest.raises(BadInput) as refused:
        form(schema, draft).parse(answer)
    return refused.value.message


@pytest.mark.parametrize(
    ("schema", "typed", "value"),
    [
        ({"type": "boolean"}, "yes", True),
        ({"type": "boolean"}, " Y ", True),
        ({"type": "boolean"}, "TRUE", True),
        ({"type": "boolean"}, "n", False),
        ({"type": "boolean"}, "no", False),
        ({"type": "boolean"}, "false", False),
        ({"enum": ["staging", "production"]}, "production", "production"),
        ({"enum": ["staging", "production"]}, "Production", "production"),
        ({"enum": ["staging", "production"]}, "1", "staging"),
        ({"enum": ["2", "1"]}, "1", "1"),
        ({"enum": [True, False]}, "y", True),
        ({"oneOf": [{"const": "a", "title": "First"}, {"const": "b"}]}, "first", "a"),
        ({"type": "integer"}, "-3", -3),
        ({"type": "number"}, "1.10", 1.1),
        ({"type": "string"}, "42", "42"),
        ({"type": "string"}, " true ", " true "),
        ({"type": ["integer", "null"]}, "", None),
        ({"type": ["integer", "null"]}, "7", 7),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "seven", "seven"),
        ({"type": "array", "items": {"type": "integer"}}, "1, 2", [1, 2]),
        ({"type": "array", "items": {"type": "integer"}}, "[1, 2]", [1, 2]),
        ({"type": "array", "items": {"type": "string"}}, "", []),
    ],
)
def test_what_is_typed_becomes_what_is_wanted(schema: Any, typed: str, value: Any) -> None:
    """Nothing is silently another value: the schema decides what a text stands for."""
    found = form(schema).parse(typed)
    assert found == value
    assert type(found) is type(value)


def test_the_fields_of_a_nested_model_are_typed_as_pairs() -> None:
    """Pairs need no quotes; their values are what the fields want, also inside of an object."""
    wanted = form(Deployment.model_json_schema())
    found = wanted.parse(["replicas=3", "address.city=Bern Ost", "urgent=yes", "tags=a,b", "share:=0.25"])
    assert found == {"replicas": 3, "address": {"city": "Bern Ost"}, "urgent": True, "tags": ["a", "b"], "share": 0.25}
    assert wanted.parse("replicas=3 address.city='Bern Ost'") == {"replicas": 3, "address": {"city": "Bern Ost"}}
    assert wanted.parse(json.dumps(found)) == found


def test_the_fields_inside_of_a_field_are_listed_as_they_are_typed() -> None:
    """So a person sees what to type; a field is needed only if what holds it is."""
    inner = {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "integer"}}}
    wanted = form(
        {
            "type": "object",
            "properties": {
                "home": {**inner, "required": ["city"]},
                "work": {**inner, "required": ["city"]},
                "more": {"type": "object"},
            },
            "required": ["home"],
        }
    )
    assert [(field["name"], field["required"], field["expects"]) for field in wanted.fields()] == [
        ("home.city", True, "text"),
        ("home.zip", False, "a whole number"),
        ("work.city", False, "text"),
        ("work.zip", False, "a whole number"),
        ("more", False, "an object with fields"),
    ]


def test_one_thing_is_no_plural() -> None:
    """In the sentences about counts."""
    assert problem({"type": "string", "minLength": 1}, "") == "The answer must have at least 1 character."
    assert problem({"type": "string", "maxLength": 2}, "abc") == "The answer must have at most 2 characters."


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("replicas=11 address.city=Bern", "The field 'replicas' must be at most 10."),
        ("replicas=many address.city=Bern", "The field 'replicas' must be a whole number."),
        ("replicas=1", "The field 'address' is missing."),
        ("replicas=1 address.zip=3000", "The field 'address.city' is missing."),
        ('{"replicas": 1, "address": {"city": 5}}', "The field 'address.city' must be text."),
        ('{"replicas": 1, "address": {"city": "Bern"}, "tags": ["a", 2]}', "The field 'tags[2]' must be text."),
        ("replicas=1 urgent=maybe", "The field 'urgent' must be yes or no."),
        ("replicas=1 address.city=Bern replicas=2", "The field 'replicas' is given twice."),
        ("address.city=Bern replicas=1 address.city:='\"Basel\"'", "The field 'address.city' is given twice."),
        ("three of them", "The answer must be a JSON object, or pairs of the form field=value."),
        ("replicas='1", "The answer has a quotation mark without its counterpart."),
        ("{replicas: 1}", "The answer is not JSON."),
    ],
)
def test_a_wrong_answer_is_refused_with_the_field(typed: str, sentence: str) -> None:
    """The one who types reads what is wrong, and where."""
    assert problem(Deployment.model_json_schema(), typed) == sentence


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    """A form without further fields takes none."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "additionalProperties": False}
    assert problem(schema, "b=1") == "The field 'b' is not a field; there are: a."
    assert problem(schema, '{"b": 1}') == "The field 'b' is not a field; there are: a."


def test_a_document_is_edited_by_pairs_or_as_a_whole() -> None:
    """Pairs change a copy, with values of the kind that was there; `unchanged` gives it back."""
    draft = {"title": "x", "size": 5, "deep": {"on": True}}
    wanted = form(None, draft)
    assert wanted.parse(["size=6", "deep.on=no"]) == {"title": "x", "size": 6, "deep": {"on": False}}
    assert wanted.parse("unchanged") == draft
    assert wanted.parse('{"other": 1}') == {"other": 1}
    assert problem(None, "size=big", draft) == "The field 'size' must be a number."
    assert draft == {"title": "x", "size": 5, "deep": {"on": True}}


_DEEP: dict[str, Any] = {"type": "integer"}
for _ in range(9):
    _DEEP = {"type": "array", "items": _DEEP}
_WIDE = {f"f{number}": {"type": "integer"} for number in range(MAX_NODES)}
_DOUBLING = {
    f"d{n}": {"type": "object", "properties": {x: {"$ref": f"#/$defs/d{n + 1}"} for x in "abcd"}} for n in range(7)
}


@pytest.mark.parametrize(
    ("attack", "schema"),
    [
        ("reference to elsewhere", {"$ref": "http://localhost/schema.json"}),
        ("reference to a file", {"$ref": "file:///etc/passwd"}),
        ("reference to itself", {"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
        (
            "recursion",
            {
                "$defs": {"a": {"type": "object", "properties": {"a": {"$ref": "#/$defs/a"}}}},
                "$ref": "#/$defs/a",
            },
        ),
        ("doubling", {"$defs": {**_DOUBLING, "d7": {"type": "integer"}}, "$ref": "#/$defs/d0"}),
        ("dynamic reference", {"$dynamicRef": "#a"}),
        ("long pattern", {"type": "string", "pattern": "a" * (MAX_PATTERN_CHARS + 1)}),
        ("depth", _DEEP),
        ("width", {"type": "object", "properties": _WIDE}),
        ("size", {"type": "string", "description": "x" * 20_000}),
        ("condition", {"type": "string", "if": {"minLength": 1}}),
        ("no type", {}),
        ("field of no type", {"type": "object", "properties": {"x": {}}}),
        ("several objects", {"anyOf": [{"type": "object"}, {"type": "array", "items": {"type": "integer"}}]}),
        ("no schema", 5),
        ("list", [{"type": "string"}]),
        ("number as a text", {"type": "integer", "minimum": "1"}),
        ("huge number", {"type": "number", "multipleOf": 1e308}),
        ("no choices", {"enum": []}),
        ("choice of objects", {"enum": [{"a": 1}]}),
        ("same choice twice", {"enum": ["a", "a"]}),
        ("field that is no field", {"type": "object", "required": ["x"], "additionalProperties": False}),
        ("empty name", {"type": "object", "properties": {"": {"type": "string"}}}),
    ],
)
def test_a_schema_that_cannot_be_shown_is_refused(attack: str, schema: Any) -> None:
    """Nothing is fetched, nothing recurses, and all is small."""
    began = time.monotonic()
    with pytest.raises(BadInput, match=r"schema of the answer|answer's schema"):
        Form.read(schema)
    assert time.monotonic() - began < 1, attack


def test_a_pattern_that_would_take_for_ever_takes_no_time() -> None:
    """Time grows with the length of the text only; what the engine cannot do is refused at the one who asks."""
    wanted = form({"type": "string", "pattern": "^(a+)+$"})
    began = time.monotonic()
    assert problem(wanted.schema, "a" * 50_000 + "b").startswith("The answer must match the pattern")
    assert time.monotonic() - began < 2
    with pytest.raises(BadInput, match="pattern"):
        form({"type": "string", "pattern": "(?=a)b"}).check_own()
    with pytest.raises(BadInput, match="pattern"):
        form({"type": "string", "pattern": "(\\w{100}){10}"}).check_own()


def test_a_huge_answer_is_refused_before_it_is_checked() -> None:
    """A list of a hundred thousand items is not walked through."""
    with pytest.raises(BadInput, match="parts"):
        form({"type": "array", "items": {"type": "integer"}}).check([1] * 100_000)
    with pytest.raises(BadInput, match="too large a number"):
        form({"type": "integer"}).check(2**60)


TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
SCALARS = (
    st.just({"type": "boolean"})
    | st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-9, 9),
        st.integers(0, 9),
    )
    | st.just({"type": "number", "exclusiveMinimum": 0})
    | st.builds(lambda least: {"type": "string", "minLength": least, "maxLength": 5}, st.integers(0, 3))
    | st.lists(
        TEXTS | st.integers(-3, 3) | st.booleans(), min_size=1, max_size=4, unique_by=lambda v: (type(v), v)
    ).map(lambda choices: {"enum": choices})
    | st.sampled_from([{"type": ["integer", "null"]}, {"type": "string", "format": "date"}])
)
NAMES = st.sampled_from(["a", "b", "c"])
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: (
        st.builds(lambda items: {"type": "array", "items": items, "maxItems": 3}, inner)
        | st.builds(
            lambda fields, needed, more: {
                "type": "object",
                "properties": fields,
                "required": [name for name in needed if name in fields],
                "additionalProperties": more,
            },
            st.dictionaries(NAMES, inner, max_size=3),
            st.lists(NAMES, unique=True),
            st.booleans(),
        )
    ),
    max_leaves=5,
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-12, 20) | st.floats(-5, 5) | TEXTS | st.just("2026-01-31"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)


@given(schema=SCHEMAS, value=VALUES)
def test_what_validates_is_accepted_and_what_does_not_is_refused_with_its_field(schema: Any, value: Any) -> None:
    """A form agrees with the library on every value, and names a field that the value has or lacks."""
    wanted = form(schema)
    plain = Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER)
    if plain.is_valid(value):
        wanted.check(value)
        return
    with pytest.raises(BadInput) as refused:
        wanted.check(value)
    errors = list(plain.iter_errors(value))
    if all(error.absolute_path for error in errors):
        assert refused.value.message.startswith("The field '")
    assert "%" not in refused.value.message
    assert refused.value.hint.startswith("Expected: ")


@given(schema=SCHEMAS, value=VALUES)
def test_every_good_answer_can_be_typed(schema: Any, value: Any) -> None:
    """Objects and lists as JSON, everything else as people write it."""
    wanted = form(schema)
    if not Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).is_valid(value):
        return
    typed = json.dumps(value) if isinstance(value, list | dict) else reply_data(None, value, "")["human_input"]
    found = wanted.parse(typed)
    choices = [text.casefold() for text in wanted.choices]
    if typed.casefold() not in choices or choices.count(typed.casefold()) == 1:
        assert found == value


@given(
    schema=st.recursive(
        st.none() | st.booleans() | st.integers() | TEXTS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        "type",
                        "enum",
                        "anyOf",
                        "oneOf",
                        "properties",
                        "items",
                        "required",
                        "$ref",
                        "$defs",
                        "const",
                        "allOf",
                        "minimum",
                        "pattern",
                        "title",
                    ]
                )
                | TEXTS,
                inner,
                max_size=4,
            )
        ),
        max_leaves=12,
    )
)
def test_any_schema_is_read_or_refused(schema: Any) -> None:
    """Whatever a stranger sends, the result is a form or a clear error; and a form can be described."""
    try:
        found = Form.read(schema)
    except BadInput:
        return
    if found is not None:
        assert form(found.schema).schema == found.schema
        assert found.expects
        found.fields()


def test_an_answer_is_read_with_its_value_and_remark() -> None:
    """What is sent is what is read; the text is what a reader without forms shows."""
    wanted = form({"type": "boolean"})
    sent = reply_data(wanted, True, "after 18:00")
    assert sent == {"human_input": "yes", "value": True, "remark": "after 18:00"}
    assert read_reply(wanted, sent) == Reply("yes", True, "after 18:00")
    assert reply_data(None, "sure", "") == {"human_input": "sure"}


def test_the_text_of_an_older_daemon_is_read_by_the_form() -> None:
    """It has no value, so its text counts as typed."""
    wanted = form({"type": "boolean"})
    assert read_reply(wanted, {"human_input": "Y"}).value is True
    with pytest.raises(BadAnswer, match="yes or no"):
        read_reply(wanted, {"human_input": "perhaps"})


@pytest.mark.parametrize("value", ["yes", 1, None, {"yes": True}])
def test_a_forged_value_is_no_answer(value: Any) -> None:
    """The text says yes, but the value is none that was asked for."""
    with pytest.raises(BadAnswer):
        read_reply(form({"type": "boolean"}), {"human_input": "yes", "value": value})


def test_the_form_travels_in_the_data() -> None:
    """Both ends see the same form."""
    wanted = form({"type": "object"}, {"a": 1})
    data = with_form({"api_output": "Edit?"}, wanted)
    found = form_of(json.loads(json.dumps(data)))
    assert found is not None
    assert (found.schema, found.draft) == (wanted.schema, wanted.draft)
    assert form_of({"api_output": "Any text?"}) is None
