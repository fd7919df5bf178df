"""Messages between flows: their fields, what is sent, and what a log may show."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from p2pflows.errors import CallError, Declined, FlowFailed, UnknownUser, UsageError
from p2pflows.flows.message import HIDDEN, FlowMessage, log, redact

NAMES = st.sampled_from(["a", "b", "secret", "password"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.just("hush"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=12,
)


class Order(BaseModel):
    """An order."""

    item: str


def texts_under(value: Any, name: str) -> list[Any]:
    """Return every value under a key, at any depth."""
    if isinstance(value, dict):
        own = [value[name]] if name in value else []
        return own + [found for inner in value.values() for found in texts_under(inner, name)]
    return [found for inner in value for found in texts_under(inner, name)] if isinstance(value, list) else []


def test_a_message_needs_nothing_but_data() -> None:
    """`FlowMessage(data=...)` has an id of its own and a time in UTC, and answers nothing."""
    message = FlowMessage(data={"a": 1})
    assert len(message.message_id) == 32
    assert message.created_at.endswith("Z")
    assert datetime.fromisoformat(message.created_at).tzinfo == UTC
    assert message.input_message_id == message.message_id
    assert not message.is_reply
    assert message.request is None


def test_no_two_messages_share_anything() -> None:
    """A change in one message's fields changes no other message (D33)."""
    first, second = FlowMessage(), FlowMessage()
    first.reply_data["mode"] = "reply"
    first.data["a"] = 1
    first.private_keys.append("a")
    assert (second.data, second.private_keys, second.unsent_keys) == ({}, [], [])
    assert second.reply_data == {"mode": "no_reply"}


def test_a_request_is_known_by_its_wire_id() -> None:
    """Only a message whose sender awaits an answer has a request."""
    assert FlowMessage(reply_data={"mode": "reply", "message": "x"}).request == "x"
    assert FlowMessage(reply_data={"mode": "no_reply", "message": "x"}).request is None
    assert FlowMessage(reply_data={"mode": "reply"}).request is None


@given(data=st.dictionaries(NAMES, VALUES), is_reply=st.booleans(), who=st.none() | st.just("b" * 64))
def test_dict_and_back_loses_nothing(data: dict[str, Any], is_reply: bool, who: str | None) -> None:
    """`from_dict` reads what `to_dict` wrote, also after JSON."""
    message = FlowMessage(
        data=data, is_reply=is_reply, user_id=who, reply_data={"mode": "reply", "message": "x"}, subflow="User1",
        private_keys=["secret"], unsent_keys=["password"], conversation="c", src_flow_id="1" * 32,
    )  # fmt: skip
    assert FlowMessage.from_dict(json.loads(json.dumps(message.to_dict()))) == message


@pytest.mark.parametrize("error", [Declined("No."), UnknownUser("Who?", "Ask."), CallError(""), FlowFailed("x", "")])
def test_an_error_survives_too(error: CallError) -> None:
    """A message with a subflow's error keeps the kind, sentence and hint of the error."""
    again = FlowMessage.from_dict(FlowMessage(error=error).to_dict()).error
    assert type(again) is type(error)
    assert again is not None
    assert (again.message, again.hint) == (error.message, error.hint)


def test_an_error_that_is_no_call_error_becomes_one() -> None:
    """A stored kind that no answer has is read as a plain CallError."""
    again = FlowMessage.from_dict({"error": {"kind": "usage", "message": "x", "hint": ""}}).error
    assert type(again) is CallError


def test_dicts_are_copies() -> None:
    """Neither direction shares data with the message."""
    message = FlowMessage(data={"a": [1]})
    plain = message.to_dict()
    plain["data"]["a"].append(2)
    again = FlowMessage.from_dict(plain)
    again.data["a"].append(3)
    assert (message.data, plain["data"]) == ({"a": [1]}, {"a": [1, 2]})


def test_unknown_fields_are_ignored() -> None:
    """A message stored by a later version can be read."""
    assert FlowMessage.from_dict({"data": {"a": 1}, "colour": "red"}).data == {"a": 1}


@pytest.mark.parametrize(("name", "value"), [("data", [1]), ("is_reply", "yes"), ("message_id", 5), ("error", "x")])
def test_a_field_of_a_wrong_type_is_refused(name: str, value: Any) -> None:
    """The error names the field."""
    with pytest.raises(UsageError, match=name):
        FlowMessage.from_dict({name: value})


def test_unsent_keys_do_not_travel_and_private_keys_do() -> None:
    """Hiding a value from logs and not sending it are separate settings (D28)."""
    message = FlowMessage(
        data={"a": 1, "b": {"c": 2, "d": 3}, "e": 4, "d": 5}, private_keys=["a"], unsent_keys=["b.d", "e"]
    )
    assert message.sendable() == {"a": 1, "b": {"c": 2}, "d": 5}
    assert message.data["e"] == 4


def test_what_travels_is_json() -> None:
    """Tuples become lists, keys become text, and models and dates become their JSON forms."""
    moment = datetime(2024, 1, 2, tzinfo=timezone(timedelta(hours=1)))
    message = FlowMessage(data={"a": (1, 2), "b": {1: "x"}, "c": Order(item="tea"), "d": moment})
    assert message.sendable() == {
        "a": [1, 2], "b": {"1": "x"}, "c": {"item": "tea"}, "d": "2024-01-02T00:00:00+01:00",
    }  # fmt: skip


def test_what_json_cannot_hold_is_refused_by_its_key() -> None:
    """A value that JSON cannot hold is an error at the sender, which names the key."""
    with pytest.raises(FlowFailed, match="'handle'"):
        FlowMessage(data={"a": 1, "handle": object()}).sendable()


@given(data=st.dictionaries(NAMES, VALUES))
def test_a_log_hides_a_private_key_at_every_depth(data: dict[str, Any]) -> None:
    """A log never shows the value of a private key, however deep it is nested."""
    shown = FlowMessage(data=data, private_keys=["secret"]).redacted(["password"])["data"]
    assert set(map(str, texts_under(shown, "secret") + texts_under(shown, "password"))) <= {HIDDEN}
    assert redact(data, ()) == data


def test_a_log_hides_a_dotted_key_and_what_it_cannot_know() -> None:
    """A path hides one value; an object is shown by its type only, as its text may show a secret."""
    shown = redact({"a": {"b": 1, "c": 2}, "d": b"key", "e": [{"a": 3}]}, {"a.b"})
    assert shown == {"a": {"b": HIDDEN, "c": 2}, "d": "<bytes>", "e": [{"a": 3}]}


def test_messages_are_logged_at_debug_only(caplog: pytest.LogCaptureFixture) -> None:
    """At INFO nothing of a message is logged; at DEBUG its data without private values."""
    message = FlowMessage(data={"a": "tea", "secret": "hush"}, private_keys=["secret"])
    with caplog.at_level(logging.INFO, "p2pflows.flows"):
        log("In", message)
    assert caplog.text == ""
    with caplog.at_level(logging.DEBUG, "p2pflows.flows"):
        log("In", message)
    assert "tea" in caplog.text
    assert "hush" not in caplog.text
    assert message.message_id in str(message)
