"""The fields of forms, and the answers that are entered in them."""

from __future__ import annotations

from typing import Any

import pytest

from p2pflows.errors import BadInput
from p2pflows.forms import Form
from p2pflows.web.fields import MAX_FIELDS, FieldProblems, describe_form, fields_of, read_fields, read_text

VISITOR = {
    "type": "object",
    "required": ["name", "age", "badge", "languages"],
    "properties": {
        "name": {"type": "string", "maxLength": 20, "title": "Full name"},
        "age": {"type": "integer", "minimum": 16},
        "badge": {"oneOf": [{"const": "v", "title": "visitor"}, {"const": "s", "title": "staff"}]},
        "languages": {"type": "array", "items": {"type": "string"}},
        "lunch": {"type": "boolean"},
        "floors": {"type": "array", "uniqueItems": True, "items": {"enum": [1, 2, 3]}},
        "address": {"type": "object", "properties": {"city": {"type": "string"}, "zip": {"type": "string"}}},
        "more": {"type": "object"},
        "note": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
}
FILLED = ["Ann", "30", 1, "de\n fr \n\n", True, [2, 0], "Bern", "", '{"a": [1]}', ""]


def form(schema: dict[str, Any] | None, draft: Any = None) -> Form:
    """Return a form."""
    found = Form.read(schema, draft)
    assert found is not None
    return found


def problems(form: Form, given: list[Any]) -> dict[int, str]:
    """Return what is wrong with the fields."""
    with pytest.raises(FieldProblems) as raised:
        read_fields(form, given)
    return raised.value.fields


def test_a_form_is_filled_in() -> None:
    """Fields that are left empty are left out, and so is an object in which all are."""
    assert read_fields(form(VISITOR), FILLED) == {
        "name": "Ann", "age": 30, "badge": "s", "languages": ["de", "fr"], "lunch": True, "floors": [1, 3],
        "address": {"city": "Bern"}, "more": {"a": [1]},
    }  # fmt: skip
    bare = read_fields(form(VISITOR), ["Ann", "30", 0, "", None, [], "", "", "", ""])
    assert bare == {"name": "Ann", "age": 30, "badge": "v", "languages": []}


def test_each_field_says_how_to_ask_for_it() -> None:
    """The page needs to know no schema."""
    described = describe_form(form(VISITOR))
    kinds = ["line", "number", "choice", "list", "boolean", "several", "text", "text", "json", "text"]
    assert [field["kind"] for field in described["fields"]] == kinds
    assert described["fields"][2]["options"] == [{"text": "v", "label": "visitor"}, {"text": "s", "label": "staff"}]
    assert [field["required"] for field in described["fields"]] == [True] * 4 + [False] * 6
    assert described["fields"][6]["name"] == "address.city"


@pytest.mark.parametrize(
    ("number", "entered", "wrong"),
    [
        (0, "", "must be filled in"),
        (0, "x" * 21, "20"),
        (0, 7, "was not filled in"),
        (1, "12", "16"),
        (1, "many", "whole number"),
        (2, 2, "was not filled in"),
        (2, True, "was not filled in"),
        (2, None, "must be filled in"),
        (4, "yes", "was not filled in"),
        (8, "{", "not JSON"),
    ],
)
def test_what_is_wrong_is_said_at_its_field(number: int, entered: object, wrong: str) -> None:
    """The others are kept as they are."""
    found = problems(form(VISITOR), [*FILLED[:number], entered, *FILLED[number + 1 :]])
    assert list(found) == [number]
    assert wrong in found[number]


@pytest.mark.parametrize("given", [[], [None], [*FILLED, ""]])
def test_fields_of_another_form_are_refused(given: list[Any]) -> None:
    """The page may be older than the question."""
    with pytest.raises(BadInput, match="other fields"):
        read_fields(form(VISITOR), given)


@pytest.mark.parametrize(
    ("schema", "entered", "value"),
    [
        ({"type": "integer", "minimum": 3}, "5", 5),
        ({"type": "string", "maxLength": 5}, "abc", "abc"),
        ({"enum": list("abcdefgh")}, 7, "h"),
        ({"type": "array", "items": {"type": "integer"}}, "1\n2", [1, 2]),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "", None),
        ({"type": ["boolean", "null"]}, None, None),
        ({"type": "boolean"}, False, False),
    ],
)
def test_an_answer_that_is_no_object_is_one_field(schema: dict[str, Any], entered: object, value: object) -> None:
    """It has no name."""
    assert read_fields(form(schema), [entered]) == value


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "boolean"}, "confirm"),
        ({"enum": ["a", "b"]}, "choice"),
        ({"type": "integer"}, "fields"),
        ({"type": "object"}, "json"),
    ],
)
def test_simple_answers_have_simple_forms(schema: dict[str, Any], kind: str) -> None:
    """Yes or no is two buttons."""
    assert describe_form(form(schema))["kind"] == kind


def test_a_draft_keeps_what_the_form_does_not_show() -> None:
    """Only what is entered changes; what is emptied goes."""
    draft = {"name": "Ann", "note": "", "hidden": [1, {"a": None}]}
    schema = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    }
    found = form(schema, draft)
    assert [field["value"] for field in describe_form(found)["fields"]] == ["Ann", None]
    assert read_fields(found, ["Bea", "4"]) == {"name": "Bea", "note": "", "hidden": [1, {"a": None}], "age": 4}
    assert draft["name"] == "Ann"


def test_a_draft_without_a_schema_has_the_fields_that_it_has() -> None:
    """A text may become empty, and nothing is lost on the way."""
    draft = {"subject": "x", "send": True, "count": 2, "tags": ["a", "b"], "more": {"k": [1]}, "none": None}
    found = form(None, draft)
    entered = [field["value"] for field in describe_form(found)["fields"]]
    assert read_fields(found, entered) == draft
    assert read_fields(found, ["", *entered[1:]])["subject"] == ""


def test_what_is_given_as_json_must_fit() -> None:
    """It is for documents that have no fields."""
    assert read_text(form({"type": "object"}), '{"a": 1}') == {"a": 1}
    for text in ("", "{", "[1]", '{"a": 1, "a": 2}', "NaN"):
        with pytest.raises(BadInput):
            read_text(form({"type": "object"}), text)


def test_a_form_with_too_many_fields_is_answered_as_json() -> None:
    """A draft may have thousands."""
    many = form(None, {f"k{number}": 1 for number in range(MAX_FIELDS + 1)})
    assert fields_of(many) is None
    assert describe_form(many)["kind"] == "json"
    assert describe_form(many)["fields"] == []
