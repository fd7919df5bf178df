"""Room for the requests of strangers that wait for the owner's decision."""

from __future__ import annotations

from p2pflows.errors import NotAllowed
from p2pflows.settings.limits import Limits
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.running.settlement import Settlement

MIN_HELD_MS = 24 * 3_600_000
"""For how long a request is safe from those of other senders who hold no fewer."""


class HeldRequests:
    """Makes room for held requests, so that no few senders can take all of it."""

    def __init__(self, *, journal: Journal, clock: Clock, settlement: Settlement, limits: Limits) -> None:
        self._journal = journal
        self._clock = clock
        self._settlement = settlement
        self._limits = limits

    def make_room_for(self, peer: str) -> bool:
        """Return whether one more request of a stranger can be held.

        If there are too many in all, the oldest request of the sender with most of them gives way, with an error for
        its sender: if that sender holds more than this one would, or if it has waited for a day.
        """
        incoming = self._journal.incoming
        if incoming.count_held(peer) >= self._limits.requests_per_stranger:
            return False
        if incoming.count_held() < self._limits.requests_of_strangers:
            return True
        holders = incoming.held_by_sender()
        own = next((count for holder, count, _ in holders if holder == peer), 0)
        greediest, count, oldest = max(holders, key=lambda holder: (holder[1], -holder[2]))
        if count <= own + 1 and oldest > self._clock.now() - MIN_HELD_MS:
            return False
        row = min(incoming.held_by(greediest), key=lambda row: row.row_id)
        self._settlement.fail(
            row,
            NotAllowed(
                "They have too many requests of people whom they have not allowed, and yours gave way.",
                f"Ask them to run: p2pflows allow {greediest}; then send it again.",
            ),
        )
        return True
