"""The interface through which the core uses the broker.

`WorkerSocket` implements it on top of `p2pflows.links.mqtt`; the simulator and the tests have implementations of their
own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Delivery(Protocol):
    """A PUBLISH that arrived. It knows its connection, so that a late ack never acknowledges another message."""

    topic: str
    payload: bytes
    retain: bool
    is_local: bool


class Link(Protocol):
    """A connection to a broker; it may be down."""

    @property
    def connected(self) -> bool:
        """Whether a message can be published now."""

    @property
    def max_packet(self) -> int:
        """The largest packet that the broker accepts, in bytes."""

    def why_not(self, topic: str) -> str:
        """Return why messages on a topic do not reach the broker, in sentences for the user; empty if that is unknown.

        It is the reason for which the link is down, or what the broker has refused on this topic.
        """

    @property
    def max_bundle(self) -> int:
        """How many bytes of messages one packet should join; a larger message goes alone."""

    @property
    def broker(self) -> str:
        """The broker, in words for the user."""

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send a message.

        Returns:
            Whether it was sent: False if the link is down, or the message too large for the broker. True does not
            mean that anybody received it, at any QoS.
        """

    def keeps_order(self, topic: str) -> bool:
        """Return whether of what is published on a topic nothing is missing before what arrives."""

    def ack(self, delivery: Any) -> None:
        """Acknowledge a stored delivery; does nothing if the connection it came on has ended."""

    def flush(self) -> None:
        """Send what was published and is still buffered."""

    def subscribe(self, topics: Sequence[str]) -> None:
        """Receive these topics too, for as long as this connection lasts."""
