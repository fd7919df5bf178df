"""What people send each other: one JSON object per message (docs/PROTOCOL.md, Messages).

Times are whole milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from p2pflows.protocol import strict_json

MAX_LIFETIME_MS = 30 * 24 * 3600 * 1000
"""No message lives longer, so the table of seen ids can be pruned without opening a replay window."""

MAX_BODY_BYTES = 700_000
"""A body must leave room for its bundle in a 1 MiB MQTT packet; more is refused before anything is published."""

MAX_PROGRESS_BYTES = 16_000
"""What is told before an answer; more is dropped, as it may be lost anyway."""

UserId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
MessageId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Name = Annotated[str, StringConstraints(pattern="^[A-Za-z0-9_-]{1,64}$")]
Count = Annotated[int, Field(ge=0, le=2**62)]


class Type(StrEnum):
    """What a message is for."""

    CALL = "call"
    POST = "post"
    CANCEL = "cancel"
    REPLY = "reply"
    ERROR = "error"


ANSWERS = frozenset({Type.REPLY, Type.ERROR})


class Message(BaseModel):
    """One message. Fields that a later version adds are ignored.

    Requests (call, post, cancel) carry `epoch` and `seq`, their position in the stream of one endpoint; answers have
    none. `in_reply_to` is the id of the request that an answer answers, or that a cancel withdraws. `instance` names
    one mounted flow among those under the endpoint.
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
    source: Annotated[str, StringConstraints(max_length=64)] = ""
    data: dict[str, Any] = {}

    @classmethod
    def from_bytes(cls, body: bytes) -> Self:
        """The message in a verified body.

        Raises:
            ValueError: it is none, is nested too deeply, or holds a number that JSON has not.
        """
        strict_json.check_levels(body)
        message = cls.model_validate_json(body)
        strict_json.check_numbers(message.data)
        return message

    def to_bytes(self) -> bytes:
        """The body as it is signed and sent."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True).encode()


class Notice(BaseModel):
    """What daemons tell each other about messages; every line of it may be lost or repeated without harm.

    Attributes:
        received: ids that the sender of the notice has committed to its journal.
        held: ids that are committed, and wait until their owner allows the sender; not in `received`.
        waiting: ids that are committed, and wait for a worker; not in `received`.
        gaps: (endpoint, epoch, seq) of the message that a stream waits for.
        skips: (endpoint, epoch, seq): nothing before seq will come any more.
        rewound: (endpoint, epoch, id): this message took a place that another message had.
        progress: (id, data): what the flow that runs this call tells before its answer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    to: UserId
    received: list[MessageId] = []
    held: list[MessageId] = []
    waiting: list[MessageId] = []
    gaps: list[tuple[Name, Count, Count]] = []
    skips: list[tuple[Name, Count, Count]] = []
    rewound: list[tuple[Name, Count, MessageId]] = []
    progress: list[tuple[MessageId, dict[str, Any]]] = []

    def to_bytes(self) -> bytes:
        """The body as it is signed and sent."""
        return self.model_dump_json(exclude_defaults=True).encode()


def derived_id(*parts: object) -> str:
    """An id that follows from its parts, as 32 hex digits: whoever derives it again gets the same."""
    content = "\0".join(map(str, parts))
    return hashlib.sha256(f"p2pflows/1 id\0{content}".encode()).hexdigest()[:32]


def new_id(now_ms: int, random: bytes) -> str:
    """A UUID version 7 (RFC 9562, section 5.7) as 32 hex digits, from the time and 10 random bytes."""
    value = (now_ms & (2**48 - 1)) << 80 | int.from_bytes(random[:10], "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"
