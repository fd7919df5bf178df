"""Functions as flows: their schema, the check of their input, and their result as data."""

from __future__ import annotations

import asyncio
import enum
import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

import pytest
from pydantic import BaseModel, RootModel
from typing_extensions import TypedDict

import p2pflows
from p2pflows.errors import BadInput, FlowFailed, UsageError
from p2pflows.flows.function import FlowFunction, flow, to_data, to_json


class Order(BaseModel):
    """An order."""

    item: str
    count: int = 1
    due: date | None = None


class Colour(enum.Enum):
    """A colour."""

    RED = "red"


class Connection:
    """A type that JSON cannot express."""


class Total(TypedDict):
    """A sum."""

    total: float


def greet(text: str, to: str = "fr") -> str:
    """Greet somebody.

    Not part of the description.
    """
    return f"{text} {to}"


def invoke(function: Callable[..., Any], data: Any) -> Any:
    """Invoke a function with data, as a worker does."""
    return FlowFunction.from_callable(function).invoke(json.dumps(data).encode())


def refusal(function: Callable[..., Any], data: Any) -> str:
    """Return the error text for a function's input."""
    with pytest.raises(BadInput) as caught:
        invoke(function, data)
    return caught.value.message


def test_decorator_bare() -> None:
    """A marked function is the same function, and can be called."""
    assert flow(greet) is greet
    assert greet("hi") == "hi fr"


def test_decorator_with_a_description() -> None:
    """The decorator's description takes precedence over the docstring."""

    @flow(description="Says hello.")
    def function() -> None:
        """Something else."""

    assert FlowFunction.from_callable(function).description == "Says hello."


def test_decorator_public_face() -> None:
    """`from p2pflows import flow` is the decorator, even after the module of that name was imported."""
    assert p2pflows.flow is flow


def test_schema_input() -> None:
    """The input schema has types, defaults and required fields, and forbids other fields."""
    assert FlowFunction.from_callable(greet).input_schema == {
        "type": "object",
        "properties": {"text": {"type": "string"}, "to": {"type": "string", "default": "fr"}},
        "required": ["text"],
        "additionalProperties": False,
    }


def test_schema_output() -> None:
    """The schema of a plain value is under `result`, like the value in the answer."""
    assert FlowFunction.from_callable(greet).output_schema == {
        "type": "object",
        "properties": {"result": {"type": "string"}},
        "required": ["result"],
    }


def test_schema_output_object() -> None:
    """A model or a typed dict is the answer's data itself."""

    def model() -> Order:
        raise NotImplementedError

    def typed() -> Total:
        raise NotImplementedError

    assert set((FlowFunction.from_callable(model).output_schema or {})["properties"]) == {
        "item",
        "count",
        "due",
    }
    assert set((FlowFunction.from_callable(typed).output_schema or {})["properties"]) == {"total"}


def test_schema_output_unknown() -> None:
    """A missing return type, or one with several forms, has no schema."""

    def untold() -> Any:
        raise NotImplementedError

    def either() -> Order | None:
        raise NotImplementedError

    assert FlowFunction.from_callable(untold).output_schema is None
    assert FlowFunction.from_callable(either).output_schema is None


def test_schema_nested_definitions() -> None:
    """The definitions of a wrapped value are where its references point to."""

    def orders() -> list[Order]:
        raise NotImplementedError

    schema = FlowFunction.from_callable(orders).output_schema or {}
    assert schema["properties"]["result"]["items"] == {"$ref": "#/$defs/Order"}
    assert "Order" in schema["$defs"]


def test_schema_description() -> None:
    """The description is the first paragraph of the docstring on one line."""
    assert FlowFunction.from_callable(greet).description == "Greet somebody."


def test_schema_default_that_json_cannot_hold() -> None:
    """A default that JSON cannot hold is used, and left out of the schema."""
    nothing = object()

    def function(value: Any = nothing) -> bool:
        return value is nothing

    assert FlowFunction.from_callable(function).input_schema["properties"] == {"value": {}}
    assert invoke(function, {}) is True


def test_schema_async() -> None:
    """An async function, an object with an async `__call__`, and a partial of one count as async."""

    async def function(text: str) -> str:
        await asyncio.sleep(0)
        return text

    class Caller:
        async def __call__(self, text: str) -> str:
            return text

    assert FlowFunction.from_callable(function).is_async
    assert FlowFunction.from_callable(functools.partial(function)).is_async
    assert FlowFunction.from_callable(Caller()).is_async
    assert not FlowFunction.from_callable(greet).is_async
    assert asyncio.run(invoke(function, {"text": "x"})) == "x"


@pytest.mark.parametrize("thing", [Order, 3, "text"])
def test_schema_not_a_function(thing: object) -> None:
    """An object that cannot be called is refused with a sentence."""
    with pytest.raises(UsageError, match="is not a function"):
        FlowFunction.from_callable(thing)


def test_schema_hint_without_a_meaning() -> None:
    """A type hint with an unknown name is refused by that name."""

    def function(value: Nothing) -> None:  # type: ignore[name-defined]  # noqa: F821
        raise NotImplementedError(value)

    def nested(value: list["Nothing"]) -> None:  # type: ignore[name-defined]  # noqa: F821, UP037
        raise NotImplementedError(value)

    for wrong in (function, nested):
        with pytest.raises(UsageError, match="'Nothing' is not defined"):
            FlowFunction.from_callable(wrong)


def test_schema_hint_that_json_cannot_give() -> None:
    """A parameter that JSON can never fill is refused when the function is served, not at each call."""

    def function(db: Connection) -> None:
        raise NotImplementedError(db)

    def callback(then: Callable[[], None]) -> None:
        raise NotImplementedError(then)

    for wrong in (function, callback):
        with pytest.raises(UsageError, match="cannot be expressed in JSON"):
            FlowFunction.from_callable(wrong)


def test_input_fits() -> None:
    """Data fills the parameters, with defaults for missing fields."""
    assert invoke(greet, {"text": "hi"}) == "hi fr"
    assert invoke(greet, {"text": "hi", "to": "de"}) == "hi de"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({}, "'text' is missing."),
        ({"text": 5}, "'text' should be a valid string."),
        ({"text": "x", "to": None}, "'to' should be a valid string."),
        ({"text": "x", "at": 1}, "'at' is not a field of the input (its fields are text, to)."),
        ({"to": 1}, "'text' is missing; 'to' should be a valid string."),
        ([1], "The data must be a JSON object."),
        ("text", "The data must be a JSON object."),
        (None, "The data must be a JSON object."),
    ],
)
def test_input_does_not_fit(data: Any, sentence: str) -> None:
    """The error names the field and says in plain words what is wrong with it."""
    assert refusal(greet, data) == sentence


def test_input_not_json() -> None:
    """Bytes that are not JSON are refused."""
    with pytest.raises(BadInput, match="not valid JSON"):
        FlowFunction.from_callable(greet).invoke(b"{")


@pytest.mark.parametrize("wrong", ["5", True, 5.5, None])
def test_input_strict(wrong: Any) -> None:
    """Nothing is converted: a text, a bool or a fraction is not an int."""

    def double(number: int) -> int:
        return 2 * number

    assert refusal(double, {"number": wrong}).startswith("'number' should be a valid integer")
    assert invoke(double, {"number": 4}) == 8


def test_input_rich_types() -> None:
    """JSON texts and lists become the dates, enums, tuples and models of the type hints."""

    def rich(day: date, colour: Colour, pair: tuple[int, str], orders: list[Order], mode: Literal["a", "b"]) -> Any:
        return day, colour, pair, orders, mode

    data = {
        "day": "2026-01-02",
        "colour": "red",
        "pair": [1, "x"],
        "orders": [{"item": "tea"}],
        "mode": "b",
    }
    assert invoke(rich, data) == (date(2026, 1, 2), Colour.RED, (1, "x"), [Order(item="tea")], "b")
    assert refusal(rich, {**data, "orders": [{"item": "tea"}, {}]}) == "'orders.1.item' is missing."
    assert refusal(rich, {**data, "mode": "c"}) == "'mode' should be 'a' or 'b'."


def test_input_many_problems() -> None:
    """A long list of problems is shortened."""

    def many(a: int, b: int, c: int, d: int, e: int) -> None:
        raise NotImplementedError(a, b, c, d, e)

    assert refusal(many, {}) == "'a' is missing; 'b' is missing; 'c' is missing; and 2 more problems."


def test_input_one_model() -> None:
    """A function with one model parameter receives the whole data as that model."""

    def take(order: Order) -> Order:
        return order

    assert invoke(take, {"item": "tea", "due": "2026-01-02"}) == Order(item="tea", due=date(2026, 1, 2))
    assert refusal(take, {"item": "tea", "count": "2"}) == "'count' should be a valid integer."
    assert FlowFunction.from_callable(take).input_schema["required"] == ["item"]


@pytest.mark.parametrize("hint", [dict, dict[str, Any]])
@pytest.mark.parametrize("name", ["data", "message"])
def test_input_whole_dict(hint: Any, name: str) -> None:
    """A function with one dict parameter called data or message receives the whole data."""
    space: dict[str, Any] = {}
    exec(f"def take({name}): return {name}", space)  # noqa: S102 - a parameter's name is what is tested
    space["take"].__annotations__ = {name: hint}
    assert invoke(space["take"], {"a": 1, "b": [2]}) == {"a": 1, "b": [2]}
    assert refusal(space["take"], [1]) == "The data must be a JSON object."


def test_input_a_dict_among_others() -> None:
    """A dict parameter among others, or with another name, is an ordinary field."""

    def two(data: dict[str, int], times: int) -> Any:
        return data, times

    def other(options: dict[str, Any]) -> Any:
        return options

    assert invoke(two, {"data": {"a": 1}, "times": 2}) == ({"a": 1}, 2)
    assert invoke(other, {"options": {"a": 1}}) == {"a": 1}


def test_input_extra_fields() -> None:
    """A function with **kwargs takes unknown fields, and checks them if kwargs has a type."""

    def free(a: int, **rest: Any) -> Any:
        return a, rest

    def typed(a: int, **rest: int) -> Any:
        return a, rest

    assert invoke(free, {"a": 1, "b": "x", "p0": None}) == (1, {"b": "x", "p0": None})
    assert invoke(typed, {"a": 1, "b": 2}) == (1, {"b": 2})
    assert refusal(typed, {"a": 1, "b": "x"}) == "'b' should be a valid integer."


def test_input_every_kind_of_parameter() -> None:
    """Positional-only and keyword-only parameters are fields under their names."""

    def function(first: int, /, second: int, *args: int, third: int) -> Any:
        return first, second, args, third

    assert invoke(function, {"first": 1, "second": 2, "third": 3}) == (1, 2, (), 3)


def test_input_names_that_pydantic_uses() -> None:
    """Parameters may have names of pydantic's own methods, or start with an underscore."""

    def function(schema: str, json: int, model_config: bool, _hidden: int = 0) -> Any:
        return schema, json, model_config, _hidden

    data = {"schema": "s", "json": 1, "model_config": True, "_hidden": 2}
    assert invoke(function, data) == ("s", 1, True, 2)


def test_input_no_hints() -> None:
    """A parameter without a hint takes any JSON."""

    def function(value):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        return value

    assert invoke(function, {"value": [1, None]}) == [1, None]


def test_input_not_finite() -> None:
    """NaN is refused, as it is not JSON."""

    def function(value: float) -> float:
        return value

    with pytest.raises(BadInput, match="'value' should be a finite number"):
        FlowFunction.from_callable(function).invoke(b'{"value": NaN}')


def test_input_mutable_default() -> None:
    """A default that a call changes is new for the next call."""

    def function(items: list[int] = []) -> list[int]:  # noqa: B006 - the trap is what is tested
        items.append(1)
        return items

    loaded = FlowFunction.from_callable(function)
    assert loaded.invoke(b"{}") == [1]
    assert loaded.invoke(b"{}") == [1]


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"a": 1}, {"a": 1}),
        ({1: date(2026, 1, 2)}, {"1": "2026-01-02"}),
        (Order(item="tea"), {"item": "tea", "count": 1, "due": None}),
        ("text", {"result": "text"}),
        (None, {"result": None}),
        ([1, (2,)], {"result": [1, [2]]}),
        (Colour.RED, {"result": "red"}),
        (RootModel[dict[str, int]]({"a": 1}), {"result": {"a": 1}}),
    ],
)
def test_result_mapping(value: Any, data: dict[str, Any]) -> None:
    """A dict or model is the data; any other value is under `result`."""
    assert to_data(value) == data


def test_result_dataclass() -> None:
    """A dataclass is a value under `result`."""

    @dataclass
    class Point:
        x: int

    assert to_data(Point(1)) == {"result": {"x": 1}}


def test_result_not_serialisable() -> None:
    """A value that JSON cannot hold fails the flow, and the error names its type."""
    with pytest.raises(FlowFailed, match="returned a value of type object that JSON cannot hold"):
        to_data(object())
    with pytest.raises(FlowFailed, match="returned a value of type dict that JSON cannot hold"):
        to_data({"a": object()})


def test_result_circular() -> None:
    """A value that contains itself fails the flow."""
    value: list[Any] = []
    value.append(value)
    with pytest.raises(FlowFailed, match="JSON cannot hold"):
        to_data(value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1.0, math.nan]])
def test_result_not_finite(value: Any) -> None:
    """NaN and infinity fail the flow, as JSON cannot hold them."""
    with pytest.raises(FlowFailed, match="NaN or infinity"):
        to_json(to_data(value))


def test_result_broken_text() -> None:
    """A lone surrogate fails the flow, and not the worker."""
    with pytest.raises(FlowFailed, match="JSON cannot hold"):
        to_json(to_data("\ud800"))


def test_result_bytes() -> None:
    """The answer is compact UTF-8 JSON."""
    assert to_json({"text": "é", "n": [1, 2]}) == '{"text":"é","n":[1,2]}'.encode()


def test_keywords_of_any_name_are_not_one_whole_argument() -> None:
    """`**data: dict` takes fields that are dicts, even with that name."""

    def keep(**data: dict[str, int]) -> list[str]:
        return sorted(data)

    assert FlowFunction.from_callable(keep).invoke(b'{"a": {}, "b": {}}') == ["a", "b"]


def test_keywords_of_a_type_that_json_has_not_are_refused() -> None:
    """The author receives the same error as for any other type hint."""

    class Odd:
        pass

    def keep(**data: Odd) -> None:
        del data

    with pytest.raises(UsageError):
        FlowFunction.from_callable(keep)
