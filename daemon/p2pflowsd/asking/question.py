"""A question as the journal keeps it: what is asked, whom, and how each of them has answered."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from p2pflows.forms import Form
from p2pflows.forms.wire import DRAFT, SCHEMA, form_of
from p2pflows.protocol.strict_json import compact
from p2pflowsd.lifecycle import QuestionState


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a question, or of one of those who were asked.

    Attributes:
        outcome: how it ended; `open` before that.
        value: the answer, as the form wants it; with a default, that.
        text: the answer as text.
        remark: what the human has added; may be empty.
        by: the user id of the one who answered or declined.
        at: when the result came, in milliseconds since the Unix epoch.
        error: why there is no answer, as on the wire.
        files: references to the files that came with the answer.
    """

    outcome: QuestionState = QuestionState.OPEN
    value: Any = None
    text: str = ""
    remark: str = ""
    by: str = ""
    at: int | None = None
    error: dict[str, Any] | None = None
    files: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> str:
        """The text that is stored."""
        return compact(asdict(self))

    @classmethod
    def from_json(cls, text: str | None) -> Self:
        """The result in a stored text."""
        if text is None:
            return cls()
        content = json.loads(text)
        return cls(**{**content, "outcome": QuestionState(content["outcome"])})


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who is asked.

    Attributes:
        user: the user id.
        endpoint: the endpoint of their human.
        call: the id of the message that asks them; empty before it is sent.
        step: with which step they are asked; 0 for the first.
        result: what became of it.
    """

    user: str
    endpoint: str
    call: str = ""
    step: int = 0
    result: Result = field(default_factory=Result)


class Need(StrEnum):
    """Whose answers decide a question that several people are asked."""

    FIRST = "first"
    """The first answer counts."""
    ALL = "all"
    """Everybody is to answer; the value is a list."""
    UNANIMOUS = "unanimous"
    """All have to say yes, and the first no decides."""
    QUORUM = "quorum"
    """So many have to give the same answer."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What the asker wants, beside the text and the people.

    Attributes:
        form: what the answer must be: `answer_schema` and `answer_draft`, as on the wire; empty for any text.
        default: in a list of one, the value that counts if nobody answers in time; an empty list for none.
        source: a label of the asking program.
        life_ms: how long the question is open, from its start.
        start: when it is to be asked, in milliseconds since the Unix epoch; 0 for at once.
        need: whose answers decide.
        quorum: how many have to give the same answer, for `Need.QUORUM`.
        steps: who is asked later, if nobody has answered by then: `people`, a list of user id and endpoint, and
            `after_ms`, counted from the start.
        files: references to the files that go with the question.
    """

    form: dict[str, Any] = field(default_factory=dict)
    default: list[Any] = field(default_factory=list)
    source: str = ""
    life_ms: int = 0
    start: int = 0
    need: str = Need.FIRST
    quorum: int = 0
    steps: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)

    def read_form(self) -> Form | None:
        """Return the form; None if any text is an answer."""
        return form_of(self.form)

    @classmethod
    def with_form(cls, form: Form | None, **more: Any) -> Self:
        """Return a wish for an answer that fits a form."""
        if form is None:
            return cls(**more)
        draft = {DRAFT: form.draft} if form.has_draft else {}
        return cls(form={SCHEMA: form.schema, **draft}, **more)

    def to_json(self) -> str:
        """The text that is stored."""
        return compact(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The wish in a stored text."""
        return cls(**json.loads(text))


def people_to_json(people: Sequence[Person]) -> str:
    """The text that is stored for those who are asked."""
    return compact([asdict(person) for person in people])


def people_from_json(text: str) -> list[Person]:
    """Those who are asked, from a stored text."""
    found = []
    for each in json.loads(text):
        result = each.pop("result")
        found.append(Person(**each, result=Result(**{**result, "outcome": QuestionState(result["outcome"])})))
    return found


def with_result(people: Sequence[Person], call: str, result: Result) -> list[Person]:
    """Return the people, one of them with another result."""
    return [replace(person, result=result) if person.call == call else person for person in people]
