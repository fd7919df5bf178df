"""How much of a daemon others may fill: `limits:` in `config.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from p2pflows.units import read_seconds, read_size

MIN_BYTES = 1_000_000
"""A limit in bytes leaves room for one message of the greatest size."""

Rows = Annotated[int, Field(strict=True, ge=1, le=10_000_000)]
Size = Annotated[int, BeforeValidator(read_size), Field(strict=True, ge=MIN_BYTES, le=1_000_000_000_000)]
Seconds = Annotated[int, BeforeValidator(read_seconds), Field(strict=True, ge=10, le=30 * 86_400)]


class Limits(BaseModel):
    """Limits by name; a size is in bytes or has a unit (kB, MB, GB), a time is in seconds or has one (s, m, h, d).

    A *request* here is one that has not ended, in whatever state.

    Attributes:
        requests_per_contact: requests of one contact that wait, run, or are dead letters.
        blocked_per_contact: of these, requests that wait for an earlier one that was lost.
        questions_per_contact: of these, open questions and notes.
        answers_per_contact: answers that one contact has not confirmed.
        remembered_per_contact: requests of one contact that have ended, whose ids are kept until their deadline.
        bytes_per_contact: what all of these take together.
        requests_per_stranger: requests of one stranger that wait for the owner's decision, or for an earlier one.
        requests_of_strangers: the same, of all strangers together.
        answers_per_stranger: answers that one stranger has not confirmed.
        remembered_of_strangers: requests of all strangers that have ended, whose ids are kept until their deadline.
        bytes_per_stranger: what all of one stranger takes.
        bytes_of_strangers: what all of all strangers takes.
        answers_to_strangers: how long an answer to a stranger is kept at most.
        own_requests: requests of the owner's own, also of the owner's flows.
        own_bytes: what these take.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    requests_per_contact: Rows = 10_000
    blocked_per_contact: Rows = 4_096
    questions_per_contact: Rows = 1_000
    answers_per_contact: Rows = 10_000
    remembered_per_contact: Rows = 1_000_000
    bytes_per_contact: Size = 64_000_000
    requests_per_stranger: Rows = 20
    requests_of_strangers: Rows = 200
    answers_per_stranger: Rows = 100
    remembered_of_strangers: Rows = 100_000
    bytes_per_stranger: Size = 4_000_000
    bytes_of_strangers: Size = 40_000_000
    answers_to_strangers: Seconds = 3_600
    own_requests: Rows = 100_000
    own_bytes: Size = 1_000_000_000
