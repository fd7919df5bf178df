"""Answers that are data: JSON that fits a schema, which the model is told and the answer is checked against."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.forms.checks import check_patterns, find_problem
from p2pflows.forms.schema import Node, read_schema

_FENCED = re.compile(r"```[A-Za-z0-9_-]*\s*\n(.*?)```", re.DOTALL)
_THOUGHTS = re.compile(r"^\s*<think(?:ing)?>.*?</think(?:ing)?>", re.DOTALL)
_MAX_PROBLEM_CHARS = 500


class NoFit(Exception):
    """An answer is no JSON, or does not fit the schema; the text says what is wrong with it."""


class OutputSchema:
    """What each answer of a model must be.

    Args:
        schema: a JSON Schema, of the keywords that forms for humans have.
        model: the pydantic class that answers are checked with, too.

    Raises:
        UsageError: the schema cannot be used; the part is named.
    """

    def __init__(self, schema: Mapping[str, Any], model: type[BaseModel] | None = None) -> None:
        self._model = model
        try:
            self.node: Node = read_schema(dict(schema))
            check_patterns(self.node)
        except P2pflowsError as error:
            message = error.message.replace("The schema of the answer", "output_schema")
            raise UsageError(f"The config's 'output_schema' cannot be used: {message}", error.hint) from None

    @classmethod
    def of_model(cls, model: type[BaseModel]) -> OutputSchema:
        """Return what answers must be to become objects of a pydantic class."""
        return cls(model.model_json_schema(), model)

    @property
    def response_format(self) -> dict[str, Any]:
        """The setting with which servers that can do so let the model write nothing else."""
        content: dict[str, Any] = {"name": "answer", "schema": self.node}
        if _is_strict(self.node):
            content["strict"] = True
        return {"type": "json_schema", "json_schema": content}

    @property
    def instructions(self) -> str:
        """What the model is told: many servers take the setting without telling it, and others do not know it."""
        schema = json.dumps(self.node, ensure_ascii=False)
        return f"Answer with JSON only, without any other text. It must fit this JSON Schema:\n{schema}"

    def read(self, text: str) -> Any:
        """Return the data in an answer.

        Raises:
            NoFit: it holds none, or data that does not fit.
        """
        value = _parse(text)
        problem = find_problem(self.node, value)
        if problem is not None:
            raise NoFit(problem.sentence.rstrip(".")[:_MAX_PROBLEM_CHARS])
        if self._model is None:
            return value
        try:
            return self._model.model_validate(value).model_dump(mode="json")
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise NoFit(f"{where} {first['msg']}".strip()[:_MAX_PROBLEM_CHARS]) from None


def with_text(messages: Sequence[Mapping[str, Any]], text: str) -> list[Mapping[str, Any]]:
    """Return messages with a text added to the last one."""
    *before, last = messages
    content = last["content"]
    longer = [*content, {"type": "text", "text": text}] if isinstance(content, list) else f"{content}\n\n{text}"
    return [*before, {**last, "content": longer}]


def correction(problem: str) -> str:
    """Return what a model is told whose answer did not fit."""
    return f"That answer cannot be used: {problem}. Answer again, with the corrected JSON only."


def _parse(text: str) -> Any:
    """Return the JSON in an answer, which some models wrap in a code block, or precede by their thoughts."""
    plain = _THOUGHTS.sub("", text, count=1).strip()
    fenced = _FENCED.search(plain)
    for candidate in (plain, fenced[1] if fenced else None, _outermost(plain)):
        if candidate is None:
            continue
        try:
            return json.loads(candidate)
        except (ValueError, RecursionError):
            continue
    raise NoFit("It is no JSON" if plain else "It is empty")


def _outermost(text: str) -> str | None:
    """Return the text from the first bracket to the last; None if there is none."""
    starts = [index for index in (text.find("{"), text.find("[")) if index >= 0]
    end = max(text.rfind("}"), text.rfind("]"))
    return text[min(starts) : end + 1] if starts and end > min(starts) else None


def _is_strict(node: Mapping[str, Any]) -> bool:
    """Whether a schema is one that OpenAI's strict mode takes: every object has only fields, and all of them."""
    inner: list[Any] = [*(node.get("properties") or {}).values(), *(node.get("anyOf") or ())]
    if isinstance(node.get("items"), Mapping):
        inner.append(node["items"])
    if node.get("type") == "object" and (
        node.get("additionalProperties") is not False
        or set(node.get("required") or ()) != set(node.get("properties") or ())
    ):
        return False
    return all(_is_strict(each) for each in inner)
