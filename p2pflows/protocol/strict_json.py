"""JSON as RFC 8259 defines it, without NaN and Infinity, and not nested more deeply than every reader can take.

What is read once is passed on as the bytes that it was read from, in a `JsonObject`.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import string
from typing import Any, NoReturn

import jiter
from pydantic_core import PydanticSerializationError, from_json, to_json

MAX_DEPTH = 150
"""How deeply a message may be nested. `from_json` reads 201 levels, so a message fits into other documents."""

_READABLE_LEVELS = 201
_MAX_UNCHECKED_BRACKETS = 100
"""A text with no more opening brackets than this cannot be nested too deeply."""
_MAX_COUNTED_BYTES = 2_000
"""In a longer text, counting brackets takes more time than it can save."""
_MAX_VISITED_PARTS = 64
"""A long text is mostly one long string, so its few parts are visited in less time than all of its bytes."""
_MAX_BRACKETS_OF_A_HEAD = 16
"""A long text that begins with more opening brackets than this is thought to have many parts."""
_MIN_SPLIT_BYTES = 4_000
"""A shorter text is parsed whole, as that takes less time than to find its parts."""

_NUMBERS = bytes(
    ord("0") if chr(byte) in "0123456789." else ord("e") if chr(byte) in "eE" else ord(" ") for byte in range(256)
)
_NOT_COUNTED = re.sub("[eE]", "+", string.ascii_letters).encode() + bytes(range(128, 256))
"""What is in no number, and the plus sign of an exponent."""
_DIGITS_OF_A_FLOAT = 309
"""A number with fewer digits and without an exponent is in the range of a float."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
_FINITE_ENCODER = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":"))


def compact(value: Any) -> str:
    """Return the shortest JSON text of a value that JSON can hold."""
    return _ENCODER.encode(value)


def compact_finite(value: Any) -> str:
    """Return the JSON text that `compact` returns.

    Raises:
        TypeError: JSON cannot hold a part of the value.
        ValueError: the value holds infinity or NaN, or contains itself.
    """
    return _FINITE_ENCODER.encode(value)


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


def dumps_finite(value: Any) -> bytes:
    """Return the shortest JSON of a value, as `dumps` does.

    Raises:
        ValueError: the value holds infinity, NaN or a lone surrogate.
    """
    text = dumps(value)
    _check_written(value, text)
    return text


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or holds NaN, Infinity or a number beyond a float.
    """
    value = from_json(text, allow_inf_nan=False)
    if len(text) > _MAX_COUNTED_BYTES and _has_few_finite_parts(value):
        return value
    if _may_hold_infinity(text if isinstance(text, bytes) else text.encode(errors="replace")):
        check_numbers(value)
    return value


def loads_exact(text: bytes) -> Any:
    """Return the value of a JSON text that has one meaning only, for every reader.

    Raises:
        ValueError: the text is not JSON, is nested deeper than MAX_DEPTH, has two equal keys in one object, or holds
            NaN, Infinity or a number beyond a float.
    """
    return _loads_exact(text, MAX_DEPTH)


def _loads_exact(text: bytes, depth: int) -> Any:
    is_long = len(text) > _MAX_COUNTED_BYTES
    if is_long and _count_brackets(text[:_MAX_COUNTED_BYTES]) <= _MAX_BRACKETS_OF_A_HEAD:
        value = _parse(text)
        if _has_few_finite_parts(value):  # so it is not deep either
            return value
        if _count_brackets(text) > _MAX_UNCHECKED_BRACKETS:
            value = _parse_to(depth, text)
    elif is_long or _count_brackets(text) > _MAX_UNCHECKED_BRACKETS:
        value = _parse_to(depth, text)
    else:
        value = _parse(text)
    if _may_hold_infinity(text):
        check_numbers(value)
    return value


def _parse(text: bytes) -> Any:
    return jiter.from_json(text, allow_inf_nan=False, catch_duplicate_keys=True)


def _parse_to(depth: int, text: bytes) -> Any:
    """Parse a text that may be nested so deeply; brackets around it use up the other levels that can be read."""
    spare = _READABLE_LEVELS - depth
    value = _parse(b"[" * spare + text + b"]" * spare)
    for _ in range(spare):
        (value,) = value
    return value


class JsonObject(dict[str, Any]):
    """A JSON object, with the text that it was read from: whoever passes it on does not write it again.

    It cannot be changed, as its text would no longer be right. A copy made with `dict` can.

    Attributes:
        text: its JSON, which has one meaning for every reader, and fits into a message.
    """

    __slots__ = ("text",)

    def __init__(self, value: dict[str, Any], text: bytes) -> None:
        super().__init__(value)
        self.text = text

    @classmethod
    def read(cls, text: bytes) -> JsonObject:
        """Read the object in a text.

        Raises:
            ValueError: the text is none that `loads_exact` reads, or no object, or nested too deeply for a message.
        """
        value = _loads_exact(text, MAX_DEPTH - 1)
        if not isinstance(value, dict):
            raise ValueError("not an object")  # noqa: TRY004 - a defect of the text like any other
        return cls(value, text)

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError("what was read cannot be changed")

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse


def text_of(value: dict[str, Any]) -> bytes:
    """Return the JSON of an object: the text that it was read from, or else the shortest.

    Raises:
        ValueError: the value holds a lone surrogate.
    """
    return value.text if isinstance(value, JsonObject) else dumps(value)


def loads_keeping(text: bytes, key: str) -> Any:
    """Do the same as `loads_exact`; a long object under a key of the outermost one becomes a JsonObject, if it is last.

    Raises:
        ValueError: as for `loads_exact`.
    """
    parts = split(text, key, b"}")
    if parts is not None:
        rest, found = parts
        with contextlib.suppress(ValueError):
            value = loads_exact(rest)
            if key not in value:  # it ends as an object does, so it is one
                return {**value, key: found}
    return loads_exact(text)


def split(text: bytes, key: str, end: bytes) -> tuple[bytes, JsonObject] | None:
    """Take the object apart that is the last thing in a text.

    The first `,"KEY":{` in a text is a key, as a quotation mark inside of a text has a backslash before it. If what
    follows is an object up to the end, and what is left without it is JSON as well, nothing else can be meant.

    Args:
        text: a JSON text.
        key: the key of the object.
        end: what follows the object in the text.

    Returns:
        The text without the object, which the caller must read, and the object; None if the text is short or written in
        another way, so that it is to be read as a whole.
    """
    if len(text) < _MIN_SPLIT_BYTES or not text.endswith(end):
        return None
    start = text.find(b',"%s":{' % key.encode())
    if start < 0:
        return None
    try:
        found = JsonObject.read(text[start + len(key) + 4 : len(text) - len(end)])
    except ValueError:
        return None
    return text[:start] + end, found


def _count_brackets(text: bytes) -> int:
    return text.count(b"[") + text.count(b"{")


def _has_few_finite_parts(value: Any) -> bool:
    """Return whether a parsed value has so few parts that all were visited, and no number among them is infinite."""
    left, visited = [value], 0
    while left:
        part = left.pop()
        visited += 1
        if isinstance(part, dict | list):
            if visited + len(left) + len(part) > _MAX_VISITED_PARTS:
                return False
            left += part.values() if isinstance(part, dict) else part
        elif isinstance(part, float) and math.isinf(part):
            return False
    return True


def _may_hold_infinity(text: bytes) -> bool:
    """Return whether a number in a text may be beyond a float; often so only because of the words in it."""
    numbers = text.translate(_NUMBERS, _NOT_COUNTED)
    return b"0e0" in numbers or b"0" * _DIGITS_OF_A_FLOAT in numbers


def check_numbers(value: Any) -> None:
    """Refuse a parsed value that JSON cannot write again: `1e999` is read as infinity.

    Raises:
        ValueError: the value holds infinity or NaN.
    """
    _check_written(value, to_json(value, inf_nan_mode="constants"))


def _check_written(value: Any, text: bytes) -> None:
    # One letter is found much faster than a word, or found to be missing.
    if (b"I" in text and b"Infinity" in text) or (b"N" in text and b"NaN" in text):
        json.dumps(value, allow_nan=False)  # inside a text, both are harmless


def check_levels(text: bytes) -> None:
    """Refuse a JSON text that is nested deeper than MAX_DEPTH.

    Raises:
        ValueError: the text is nested too deeply, or is not JSON.
    """
    if _count_brackets(text) > _MAX_UNCHECKED_BRACKETS:
        spare = _READABLE_LEVELS - MAX_DEPTH
        from_json(b"[" * spare + text + b"]" * spare)
