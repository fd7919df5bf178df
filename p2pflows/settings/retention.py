"""How long a daemon keeps what is over: `retention:` in `config.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from p2pflows.units import read_seconds

_DAY = 86_400
Age = Annotated[int, BeforeValidator(read_seconds), Field(strict=True, ge=60, le=3_650 * _DAY)]


class Retention(BaseModel):
    """Times by name, in seconds, or with a unit (s, m, h, d).

    Attributes:
        calls: calls and posts of the owner after their end, with the answers.
        fetched_answers: of these, the answers over 16,000 bytes that a program of the owner has got.
        inbox: questions and notes to the owner after their end.
        log: entries of the owner's log.
        transcripts: what the owner and other people have said to each other.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    calls: Age = _DAY
    fetched_answers: Age = 60
    inbox: Age = _DAY
    log: Age = 90 * _DAY
    transcripts: Age = 365 * _DAY


DEFAULT_RETENTION = Retention()
