"""The fields of a message are read and written under their names on the wire."""

from __future__ import annotations

import json

import pytest

from p2pflows.protocol.message import Message

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
