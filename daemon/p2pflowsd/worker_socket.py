"""The socket for workers on this machine: the frames that else go over the broker, without its two hops.

Frames are sealed all the same, with the key of their dispatch point, so that this socket is believed no more than a
broker is. To the rest of the daemon it is a `Link` that knows a shorter way to some topics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pflows.links.mqtt import Delivery, MqttLink
from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol import topics
from p2pflows.protocol.framing import Records, unpack
from p2pflowsd.private_socket import private_socket

MAX_FRAME_BYTES = 2_000_000
MAX_UNREAD_BYTES = 32_000_000
"""Bytes that may wait for a worker which does not read; then it is hung up on, and its tasks go to another."""


class WorkerSocket:
    """A link to the broker, and to the workers that have connected here.

    Args:
        path: where the socket is made.
        user: whose daemon this is.
        link: the way to everybody else.
        on_deliveries: takes what workers have sent.
        log: where it tells of connections that it does not understand.
    """

    def __init__(
        self,
        path: Path,
        *,
        user: str,
        link: MqttLink,
        on_deliveries: Callable[[list[Delivery]], None],
        log: logging.Logger,
    ) -> None:
        self._path = path
        self._user = user
        self._link = link
        self._on_deliveries = on_deliveries
        self._log = log
        self._workers: dict[str, _Connection] = {}
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Begin to listen; a socket left by a dead daemon is replaced.

        Raises:
            UsageError: it cannot be made.
        """
        listener = private_socket(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listener)

    async def close(self) -> None:
        """Stop listening, and hang up."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    # The link.

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached."""
        return self._link.connected

    @property
    def max_packet(self) -> int:
        """The largest packet that the broker takes."""
        return self._link.max_packet

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send to the worker that reads this topic here, else to the broker."""
        worker = self._workers.get(topic)
        if worker is not None:
            return worker.send(payload)
        return self._link.publish(topic, payload, qos=qos, retain=retain)

    def ack(self, delivery: Any) -> None:
        """Tell the broker that a delivery is kept; frames from here need no such word."""
        self._link.ack(delivery)

    def flush(self) -> None:
        """Let what was published leave now."""
        self._link.flush()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Read these topics of the broker, too."""
        self._link.subscribe(filters)

    # What connections tell.

    def opened(self, connection: _Connection) -> None:
        """Somebody has connected."""
        self._connections.add(connection)

    def introduced(self, connection: _Connection, topic: str) -> str | None:
        """A connection says which dispatch topic it reads; gives the topic of its frames, or None if that cannot be."""
        match topics.parse(topic):
            case topics.DispatchTopic(user, point, _) if user == self._user and topic not in self._workers:
                self._workers[topic] = connection
                return topics.results(user, point)
        self._log.warning("a connection to the socket for workers was refused: it reads %.200r", topic)
        return None

    def arrived(self, topic: str, frames: list[bytes]) -> None:
        """A worker has sent frames."""
        self._on_deliveries([Delivery(topic, frame, retain=False) for frame in frames])

    def ended(self, connection: _Connection, reads: str) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        if self._workers.get(reads) is connection:
            del self._workers[reads]


class _Connection(RecordStream):
    """One worker's connection."""

    def __init__(self, owner: WorkerSocket) -> None:
        super().__init__(Records(MAX_FRAME_BYTES))
        self._owner = owner
        self._reads = ""
        self._sends = ""
        self._will = b""

    def send(self, content: bytes) -> bool:
        """Send a frame; False if it cannot leave."""
        if self.unsent > MAX_UNREAD_BYTES:
            self.abort()
        return super().send(content)

    def opened(self) -> None:
        self._owner.opened(self)

    def arrived(self, records: list[bytes]) -> None:
        frames = records if self._sends else self._introduce(records)
        if frames:
            self._owner.arrived(self._sends, frames)

    def lost(self, error: Exception | None) -> None:
        del error
        self._owner.ended(self, self._reads)
        if self._sends:
            self._owner.arrived(self._sends, [self._will])

    def _introduce(self, records: list[bytes]) -> list[bytes]:
        """Take the first record; gives the frames behind it."""
        try:
            topic, will = unpack(records[0])
            reads = topic.decode()
        except ValueError:
            self.abort()
            return []
        sends = self._owner.introduced(self, reads)
        if sends is None:
            self.abort()
            return []
        self._reads, self._sends, self._will = reads, sends, will
        return records[1:]
