"""The owner's log: who was refused what, and what failed. It is rate-limited, so that nobody can flush it."""

from __future__ import annotations

from collections.abc import Callable

from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal

REPEAT_INTERVAL_S = 60.0
"""How long the same entry is not written again."""
MAX_REMEMBERED = 10_000
MAX_DETAIL_CHARS = 1_000
"""How much of a text, which may be another user's, an entry holds."""
MAX_NOTES_PER_INTERVAL = 100
"""How many entries in a minute may be about one contact, and how many about all strangers together."""
MAX_NOTES_PER_DAY = 2_000
"""How many in a day, so that nobody can push everything else out of the log within a day."""
_PERIODS = ((REPEAT_INTERVAL_S, MAX_NOTES_PER_INTERVAL, "minute"), (86_400.0, MAX_NOTES_PER_DAY, "day"))
_DAEMON, _STRANGERS = "the daemon", "strangers"


class OwnersLog:
    """Writes entries into the journal, in the transaction that causes them."""

    def __init__(self, journal: Journal, clock: Clock, name_of: Callable[[str], str | None]) -> None:
        self._journal = journal
        self._clock = clock
        self._name_of = name_of
        self._noted: dict[tuple[str, str, str, str], float] = {}
        self._notes_about: dict[tuple[str, str], tuple[float, int]] = {}
        """When a period began, and how many entries it has, by whom they are about and the name of the period."""

    def note(self, what: str, peer: str, endpoint: str, detail: str) -> None:
        """Write an entry, unless it was written within the last minute or there are too many about the same user.

        Args:
            what: the kind of entry: "refused", or the kind of an error.
            peer: the user id that it is about; empty if unknown.
            endpoint: the endpoint that it is about; empty if none.
            detail: what happened, as a sentence.
        """
        elapsed = self._clock.elapsed()
        detail = detail if len(detail) <= MAX_DETAIL_CHARS else detail[: MAX_DETAIL_CHARS - 1] + "…"
        key = (what, peer, endpoint, detail)
        if self._noted.get(key, -REPEAT_INTERVAL_S) + REPEAT_INTERVAL_S > elapsed:
            return
        if len(self._noted) >= MAX_REMEMBERED:
            self._noted.clear()
        self._noted[key] = elapsed
        # Limit by sender, and all strangers together, so that varying the endpoint or the sender cannot flush the log.
        is_known = self._name_of(peer) is not None
        about = peer if is_known else _STRANGERS if peer or what == "refused" else _DAEMON
        for seconds, most, name in _PERIODS:
            began, count = self._notes_about.get((about, name), (elapsed, 0))
            if elapsed - began >= seconds:
                began, count = elapsed, 0
            self._notes_about[about, name] = (began, count + 1)
            if count > most:
                return
            if count == most:
                endpoint, detail = "", f"Further entries within this {name} are not written."
        self._journal.log.add(self._clock.now(), what, peer, endpoint, detail)
