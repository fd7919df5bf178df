"""Which notices of each peer have had their effect, so that a broker that repeats one later changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

WINDOW = 256
"""How many of the last numbers of a peer are remembered; a notice may overtake others by less than that."""
MAX_PEERS = 10_000
"""Of how many peers numbers are remembered; the one that was added first is forgotten first."""


@dataclass(slots=True)
class _Seen:
    boot: int
    below: int = 0
    """Numbers below this one count as seen."""
    numbers: dict[int, None] = field(default_factory=dict)


class SeenNotices:
    """The numbers of the notices that were taken in, in memory."""

    def __init__(self) -> None:
        self._by_peer: dict[str, _Seen] = {}

    def take(self, peer: str, boot: int, number: int) -> bool:
        """Take in a notice; return False if it was taken in before, or is older than those that are remembered.

        Args:
            peer: the user id of its sender.
            boot: grows with each start of the sender's daemon; 0 if the sender does not number its notices.
            number: grows with each notice of this boot.
        """
        if not boot:
            return True
        seen = self._by_peer.get(peer)
        if seen is None or boot > seen.boot:
            if seen is None and len(self._by_peer) >= MAX_PEERS:
                del self._by_peer[next(iter(self._by_peer))]
            seen = self._by_peer[peer] = _Seen(boot)
        if boot < seen.boot or number < seen.below or number in seen.numbers:
            return False
        seen.numbers[number] = None
        if len(seen.numbers) > WINDOW:
            oldest = min(seen.numbers)
            del seen.numbers[oldest]
            seen.below = oldest + 1
        return True
