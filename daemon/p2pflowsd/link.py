"""The port between the core and the broker: `worker_socket` before `p2pflows.links.mqtt`, or a simulator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


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

    @property
    def max_packet(self) -> int:
        """The largest packet, in bytes, that the broker takes."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send; False when not connected, or too large for the broker. A True promises nothing, at any QoS."""

    def ack(self, delivery: Any) -> None:
        """Tell the broker that a delivery is kept; nothing happens if its connection is gone."""

    def flush(self) -> None:
        """Let what was published leave now."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Read these topics too, for as long as this connection lasts."""
