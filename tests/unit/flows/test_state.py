"""States as JSON: what is read back, what is refused and how, and that a stored state is only data."""

from __future__ import annotations

import collections
import enum
import json
import math
import pickle
from datetime import UTC, date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from p2pflows.errors import Declined, FlowFailed
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.state import MAX_STATE_BYTES, MAX_STATE_DEPTH, TAG, dumps, loads

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.just(TAG)
MESSAGES = st.builds(
    lambda key, number: FlowMessage(data={key: number}, reply_data={"mode": "reply", "message": key}),
    TEXTS,
    st.integers(),
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
    | st.binary(max_size=20) | st.dates() | st.datetimes(timezones=st.none() | st.just(UTC)) | MESSAGES
)  # fmt: skip
STATES = st.dictionaries(
    TEXTS,
    st.recursive(
        LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=10,
    ),
    max_size=4,
)


class Order(BaseModel):
    """A model with a field that is written under another name."""

    item: str = Field(alias="what")
    due: date


class Colour(enum.Enum):
    """A colour."""

    RED = "red"


def refusal(state: Any) -> str:
    """Return the error text for a state."""
    with pytest.raises(FlowFailed) as caught:
        dumps(state)
    assert caught.value.hint
    return caught.value.message


@given(state=STATES)
def test_a_state_comes_back_as_it_was(state: dict[str, Any]) -> None:
    """Every value that can be stored is read back exactly, also dicts that look like our tags."""
    written = dumps(state)
    assert loads(written) == state
    assert dumps(loads(written)) == written


@given(state=STATES)
def test_a_state_is_json(state: dict[str, Any]) -> None:
    """Any JSON reader can read it (D49)."""
    assert isinstance(json.loads(dumps(state)), dict)


def test_a_message_keeps_how_to_answer_it() -> None:
    """A stored request keeps its reply data and its error, so a later run can answer it."""
    message = FlowMessage(data={"raw": b"\x00"}, reply_data={"mode": "reply", "message": "x"}, error=Declined("No."))
    again = loads(dumps({"initial_message": message}))["initial_message"]
    assert again == message
    assert again.request == "x"
    assert isinstance(again.error, Declined)


def test_tuples_and_named_dicts_become_plain() -> None:
    """A tuple is read back as a list, and a defaultdict as a dict, as on the wire."""
    counts = collections.defaultdict(int, a=1)
    assert loads(dumps({"a": (1, (2,)), "b": counts})) == {"a": [1, [2]], "b": {"a": 1}}


def test_a_model_comes_back_as_its_class_only_if_the_flow_names_it() -> None:
    """A class is never imported by its stored name."""
    order = Order(what="tea", due=date(2024, 1, 2))
    written = dumps({"order": order})
    assert loads(written, [Order]) == {"order": order}
    assert loads(written) == {"order": {"what": "tea", "due": "2024-01-02"}}


def test_a_model_that_changed_is_told() -> None:
    """A stored model that no longer fits its class is an error that names the class."""
    written = dumps({"order": Order(what="tea", due=date(2024, 1, 2))}).replace(b"2024-01-02", b"someday")
    with pytest.raises(FlowFailed, match="Order"):
        loads(written, [Order])


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ({"a": {"b": [1, object()]}}, "flow_state.a.b.1 is of type object"),
        ({"a": {1: 2}}, "flow_state.a has the key 1 of type int"),
        ({None: 2}, "flow_state has the key None"),
        ({"a": {1, 2}}, "flow_state.a is of type set"),
        ({"a": Colour.RED}, "flow_state.a is of type Colour"),
        ({"a": math.nan}, "flow_state.a is nan"),
        ({"a": "\ud800"}, "surrogate"),
        ({"\ud800": 1}, "surrogate"),
        ({"a": 1 << 20_000}, "too large a number"),
        ({"message": FlowMessage(data={"f": print})}, "flow_state.message.data.f is of type builtin_function"),
        ([], "flow_state is a list"),
    ],
)
def test_what_cannot_be_kept_is_named(state: Any, said: str) -> None:
    """A state that cannot be stored is an error that names the path of the value (D39)."""
    assert said in refusal(state)


def test_a_value_that_holds_itself_is_refused() -> None:
    """A cycle is an error, not a crash."""
    state: dict[str, Any] = {"a": {}}
    state["a"]["b"] = state
    assert "contains itself" in refusal(state)


def test_the_deepest_state_can_be_read_again() -> None:
    """The deepest state that is allowed is read back, whatever its values are nested in."""
    plain: Any = 1
    tagged: Any = 1
    messages: Any = 1
    for number in range(MAX_STATE_DEPTH - 2):
        plain = [plain]
        tagged = {TAG: tagged}
        messages = FlowMessage(data={"a": messages}) if number % 2 == 0 else messages
    for state in ({"a": plain}, {"a": tagged}, {"a": messages}):
        assert loads(dumps(state)) == state


def test_a_state_over_the_limit_names_its_largest_key() -> None:
    """The size is limited, and the error names the largest key."""
    sentence = refusal({"small": 1, "history": "x" * MAX_STATE_BYTES})
    assert "'history'" in sentence
    assert str(MAX_STATE_BYTES) in sentence
    assert dumps({"history": "x" * (MAX_STATE_BYTES - 100)})


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"[]",
        b"NaN",
        b'{"a":' * 5000,
        b'{"a":{"$p2pflows":"os.system","args":["x"]}}',
        b'{"a":{"$p2pflows":["x"]}}',
        b'{"a":{"$p2pflows":"bytes","base64":"?"}}',
        b'{"a":{"$p2pflows":"date","iso":5}}',
        b'{"a":{"$p2pflows":"dict"}}',
        b'{"a":{"$p2pflows":"message","fields":{"data":5}}}',
        b'{"$p2pflows":"bytes","base64":""}',
        pickle.dumps({"a": 1}),
    ],
)
def test_bytes_that_are_no_state_are_refused(written: bytes) -> None:
    """A pickle, a foreign tag or broken JSON is an error, and nothing in it is imported or called (D49)."""
    with pytest.raises(FlowFailed):
        loads(written)
