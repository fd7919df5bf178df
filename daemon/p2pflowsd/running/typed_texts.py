"""Texts that a person typed and that may stand for another value: the schema of the flow says which of them counts.

docs/PROTOCOL.md, section 7, has the rule.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p2pflows.protocol.message import Type
from p2pflows.protocol.strict_json import loads_keeping

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


def read_typed(data: dict[str, Any], typed: Mapping[str, str], schema: dict[str, Any] | None) -> dict[str, Any]:
    """Put the texts that were typed in place of the values that they may stand for, where the flow takes texts.

    Args:
        data: the data of a message.
        typed: the texts that were typed for some of its keys; of others they are ignored.
        schema: the JSON schema of the data, or None if the flow has none.

    Returns:
        The data. A key keeps its value only if the schema says which types the key takes, and text is none of them.
    """
    if not typed:
        return data
    properties = schema.get("properties") if schema else None
    fields = properties if isinstance(properties, dict) else {}
    found = dict(data)
    for key, text in typed.items():
        types = _types(fields.get(key), schema or {})
        if key in data and (not types or "string" in types):
            found[key] = text
    return found


def read_typed_body(body: bytes, schema: dict[str, Any] | None) -> dict[str, Any]:
    """Return the body of a stored message; if it is a request, with its typed texts as `read_typed` puts them."""
    content: dict[str, Any]
    try:
        content = loads_keeping(body, "data")
    except ValueError:  # an answer to a run may lie deeper than a message allows
        content = json.loads(body)
    data = content.setdefault("data", {})
    if content.get("type") in (Type.CALL, Type.POST):
        content["data"] = read_typed(data, content.get("typed") or {}, schema)
    return content


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
            types.add(_TYPE_NAMES[type(part["const"])])
        elif isinstance(part.get("enum"), list):
            types.update(_TYPE_NAMES[type(value)] for value in part["enum"])
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
