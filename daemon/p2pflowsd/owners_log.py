"""The owner's log: who was refused what, and what failed; throttled, so that nobody can drive the rest out of it."""

from __future__ import annotations

from collections.abc import Callable

from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal

REPEAT_INTERVAL_S = 60.0
MAX_REMEMBERED = 10_000
MAX_NOTES_PER_INTERVAL = 100
"""Entries of the log in a minute about one contact, and about all strangers."""


class OwnersLog:
    """Writes entries into the journal, with the transaction in which they come about."""

    def __init__(self, journal: Journal, clock: Clock, name_of: Callable[[str], str | None]) -> None:
        self._journal = journal
        self._clock = clock
        self._name_of = name_of
        self._noted: dict[tuple[str, str, str, str], float] = {}
        self._notes_about: dict[str, tuple[float, int]] = {}

    def note(self, what: str, peer: str, endpoint: str, detail: str) -> None:
        """Write something into the owner's log; what comes again and again is written once a minute."""
        elapsed = self._clock.elapsed()
        key = (what, peer, endpoint, detail)
        if self._noted.get(key, -REPEAT_INTERVAL_S) + REPEAT_INTERVAL_S > elapsed:
            return
        if len(self._noted) >= MAX_REMEMBERED:
            self._noted.clear()
        self._noted[key] = elapsed
        # Who names ever other endpoints, or senders, must not drive all else out of the log.
        about = peer if self._name_of(peer) is not None else ""
        began, count = self._notes_about.get(about, (elapsed, 0))
        if elapsed - began >= REPEAT_INTERVAL_S:
            began, count = elapsed, 0
        self._notes_about[about] = (began, count + 1)
        if count < MAX_NOTES_PER_INTERVAL:
            self._journal.log.add(self._clock.now(), what, peer, endpoint, detail)
        elif count == MAX_NOTES_PER_INTERVAL:
            self._journal.log.add(self._clock.now(), what, peer, "", "More of this within a minute is not written.")
