"""The parameters of methods: what is accepted, and how an error names what is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from p2pflows.errors import BadInput, P2pflowsError, UsageError
from p2pflowsd.api.methods import METHODS
from p2pflowsd.api.parameters import MustBe

GOOD: dict[str, Any] = {
    "address": "me/User",
    "conversation": "0" * 32,
    "endpoint": "User",
    "first": "bob",
    "id": "0123",
    "ids": ["0123"],
    "instance": "0" * 32,
    "kind": "human",
    "seconds": 60,
    "line": "p2pf1",
    "path": "/photo.png",
    "second": "carol",
    "text": "Yes",
    "user": "bob",
    "who": ["bob"],
}
"""A value for each parameter that some method requires."""
TEXTS = {
    "address", "allow", "conversation", "cwd", "description", "dispatch_point", "endpoint", "errors", "id", "instance",
    "kind", "name", "page", "reason", "release", "remark", "since", "source", "target", "text", "title", "user",
}  # fmt: skip
FLAGS = {"all", "interleaved", "local", "open", "parallel", "progress", "recursive", "replace", "singleton", "snoozed"}
OBJECTS = {"typed", "config", "config_overrides", "subflows", "data", "initial_state", "output", "schema"}
NUMBERS = {"after", "before", "expires_in", "limit", "offset", "seconds", "timeout"}
LISTS = {"files", "ids", "overridable", "who", "words"}
ANYTHING = {"value", "draft", "default"}
TEXTS |= {"by"}
FLAGS |= {"fetch", "owner_first"}
OBJECTS |= {"limits", "limits_per_caller"}
NUMBERS |= {"days", "older"}
TEXTS |= {"path", "type"}
TEXTS |= {"first", "line", "need", "own_name", "second"}
NUMBERS |= {"delay", "expires", "quorum", "uses"}
LISTS |= {"then"}
CASES = sorted(
    (method, field.alias or name)
    for method, entry in METHODS.items()
    for name, field in entry.parameters.model_fields.items()
)


def parse(method: str, **params: Any) -> Any:
    """Check the parameters of a method, with good values for those that it requires."""
    fields = METHODS[method].parameters.model_fields.items()
    required = {name: GOOD[name] for name, field in fields if field.is_required()}
    return METHODS[method].parameters.parse({**required, **params})


def refusal(method: str, **params: Any) -> P2pflowsError:
    """The error for some parameters."""
    with pytest.raises(P2pflowsError) as caught:
        parse(method, **params)
    return caught.value


@pytest.mark.parametrize("method", METHODS)
def test_an_unknown_parameter_is_named_with_the_known_ones(method: str) -> None:
    """Nothing is ignored that a client believes to have set."""
    error = refusal(method, zzz=1, adress="bob/User")
    assert type(error) is UsageError
    assert error.message == "Unknown parameter: adress, zzz."
    known = [field.alias or name for name, field in METHODS[method].parameters.model_fields.items()]
    assert error.hint == f"Known ones: {', '.join(known) or 'none'}."


@pytest.mark.parametrize(("method", "name"), CASES)
def test_a_wrong_value_is_named_with_what_it_must_be(method: str, name: str) -> None:
    """Nothing is silently another value: no text for a number, no number for a flag."""
    wrong: list[Any] = [[7]] if name in LISTS else [] if name in ANYTHING else [["a"]]
    wrong += [7, True, {"a": 1}] if name in TEXTS else []
    wrong += ["yes", "true", 1, 0] if name in FLAGS else []
    wrong += ["{}", 7] if name in OBJECTS else []
    wrong += ["7", True, -1, {"a": 1}] if name in NUMBERS else []
    wrong += ["a", 7, {"a": 1}] if name in LISTS else []
    for value in wrong:
        error = refusal(method, **{name: value})
        assert type(error) is (BadInput if name == "data" else UsageError)
        assert error.message.startswith(f"The parameter {name!r} must be ")
        assert error.hint


@pytest.mark.parametrize(("method", "name"), CASES)
def test_every_parameter_says_what_it_must_be(method: str, name: str) -> None:
    """And is one of those that the test above knows."""
    fields = METHODS[method].parameters.model_fields.items()
    (field,) = [field for known, field in fields if (field.alias or known) == name]
    assert [item for item in field.metadata if isinstance(item, MustBe)]
    assert name in TEXTS | FLAGS | OBJECTS | NUMBERS | LISTS | ANYTHING


@pytest.mark.parametrize("method", METHODS)
def test_a_missing_parameter_is_named(method: str) -> None:
    """Whether it is not there, or null."""
    parameters = METHODS[method].parameters
    required = [name for name, field in parameters.model_fields.items() if field.is_required()]
    for name in required:
        others = {other: GOOD[other] for other in required if other != name}
        for params in (others, {**others, name: None}):
            with pytest.raises(UsageError, match=f"'{name}' is missing"):
                parameters.parse(params)


@pytest.mark.parametrize("method", METHODS)
def test_null_is_as_good_as_nothing(method: str) -> None:
    """A program may send all that it knows; data that is null is refused, and an answer may be null."""
    optional = [
        field.alias or name
        for name, field in METHODS[method].parameters.model_fields.items()
        if not field.is_required() and name not in {"data", "value", "default"}
    ]
    assert parse(method, **dict.fromkeys(optional)) == parse(method)
    if "data" in METHODS[method].parameters.model_fields:
        assert isinstance(refusal(method, data=None), BadInput)


@pytest.mark.parametrize("method", ["call", "submit", "send", "wait", "mount"])
def test_a_timeout_has_limits(method: str) -> None:
    """More than no time, at most thirty days, whole seconds or not."""
    assert parse(method, timeout=1).timeout == 1
    assert parse(method, timeout=0.5).timeout == 0.5
    assert parse(method, timeout=30 * 86_400).timeout == 30 * 86_400
    for wrong in (0, -1, 30 * 86_400 + 1):
        error = refusal(method, timeout=wrong)
        assert error.message == "The parameter 'timeout' must be more than 0 and at most 30 days."
        assert error.hint == "Give it in seconds."


@pytest.mark.parametrize(("method", "name"), [("log", "limit"), ("log", "after"), ("conversations", "limit")])
def test_a_count_is_a_whole_number(method: str, name: str) -> None:
    """Of no more digits than the journal can take."""
    assert getattr(parse(method, **{name: 0}), name) == 0
    assert getattr(parse(method, **{name: 2**62 - 1}), name) == 2**62 - 1
    for wrong in (-1, 1.0, 1.5, 2**62, 10**30):
        assert refusal(method, **{name: wrong}).message == f"The parameter {name!r} must be a whole number from 0 on."


@pytest.mark.parametrize("name", ["conversation", "instance"])
def test_an_id_that_must_be_whole_is_whole(name: str) -> None:
    """32 hex digits in lower case; an empty text is as good as none."""
    assert getattr(parse("call", **{name: "a" * 32}), name) == "a" * 32
    assert parse("call", **{name: ""}) == parse("call")
    for wrong in ("a" * 31, "a" * 33, "A" * 32, "a" * 32 + "\n", "g" * 32, "٣" * 32):
        assert refusal("call", **{name: wrong}).message == f"The parameter {name!r} must be 32 hex digits."


def test_an_instance_to_change_must_be_named() -> None:
    """An empty text names none."""
    for method in ("delete_instance", "reset_instance"):
        assert refusal(method, instance="").message == "The parameter 'instance' must be 32 hex digits."
        assert parse(method).recursive is True
        assert parse(method, recursive=False).recursive is False


def test_a_kind_is_one_of_four() -> None:
    """The error names them."""
    error = refusal("serve", kind="docker")
    assert error.message == "The parameter 'kind' must be python, exec, class or human."
    assert error.hint == "See: p2pflows serve --help"
