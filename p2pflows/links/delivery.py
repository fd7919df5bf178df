"""What both kinds of links carry: deliveries, and the last will."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Delivery:
    """A message that arrived; over MQTT, the broker delivers it again after a reconnect unless it is acknowledged."""

    topic: str
    payload: bytes
    retain: bool


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker or the daemon publishes for us when our connection ends without a DISCONNECT."""

    topic: str
    payload: bytes
    retain: bool
