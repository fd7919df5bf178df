"""What clients of OpenAI ask, written as the input of a flow."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from p2pflows.openai_server.chat_request import MAX_MESSAGES, BadRequest, ChatRequest, read_request

HI = {"role": "user", "content": "Hi"}
HELLO = {"role": "assistant", "content": "Hello"}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}


def read(*messages: Any, **more: Any) -> ChatRequest:
    """Read a request with messages."""
    return read_request(json.dumps({"model": "bob/Assistant", "messages": messages, **more}).encode())


def test_a_question_alone() -> None:
    """It is the query, whether the flow remembers or not."""
    request = read(HI, temperature=0.5, max_tokens=7, user="me", n=1, tools=[], response_format={"type": "text"})
    assert request.beginning() == request.continuation() == {"query": "Hi"}
    assert (request.model, request.before, request.is_streamed, request.wants_usage) == (
        "bob/Assistant",
        (),
        False,
        False,
    )


def test_a_question_after_others() -> None:
    """A flow that remembers gets what is new; to any other, all is told that was said."""
    request = read({"role": "developer", "content": "Be brief."}, HI, HELLO, {"role": "user", "content": "And now?"})
    assert request.continuation() == {"query": "And now?"}
    assert request.beginning() == {
        "query": "Be brief.\n\nThis was said before:\n\nUser: Hi\n\nAssistant: Hello\n\nUser: And now?"
    }


def test_a_system_message_of_the_client_is_part_of_the_question() -> None:
    """It takes the place of nothing that the owner has told the model."""
    assert read({"role": "system", "content": "Be brief."}, HI).beginning() == {"query": "Be brief.\n\nHi"}


def test_several_messages_of_the_user_at_the_end_are_one_question() -> None:
    """With the pictures of all of them."""
    shown = {
        "role": "user",
        "content": [{"type": "text", "text": "What is"}, PICTURE, {"type": "text", "text": "this?"}],
    }
    request = read(HI, HELLO, shown, HI)
    assert request.continuation() == {
        "query": "What is\nthis?\n\nHi", "images": ["data:image/png;base64,AA=="]
    }  # fmt: skip


def test_streaming() -> None:
    """Usage in the last chunk is a wish of its own."""
    assert read(HI, stream=True).is_streamed
    assert read(HI, stream=True, stream_options={"include_usage": True}).wants_usage


@pytest.mark.parametrize(
    ("messages", "more", "param"),
    [
        ([], {}, "messages"),
        ([HI] * (MAX_MESSAGES + 1), {}, "messages"),
        ([HI, HELLO], {}, "messages"),
        ([{"role": "user", "content": "  "}], {}, "messages"),
        ([{"role": "user"}], {}, "messages"),
        (["Hi"], {}, "messages.[0].role"),
        ([{"role": "tool", "content": "4"}], {}, "messages.[0].role"),
        ([HI, {**HELLO, "tool_calls": [{}]}, HI], {}, "messages.[1]"),
        ([{"role": "user", "content": [{"type": "input_audio"}]}], {}, "messages.[0].content"),
        ([{"role": "user", "content": 7}], {}, "messages.[0].content"),
        ([HI], {"n": 2}, "n"),
        ([HI], {"tools": [{"type": "function"}]}, "tools"),
        ([HI], {"stop": ["\n"]}, "stop"),
        ([HI], {"logprobs": True}, "logprobs"),
        ([HI], {"response_format": {"type": "json_object"}}, "response_format"),
        ([HI], {"model": ""}, "model"),
        ([HI], {"model": 7}, "model"),
    ],
)
def test_what_a_flow_cannot_do_is_refused(messages: list[Any], more: dict[str, Any], param: str) -> None:
    """The error names the parameter."""
    with pytest.raises(BadRequest) as refused:
        read(*messages, **more)
    assert refused.value.param == param


@given(st.binary(max_size=20) | st.text(max_size=5).map(json.dumps).map(str.encode))
@example(b"[" * 100_000)
@example(b"null")
@example(b"{}")
def test_any_other_body_is_a_bad_request(body: bytes) -> None:
    """And no failure of the server."""
    with pytest.raises(BadRequest):
        read_request(body)


FIELDS = st.sampled_from(["role", "content", "type", "text"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["system", "user", "assistant"])


@given(st.lists(JSON | st.fixed_dictionaries({"role": ROLES, "content": JSON}), max_size=5))
def test_any_messages_are_read_or_refused(messages: list[Any]) -> None:
    """What is read has a question."""
    try:
        request = read(*messages)
    except BadRequest:
        return
    assert request.question.text.strip()
