"""What daemons report to each other about messages (docs/PROTOCOL.md, Notices), and how much of it a reader takes.

Every line of a notice may be lost: the peer that needs it asks again. So a reader takes as many lines as it can work
off in a few milliseconds, and ignores the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints
from pydantic_core import from_json, to_json

from p2pflows.protocol import strict_json
from p2pflows.protocol.message import Count, MessageId, Name, UserId

MAX_NOTICE_BYTES = 65_536
"""How many bytes of the notices in one bundle are read."""
RECEIPTS = ("received", "held", "waiting", "untimely", "refused")
"""The lists with what became of messages."""
MAX_RECEIPTS = 1_000
"""How many lines of these lists together are read from one bundle."""
MAX_STREAM_LINES = 100
"""How many streams in each of `gaps`, `skips` and `rewound` are read from one bundle."""
MAX_PROGRESS_LINES = 100
"""How many lines of `progress` are read from one bundle."""

Reason = Annotated[str, StringConstraints(pattern="^[a-z_]{1,32}$")]
StreamLine = tuple[Name, Count, Count]
T = TypeVar("T")
Lines = Annotated[list[T], FailFast()]
"""A list that is refused at its first wrong line, as to describe thousands of them takes long."""


class Notice(BaseModel):
    """What daemons report to each other about messages; every line may be lost or repeated without harm.

    Attributes:
        boot: grows with each start of the daemon that sends the notice; 0 if it does not number its notices.
        at: when the notice was written, in milliseconds since the Unix epoch by its sender's clock; 0 if unknown.
        number: grows with each notice of this boot; one that was seen before has no effect.
        received: ids that the sender of the notice has committed to its journal.
        held: ids that it has committed, and that wait until its user allows their sender; not in `received`.
        waiting: ids that it has committed, and that wait for a worker; not in `received`.
        untimely: (id, time): it has refused this message as expired or too_long_lived, at this time by its clock.
        refused: (id, reason): it has not stored this message, because there is no room for it.
        gaps: (endpoint, epoch, seq) of the next message that a stream of its needs.
        skips: (endpoint, epoch, seq): it will send nothing before seq.
        rewound: (endpoint, epoch, id): this message has a position that another message had before.
        positions: (endpoint, epoch, seq) of the next message that it expects in a stream of `rewound`.
        progress: (id, data): what the flow that runs this call reports before its answer.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, populate_by_name=True)

    to: UserId
    boot: Count = 0
    at: Count = 0
    number: Count = Field(alias="n", default=0)
    received: Lines[MessageId] = []
    held: Lines[MessageId] = []
    waiting: Lines[MessageId] = []
    untimely: Lines[tuple[MessageId, Count]] = []
    refused: Lines[tuple[MessageId, Reason]] = []
    gaps: Lines[StreamLine] = []
    skips: Lines[StreamLine] = []
    rewound: Lines[tuple[Name, Count, MessageId]] = []
    positions: Lines[StreamLine] = []
    progress: Lines[tuple[MessageId, dict[str, Any]]] = []

    @classmethod
    def from_bodies(cls, bodies: Sequence[bytes]) -> Self:
        """Read the notices in the bodies of one bundle as one notice, up to the limits of this module.

        Raises:
            ValueError: one of them is no notice, or they are for different users.
        """
        left = MAX_NOTICE_BYTES
        notices = []
        for body in bodies:
            if len(body) <= left:
                strict_json.loads_exact(body)
            notices.append(cls.model_validate_json(body if len(body) <= left else _beginning(body, left)))
            left -= len(body)
            if left <= 0:
                break
        if len({notice.to for notice in notices}) != 1:
            raise ValueError("notices for different users in one bundle")
        return cls._merged(notices)

    def to_bytes(self) -> bytes:
        """Return the body to sign and send."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True).encode()

    @classmethod
    def _merged(cls, notices: Sequence[Self]) -> Self:
        """Return the lines of some notices as one, without repetitions and without what is beyond the limits."""
        room = MAX_RECEIPTS
        receipts: dict[str, list[Any]] = {}
        for field in RECEIPTS:
            lines = dict.fromkeys(line for notice in notices for line in getattr(notice, field))
            receipts[field] = list(lines)[:room]
            room -= len(receipts[field])
        streams = {
            field: _one_per_stream(line for notice in notices for line in getattr(notice, field))
            for field in ("gaps", "skips", "rewound", "positions")
        }
        progress = [line for notice in notices for line in notice.progress][:MAX_PROGRESS_LINES]
        return notices[0].model_copy(update={**receipts, **streams, "progress": progress})


def _one_per_stream(lines: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return the last line of each stream, for the first MAX_STREAM_LINES streams."""
    last = {line[0]: line for line in lines}
    return list(last.values())[:MAX_STREAM_LINES]


def _beginning(body: bytes, size: int) -> bytes:
    """Return the JSON object of which a body holds the first `size` bytes, without the line that was cut off."""
    content = from_json(body[:size], allow_partial="trailing-strings")
    if not isinstance(content, dict) or not content:
        raise ValueError("no notice")
    last = next(reversed(content))
    content[last] = content[last][:-1] if isinstance(content[last], list) else []
    return to_json(content)
