"""How much work strangers may cause, one of them and all together; and how much useless work anybody may cause."""

from __future__ import annotations

from p2pflows.protocol.envelope import Refused
from p2pflowsd.clock import Clock

PACKET_RATE = 500.0
"""Packets of strangers that are opened in a second. One costs about 0.1 ms, mostly for the key agreement."""
PACKET_RATE_OF_ONE = 50.0
MESSAGE_RATE = 20.0
"""Messages of strangers that are read in a second."""
MESSAGE_RATE_OF_ONE = 10.0
PACKET_BURST_S = 2.0
MESSAGE_BURST_S = 5.0
"""How many seconds' worth the buckets hold; the largest packet has to fit in."""
BYTES_PER_UNIT = 16_384
"""A packet counts once, and once more for each of so many bytes."""
USELESS_RATE = 5_000.0
"""Useless lines of one user that are read in a second. One costs a few microseconds."""
USELESS_BURST_S = 4.0
LINES_OF_A_STREAM = 5
"""For how many lines a line about a stream counts, as it costs more than one about a message."""
LINES_OF_A_REFUSED_MESSAGE = 3
LINES_OF_A_STATUS = 20
LINES_OF_A_BAD_NOTICE = 500
MAX_SENDERS = 1_000
"""How many senders have a bucket; beyond that, the ones that sent nothing for longest are forgotten."""


class TokenBucket:
    """A token bucket, full at first.

    Args:
        clock: the time.
        rate: tokens that come in a second.
        burst_s: how many seconds' worth it holds.
    """

    def __init__(self, clock: Clock, rate: float, burst_s: float) -> None:
        self._clock = clock
        self._rate = rate
        self._most = self._tokens = rate * burst_s
        self._at = clock.elapsed()

    def has(self, tokens: float) -> bool:
        """Return whether it holds some tokens."""
        elapsed = self._clock.elapsed()
        self._tokens = min(self._most, self._tokens + (elapsed - self._at) * self._rate)
        self._at = elapsed
        return self._tokens >= tokens

    def take(self, tokens: float) -> None:
        """Remove some tokens."""
        self._tokens -= tokens

    def seconds_until(self, tokens: float) -> float:
        """Return after how many seconds it holds some tokens."""
        return 0.0 if self.has(tokens) else (tokens - self._tokens) / self._rate


class _Allowance:
    """A bucket for each sender, and one for all of them; a sender beyond its own share takes nothing from the others.

    Args:
        clock: the time.
        rate: tokens that come in a second for all senders.
        rate_of_one: tokens that come in a second for each sender.
        burst_s: how many seconds' worth each bucket holds.
    """

    def __init__(self, clock: Clock, rate: float, rate_of_one: float, burst_s: float) -> None:
        self._clock = clock
        self._burst_s = burst_s
        self._rate_of_one = rate_of_one
        self._all = TokenBucket(clock, rate, burst_s)
        self._of_one: dict[str, TokenBucket] = {}

    def take(self, sender: str, tokens: float) -> bool:
        one = self._of_one.pop(sender, None) or TokenBucket(self._clock, self._rate_of_one, self._burst_s)
        self._of_one[sender] = one
        if len(self._of_one) > MAX_SENDERS:
            del self._of_one[next(iter(self._of_one))]
        if not one.has(tokens) or not self._all.has(tokens):
            return False
        one.take(tokens)
        self._all.take(tokens)
        return True


class StrangersAllowance:
    """Charges strangers for the work that they cause, before it is done."""

    def __init__(self, clock: Clock) -> None:
        self._packets = _Allowance(clock, PACKET_RATE, PACKET_RATE_OF_ONE, PACKET_BURST_S)
        self._messages = _Allowance(clock, MESSAGE_RATE, MESSAGE_RATE_OF_ONE, MESSAGE_BURST_S)

    def may_open(self, claimed: str, size: int) -> bool:
        """Return whether a packet may be opened now.

        Args:
            claimed: the user id that it claims to be from, which proves nothing.
            size: its length in bytes.
        """
        return self._packets.take(claimed, 1 + size / BYTES_PER_UNIT)

    def may_read(self, sender: str) -> bool:
        """Return whether one more message of a sender may be read now."""
        return self._messages.take(sender, 1)


class UselessAllowance:
    """Stops reading from a user, contact or not, who sends much that has no effect, such as receipts for nothing.

    Useful messages are not charged, as quotas and receipts limit them. What was sent before is not, either: anybody who
    has recorded it can repeat it, and would so stop the user. For the same reason only what was opened is charged.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._buckets: dict[str, TokenBucket] = {}

    def check(self, claimed: str) -> None:
        """Check that something that claims to be from a user may be opened now.

        Raises:
            Refused: the user has sent too much that has no effect.
        """
        bucket = self._buckets.get(claimed)
        if bucket is not None and not bucket.has(0):
            raise Refused("rate_limited")

    def charge(self, sender: str, lines: int) -> None:
        """Charge a user for useless lines that were read."""
        if lines <= 0:
            return
        bucket = self._buckets.pop(sender, None) or TokenBucket(self._clock, USELESS_RATE, USELESS_BURST_S)
        self._buckets[sender] = bucket
        if len(self._buckets) > MAX_SENDERS:
            del self._buckets[next(iter(self._buckets))]
        bucket.has(0)  # counts what has come in since
        bucket.take(lines)
