"""A client of the broker: a real MqttLink that keeps what it receives."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Self

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.mqtt import MqttLink


class Peer:
    """A link that keeps what it receives; it runs inside `async with`, and is dropped without a goodbye."""

    def __init__(
        self,
        url: BrokerUrl,
        *filters: str,
        name: str = "peer",
        persistent: bool = False,
        will: Will | None = None,
        acks: bool = True,
    ) -> None:
        self.url = url
        self.acks = acks
        self.batches: list[list[Delivery]] = []
        self.ups: list[bool] = []
        self.downs: list[str] = []
        self.problems: list[str] = []
        self.link = MqttLink(
            broker=self._address,
            client_id=name,
            persistent=persistent,
            subscriptions=lambda: list(filters),
            will=lambda: will,
            on_deliveries=self._take,
            on_up=self.ups.append,
            on_down=self.downs.append,
            on_problem=self.problems.append,
        )

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.link.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task

    async def wait_until_up(self, times: int = 1) -> Peer:
        """Wait until the link has connected that many times."""
        await wait_until(lambda: len(self.ups) >= times)
        return self

    def received(self) -> list[bytes]:
        """The payloads so far, in order."""
        return [delivery.payload for batch in self.batches for delivery in batch]

    async def wait_for(self, *payloads: bytes) -> None:
        """Wait until exactly these payloads have come."""
        await wait_until(lambda: len(self.received()) >= len(payloads))
        assert self.received() == list(payloads)

    def cut(self) -> None:
        """Break the connection, as a network fault does."""
        assert self.link._connection is not None
        self.link._connection.abort()

    async def _address(self) -> BrokerUrl:
        return self.url

    def _take(self, deliveries: list[Delivery]) -> None:
        self.batches.append(deliveries)
        if self.acks:
            for delivery in deliveries:
                self.link.ack(delivery)


async def wait_until(condition: Callable[[], bool], limit: float = 10.0) -> None:
    """Poll until a condition holds; fail after some seconds."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110 - any condition, not only ours
            await asyncio.sleep(0.005)
