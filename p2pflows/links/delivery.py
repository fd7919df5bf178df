"""What both kinds of links carry: deliveries, and the last will."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Delivery:
    """A message that arrived; over MQTT, the broker delivers it again after a reconnect unless it is acknowledged.

    Attributes:
        is_local: whether it came over a socket that only this user's programs can open.
    """

    topic: str
    payload: bytes
    retain: bool
    is_local: bool = field(default=False, kw_only=True)

    @property
    def needs_ack(self) -> bool:
        """Whether the broker waits for an acknowledgement."""
        return False


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker or the daemon publishes for us when our connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool
