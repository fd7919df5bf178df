"""The messages that users send each other, each one JSON object (docs/PROTOCOL.md, Messages).

Times are whole milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, WrapValidator

from p2pflows.protocol import strict_json
from p2pflows.protocol.strict_json import JsonObject

MAX_LIFETIME_MS = 30 * 24 * 3600 * 1000
"""No message may live longer, so ids that were seen can be forgotten after it without allowing a replay."""

MAX_BODY_BYTES = 700_000
"""Most bytes of a body: its bundle must fit into a 1 MiB MQTT packet. Larger bodies are refused before publishing."""

MAX_PROGRESS_BYTES = 16_000
"""Most bytes of one progress report of a call. Larger ones are dropped, as any progress report may be lost."""

MAX_SOURCE_CHARS = 64
"""Most code points of the label that a message shows as its source."""

MAX_TYPED = 256
"""Most texts that a message has as typed."""

UserId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
MessageId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]
FlowAtPoint = Annotated[str, StringConstraints(pattern="^([A-Za-z0-9_-]{1,64}@[A-Za-z0-9_-]{1,64})?$")]
MAX_COUNT = 2**53 - 1
"""The largest number that we send: the largest one that every JSON reader reads exactly."""
Count = Annotated[int, Field(ge=0, le=2**62)]
"""Peers that are older than this limit send numbers up to 2^62."""


def _keep_text(value: Any, check: Callable[[Any], Any]) -> Any:
    """Do not copy an object that has its text."""
    return value if isinstance(value, JsonObject) else check(value)


ReadObject = Annotated[dict[str, Any], WrapValidator(_keep_text)]
"""A JSON object, with its text if it was read just now."""


class Type(StrEnum):
    """What a message asks for or answers."""

    CALL = "call"
    POST = "post"
    CANCEL = "cancel"
    REPLY = "reply"
    ERROR = "error"


ANSWERS = frozenset({Type.REPLY, Type.ERROR})
_NEED_CAUSE = ANSWERS | {Type.CANCEL}


class Message(BaseModel):
    """One message. Fields that a later version adds are ignored.

    Requests (call, post, cancel) carry `epoch` and `seq`, their position in the stream of one endpoint; answers have
    none. `in_reply_to` is the id of the request that an answer answers, or that a cancel withdraws. `instance` names
    one mounted flow among those under the endpoint. `flow` says which flow of the sender has sent a request, and at
    which dispatch point, "Booking@default"; it is empty if the sender has in person. `typed` has the texts that a
    person typed for some keys of `data`: where the flow takes texts, they take the place of the values there.
    `progress` says whether the sender of a call wants to hear how far it has got.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    id: MessageId
    type: Annotated[Type, Field(strict=False)]
    sender: UserId = Field(alias="from")
    recipient: UserId = Field(alias="to")
    endpoint: Name
    instance: MessageId | None = None
    conversation: MessageId
    in_reply_to: MessageId | None = Field(alias="cause", default=None)
    epoch: Count = 0
    seq: Count = 0
    created: Count
    expires: Count
    source: Annotated[str, StringConstraints(max_length=MAX_SOURCE_CHARS)] = ""
    flow: FlowAtPoint = ""
    data: ReadObject = {}
    typed: Annotated[dict[str, str], Field(max_length=MAX_TYPED)] = {}
    progress: bool = False

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """Read the message in a body whose signature was verified.

        Raises:
            ValueError: the body is too large, no message, or JSON that readers may understand differently.
        """
        if len(body) > MAX_BODY_BYTES:
            raise ValueError(f"a body of {len(body)} bytes")
        message = cls.model_validate(strict_json.loads_keeping(body, "data"))
        if message.in_reply_to is None and message.type in _NEED_CAUSE:
            raise ValueError(f"a message of type {message.type} without a cause")
        return message

    def to_bytes(self) -> bytes:
        """Return the body to sign and send."""
        if not isinstance(self.data, JsonObject):
            return self.model_dump_json(by_alias=True, exclude_defaults=True).encode()
        head = self.model_dump_json(by_alias=True, exclude_defaults=True, exclude={"data"}).encode()
        return b'%s,"data":%s}' % (head[:-1], self.data.text)
