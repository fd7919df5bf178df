"""What daemons say about who works on an answer: the data of posts to `_questions` (docs/PROTOCOL.md, section 12)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from p2pflows.protocol.message import Count, MessageId, UserId

ASKED_OF = "asked_of"
"""Where a question says of how many people it is asked, one of whose answers may settle it."""
MAX_CLAIM_MS = 24 * 3_600_000
"""The longest time for which somebody may say that they work on an answer."""


class Claim(BaseModel):
    """One of those posts; fields that a later version adds are ignored.

    Attributes:
        op: `claim` and `release` go to the asker, `claimed` and `released` come from the asker.
        question: the id of the call with which the asker has asked the one who sends or gets this.
        until: when a claim ends, in milliseconds since the Unix epoch; 0 if one is released.
        by: who works on it, in `claimed`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    op: Literal["claim", "release", "claimed", "released"]
    question: MessageId
    until: Count = 0
    by: UserId | None = None

    @classmethod
    def read(cls, data: Mapping[str, Any]) -> Self:
        """Return what the data of a post says.

        Raises:
            ValueError: it says nothing of that kind.
        """
        claim = cls.model_validate(dict(data))
        if claim.op == "claimed" and claim.by is None:
            raise ValueError("nobody is named")
        return claim

    def to_data(self) -> dict[str, Any]:
        """Return the data of the post."""
        return self.model_dump(exclude_defaults=True)


def asked_of(data: Mapping[str, Any]) -> int | None:
    """Return of how many people a question is asked, as its data says; None if only one answer can settle it."""
    count = data.get(ASKED_OF)
    return count if type(count) is int and count > 1 else None
