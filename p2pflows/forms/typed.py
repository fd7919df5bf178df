"""Reads an answer as a person types it, by the schema of the form."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Sequence
from typing import Any

from p2pflows.forms.problem import Problem
from p2pflows.forms.schema import Node, choices_of, labels_of, without_null
from p2pflows.forms.shown import show
from p2pflows.protocol import strict_json

_YES, _NO = frozenset({"yes", "y", "true"}), frozenset({"no", "n", "false"})
_PAIR = re.compile(r"[^\s=:{\[\"']+:?=")
_WHOLE = re.compile(r"[+-]?\d{1,20}")
_NUMBER = re.compile(r"[+-]?(\d{1,50}(\.\d{0,50})?|\.\d{1,50})([eE][+-]?\d{1,3})?")
_UNTYPED: Node = {}


def read(node: Node, text: str, path: str = "") -> Any:  # noqa: PLR0911 - one for each kind of value
    """Return the value that a text stands for.

    Args:
        node: what the value must be.
        text: what was typed.
        path: the name of the field; empty for the whole answer.

    Raises:
        Problem: the text stands for no such value.
    """
    inner, may_be_null = without_null(node)
    if may_be_null and (not text.strip() or (inner.get("type") != "string" and text.strip().lower() == "null")):
        return None
    choices = choices_of(inner)
    if choices is not None:
        return _read_choice(inner, choices, text, path)
    if "anyOf" in inner:
        return _read_alternative(inner, text, path)
    match inner.get("type"):
        case "boolean":
            return _read_boolean(text, path)
        case "integer" | "number" as kind:
            return _read_number(kind, text, path)
        case "array":
            return _read_list(inner, text, path)
        case "object":
            return read_object(inner, text, path=path)
        case "null":
            raise Problem(path, "must be empty")
        case _:
            return text


def read_object(node: Node, typed: str | Sequence[str], draft: Any = None, path: str = "") -> Any:
    """Return the object that JSON, or pairs of the form key=value and key:=JSON, stand for.

    Args:
        node: what the object must be.
        typed: the text, or its words as a shell has split them.
        draft: the object that the pairs change.
        path: the name of the field; empty for the whole answer.

    Raises:
        Problem: it is neither, or a field has a wrong value.
    """
    text = typed if isinstance(typed, str) else " ".join(typed)
    if text.lstrip().startswith("{"):
        return read_json(text, path)
    try:
        words = shlex.split(text) if isinstance(typed, str) else list(typed)
    except ValueError:
        raise Problem(path, "has a quotation mark without its counterpart") from None
    if not words or not all(_PAIR.match(word) for word in words):
        raise Problem(path, "must be a JSON object, or pairs of the form field=value")
    found = copy.deepcopy(draft) if isinstance(draft, dict) else {}
    given: set[str] = set()
    for word in words:
        key, is_json, value = _split(word)
        if key in given:
            raise Problem(f"{path}.{key}".lstrip("."), "is given twice")
        given.add(key)
        _set(found, node, key.split("."), value, path, is_json=is_json)
    return found


def read_json(text: str, path: str = "") -> Any:
    """Return the value of a JSON text.

    Raises:
        Problem: it is not JSON.
    """
    try:
        return strict_json.loads_exact(text.strip().encode())
    except ValueError:
        raise Problem(path, "is not JSON") from None


def _split(word: str) -> tuple[str, bool, str]:
    """Return the key and the value of a pair, and whether the value is JSON."""
    key, _, value = word.partition("=")
    return key.removesuffix(":"), key.endswith(":"), value


def _set(found: dict[str, Any], node: Node, keys: list[str], text: str, path: str, *, is_json: bool) -> None:
    inner = without_null(node)[0]
    properties, more = inner.get("properties", {}), inner.get("additionalProperties", True)
    whole = ".".join(keys)
    key, *deeper = [whole] if whole in properties else keys
    field = f"{path}.{key}".lstrip(".")
    if key not in properties and more is False:
        raise Problem(field, f"is not a field; there are: {', '.join(properties) or 'none'}")
    part = properties.get(key, more if isinstance(more, dict) else _UNTYPED)
    if deeper:
        inside = found.get(key)
        if not isinstance(inside, dict):
            inside = found[key] = {}
        _set(inside, part, deeper, text, field, is_json=is_json)
    elif is_json:
        found[key] = read_json(text, field)
    else:
        found[key] = read(part or _like(found.get(key)), text, field)


def _like(value: Any) -> Node:
    """Return a schema for what takes the place of a value in a draft."""
    match value:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "number"}
        case float():
            return {"type": "number"}
        case dict():
            return {"type": "object"}
        case list():
            return {"type": "array", "items": {}}
        case _:
            return _UNTYPED


def _read_choice(node: Node, choices: list[Any], text: str, path: str) -> Any:
    stripped = text.strip()
    shown = [show(choice) for choice in choices]
    for wanted in (text, stripped):
        if wanted in shown:
            return choices[shown.index(wanted)]
    labels = labels_of(node)
    for texts in (shown, labels):
        same = [i for i, each in enumerate(texts) if each and each.casefold() == stripped.casefold()]
        if len(same) == 1:
            return choices[same[0]]
    if re.fullmatch(r"\d{1,4}", stripped) and 1 <= int(stripped) <= len(choices):
        return choices[int(stripped) - 1]
    if all(isinstance(choice, bool) for choice in choices) and stripped.lower() in _YES | _NO:
        value = stripped.lower() in _YES
        if value in choices:
            return value
    raise Problem(path, f"must be one of: {', '.join(shown)}")


def _read_alternative(node: Node, text: str, path: str) -> Any:
    from p2pflows.forms.checks import find_problem

    for part in node["anyOf"]:
        try:
            value = read(part, text, path)
        except Problem:
            continue
        if find_problem(part, value) is None:
            return value
    raise Problem(path, "fits none of the forms that it may have")


def _read_boolean(text: str, path: str) -> bool:
    word = text.strip().lower()
    if word in _YES or word in _NO:
        return word in _YES
    raise Problem(path, "must be yes or no")


def _read_number(kind: str, text: str, path: str) -> int | float:
    word = text.strip()
    if _WHOLE.fullmatch(word):
        return int(word)
    if kind == "integer":
        raise Problem(path, "must be a whole number")
    if not _NUMBER.fullmatch(word):
        raise Problem(path, "must be a number")
    return float(word)


def _read_list(node: Node, text: str, path: str) -> list[Any]:
    if text.lstrip().startswith("["):
        found = read_json(text, path)
        if isinstance(found, list):
            return found
    item = without_null(node.get("items", {}))[0]
    if item.get("type") in {"object", "array"} or not item:
        raise Problem(path, "must be a JSON list, such as [1, 2]")
    words = [word.strip() for word in text.split(",")] if text.strip() else []
    return [read(node["items"], word, f"{path}[{number}]") for number, word in enumerate(words, start=1)]
