"""Forms as Python types: what is asked for comes back as that type, or as an error."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator

from p2pflows.errors import BadAnswer, BadInput, Declined, P2pflowsError, UsageError
from p2pflows.forms.python import Answer, TypedForm
from p2pflows.forms.wire import Reply


class Size(enum.Enum):
    """A choice."""

    SMALL = "s"
    LARGE = "l"


@dataclass
class Point:
    """A dataclass."""

    x: int
    y: int


class Order(BaseModel):
    """A nested model."""

    when: date
    sizes: list[Size] = []
    at: Point

    @field_validator("when")
    @classmethod
    def is_new(cls, when: date) -> date:
        """Refuse what a schema cannot say."""
        if when.year < 2020:
            raise ValueError("too long ago")
        return when


ORDER = {"when": "2026-12-24", "sizes": ["l"], "at": {"x": 1, "y": 2}}


@pytest.mark.parametrize(
    ("wanted", "value", "found"),
    [
        (bool, True, True),
        (int, 7, 7),
        (Annotated[int, Field(ge=1)], 7, 7),
        (Literal["a", "b"], "b", "b"),
        (Size, "l", Size.LARGE),
        (date, "2026-12-24", date(2026, 12, 24)),
        (Point, {"x": 1, "y": 2}, Point(1, 2)),
        (int | None, None, None),
        (["a", "b"], "b", "b"),
        ({"type": "integer"}, 7, 7),
        (None, "any text", "any text"),
        (str, "any text", "any text"),
        (Order, ORDER, Order(when=date(2026, 12, 24), sizes=[Size.LARGE], at=Point(1, 2))),
    ],
)
def test_the_answer_is_what_was_asked_for(wanted: Any, value: Any, found: Any) -> None:
    """Types, models, choices and schemas."""
    typed = TypedForm(wanted)
    if typed.form is not None:
        typed.form.check(value)
    answer = typed.answer(Reply("text", value, "remark"), "b0" * 32)
    assert answer == Answer(found, "text", "remark", "b0" * 32)
    assert type(answer.value) is type(found)


def test_what_only_the_type_knows_is_checked_too() -> None:
    """A schema cannot say everything."""
    with pytest.raises(BadAnswer, match=r"when: .*too long ago"):
        TypedForm(Order).value({**ORDER, "when": "1999-01-01"})


def test_a_model_is_edited() -> None:
    """Its values are the draft, and its type the form."""
    typed = TypedForm(edit=Order(**ORDER))  # type: ignore[arg-type]
    assert typed.form is not None
    assert typed.form.draft == ORDER
    assert typed.value(typed.form.parse(["at.x=5"])).at == Point(5, 2)


class Tree(BaseModel):
    """A model in itself."""

    children: list[Tree] = []


@pytest.mark.parametrize("wanted", [Tree, object(), "text", [1, 2], {"type": "nothing"}, Any])
def test_what_is_no_form_is_refused_where_it_is_asked(wanted: Any) -> None:
    """Before anything is sent."""
    with pytest.raises((UsageError, BadInput)):
        TypedForm(wanted)


def test_the_answers_of_all_are_a_list() -> None:
    """Each of them of the type that was asked for."""
    question: dict[str, Any] = {"need": "all", "people": [{}, {}], "outcome": "answered", "error": None}
    question |= {"value": ["s", "l"], "answer": "", "remark": "", "by": ""}
    assert TypedForm(Size).answer_in(question).value == [Size.SMALL, Size.LARGE]
    assert TypedForm(Size).answer_in({**question, "need": "first", "value": "s"}).value == Size.SMALL


def test_no_answer_is_an_error() -> None:
    """With the words of the one who declined."""
    error = {"code": "declined", "message": "Not me.", "hint": "", "from": "b0" * 32, "name": "bob"}
    question = {"outcome": "declined", "error": error, "value": None, "answer": "", "remark": "", "by": ""}
    with pytest.raises(Declined) as declined:
        TypedForm(bool).answer_in(question)
    raised: P2pflowsError = declined.value
    assert (raised.message, raised.user, raised.name) == ("Not me.", "b0" * 32, "bob")
