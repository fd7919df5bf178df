"""Texts that a person typed, read as the schema of the flow says (docs/PROTOCOL.md, Typed texts)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from p2pflows.protocol import strict_json
from p2pflows.protocol.message import Type

_MAX_REFERENCES = 16
"""How many references and choices are followed in the schema of one key."""
_CHOICES = ("anyOf", "oneOf")
_TYPE_NAMES = {
    type(None): "null",
    bool: "boolean",
    int: "integer",
    float: "number",
    str: "string",
    list: "array",
    dict: "object",
}
"""The types of JSON."""


def read_typed(data: dict[str, Any], typed: Sequence[str], schema: dict[str, Any] | None) -> dict[str, Any]:
    """Replace texts that stand for another value, where the schema of the flow takes no text.

    Args:
        data: the data of a message.
        typed: its keys whose texts were typed by a person; others are ignored.
        schema: the JSON schema of the data, or None if the flow has none.

    Returns:
        The data, with the number, list, object, truth value or null that such a text says in JSON, if the schema of
        its key takes that and takes no text. Any other text stays, for the flow to take or to refuse.
    """
    properties = schema.get("properties") if schema else None
    if not typed or schema is None or not isinstance(properties, dict):
        return data
    found = dict(data)
    for key in typed:
        text = data.get(key)
        if isinstance(text, str) and key in properties:
            found[key] = _read(text, _types(properties[key], schema))
    return found


def read_typed_body(body: bytes, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the body of a stored message; if it is a request, its typed texts are read by the schema of the flow."""
    content: dict[str, Any] = json.loads(body)
    data = content.setdefault("data", {})
    if content.get("type") in (Type.CALL, Type.POST):
        content["data"] = read_typed(data, content.get("typed") or (), schema)
    return content


def _read(text: str, types: frozenset[str]) -> Any:
    if not types or "string" in types:
        return text
    try:
        value = strict_json.loads_exact(text.strip().encode())
    except ValueError:  # also of a lone surrogate
        return text
    return value if _type(value) in types or (_type(value) == "integer" and "number" in types) else text


def _type(value: Any) -> str:
    return _TYPE_NAMES[type(value)]


def _types(field: Any, schema: dict[str, Any]) -> frozenset[str]:
    """Return the types of JSON that the schema of one key takes; none if it does not say."""
    types: set[str] = set()
    waiting = [field]
    for _ in range(_MAX_REFERENCES):
        if not waiting:
            return frozenset(types)
        part = waiting.pop()
        if not isinstance(part, dict):
            return frozenset()
        choices = next((part[name] for name in _CHOICES if isinstance(part.get(name), list)), None)
        if "type" in part:
            said = part["type"]
            types.update(filter(_is_text, said) if isinstance(said, list) else [str(said)])
        elif "const" in part:
            types.add(_type(part["const"]))
        elif isinstance(part.get("enum"), list):
            types.update(map(_type, part["enum"]))
        elif choices:
            waiting.extend(choices)
        else:
            waiting.append(_target(part.get("$ref"), schema))
    return frozenset()


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _target(reference: Any, schema: dict[str, Any]) -> Any:
    """Return the part of the schema that a reference such as `#/$defs/Color` names; None for any other."""
    prefix, _, name = reference.rpartition("/") if isinstance(reference, str) else ("", "", "")
    definitions = schema.get(prefix.removeprefix("#/")) if prefix in ("#/$defs", "#/definitions") else None
    return definitions.get(name) if isinstance(definitions, dict) else None
