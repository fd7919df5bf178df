"""The fields of a form as the page shows them, and the answer that a person has given in them.

The page knows no schemas: it gets a list of fields, and sends what was entered in each, in the same order.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from p2pflows.errors import BadInput
from p2pflows.forms import Form, typed
from p2pflows.forms.checks import find_problem
from p2pflows.forms.form import describe
from p2pflows.forms.problem import Problem
from p2pflows.forms.schema import Node, choices_of, labels_of, without_null
from p2pflows.forms.shown import show

MAX_FIELDS = 200
"""A form with more is answered as JSON."""
MAX_LINE_CHARS = 120
"""A text that may be longer gets room for several lines."""
_NOTHING: Any = object()
_INPUTS = {"date": "date", "email": "email"}


class Field(NamedTuple):
    """One field of a form.

    Attributes:
        path: the names that lead to its value.
        node: what the value must be.
        required: whether it must be filled in.
        may_be_empty: whether an empty text stands for itself.
    """

    path: tuple[str, ...]
    node: Node
    required: bool
    may_be_empty: bool = False

    @property
    def inner(self) -> Node:
        """What the value must be unless it is null."""
        return without_null(self.node)[0]

    @property
    def kind(self) -> str:  # noqa: PLR0911 - one for each kind of value
        """How the page asks for it: `boolean`, `choice`, `several`, `number`, `line`, `text`, `list` or `json`."""
        inner = self.inner
        if choices_of(inner) is not None:
            return "choice"
        match inner.get("type"):
            case "boolean":
                return "boolean"
            case "integer" | "number":
                return "number"
            case "array":
                items = inner["items"]
                if choices_of(items) is not None and inner.get("uniqueItems"):
                    return "several"
                return "list" if _is_scalar(items) else "json"
            case "object":
                return "json"
            case _:
                is_short = "format" in inner or inner.get("maxLength", MAX_LINE_CHARS + 1) <= MAX_LINE_CHARS
                return "line" if is_short and _is_scalar(inner) else "text" if _is_scalar(inner) else "json"

    @property
    def options(self) -> list[Any]:
        """The values among which a person chooses; empty if they do not."""
        inner = self.inner
        return list(choices_of(inner["items"] if self.kind == "several" else inner) or ())

    def entered(self, value: Any) -> Any:  # noqa: PLR0911 - one for each kind of field
        """Return what stands in the field for a value."""
        match self.kind:
            case "boolean" if isinstance(value, bool):
                return value
            case "choice" if value in self.options:
                return self.options.index(value)
            case "several" if isinstance(value, list):
                return [number for number, option in enumerate(self.options) if option in value]
            case "list" if isinstance(value, list):
                return "\n".join(map(show, value))
            case "json":
                return as_json(value)
            case "number" | "line" | "text" if value is not None:
                return show(value)
        return None

    def read(self, given: Any, draft: Any) -> Any:  # noqa: PLR0911 - one for each kind of field
        """Return the value of what was entered; `_NOTHING` if the field is left out.

        Args:
            given: what was entered.
            draft: what stood there before; `_NOTHING` if nothing did.

        Raises:
            Problem: it is no such value.
        """
        if given in (None, "", []):
            return self._read_empty(draft)
        match self.kind, given:
            case "boolean", bool():
                return given
            case "choice", int() if not isinstance(given, bool) and 0 <= given < len(self.options):
                return self.options[given]
            case "several", list():
                chosen = [number for number, _ in enumerate(self.options) if number in given]
                return [self.options[number] for number in chosen]
            case "list", str():
                lines = [line.strip() for line in given.split("\n") if line.strip()]
                return [typed.read(self.inner["items"], line, self.name) for line in lines]
            case "json", str():
                return typed.read_json(given, self.name)
            case "number" | "line" | "text", str():
                return typed.read(self.node, given, self.name)
        raise Problem(self.name, "was not filled in as the page does it")

    @property
    def name(self) -> str:
        """The name of the field, as errors have it."""
        return ".".join(self.path)

    def _read_empty(self, draft: Any) -> Any:
        if self.kind in ("several", "list") and (self.required or isinstance(draft, list)):
            return []
        if self.kind in ("line", "text") and (self.may_be_empty or draft == ""):
            return ""
        if without_null(self.node)[1] and (self.required or draft is None):
            return None
        if self.required:
            raise Problem(self.name, "must be filled in")
        return _NOTHING

    def as_json(self, value: Any) -> dict[str, Any]:
        """Return what the page needs of the field."""
        about = self.node.get("description") or ""
        title = self.node.get("title") or ""
        labels = labels_of(self.inner) if self.kind == "choice" else [""] * len(self.options)
        return {
            "name": self.name,
            "title": title,
            "about": about,
            "expects": describe(self.node),
            "kind": self.kind,
            "input": _INPUTS.get(self.inner.get("format", ""), "text"),
            "required": self.required and not without_null(self.node)[1],
            "options": [
                {"text": show(option), "label": label} for option, label in zip(self.options, labels, strict=True)
            ],
            "value": None if value is _NOTHING else self.entered(value),
        }


def describe_form(form: Form) -> dict[str, Any]:
    """Return what the page shows of a form.

    Returns:
        `kind` (`confirm`, `choice`, `fields` or `json`), `expects`, `is_draft`, `fields`, and `text`, the JSON from
        which an answer as JSON begins
    """
    fields = fields_of(form)
    root = Field((), form.schema, True)
    kind = "json" if fields is None else "fields"
    if not form.has_draft and not form.may_be_null and root.kind in ("boolean", "choice"):
        kind = "confirm" if root.kind == "boolean" else "choice"
    return {
        "kind": kind,
        "expects": form.expects,
        "is_draft": form.has_draft,
        "fields": [] if fields is None else [field.as_json(_start_of(form, field)) for field in fields],
        "text": as_json(form.draft) if form.has_draft else "",
    }


def fields_of(form: Form) -> list[Field] | None:
    """Return the fields of a form; one without a name if the answer is no object, None if only JSON can express it."""
    root = Field((), form.schema, not form.may_be_null)
    if isinstance(form.draft, dict) and form.draft and not root.inner.get("properties"):
        found = [Field((name,), _like(value), True, may_be_empty=True) for name, value in form.draft.items()]
        return found if len(found) <= MAX_FIELDS else None
    if not root.inner.get("properties"):
        return None if root.kind == "json" else [root]
    return list(_inside(root))  # a schema has at most MAX_NODES parts


def _inside(field: Field) -> Iterator[Field]:
    needed = field.inner.get("required", [])
    for name, node in field.inner["properties"].items():
        part = Field((*field.path, name), node, field.required and name in needed)
        if part.inner.get("properties"):
            yield from _inside(part)
        else:
            yield part


class FieldProblems(BadInput):
    """Fields do not fit.

    Attributes:
        fields: what is wrong, by the number of the field.
    """

    def __init__(self, message: str, hint: str, fields: dict[int, str]) -> None:
        super().__init__(message, hint)
        self.fields = fields

    def as_reply(self) -> dict[str, Any]:
        """Return the object that the page gets."""
        return {**super().as_reply(), "fields": {str(number): what for number, what in self.fields.items()}}


def read_fields(form: Form, given: Sequence[Any]) -> Any:
    """Return the answer that was entered in the fields of a form.

    Raises:
        FieldProblems: some of them do not fit, or the answer as a whole.
    """
    fields = fields_of(form)
    if fields is None or len(fields) != len(given):
        raise BadInput("This form has other fields.", "Load the page again.")
    answer: Any = copy.deepcopy(form.draft) if isinstance(form.draft, dict) else {}
    problems: dict[int, str] = {}
    for number, (field, entered) in enumerate(zip(fields, given, strict=True)):
        try:
            value = field.read(entered, _get(form.draft, field.path) if form.has_draft else _NOTHING)
        except Problem as wrong:
            problems[number] = wrong.what
        else:
            answer = _set(answer, field.path, value)
    if problems:
        raise FieldProblems("Some fields are not right yet.", form.hint, problems)
    if answer is _NOTHING:
        answer = None
    problem = find_problem(form.schema, answer)
    if problem is not None:
        place = _field_of(fields, problem.path)
        raise FieldProblems(problem.sentence, form.hint, {} if place is None else {place: problem.what})
    return answer


def read_text(form: Form, text: str) -> Any:
    """Return the answer that was given as JSON.

    Raises:
        FieldProblems: it is not JSON, or does not fit.
    """
    try:
        value = typed.read_json(text)
    except Problem:
        raise FieldProblems("This is not JSON yet.", form.hint, {}) from None
    form.check(value)
    return value


def as_json(value: Any) -> str:
    """Return a value as JSON that a person can read and edit."""
    return json.dumps(value, ensure_ascii=False, indent=2)


def _start_of(form: Form, field: Field) -> Any:
    """Return the value from which a field begins: that of the draft, or the default of the schema."""
    if form.has_draft:
        return _get(form.draft, field.path)
    return field.node.get("default", _NOTHING)


def _get(value: Any, path: Sequence[str]) -> Any:
    for name in path:
        if not isinstance(value, dict) or name not in value:
            return _NOTHING
        value = value[name]
    return value


def _set(answer: Any, path: Sequence[str], value: Any) -> Any:
    """Return the answer with a value at a path; without what was there, if the field is left out."""
    if not path:
        return value
    *parents, last = path
    inside = answer
    for name in parents:
        if not isinstance(inside.get(name), dict):
            if value is _NOTHING:
                return answer
            inside[name] = {}
        inside = inside[name]
    if value is _NOTHING:
        inside.pop(last, None)
    else:
        inside[last] = value
    return answer


def _field_of(fields: Sequence[Field], path: str) -> int | None:
    """Return the number of the field that an error is about."""
    for number, field in enumerate(fields):
        if path == field.name or path.startswith((f"{field.name}.", f"{field.name}[")):
            return number
    return None


def _like(value: Any) -> Node:
    """Return a schema for what takes the place of a value, in a document of which nothing else is known."""
    match value:
        case bool():
            return {"type": "boolean"}
        case int() | float():
            return {"type": "number"}
        case str():
            return {"type": "string"}
        case [*items] if items and all(isinstance(item, str) and item == item.strip() != "" for item in items):
            return {"type": "array", "items": {"type": "string"}}
        case _:
            return {"type": "object"}


def _is_scalar(node: Node) -> bool:
    """Whether a person can type the value in one line."""
    inner = without_null(node)[0]
    if "anyOf" in inner:
        return all(map(_is_scalar, inner["anyOf"]))
    return bool(inner) and inner.get("type") not in ("object", "array")
