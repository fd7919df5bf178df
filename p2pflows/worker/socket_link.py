"""A worker's link to a daemon on this machine: the same frames as over a broker, on the daemon's unix socket.

The first record names the worker's dispatch topic and holds its last will; all others are frames
(docs/PROTOCOL.md, Dispatch on one machine).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from p2pflows.backoff import Backoff
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol.framing import Records, pack

MAX_FRAME_BYTES = 1_048_576
"""Bytes of a frame, as in an MQTT packet of a usual broker."""
_BACKOFF = Backoff(initial_s=0.05, max_s=1.0)
_STABLE_AFTER_S = 1.0
"""After a connection that lived longer, the back-off starts over."""
_CONNECT_TIMEOUT_S = 3.0
"""Seconds that the daemon may be away before the user hears of it."""


class SocketLink:
    """A connection that is made again whenever it breaks; its methods are those of `MqttLink`.

    Args:
        path: the daemon's socket for workers.
        topic: the worker's dispatch topic.
        will: gives the last will, asked at each connect.
        on_deliveries: takes the frames that one read brought.
        on_up: the connection stands; takes whether anything of an earlier one was kept: it never is.
        on_down: after an `on_up`, the connection is gone; takes the reason.
        on_problem: takes a sentence for the user.
    """

    max_packet = MAX_FRAME_BYTES

    def __init__(
        self,
        path: Path,
        *,
        topic: str,
        will: Callable[[], Will],
        on_deliveries: Callable[[list[Delivery]], None],
        on_up: Callable[[bool], None],
        on_down: Callable[[str], None],
        on_problem: Callable[[str], None],
    ) -> None:
        self._path = path
        self._topic = topic
        self._will = will
        self._on_deliveries = on_deliveries
        self._on_up = on_up
        self._on_down = on_down
        self._on_problem = on_problem
        self._connection: _Connection | None = None
        self._closing = asyncio.Event()

    async def run(self) -> None:
        """Connect, serve, and connect again until cancelled or closed."""
        loop = asyncio.get_running_loop()
        failures, away_since, told = 0, loop.time(), False
        while not self._closing.is_set():
            try:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), str(self._path))
            except OSError as error:
                if loop.time() - away_since > _CONNECT_TIMEOUT_S and not told:
                    told = True
                    self._on_problem(f"No daemon listens at {self._path} ({error.strerror or error}); tried again.")
            else:
                began = loop.time()
                await connection.ended.wait()
                away_since, told = loop.time(), False
                if away_since - began > _STABLE_AFTER_S:
                    failures = 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _BACKOFF.delay_s(failures))
            failures += 1

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send a frame; False when there is no connection."""
        del topic, qos, retain  # the connection says where it goes, and a frame that is lost is told again
        return self._connection is not None and self._connection.send(payload)

    def flush(self) -> None:
        """Frames leave at once."""

    def ack(self, delivery: Delivery) -> None:
        """Frames need no acknowledgement of their own."""

    async def close(self) -> None:
        """Hang up once all has left; `run` returns."""
        self._closing.set()
        if self._connection is not None:
            self._connection.close()

    # What the connection tells.

    def opened(self, connection: _Connection) -> None:
        """The connection stands."""
        self._connection = connection
        connection.send(pack([self._topic.encode(), self._will().payload]))
        self._on_up(False)

    def arrived(self, frames: list[bytes]) -> None:
        """Frames have come."""
        self._on_deliveries([Delivery(self._topic, frame, retain=False) for frame in frames])

    def lost(self, reason: str) -> None:
        """The connection is gone."""
        self._connection = None
        self._on_down(reason)


class _Connection(RecordStream):
    """The connection to the daemon."""

    def __init__(self, owner: SocketLink) -> None:
        super().__init__(Records(MAX_FRAME_BYTES))
        self._owner = owner
        self.ended = asyncio.Event()

    def on_open(self) -> None:
        self._owner.opened(self)

    def on_records(self, records: list[bytes]) -> None:
        self._owner.arrived(records)

    def on_close(self, error: Exception | None) -> None:
        self.ended.set()
        self._owner.lost("the daemon closed the connection" if error is None else str(error))
