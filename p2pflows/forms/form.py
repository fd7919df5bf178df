"""Form: what an answer must be, as a schema or as a document to edit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Self

from p2pflows.errors import BadInput
from p2pflows.forms import typed
from p2pflows.forms.problem import Problem
from p2pflows.forms.schema import Node, choices_of, labels_of, read_schema, without_null
from p2pflows.forms.shown import show

MAX_DRAFT_BYTES = 60_000
"""So that the edited document fits into an answer, too."""
_NO_DRAFT: Any = object()
UNCHANGED = "unchanged"
"""What a person types to give back a document as it is."""


class Form:
    """What the answer to one question must be.

    Attributes:
        schema: the JSON Schema, as it is sent.
        draft: the document that the answer is an edited copy of.
        has_draft: whether there is one.
    """

    def __init__(self, schema: Node, draft: Any = _NO_DRAFT) -> None:
        self.schema = schema
        self.has_draft = draft is not _NO_DRAFT
        self.draft = draft if self.has_draft else None

    @classmethod
    def read(cls, schema: object | None, draft: Any = None) -> Self | None:
        """Return the form for a schema and a draft that were given or received; None if there is neither.

        Raises:
            BadInput: a person cannot be shown what the schema wants, or the draft is too large or does not fit it.
        """
        if schema is None and draft is None:
            return None
        if draft is None:
            return cls(read_schema(schema))
        from p2pflows.forms.checks import is_json
        from p2pflows.protocol import strict_json

        if not isinstance(draft, dict | list) or not is_json(draft):
            raise BadInput("The document to edit is neither a JSON object nor a list.", "Give one of the two.")
        if len(strict_json.dumps(draft)) > MAX_DRAFT_BYTES:
            raise BadInput(f"The document to edit has more than {MAX_DRAFT_BYTES:,} bytes.", "Send a part of it.")
        kind: Node = {"type": "object"} if isinstance(draft, dict) else {"type": "array"}
        return cls(kind if schema is None else read_schema(schema), draft)

    def check_own(self) -> None:
        """Check what the one who asks must get right: regular expressions, and that the draft fits the schema.

        Raises:
            BadInput: something is wrong.
        """
        from p2pflows.forms.checks import check_patterns, find_problem

        check_patterns(self.schema)
        if self.has_draft and (problem := find_problem(self.schema, self.draft)) is not None:
            raise BadInput(f"The document to edit does not fit the schema: {problem.sentence}", "Correct one of them.")

    def parse(self, answer: str | Sequence[str]) -> Any:
        """Return the value that a person has typed.

        Args:
            answer: the text, or its words as a shell has split them.

        Raises:
            BadInput: it does not fit; the field is named.
        """
        try:
            inner = without_null(self.schema)[0]
            text = answer if isinstance(answer, str) else " ".join(answer)
            if self.has_draft and text.strip().lower() == UNCHANGED:
                value = self.draft
            elif inner.get("type") == "object" and not (self.may_be_null and not text.strip()):
                value = typed.read_object(inner, answer, self.draft)
            else:
                value = typed.read(self.schema, text)
        except Problem as problem:
            raise problem.as_error(self.hint) from None
        self.check(value)
        return value

    def check(self, value: Any) -> None:
        """Check a value against the schema.

        Raises:
            BadInput: it does not fit; the field is named.
        """
        from p2pflows.forms.checks import find_problem

        problem = find_problem(self.schema, value)
        if problem is not None:
            raise problem.as_error(self.hint)

    @property
    def may_be_null(self) -> bool:
        """Whether nothing is an answer."""
        return without_null(self.schema)[1]

    @property
    def hint(self) -> str:
        """What to type, as a sentence."""
        return f"Expected: {self.expects}."

    @property
    def expects(self) -> str:
        """What the answer must be, in a few words."""
        if self.has_draft:
            return "the document, edited"
        return describe(self.schema)

    @property
    def choices(self) -> list[str]:
        """The choices as texts, in order; empty if the answer is no choice."""
        return [show(choice) for choice in choices_of(without_null(self.schema)[0]) or []]

    def fields(self) -> list[dict[str, Any]]:
        """Return the fields of the answer, if it is an object: `name`, `expects`, `required`, `about`.

        The fields of an object inside of it are listed in its place, with names as in `address.city`.
        """
        return list(_fields(self.schema))


def _fields(node: Node, prefix: str = "", *, is_needed: bool = True) -> Iterator[dict[str, Any]]:
    inner = without_null(node)[0]
    required = inner.get("required", [])
    for name, part in inner.get("properties", {}).items():
        needs_it = is_needed and name in required
        more = list(_fields(part, f"{prefix}{name}.", is_needed=needs_it))
        yield from more or [
            {
                "name": f"{prefix}{name}",
                "expects": describe(part),
                "required": needs_it,
                "about": str(part.get("description") or part.get("title") or ""),
            }
        ]


def describe(node: Node) -> str:
    """Return in a few words what a value must be."""
    inner, may_be_null = without_null(node)
    return _describe(inner) + (", or nothing" if may_be_null and inner.get("type") != "null" else "")


def _describe(node: Node) -> str:  # noqa: PLR0911 - one for each kind of value
    choices = choices_of(node)
    if choices is not None:
        if all(isinstance(choice, int | float) for choice in choices):
            return ", ".join(map(show, choices))
        labels = labels_of(node)
        named = [show(choice) + (f" ({label})" if label else "") for choice, label in zip(choices, labels, strict=True)]
        return ", ".join(f"{number} {name}" for number, name in enumerate(named, start=1))
    if "anyOf" in node:
        return " or ".join(map(_describe, node["anyOf"]))
    match node.get("type"):
        case "boolean":
            return "yes or no"
        case "integer" | "number" as kind:
            return _describe_number(kind, node)
        case "array":
            return f"a list of: {describe(node['items'])}" if node.get("items") else "a list"
        case "object":
            names = list(node.get("properties", {}))
            return f"the fields {', '.join(names)}" if names else "an object with fields"
        case "null":
            return "nothing"
        case _:
            return _describe_text(node)


def _describe_number(kind: str, node: Node) -> str:
    words = ["a whole number" if kind == "integer" else "a number"]
    words += [f"from {show(node['minimum'])}"] if "minimum" in node else []
    words += [f"over {show(node['exclusiveMinimum'])}"] if "exclusiveMinimum" in node else []
    words += [f"to {show(node['maximum'])}"] if "maximum" in node else []
    words += [f"below {show(node['exclusiveMaximum'])}"] if "exclusiveMaximum" in node else []
    return " ".join(words)


def _describe_text(node: Node) -> str:
    from p2pflows.forms.checks import FORMATS_SHOWN

    words = [FORMATS_SHOWN.get(node.get("format", ""), "text")]
    words += [f"of at least {node['minLength']} characters"] if node.get("minLength", 0) > 1 else []
    words += [f"of at most {node['maxLength']} characters"] if "maxLength" in node else []
    words += [f"that matches {node['pattern']}"] if "pattern" in node else []
    return " ".join(words)
