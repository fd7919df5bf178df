"""Finds open messages of ours by the ends of their ids, in the same time however many there are."""

from __future__ import annotations

from p2pflows import short_ids

_DIGITS = short_ids.MIN_CHARS


class OpenIds:
    """The ids of calls and posts that have not ended."""

    def __init__(self) -> None:
        self._by_end: dict[str, list[str]] = {}
        """By their last digits."""
        self._by_shown: dict[str, list[str]] = {}
        """By the first digits of the part that people see."""

    def add(self, message_id: str) -> None:
        """Add an id."""
        self._by_end.setdefault(message_id[-_DIGITS:], []).append(message_id)
        self._by_shown.setdefault(_shown(message_id), []).append(message_id)

    def remove(self, message_id: str) -> None:
        """Remove an id; does nothing if it is not there."""
        for ids, key in ((self._by_end, message_id[-_DIGITS:]), (self._by_shown, _shown(message_id))):
            found = ids.get(key, [])
            if message_id in found:
                found.remove(message_id)
                if not found:
                    del ids[key]

    def matching(self, part: str) -> list[str]:
        """Return the ids whose end, or whose part that people see, is written in short as `part`."""
        found = [*self._by_end.get(part[-_DIGITS:], ()), *self._by_shown.get(part[:_DIGITS], ())]
        return list(dict.fromkeys(each for each in found if short_ids.matches(part, each)))


def _shown(message_id: str) -> str:
    return message_id[-short_ids.SHOWN :][:_DIGITS]
