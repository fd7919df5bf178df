"""JSON from outside: values that a later reader could not take are refused where they arrive."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import FlowFailed
from p2pflows.protocol import strict_json
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.message import Message
from p2pflows.protocol.strict_json import JsonObject, check_numbers, dumps_finite, loads_keeping, text_of
from p2pflows.worker import task_run

TOO_LARGE = ["1e999", "-1e999", "9" * 400 + ".0", "1" * 200 + "e200", "NaN", "Infinity", "-Infinity"]


def message(data: str) -> bytes:
    """Return the body of a call with this data."""
    user, some_id = "a" * 64, "0" * 32
    fields = {"id": some_id, "type": "call", "from": user, "to": user, "endpoint": "x", "conversation": some_id}
    return (
        json.dumps({**fields, "created": 1, "expires": 2, "data": 0}).replace('"data": 0', f'"data": {data}').encode()
    )


@pytest.mark.parametrize("number", TOO_LARGE)
def test_numbers_that_are_none(number: str) -> None:
    """A number that would be written as Infinity or NaN is refused, in any spelling and at any depth."""
    for text in (number, f'{{"a": {number}}}', f"[[1, {number}]]"):
        with pytest.raises(ValueError, match=r"."):
            strict_json.loads(text)
    with pytest.raises(ValueError, match=r"."):
        Message.from_bytes(message(f'{{"a": [{number}]}}'))


@pytest.mark.parametrize("text", ['"NaN"', '["Infinity and beyond"]', '{"NaN": 1e308}', "9" * 400, "1e-999", "-0.0"])
def test_numbers_that_are_some(text: str) -> None:
    """Texts, whole numbers of any length, and numbers that round to zero are accepted."""
    assert strict_json.loads(text) == json.loads(text)
    assert Message.from_bytes(message(f'{{"a": {text}}}')).data == {"a": json.loads(text)}


def test_a_message_leaves_room_around_it() -> None:
    """A message at the limit fits into other documents, many levels deep; one level more is refused."""
    deepest = strict_json.MAX_DEPTH - 2
    data = Message.from_bytes(message('{"a": ' + "[" * deepest + "]" * deepest + "}")).data
    strict_json.loads(json.dumps({"tasks": [{"records": [[1, "mark", {"data": data}]]}]}))
    with pytest.raises(ValueError, match="recursion"):
        Message.from_bytes(message('{"a": ' + "[" * (deepest + 1) + "]" * (deepest + 1) + "}"))


def test_a_header_in_another_script() -> None:
    """A frame has about as many bytes as its text in any script; a lone surrogate does no harm."""
    channel = Channel(bytes(32))
    header = {"answers": [{"data": {"text": "語" * 230_000}}], "host": "\udc80"}
    frame = channel.seal("topic", header)
    assert len(frame) < 700_000
    assert channel.open("topic", frame) == ({**header, "host": "?"}, [])


def test_what_a_flow_wraps_too_deep() -> None:
    """Data that is nested too deeply is an error in the flow, as no frame could carry it."""
    data: list[Any] = []
    for _ in range(strict_json.MAX_DEPTH):
        data = [data]
    with pytest.raises(FlowFailed, match="JSON"):
        task_run._plain({"a": data})


@given(st.from_regex(r"-?[0-9]{1,120}(\.[0-9]{0,120})?([eE][+-]?[0-9]{1,6})?", fullmatch=True))
def test_every_number_that_is_none_is_found(number: str) -> None:
    """Exactly the numbers that JSON reads as infinite are refused."""
    try:
        finite = math.isfinite(json.loads(number, parse_int=float))
    except ValueError:
        finite = False
    if finite:
        assert strict_json.loads(number) == json.loads(number)
    else:
        with pytest.raises(ValueError, match=r"."):
            strict_json.loads(number)


PADDINGS = ['"pad":"' + "x" * 3_000 + '",', '"pad":[' + "0," * 3_000 + "0],", '"pad":[' + "[]," * 1_000 + "0],"]
"""What makes a text long: one string, many parts without brackets, many brackets."""


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("number", TOO_LARGE)
def test_numbers_that_are_none_in_a_long_text(padding: str, number: str) -> None:
    """A long text is read in other ways, but what it may hold is the same."""
    text = f'{{{padding}"a":[{number}]}}'.encode()
    for read in (strict_json.loads, strict_json.loads_exact, JsonObject.read):
        with pytest.raises(ValueError, match=r"."):
            read(text)


@pytest.mark.parametrize("padding", PADDINGS)
def test_a_long_text_has_no_more_levels(padding: str) -> None:
    """How deep it is counts, not where in a long text it is so."""
    inner = strict_json.MAX_DEPTH - 2
    JsonObject.read(f'{{{padding}"a":{"[" * inner}{"]" * inner}}}'.encode())
    for read, levels in ((JsonObject.read, inner + 1), (strict_json.loads_exact, inner + 2)):
        with pytest.raises(ValueError, match="recursion"):
            read(f'{{{padding}"a":{"[" * levels}{"]" * levels}}}'.encode())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "data", '"', ""]), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.lists(st.tuples(st.sampled_from(["a", "data", "b"]), JSON), max_size=4), st.sampled_from([",", ", "]))
def test_a_long_object_is_read_as_a_whole_text_is(members: list[tuple[str, Any]], comma: str) -> None:
    """To keep the text of an object changes nothing about what is read or refused."""
    pieces = [f"{json.dumps(key)}:{json.dumps(value, separators=(comma, ':'))}" for key, value in members]
    text = ("{" + comma.join([f'"pad":"{"x" * 500}"', *pieces]) + "}").encode()
    try:
        expected = strict_json.loads_exact(text)
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            strict_json.loads_keeping(text, "data")
        return
    found = strict_json.loads_keeping(text, "data")
    assert found == expected
    if isinstance(found.get("data"), JsonObject):
        assert json.loads(found["data"].text) == found["data"]


@given(JSON, st.sampled_from(PADDINGS))
def test_a_long_text_means_what_a_short_one_means(value: Any, padding: str) -> None:
    """What makes it long changes nothing about the rest."""
    text = json.dumps(value)
    long = f'{{{padding}"a":{text}}}'.encode()
    for read in (strict_json.loads, strict_json.loads_exact, JsonObject.read):
        try:
            expected = read(f'{{"a":{text}}}'.encode())
        except ValueError:
            with pytest.raises(ValueError, match=r"."):
                read(long)
        else:
            assert read(long)["a"] == expected["a"]


@pytest.mark.parametrize(
    "change",
    [
        lambda read: read.update(a=2),
        lambda read: read.setdefault("b", 1),
        lambda read: read.pop("a"),
        lambda read: read.popitem(),
        lambda read: read.clear(),
        lambda read: read.__setitem__("a", 2),
        lambda read: read.__delitem__("a"),
        lambda read: read.__ior__({"b": 1}),
    ],
)
def test_what_keeps_its_text_cannot_be_changed(change: Callable[[JsonObject], object]) -> None:
    """The text would say something else; a copy can be changed."""
    read = JsonObject.read(b'{"a":1}')
    with pytest.raises(TypeError):
        change(read)
    change(dict(read))  # type: ignore[arg-type]
    assert (read, read.text) == ({"a": 1}, b'{"a":1}')


def test_an_object_that_keeps_its_text_fits_into_a_message() -> None:
    """It has one level less than a message may have."""
    inner = strict_json.MAX_DEPTH - 2
    JsonObject.read(b'{"a":' + b"[" * inner + b"]" * inner + b"}")
    with pytest.raises(ValueError, match="recursion"):
        JsonObject.read(b'{"a":' + b"[" * (inner + 1) + b"]" * (inner + 1) + b"}")


LONG = b'{"text":"' + b"x" * 5_000 + b'","n":1e2}'


@pytest.mark.parametrize(
    "text",
    [
        b'{"data":0,"data":' + LONG + b"}",
        b'{"a":1,"data":' + LONG + b"x",
        b'{"a":1,"data":' + LONG + b"]",
        b'{"a":1,"data":' + LONG,
        b'[1,"data":' + LONG + b"}",
    ],
)
def test_a_long_object_gives_a_text_no_other_meaning(text: bytes) -> None:
    """A key that is there twice, and an end that is none, are refused as in a short text."""
    with pytest.raises(ValueError, match=r"."):
        loads_keeping(text, "data")


def test_a_long_object_is_under_its_own_key() -> None:
    """It is not taken for what was looked for; whoever passes it on has the text that was read."""
    assert loads_keeping(b'{"abc":' + LONG + b"}", "data").keys() == {"abc"}
    found = loads_keeping(b'{"a":1,"data":' + LONG + b"}", "data")
    assert text_of(found["data"]) == LONG
    assert text_of(dict(found["data"])) != LONG


@pytest.mark.parametrize("number", [float("inf"), -float("inf"), float("nan")])
def test_what_json_cannot_hold_is_not_written(number: float) -> None:
    """Though a text may have the same words."""
    for write in (dumps_finite, check_numbers):
        with pytest.raises(ValueError, match="JSON"):
            write({"n": [number]})
        write({"n": ["Infinity", "NaN"]})
