"""The part of JSON Schema (draft 2020-12) that a form may use, and the reading of it.

A schema comes from another user, so nothing in it may fetch, recurse or take long: references lead to its own `$defs`
and are replaced, every length is limited, and an alternative holds at most one object or list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from p2pflows.errors import BadInput
from p2pflows.protocol import strict_json

Node = dict[str, Any]
"""A schema that `read_schema` has returned, or a part of one."""

MAX_SCHEMA_BYTES = 16_384
MAX_NODES = 200
MAX_DEPTH = 8
MAX_CHOICES = 100
MAX_ALTERNATIVES = 8
MAX_PATTERN_CHARS = 200
MAX_PATTERNS = 5
MAX_NAME_CHARS = 100

_NOTES = frozenset({"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})
_DROPPED = frozenset({"$schema", "$id", "$comment", "$defs", "definitions", "discriminator"})
_KEYWORDS: dict[str, frozenset[str]] = {
    "boolean": frozenset(),
    "null": frozenset(),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "integer": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}),
    "number": frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "format"}),
    "array": frozenset({"items", "minItems", "maxItems", "uniqueItems"}),
    "object": frozenset({"properties", "required", "additionalProperties", "minProperties", "maxProperties"}),
}
_WHOLE_NUMBERS = frozenset({"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"})
_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
_MAX_NUMBER = 2.0**53
_SEE = "The page about humans in the documentation says what a form may hold."


def read_schema(schema: object) -> Node:
    """Return a schema with its references replaced, and only with keywords that a form has.

    Args:
        schema: the JSON Schema; what another user sends may be anything.

    Raises:
        BadInput: it is no schema, it is too large, or a person cannot be shown what it wants; the part is named.
    """
    if not isinstance(schema, dict) or not all(isinstance(key, str) for key in schema):
        raise BadInput("The schema of the answer is not a JSON object.", _SEE)
    try:
        size = len(strict_json.dumps(schema))
    except (ValueError, TypeError, RecursionError) as error:
        raise BadInput("The schema of the answer cannot be written as JSON.", _SEE) from error
    if size > MAX_SCHEMA_BYTES:
        raise BadInput(f"The schema of the answer has more than {MAX_SCHEMA_BYTES:,} bytes.", "Ask for less at a time.")
    return _Reader(schema).read(schema, "", ())


def choices_of(node: Node) -> list[Any] | None:
    """Return the values among which the answer is a choice; None if it is none."""
    if "enum" in node:
        return list(node["enum"])
    if "oneOf" in node:
        return [option["const"] for option in node["oneOf"]]
    return None


def labels_of(node: Node) -> list[str]:
    """Return what each choice means, in the order of `choices_of`; empty texts where nothing is said."""
    return [str(option.get("title", "")) for option in node["oneOf"]] if "oneOf" in node else [""] * len(node["enum"])


def without_null(node: Node) -> tuple[Node, bool]:
    """Return what an answer must be unless it is null, and whether it may be null."""
    if "anyOf" not in node:
        return node, node.get("type") == "null"
    others = [part for part in node["anyOf"] if part.get("type") != "null"]
    may_be_null = len(others) < len(node["anyOf"])
    if len(others) == 1:
        notes = {key: value for key, value in node.items() if key in _NOTES}
        return {**others[0], **notes}, may_be_null
    return {**node, "anyOf": others}, may_be_null


class _Reader:
    """Reads one schema.

    Args:
        root: the whole of it, in which references are looked up.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._nodes = 0
        self._patterns = 0

    def read(self, schema: object, path: str, references: tuple[str, ...], depth: int = 0) -> Node:
        """Return a part of the schema as `read_schema` does.

        Args:
            schema: the part.
            path: the name of the field that it is about; empty for the whole answer.
            references: what it was reached by, from which a circle is known.
            depth: how deep in the answer the field is.
        """
        self._nodes += 1
        if self._nodes > MAX_NODES or depth > MAX_DEPTH:
            raise BadInput(
                f"The schema of the answer is too large: more than {MAX_NODES} parts or {MAX_DEPTH} levels.",
                "Ask for less at a time.",
            )
        if not isinstance(schema, dict):
            raise _wrong(path, "is no schema")
        if "$ref" in schema:
            return self._refer(schema, path, references, depth)
        given = {key: value for key, value in schema.items() if key not in _DROPPED and not key.startswith("x-")}
        if "allOf" in given:
            parts = given.pop("allOf")
            if not isinstance(parts, list) or len(parts) != 1 or not isinstance(parts[0], dict):
                raise _wrong(path, "has 'allOf' with more than one part")
            return self.read({**parts[0], **given}, path, references, depth)
        notes = _notes(given, path)
        rest = {key: value for key, value in given.items() if key not in _NOTES}
        if "const" in rest:
            constant = rest.pop("const")
            rest.pop("type", None)
            rest = {"enum": [constant], **rest}
        if "enum" in rest or "oneOf" in rest or "anyOf" in rest:
            found = self._alternatives(rest, path, references, depth)
        else:
            found = self._typed(rest, path, references, depth)
        return {**found, **notes}

    def _refer(self, schema: Mapping[str, Any], path: str, references: tuple[str, ...], depth: int) -> Node:
        reference = schema["$ref"]
        start, _, name = reference.rpartition("/") if isinstance(reference, str) else ("", "", "")
        if start not in {"#/$defs", "#/definitions"}:
            raise _wrong(path, "refers to something outside of the schema")
        if reference in references:
            raise _wrong(path, "refers to itself")
        definitions = self._root.get(start[2:])
        if not isinstance(definitions, dict) or name not in definitions:
            raise _wrong(path, f"refers to {name!r}, which is not defined")
        if not isinstance(definitions[name], dict):
            raise _wrong(path, "is no schema")
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return self.read({**definitions[name], **beside}, path, (*references, reference), depth)

    def _alternatives(self, rest: Node, path: str, references: tuple[str, ...], depth: int) -> Node:
        """Read a choice among values, or among schemas."""
        keyword = next(name for name in ("enum", "oneOf", "anyOf") if name in rest)
        parts = rest.pop(keyword)
        kind = rest.pop("type", None)
        if rest:
            raise _wrong(path, f"has {next(iter(rest))!r} beside {keyword!r}")
        if not isinstance(parts, list) or not parts:
            raise _wrong(path, f"has an empty {keyword!r}")
        if keyword == "enum":
            return {"enum": _choices(parts, path)}
        if all(isinstance(part, dict) and "const" in part for part in parts):
            _choices([part["const"] for part in parts], path)
            return {"oneOf": [{"const": part["const"], **_notes(part, path)} for part in parts]}
        if kind is not None:
            raise _wrong(path, f"has 'type' beside {keyword!r}")
        if len(parts) > MAX_ALTERNATIVES:
            raise _wrong(path, f"has more than {MAX_ALTERNATIVES} alternatives")
        found = [self.read(part, path, references, depth + 1) for part in parts]
        flat = [inner for part in found for inner in part.get("anyOf", [part])]
        if sum(part.get("type") in {"object", "array"} for part in flat) > 1:
            raise _wrong(path, "may be one of several objects or lists")
        return {"anyOf": flat}

    def _typed(self, rest: Node, path: str, references: tuple[str, ...], depth: int) -> Node:
        kind = rest.pop("type", None)
        if kind is None and "properties" in rest:
            kind = "object"
        if isinstance(kind, list):
            if len(rest) and len(set(kind) - {"null"}) > 1:
                raise _wrong(path, "has several types, and conditions on them")
            parts = [{"type": one, **({} if one == "null" else rest)} for one in kind]
            return (
                self.read({"anyOf": parts}, path, references, depth)
                if len(parts) > 1
                else self._typed({**rest, "type": kind[0] if kind else None}, path, references, depth)
            )
        if not isinstance(kind, str) or kind not in _KEYWORDS:
            raise _wrong(path, "has no type" if kind is None else "has an unknown type")
        for key, value in rest.items():
            if key not in _KEYWORDS[kind]:
                raise _wrong(path, f"has {key!r}, which a form cannot show")
            self._check_keyword(key, value, path)
        found: Node = {"type": kind, **rest}
        if kind == "array":
            if "items" not in rest:
                raise _wrong(path, "has items of no type")
            found["items"] = self.read(rest["items"], f"{path}[]", references, depth + 1)
        elif kind == "object":
            self._read_fields(rest, found, path, references, depth)
        return found

    def _read_fields(self, rest: Node, found: Node, path: str, references: tuple[str, ...], depth: int) -> None:
        properties, required = rest.get("properties", {}), rest.get("required", [])
        if not isinstance(properties, dict) or not isinstance(required, list):
            raise _wrong(path, "has fields of a wrong form")
        for name in properties:
            if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME_CHARS:
                raise _wrong(path, f"has a field whose name is empty or longer than {MAX_NAME_CHARS} characters")
        found["properties"] = {
            name: self.read(part, f"{path}.{name}".lstrip("."), references, depth + 1)
            for name, part in properties.items()
        }
        more = rest.get("additionalProperties", True)
        if isinstance(more, dict):
            found["additionalProperties"] = self.read(more, f"{path}.*".lstrip("."), references, depth + 1)
        elif not isinstance(more, bool):
            raise _wrong(path, "has 'additionalProperties' of a wrong form")
        for name in required:
            if name not in properties and more is False:
                raise _wrong(path, f"needs {name!r:.100}, which is not one of its fields")

    def _check_keyword(self, key: str, value: object, path: str) -> None:
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _MAX_NUMBER
        good = True
        if key in _WHOLE_NUMBERS:
            good = is_number and isinstance(value, int) and value >= 0
        elif key in _NUMBERS:
            good = is_number and (key != "multipleOf" or (isinstance(value, int | float) and value > 0))
        elif key == "uniqueItems":
            good = isinstance(value, bool)
        elif key == "format":
            good = isinstance(value, str) and len(value) <= MAX_NAME_CHARS
        elif key == "required":
            good = isinstance(value, list) and all(isinstance(name, str) for name in value)
        elif key == "pattern":
            self._patterns += 1
            good = isinstance(value, str) and len(value) <= MAX_PATTERN_CHARS and self._patterns <= MAX_PATTERNS
        if not good:
            raise _wrong(path, f"has {key!r} of a wrong form or size")


def patterns(node: Node) -> Iterator[str]:
    """Yield the regular expressions in a schema that was read."""
    if "pattern" in node:
        yield node["pattern"]
    parts = [*node.get("anyOf", []), *node.get("properties", {}).values()]
    parts += [node[key] for key in ("items", "additionalProperties") if isinstance(node.get(key), dict)]
    for part in parts:
        yield from patterns(part)


def _notes(given: Mapping[str, Any], path: str) -> Node:
    """Return the title, description and default of a part."""
    for key in ("title", "description"):
        if not isinstance(given.get(key, ""), str):
            raise _wrong(path, f"has a {key} that is not text")
    return {key: given[key] for key in ("title", "description", "default") if key in given}


def _choices(values: list[Any], path: str) -> list[Any]:
    if len(values) > MAX_CHOICES:
        raise _wrong(path, f"has more than {MAX_CHOICES} choices")
    if not all(value is None or isinstance(value, str | int | float) for value in values):
        raise _wrong(path, "has a choice that is neither text, number, yes or no")
    if len({(isinstance(value, bool), value) for value in values}) < len(values):
        raise _wrong(path, "has the same choice twice")
    return values


def _wrong(path: str, what: str) -> BadInput:
    subject = f"The field {path!r} of the answer's schema" if path else "The schema of the answer"
    return BadInput(f"{subject} {what}.", _SEE)
