"""The port between the daemon's heart and the broker; `p2pflows.mqtt` and the simulator stand behind it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class Delivery(Protocol):
    """One PUBLISH from the broker; it knows its connection, so a late ack answers no other message."""

    topic: str
    payload: bytes
    retain: bool


class Link(Protocol):
    """One connection to a broker, which may be down."""

    @property
    def connected(self) -> bool:
        """Whether a publish can leave now."""

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Send at QoS 1; False when not connected. A True promises nothing."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics too, for as long as this connection lasts."""
