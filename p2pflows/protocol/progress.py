"""What a flow reports before its answer (docs/PROTOCOL.md, section 9, Progress).

Any report may be lost. One with `delta` is a piece of a text, and says where the piece belongs, so that a reader
notices what was lost and what begins again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MAX_CHOICES = 128
"""Of how many choices a reader keeps how far they have got."""
RESTART: dict[str, Any] = {"restart": True}
"""The report that all earlier ones of the same call are void, since its run begins again."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What a report says.

    Args:
        text: the next piece of an answer; empty if the report is no piece of a text.
        choice: to which of several answers it belongs, from 0.
        restarts: whether the answer begins again with this piece; without a text, whether all of them do.
        skips: whether something before the piece was lost.
        data: the report as the flow has sent it.
    """

    text: str = ""
    choice: int = 0
    restarts: bool = False
    skips: bool = False
    data: dict[str, Any] = field(default_factory=dict)


class Numbering:
    """Adds to the pieces of the texts of one run where they belong: `at`, the number of characters before them."""

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}

    def number(self, data: dict[str, Any]) -> dict[str, Any]:
        """Return a report with `at`, if it is a piece of a text and has none."""
        text, choice = data.get("delta"), _count(data.get("choice", 0))
        if not isinstance(text, str) or choice is None or choice >= MAX_CHOICES or "at" in data:
            return data
        at = 0 if data.get("restart") is True else self._lengths.get(choice, 0)
        self._lengths[choice] = at + len(text)
        return {**data, "at": at}


class Reader:
    """Reads the reports of one call in order, and notices what was lost or begins again."""

    def __init__(self) -> None:
        self._lengths: dict[int, int] = {}

    def read(self, data: dict[str, Any]) -> Piece:
        """Return what a report says."""
        text, choice, at = data.get("delta"), _count(data.get("choice", 0)), _count(data.get("at"))
        restarts = data.get("restart") is True
        if not isinstance(text, str) or choice is None or choice >= MAX_CHOICES:
            is_news = restarts and bool(self._lengths)
            if restarts:
                self._lengths.clear()
            return Piece(restarts=is_news, data=data)
        have = self._lengths.get(choice, 0)
        if at is None:
            at = 0 if restarts else have
        restarts = have > 0 and (restarts or at < have)
        self._lengths[choice] = at + len(text)
        return Piece(text, choice, restarts, skips=at > (0 if restarts else have), data=data)


def joined(first: dict[str, Any], second: dict[str, Any], max_chars: int) -> dict[str, Any] | None:
    """Return two reports that follow each other as one; None if they are not two pieces of one text, or too long."""
    one, other, at = first.get("delta"), second.get("delta"), _count(first.get("at"))
    if not isinstance(one, str) or not isinstance(other, str) or at is None or len(one) + len(other) > max_chars:
        return None
    expected = {**first, "delta": other, "at": at + len(one)}
    expected.pop("restart", None)
    return {**first, "delta": one + other} if second == expected else None


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None
