"""The largest packet that a broker takes, found out where the broker hangs up instead of saying so. No I/O.

A connection that is lost while packets wait for their acknowledgement may have been lost because of one of them. After
two such losses, one packet is sent at a time, with one message in it: then a loss names its packet. A size at which two
connections ended, and which the broker never took, is the limit.
"""

from __future__ import annotations

from collections.abc import Sequence

LOSSES = 2
STABLE_AFTER_S = 30.0
"""After a connection that lived so long, packets are sent side by side again."""
SAME_SIZE_BYTES = 200
"""Two sends of one message differ by no more."""
MIN_BUNDLE_BYTES = 1_000


class PacketLimit:
    """What is known of one broker.

    Args:
        most: the largest packet that anybody sends.

    Attributes:
        max_packet: the largest packet that may be sent.
        is_careful: whether packets are sent one at a time, with one message each.
        is_found: whether `max_packet` was found out, and not announced.
    """

    def __init__(self, most: int) -> None:
        self.max_packet = most
        self.is_careful = False
        self.is_found = False
        self._max_bundle = most
        self._largest_taken = 0
        self._losses = 0
        self._suspect: int | None = None

    @property
    def max_bundle(self) -> int:
        """How many bytes of messages one packet may join; a larger message goes alone."""
        return 1 if self.is_careful else self._max_bundle

    def on_taken(self, size: int) -> None:
        """Note that the broker has acknowledged a packet."""
        self._largest_taken = max(self._largest_taken, size)

    def on_stable(self) -> None:
        """Note that a connection has lived for some time."""
        self.is_careful = False
        self._losses, self._suspect = 0, None

    def on_lost(self, unacknowledged: Sequence[int]) -> int | None:
        """Note that a connection was lost.

        Args:
            unacknowledged: the sizes of the packets that waited for their acknowledgement.

        Returns:
            The size of the packet that the broker does not take, if this loss has shown it.
        """
        largest = max(unacknowledged, default=0)
        if largest <= self._largest_taken:  # the broker takes such packets: it was not the size
            self._losses, self._suspect = 0, None
            return None
        if not self.is_careful:
            self._losses += 1
            if self._losses >= LOSSES:
                self.is_careful = True
                self._losses = 0
                self._max_bundle = max(self._largest_taken, min(self._max_bundle, largest) // 2, MIN_BUNDLE_BYTES)
            return None
        if self._suspect is None or abs(largest - self._suspect) > SAME_SIZE_BYTES:
            self._suspect = largest
            return None
        found = min(largest, self._suspect)
        self.max_packet = min(self.max_packet, found - 1)
        self.is_found, self.is_careful, self._suspect = True, False, None
        return found
