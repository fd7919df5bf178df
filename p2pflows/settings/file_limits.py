"""How many files a daemon keeps beside messages, and for how long: `files:` in `config.yaml`."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from p2pflows.units import read_seconds, read_size

MAX_FILES = 10_000
"""How many files a daemon knows at most, fetched or not."""

Size = Annotated[int, BeforeValidator(read_size), Field(strict=True, ge=0, le=1_000_000_000_000_000)]
Age = Annotated[int, BeforeValidator(read_seconds), Field(strict=True, ge=60, le=3_650 * 86_400)]


class FileLimits(BaseModel):
    """Limits by name; a size is in bytes or has a unit (kB, MB, GB), a time is in seconds or has one (s, m, h, d).

    Attributes:
        max_size: how large one file may be.
        bytes: what all files take together.
        bytes_per_contact: what the files of one contact take together.
        keep: how long a file stays after its last use, at least as long as a message that needs it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_size: Annotated[int, BeforeValidator(read_size), Field(strict=True, ge=0, le=1_000_000_000)] = 1_000_000_000
    bytes: Size = 10_000_000_000
    bytes_per_contact: Size = 2_000_000_000
    keep: Age = 7 * 86_400


DEFAULT_FILE_LIMITS = FileLimits()
