"""The fields of a message are read and written under their names on the wire."""

from __future__ import annotations

import json

import pytest

from p2pflows.protocol.message import Message
from p2pflows.protocol.strict_json import JsonObject

REPLY = {
    "id": "1" * 32,
    "type": "reply",
    "from": "a" * 64,
    "to": "b" * 64,
    "endpoint": "_reply",
    "conversation": "2" * 32,
    "cause": "3" * 32,
    "created": 1,
    "expires": 2,
}


def test_in_reply_to_is_cause_on_the_wire() -> None:
    """`in_reply_to` is read from and written as `cause`."""
    message = Message.from_bytes(json.dumps(REPLY).encode())
    assert message.in_reply_to == "3" * 32
    assert json.loads(message.to_bytes()) == REPLY


@pytest.mark.parametrize(("ours", "wire"), [("sender", "from"), ("recipient", "to"), ("in_reply_to", "cause")])
def test_names_in_python_mean_nothing_on_the_wire(ours: str, wire: str) -> None:
    """A body that says `sender` for `from` has an unknown field, and lacks one."""
    body = {ours if name == wire else name: value for name, value in REPLY.items()}
    with pytest.raises(ValueError, match="without a cause" if wire == "cause" else "Field required"):
        Message.from_bytes(json.dumps(body).encode())


LONG = "x" * 5_000
HEAD = json.dumps(REPLY, separators=(",", ":"))[:-1]


@pytest.mark.parametrize(
    "data",
    ['{"n":1.50e1,"text":"%s"}', '{ "text": "%s",\n\t"a": [ {"data":{}} ] }', '{"a":"\\u0041\\/","text":"%s"}'],
    ids=["numbers", "white space", "escapes"],
)
def test_long_data_travels_as_the_bytes_it_came_in(data: str) -> None:
    """Nobody between sender and recipient writes it in another way."""
    body = f'{HEAD},"data":{data % LONG}}}'.encode()
    message = Message.from_bytes(body)
    assert isinstance(message.data, JsonObject)
    assert message.data.text.decode() == data % LONG
    assert message.to_bytes() == body
    assert message.model_copy(update={"epoch": 7}).to_bytes().endswith(message.data.text + b"}")


@pytest.mark.parametrize(
    "rest",
    [
        ',"data":{"text":"%s"},"data":{}}',
        ',"data":{},"data":{"text":"%s"}}',
        ',"x":{"y":1,"data":{"text":"%s"}}',
        ',"data":{"text":"%s"}}}',
        ',"data":{"text":"%s","text":""}}',
        ',"data":{"text":"%s","a":{"b":1,"b":2}}}',
        ',"data":{"text":"%s","n":1e999}}',
        ',"data":{"text":"%s","n":NaN}}',
        ',"data":{"text":"%s"},"typed":{"text":1}}',
        ',"data":{"text":"%s"} x}',
        ',"data":{"text":"%s"},}',
        ',"data":{"text":"\\ud800%s"}}',
    ],
)
def test_long_data_that_means_two_things_is_refused(rest: str) -> None:
    """A body is refused for whatever refuses a short one, although its parts are read one by one."""
    with pytest.raises(ValueError, match=r"."):
        Message.from_bytes(f"{HEAD}{rest % LONG}".encode())


@pytest.mark.parametrize(
    "body",
    [
        '{"source":",\\"data\\":{","data":{"text":"%s"},REST}',
        '{"x":[{"y":1,"data":{"text":"%s"}}],"data":{"text":"%s"},REST}',
        '{"x":{"y":1,"data":{}},REST,"data":{"text":"%s"}}',
        '{REST,"data":{"text":"%s"},"typed":{"text":"1"}}',
        '{REST,"data":{"text":"%s"},"x":{"data":{}}}',
        '{REST,"data" : {"text":"%s"}}',
    ],
)
def test_long_data_is_found_wherever_it_is(body: str) -> None:
    """Fields may come in any order, and unknown ones may look like others."""
    text = body.replace("REST", HEAD[1:]).replace("%s", LONG)
    assert Message.from_bytes(text.encode()).data == {"text": LONG}
