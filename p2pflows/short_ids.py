"""Ids written in short: by some hex digits that the whole id, or the end of it that is shown, begins or ends with."""

from __future__ import annotations

from collections.abc import Sequence

MIN_CHARS = 4
SHOWN = 8
"""Digits of an id that people see: its last ones."""
LENGTH = 32
"""Hex digits of a whole id."""

_MAX_NAMED = 5
_DIGITS = frozenset("0123456789abcdef")


def normalize(text: str) -> str:
    """Return what a person typed as an id has it: in lower case, without spaces around it."""
    return text.strip().lower()


def is_id_part(text: str) -> bool:
    """Whether text, once normalized, may stand for an id."""
    return MIN_CHARS <= len(text) <= LENGTH and _DIGITS.issuperset(text)


def is_whole(text: str) -> bool:
    """Whether text is a whole id, as machines write it."""
    return len(text) == LENGTH and _DIGITS.issuperset(text)


def matches(part: str, whole_id: str) -> bool:
    """Whether a normalized part stands for an id."""
    return is_id_part(part) and (
        whole_id.startswith(part) or whole_id.endswith(part) or whole_id[-SHOWN:].startswith(part)
    )


def globs(part: str) -> list[str]:
    """Return GLOB patterns of SQLite; `matches` is true for exactly the ids of 32 digits that match one of them."""
    if not is_id_part(part):
        return []
    within_shown = [f"*{part}{'?' * (SHOWN - len(part))}"] if len(part) < SHOWN else []
    return [f"{part}*", f"*{part}", *within_shown]


def name_all(ids: Sequence[str]) -> str:
    """Return the ids that a part may stand for, as an error lists them: in the form that tells them apart, up to 5."""
    shown = sorted({whole_id[-SHOWN:] for whole_id in ids})
    if len(shown) < len(ids):
        shown = sorted(ids)
    more = f" and {len(ids) - _MAX_NAMED:,} more" if len(ids) > _MAX_NAMED else ""
    return ", ".join(shown[:_MAX_NAMED]) + more
