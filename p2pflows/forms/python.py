"""Forms as Python types: what a program asks for, and the answer as a value of that type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from p2pflows.errors import BadAnswer, UsageError, from_kind
from p2pflows.forms.form import Form
from p2pflows.forms.wire import Reply

T = TypeVar("T")

_HINT = "Give a type such as bool or a pydantic model, a list of texts to choose from, or a JSON Schema."


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """The answer of a human.

    Attributes:
        value: the answer, of the type that was asked for.
        text: the answer as text.
        remark: what the human has added; may be empty.
        by: the user id of the human; empty if nobody answered and this is the default.
        outcome: `answered` or `defaulted`.
    """

    value: T
    text: str
    remark: str = ""
    by: str = ""
    outcome: str = "answered"


class TypedForm:
    """What a program asks for.

    Args:
        wanted: None for a text, a type, a list of texts to choose from, or a JSON Schema.
        edit: a document that the answer is an edited copy of: an object or list, or a pydantic model.

    Attributes:
        form: what is sent; None if any text is an answer.

    Raises:
        UsageError: a form cannot be made of it.
        BadInput: the form cannot be shown to a person.
    """

    def __init__(self, wanted: Any = None, edit: Any = None) -> None:
        self._adapter: Any = None
        if hasattr(edit, "model_dump"):
            wanted = type(edit) if wanted is None else wanted
            edit = edit.model_dump(mode="json")
        schema = self._schema(wanted)
        self.form = Form.read(schema, edit)
        if self.form is not None:
            self.form.check_own()

    def value(self, value: Any) -> Any:
        """Return the value of an answer as the type that was asked for.

        Raises:
            BadAnswer: the type refuses it, though it fits the schema.
        """
        if self._adapter is None:
            return value
        from pydantic import ValidationError

        try:
            return self._adapter.validate_json(json.dumps(value))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise BadAnswer(
                f"The answer does not fit: {where + ': ' if where else ''}{first['msg']}.", "Ask again."
            ) from None

    def to_json(self, value: Any) -> Any:
        """Return a value of the type that was asked for as JSON."""
        return value if self._adapter is None else self._adapter.dump_python(value, mode="json")

    def answer(self, reply: Reply, by: str) -> Answer[Any]:
        """Return the answer that a human's reply holds."""
        return Answer(self.value(reply.value), reply.text, reply.remark, by)

    def answer_in(self, question: Mapping[str, Any]) -> Answer[Any]:
        """Return the answer in a question that has ended, as the daemon shows it.

        Raises:
            P2pflowsError: there is no answer; the error says why.
        """
        content = question["error"]
        if content is not None:
            error = from_kind(content["code"], content["message"], content["hint"])
            raise error.said_by(content["from"], content.get("name")) if content.get("from") else error
        many = question["need"] == "all" and len(question["people"]) > 1
        return Answer(
            [self.value(each) for each in question["value"]] if many else self.value(question["value"]),
            question["answer"],
            question["remark"],
            question["by"],
            str(question["outcome"]),
        )

    def _schema(self, wanted: Any) -> Any:
        if wanted is None or wanted is str:
            return None
        if isinstance(wanted, Mapping):
            return dict(wanted)
        if isinstance(wanted, Sequence):
            if isinstance(wanted, str) or not all(isinstance(choice, str) for choice in wanted):
                raise UsageError(f"{wanted!r:.100} is no form.", _HINT)
            return {"enum": list(wanted)}
        from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

        try:
            self._adapter = TypeAdapter(wanted)
            return self._adapter.json_schema()
        except (PydanticSchemaGenerationError, PydanticUserError, TypeError) as error:
            raise UsageError(f"A form cannot be made of {wanted!r:.100}.", _HINT) from error


def ask_params(who: str | Sequence[str], text: str, typed: TypedForm, timeout: float | None) -> dict[str, Any]:
    """Return the parameters of the method `ask`."""
    params: dict[str, Any] = {"who": [who] if isinstance(who, str) else list(who), "text": text, "timeout": timeout}
    if typed.form is not None:
        params["schema"] = typed.form.schema
        if typed.form.has_draft:
            params["draft"] = typed.form.draft
    return params
