"""JSON as RFC 8259 defines it, without NaN and Infinity, and not nested more deeply than every reader can take."""

from __future__ import annotations

import json
import re
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

MAX_DEPTH = 150
"""How deeply a message may be nested. `from_json` reads 201 levels, so a message fits into other documents."""

_SPARE_LEVELS = 51
_MAX_UNCHECKED_BRACKETS = 100
"""A text with no more opening brackets than this cannot be nested too deeply."""

_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """Return the shortest JSON text of a value that JSON can hold."""
    return _ENCODER.encode(value)


def dumps(value: Any, errors: str = "strict") -> bytes:
    """Return the shortest JSON of a value that JSON can hold, as UTF-8; quicker than `compact`.

    Args:
        value: a value whose mappings have text keys only.
        errors: the error handler of `str.encode` for a lone surrogate, which UTF-8 cannot hold.

    Raises:
        ValueError: the value holds a lone surrogate, and `errors` is "strict".
    """
    try:
        return to_json(value, inf_nan_mode="constants")
    except PydanticSerializationError:
        return compact(value).encode(errors=errors)


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds NaN, Infinity or a number beyond a float.
    """
    value = from_json(text, allow_inf_nan=False)
    check_numbers(value)
    return value


def loads_exact(text: bytes) -> Any:
    """Return the value of a JSON text that has one meaning only, for every reader.

    Raises:
        ValueError: the text is not JSON, is nested deeper than MAX_DEPTH, has two equal keys in one object, or holds
            NaN, Infinity or a number beyond a float.
    """
    check_levels(text)
    value = from_json(text, allow_inf_nan=False)
    written = to_json(value, inf_nan_mode="constants")
    if written != text:  # white space, or something that is lost by reading
        check_numbers(value)
        if _STRING.sub(b"", written).count(b":") != _STRING.sub(b"", text).count(b":"):
            raise ValueError("two keys of one object are equal")
    return value


def check_numbers(value: Any) -> None:
    """Refuse a parsed value that JSON cannot write again: `1e999` is read as infinity.

    Raises:
        ValueError: the value holds infinity or NaN.
    """
    text = to_json(value, inf_nan_mode="constants")
    if b"Infinity" in text or b"NaN" in text:  # inside a text, both are harmless
        json.dumps(value, allow_nan=False)


def check_levels(text: bytes) -> None:
    """Refuse a JSON text that is nested deeper than MAX_DEPTH.

    Raises:
        ValueError: the text is nested too deeply, or is not JSON.
    """
    if text.count(b"[") + text.count(b"{") > _MAX_UNCHECKED_BRACKETS:
        from_json(b"[" * _SPARE_LEVELS + text + b"]" * _SPARE_LEVELS)
