"""Ids written in short: by some hex digits that the whole id begins or ends with."""

from __future__ import annotations

MIN_CHARS = 4
LENGTH = 32
"""Hex digits of a whole id."""

_DIGITS = frozenset("0123456789abcdef")


def normalize(text: str) -> str:
    """Return what a person typed as an id has it: in lower case, without spaces around it."""
    return text.strip().lower()


def is_id_part(text: str) -> bool:
    """Whether text, once normalized, may stand for an id."""
    return MIN_CHARS <= len(text) <= LENGTH and _DIGITS.issuperset(text)


def matches(part: str, whole_id: str) -> bool:
    """Whether a normalized part stands for an id."""
    return is_id_part(part) and (whole_id.startswith(part) or whole_id.endswith(part))
