"""Sizes and times in `config.yaml`: numbers, or texts with a unit such as `64 MB` and `1h`."""

from __future__ import annotations

import re
from typing import Any

_BYTES = {"": 1, "b": 1, "kb": 1_000, "mb": 1_000_000, "gb": 1_000_000_000}
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def read_size(value: Any) -> Any:
    """Return a size in bytes for a text; anything else as it is, for the check of its type.

    Raises:
        ValueError: the text is no number with a unit.
    """
    return _read(value, _BYTES, "64 MB")


def read_seconds(value: Any) -> Any:
    """Return a time in seconds for a text; anything else as it is, for the check of its type.

    Raises:
        ValueError: the text is no number with a unit.
    """
    return _read(value, _SECONDS, "1h")


def _read(value: Any, units: dict[str, int], example: str) -> Any:
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([a-z]*)", value.strip().lower())
    if found is None or found[2] not in units:
        raise ValueError(f"give a number with a unit, such as {example}")
    return int(float(found[1]) * units[found[2]])
