"""A worker's link to a daemon on this machine: the same frames as over a broker, on the daemon's unix socket.

The first record names the worker's dispatch topic and holds its last will; all others are frames
(docs/PROTOCOL.md, section 15, On one machine).
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
"""As in an MQTT packet of a usual broker."""
_BACKOFF = Backoff(initial_s=0.05, max_s=1.0)
_STABLE_AFTER_S = 1.0
"""After a connection that lived longer, the back-off starts over."""
_CONNECT_TIMEOUT_S = 3.0
"""How long the daemon may be away before that is reported as a problem."""


class SocketLink:
    """A connection that is made again whenever it breaks; its methods are those of `MqttLink`.

    Args:
        path: the daemon's socket for workers.
        topic: the worker's dispatch topic.
        will: returns the last will; called for each connection.
        on_deliveries: called with the frames of one read.
        on_up: called with False when the connection is open: the daemon keeps no session.
        on_down: called with the reason when an open connection has ended.
        on_problem: called with a sentence for the user.
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
        failures, away_since, is_reported = 0, loop.time(), False
        while not self._closing.is_set():
            try:
                _, connection = await loop.create_unix_connection(lambda: _Connection(self), str(self._path))
            except OSError as error:
                if loop.time() - away_since > _CONNECT_TIMEOUT_S and not is_reported:
                    is_reported = True
                    self._on_problem(f"No daemon listens at {self._path} ({error.strerror or error}); trying again.")
            else:
                opened_at = loop.time()
                await connection.ended.wait()
                away_since, is_reported = loop.time(), False
                if away_since - opened_at > _STABLE_AFTER_S:
                    failures = 0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closing.wait(), _BACKOFF.delay_s(failures))
            failures += 1

    def publish(self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False) -> bool:
        """Send a frame; return False if there is no connection."""
        del topic, qos, retain  # a connection has one topic, and what is lost with it is sent again
        return self._connection is not None and self._connection.send(payload)

    def flush(self) -> None:
        """Do nothing: frames leave at once."""

    def ack(self, delivery: Delivery) -> None:
        """Do nothing: frames are not acknowledged by the link."""

    async def close(self) -> None:
        """Close the connection once everything is sent; `run` returns."""
        self._closing.set()
        if self._connection is not None:
            self._connection.close()

    # Called by the connection.

    def on_open(self, connection: _Connection) -> None:
        """Announce the worker on a new connection."""
        self._connection = connection
        connection.send(pack([self._topic.encode(), self._will().payload]))
        self._on_up(False)

    def on_frames(self, frames: list[bytes]) -> None:
        """Pass frames on."""
        self._on_deliveries([Delivery(self._topic, frame, retain=False) for frame in frames])

    def on_close(self, reason: str) -> None:
        """Note that the connection has ended."""
        self._connection = None
        self._on_down(reason)


class _Connection(RecordStream):
    """The connection to the daemon."""

    def __init__(self, link: SocketLink) -> None:
        super().__init__(Records(MAX_FRAME_BYTES))
        self._link = link
        self.ended = asyncio.Event()

    def on_open(self) -> None:
        self._link.on_open(self)

    def on_records(self, records: list[bytes]) -> None:
        self._link.on_frames(records)

    def on_close(self, error: Exception | None) -> None:
        self.ended.set()
        self._link.on_close("the daemon closed the connection" if error is None else str(error))
