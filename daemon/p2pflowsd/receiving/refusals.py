"""What was refused: counted by reason, and told to the owner with the name of whoever sends much of it."""

from __future__ import annotations

from collections import Counter

from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.owners_log import OwnersLog

HONEST = frozenset(
    {
        "replayed",
        "expired",
        "rewound",
        "blocked",
        "rate_limited",
        "requests_full",
        "streams_full",
        "quota_full",
        "unrelated",
    }
)
"""Refusals that an honest sender can cause too, so that a few of them are only counted."""
REPEATED = frozenset({"replayed", "expired"})
"""Refusals of what was sent before: an honest sender causes many of them after an outage."""
INTERVAL_S = 60.0
MANY = 100
MANY_REPEATED = 3_000
"""From how many refusals within the interval on their sender is named."""
MANY_OF_STRANGERS = 1_000
"""From how many refusals under any names that are no contacts' on the owner is told."""
MAX_SENDERS = 1_000
"""How many senders are counted; the refusals of further ones are counted together."""


class Refusals:
    """Counts what is refused, and writes into the owner's log what no honest peer sends, and who sends too much.

    The sender of what was not opened is the one that it claims, which proves nothing.
    """

    def __init__(self, *, journal: Journal, clock: Clock, log: OwnersLog) -> None:
        self._journal = journal
        self._clock = clock
        self._log = log
        self._began = 0.0
        self._counts: Counter[tuple[str, bool]] = Counter()
        """How much of each sender was refused in this interval, apart for what was sent before."""

    def note(self, reason: str, sender: str, endpoint: str, detail: str, count: int = 1) -> None:
        """Take note of something that was refused.

        Args:
            reason: the word under which it is counted.
            sender: the user id of the sender; empty if there is none.
            endpoint: the endpoint; empty if there is none.
            detail: what was refused, as a sentence for the log.
            count: how many messages were.
        """
        self._journal.count(f"refused.{reason}", count)
        if reason not in HONEST:
            self._log.note("refused", sender, endpoint, detail)
        if self._clock.elapsed() >= self._began + INTERVAL_S:
            self._began = self._clock.elapsed()
            self._counts.clear()
        is_repeated = reason in REPEATED
        self._name(sender, reason, is_repeated=is_repeated, count=count)

    def _name(self, sender: str, reason: str, *, is_repeated: bool, count: int) -> None:
        key = (sender, is_repeated)
        if key not in self._counts and len(self._counts) >= MAX_SENDERS:
            key = ("", is_repeated)
        before = self._counts[key]
        self._counts[key] += count
        many = MANY_REPEATED if is_repeated else MANY if key[0] else MANY_OF_STRANGERS
        if before < many <= before + count:
            whose = "in their name" if key[0] else "under ever other names or none"
            self._log.note(
                "refused",
                key[0],
                "",
                f"Within a minute, {many:,} messages or packets {whose} were refused, the last one as {reason}.",
            )
