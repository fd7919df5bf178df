"""Checks a value against the schema of a form, with the library jsonschema.

`fastjsonschema` imports in a quarter of the time, but compiles a schema to Python code and runs it; schemas come from
other users. Regular expressions run on pydantic's engine, whose time grows with the length of the text only, and no
other keyword of a form takes more than one pass over the value.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import date, datetime, time
from typing import Any
from uuid import UUID

from p2pflows.errors import BadInput
from p2pflows.forms.problem import Problem
from p2pflows.forms.schema import Node, patterns
from p2pflows.forms.shown import show
from p2pflows.protocol import strict_json

MAX_ANSWER_NODES = 2_000
"""How many values an answer may hold that are checked one by one, those inside of lists and objects counted."""
MAX_DOCUMENT_NODES = 50_000
"""The same for a document whose form says only that it is an object, or a list."""
MAX_INTEGER = 2**53 - 1
"""The largest whole number that every JSON reader reads exactly."""


def find_problem(node: Node, value: Any) -> Problem | None:
    """Return what is wrong with a value; None if it fits the schema."""
    is_checked_inside = bool(node.get("properties")) or any(node.get(key) for key in ("items", "anyOf"))
    is_checked_inside = is_checked_inside or isinstance(node.get("additionalProperties"), dict)
    problem = _check_size(value, MAX_ANSWER_NODES if is_checked_inside else MAX_DOCUMENT_NODES)
    if problem is not None:
        return problem
    error = next(iter(_validator()(node).iter_errors(value)), None)
    return None if error is None else _explain(error)


def check_patterns(node: Node) -> None:
    """Check that the regular expressions of a schema can be used.

    Raises:
        BadInput: one of them cannot.
    """
    for pattern in patterns(node):
        if _expression(pattern) is None:
            raise BadInput(
                f"The pattern {pattern!r} cannot be used.",
                "Write it without look-around and back-references, and with small repetitions.",
            )


def _check_size(value: Any, max_nodes: int) -> Problem | None:
    """Return what is wrong with the number of values, or with a number among them."""
    count, waiting = 0, [(value, "")]
    while waiting:
        part, path = waiting.pop()
        count += 1
        if count > max_nodes:
            return Problem("", f"has more than {max_nodes:,} parts")
        match part:
            case bool():
                continue
            case int() if abs(part) > MAX_INTEGER:
                return Problem(path, "is too large a number")
            case float() if part != part or abs(part) == float("inf"):  # noqa: PLR0124 - NaN is no number
                return Problem(path, "is no number that JSON can hold")
            case list():
                waiting += [(item, f"{path}[{number}]") for number, item in enumerate(part, start=1)]
            case dict():
                waiting += [(item, f"{path}.{name}".lstrip(".")) for name, item in part.items()]
    return None


@functools.cache
def _validator() -> Any:
    """Return the class that checks values; made on first use, because its import takes as long as a command."""
    from jsonschema import Draft202012Validator, FormatChecker, ValidationError
    from jsonschema.validators import extend

    formats = FormatChecker(formats=())
    for name, read in _FORMATS.items():
        formats.checks(name, raises=ValueError)(read)

    def pattern(_: Any, wanted: str, value: Any, __: Any) -> Iterator[ValidationError]:
        if isinstance(value, str) and not matches(wanted, value):
            yield ValidationError("pattern")

    def unique(_: Any, wanted: bool, value: Any, __: Any) -> Iterator[ValidationError]:
        if wanted and isinstance(value, list) and len({_canonical(item) for item in value}) < len(value):
            yield ValidationError("unique")

    extended: Any = extend(  # type: ignore[no-untyped-call]
        Draft202012Validator, {"pattern": pattern, "uniqueItems": unique}
    )
    return functools.partial(extended, format_checker=formats)


def matches(pattern: str, text: str) -> bool:
    """Return whether a text holds what a regular expression describes; False if the expression cannot be used."""
    from pydantic_core import ValidationError

    expression = _expression(pattern)
    try:
        return expression is not None and expression.validate_python(text) is not None
    except ValidationError:
        return False


@functools.lru_cache(maxsize=32)
def _expression(pattern: str) -> Any:
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex"))
    except SchemaError:
        return None


def _canonical(value: Any) -> str:
    import json

    return json.dumps(_as_written(value), sort_keys=True)


def _as_written(value: Any) -> Any:
    """Return a value in which equal numbers are written equally."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_as_written(item) for item in value]
        case dict():
            return {name: _as_written(item) for name, item in value.items()}
        case _:
            return value


def _explain(error: Any) -> Problem:  # noqa: PLR0911 - one for each keyword
    """Return an error of the library as a sentence about a field."""
    path = _path(error.absolute_path)
    schema, wanted, value = error.schema, error.validator_value, error.instance
    match error.validator:
        case "anyOf":
            return _explain_alternatives(error, path)
        case "required":
            missing = next(name for name in wanted if name not in value)
            return Problem(f"{path}.{missing}".lstrip("."), "is missing")
        case "additionalProperties" if wanted is False:
            unknown = next(name for name in value if name not in schema.get("properties", {}))
            fields = ", ".join(schema.get("properties", {})) or "none"
            return Problem(f"{path}.{unknown}".lstrip("."), f"is not a field; there are: {fields}")
        case "enum":
            return Problem(path, f"must be one of: {', '.join(map(show, wanted))}")
        case "oneOf":
            return Problem(path, f"must be one of: {', '.join(show(option['const']) for option in wanted)}")
        case "type":
            return Problem(path, f"must be {_TYPES.get(wanted, wanted)}")
        case "format":
            return Problem(path, f"must be {FORMATS_SHOWN.get(wanted, wanted)}")
        case keyword:
            sentence = _SENTENCES[keyword].format(show(wanted))
            return Problem(path, sentence.removesuffix("s") if wanted == 1 and keyword in _COUNTS else sentence)


def _explain_alternatives(error: Any, path: str) -> Problem:
    """Return what is wrong with a value that fits none of some alternatives: of the one with its type, if there is."""
    parts = [part for part in error.validator_value if part.get("type") != "null"]
    if len(parts) == 1:
        inside = next(each for each in error.context if each.schema_path[0] == error.validator_value.index(parts[0]))
        return _explain(inside)
    for each in error.context:
        if len(each.path) > 0:  # its type is right, and something inside of it is wrong
            return _explain(each)
    return Problem(path, "fits none of the forms that it may have")


def _path(parts: Any) -> str:
    path = ""
    for part in parts:
        path += f"[{part + 1}]" if isinstance(part, int) else f".{part}"
    return path.lstrip(".")


def _is_date(value: object) -> bool:
    return not isinstance(value, str) or (len(value) == len("2026-01-31") and bool(date.fromisoformat(value)))


def _is_time(value: object) -> bool:
    return not isinstance(value, str) or time.fromisoformat(value) is not None


def _is_moment(value: object) -> bool:
    return not isinstance(value, str) or ("T" in value.upper() and datetime.fromisoformat(value) is not None)


def _is_uuid(value: object) -> bool:
    return not isinstance(value, str) or UUID(value) is not None


def _is_email(value: object) -> bool:
    if not isinstance(value, str):
        return True
    name, at, host = value.partition("@")
    return bool(name and at and host) and "@" not in host and not any(map(str.isspace, value))


def _is_uri(value: object) -> bool:
    from urllib.parse import urlsplit

    return not isinstance(value, str) or bool(urlsplit(value).scheme)


_FORMATS = {
    "date": _is_date,
    "time": _is_time,
    "date-time": _is_moment,
    "uuid": _is_uuid,
    "email": _is_email,
    "uri": _is_uri,
}
FORMATS_SHOWN = {
    "date": "a date such as 2026-01-31",
    "time": "a time such as 18:30:00",
    "date-time": "a date and time such as 2026-01-31T18:30:00Z",
    "uuid": "a UUID",
    "email": "a mail address",
    "uri": "a web address",
}
"""How to say a format; formats that are not here are not checked."""

_TYPES = {
    "boolean": "yes or no",
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list",
    "object": "an object with fields",
    "null": "empty",
}
_SENTENCES = {
    "minLength": "must have at least {} characters",
    "maxLength": "must have at most {} characters",
    "pattern": "must match the pattern {}",
    "minimum": "must be at least {}",
    "maximum": "must be at most {}",
    "exclusiveMinimum": "must be more than {}",
    "exclusiveMaximum": "must be less than {}",
    "multipleOf": "must be a multiple of {}",
    "minItems": "must have at least {} items",
    "maxItems": "must have at most {} items",
    "uniqueItems": "must not hold the same item twice",
    "minProperties": "must have at least {} fields",
    "maxProperties": "must have at most {} fields",
}


_COUNTS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
"""The keywords whose sentences end with a number of things."""


def is_json(value: Any) -> bool:
    """Return whether a value can be sent as JSON."""
    try:
        strict_json.check_numbers(value)
        strict_json.check_levels(strict_json.dumps(value))
    except (ValueError, TypeError, RecursionError):
        return False
    return True
