"""How far the clocks of other users are from ours, as the times show at which they confirm or refuse our messages.

A notice and an answer have the time of the clock of their sender, and so has the refusal of a message as expired or
too_long_lived. A broker can delay such a report, so the offset is a hint: errors and
`status` show it, and nothing else depends on it.
"""

from __future__ import annotations

from p2pflowsd.clock import Clock

MIN_SHOWN_MS = 5_000
"""Smaller differences are not worth a word."""


class PeerClocks:
    """The known offsets of other users' clocks, in memory."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offsets: dict[str, int] = {}

    def learn(self, peer: str, theirs: int, sent: float) -> None:
        """Compare the clocks, because a peer has confirmed, answered or refused a message of ours.

        It did so between the sending and now, so the offset is known up to that span of time. The value
        nearest to zero is stored, so a late report never makes a difference look larger than it is.

        Args:
            peer: the user id of the peer.
            theirs: when it did so, by its clock, in milliseconds since the Unix epoch.
            sent: when the message was first sent, in the clock's elapsed seconds.
        """
        least = theirs - self._clock.now()
        span = int((self._clock.elapsed() - sent) * 1000)
        if least <= self.offset_ms(peer) <= least + span:
            return  # an earlier report was at least as exact
        if least > 0:
            self._offsets[peer] = least
        elif least + span < 0:
            self._offsets[peer] = least + span
        else:
            self.forget(peer)

    def forget(self, peer: str) -> None:
        """Forget an offset, because the peer takes messages again that it has refused before."""
        self._offsets.pop(peer, None)

    def forget_all(self) -> None:
        """Forget all offsets, because our clock was set."""
        self._offsets.clear()

    def offset_ms(self, peer: str) -> int:
        """Return how many milliseconds a peer's clock is ahead of ours; 0 if no difference is known."""
        return self._offsets.get(peer, 0)

    def known(self) -> dict[str, int]:
        """Return the offsets that are worth a word, by user id; they are positive where the peer's clock is ahead."""
        return {peer: offset for peer, offset in self._offsets.items() if abs(offset) > MIN_SHOWN_MS}


def difference(offset_ms: int) -> str:
    """Return a clause that says how our clock and that of a peer differ.

    Args:
        offset_ms: how many milliseconds the peer's clock is ahead.
    """
    if not offset_ms:
        return "your clocks differ"
    return f"your clocks differ by {_length(abs(offset_ms) / 1000)}; yours is {'behind' if offset_ms > 0 else 'ahead'}"


def _length(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
