"""JSON from outside, as RFC 8259 has it: no NaN or Infinity, and no nesting that breaks whoever reads it."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

MAX_DEPTH = 150
"""How deep what people send each other may be nested; readers take 201, so it can be put into other documents."""

_ROOM = 51
_SURELY_SHALLOW = 100


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """The shortest JSON text of a value that is JSON already."""
    return _ENCODER.encode(value)


def dumps(value: Any, errors: str = "strict") -> bytes:
    """The shortest JSON bytes of a value that is JSON already; quicker than `compact`.

    Args:
        value: has text keys only.
        errors: what becomes of half a character, which no UTF-8 has: a name of an error handler for `str.encode`.

    Raises:
        ValueError: it holds half a character, and `halves` says no more.
    """
    try:
        return to_json(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        return compact(value).encode(errors=errors)


def loads(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, holds a number that is none or too large to be one, or is nested too deeply.
    """
    value = from_json(text, allow_inf_nan=False)
    check_numbers(value)
    return value


def check_numbers(value: Any) -> None:
    """Refuse a parsed value that cannot be written as JSON again: `1e999` is read as infinity.

    Raises:
        ValueError: it holds such a number.
    """
    text = to_json(value, inf_nan_mode="constants")
    if b"Infinity" in text or b"NaN" in text:  # in a text it does no harm
        json.dumps(value, allow_nan=False)


def check_levels(text: bytes) -> None:
    """Refuse a JSON text that is nested deeper than LEVELS.

    Raises:
        ValueError: it is, or it is no JSON.
    """
    if text.count(b"[") + text.count(b"{") > _SURELY_SHALLOW:
        from_json(b"[" * _ROOM + text + b"]" * _ROOM)
