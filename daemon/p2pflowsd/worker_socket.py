"""The socket for workers on this machine: their frames take one hop instead of the two hops over the broker.

Frames are sealed with the key of their dispatch point here too, so the daemon trusts this socket no more than a broker.
To the rest of the daemon it is a `Link` with a shortcut to some topics.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from p2pflows.links.delivery import Delivery
from p2pflows.links.mqtt import MqttLink
from p2pflows.links.record_stream import RecordStream
from p2pflows.protocol import topics
from p2pflows.protocol.framing import Records, unpack
from p2pflowsd.private_socket import private_socket

MAX_FRAME_BYTES = 2_000_000
MAX_UNREAD_BYTES = 32_000_000
"""How many bytes may wait for a worker that does not read; with more, its connection ends and others get its tasks."""


class WorkerSocket:
    """A link to the broker and to the workers that are connected here.

    Args:
        path: where the socket is created.
        user: the user id of the daemon.
        link: the link to the broker, for all other topics.
        on_deliveries: called with the frames that workers send.
        log: gets a warning for each connection that is refused.

    Attributes:
        is_held: whether nothing may be sent to the broker, as another daemon may run with this identity.
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
        self.is_held = False

    async def start(self) -> None:
        """Listen; a socket that a dead daemon has left is replaced.

        Raises:
            UsageError: the socket cannot be created.
        """
        listener = private_socket(self._path)
        self._server = await asyncio.get_running_loop().create_unix_server(lambda: _Connection(self), sock=listener)

    async def close(self) -> None:
        """Stop listening, and abort all connections."""
        self._path.unlink(missing_ok=True)
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.abort()

    # The interface Link.

    @property
    def connected(self) -> bool:
        """Whether the link to the broker is up, and may be used."""
        return self._link.connected and not self.is_held

    @property
    def max_packet(self) -> int:
        """The largest packet that the broker accepts, in bytes."""
        return self._link.max_packet

    def why_not(self, topic: str) -> str:
        """Return why messages on a topic do not reach the broker, in sentences for the user; empty if unknown."""
        return self._link.why_not(topic)

    @property
    def max_bundle(self) -> int:
        """How many bytes of messages one packet should join."""
        return self._link.max_bundle

    @property
    def broker(self) -> str:
        """The broker, in words for the user."""
        return self._link.broker

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Send to the worker that reads this topic here, or else to the broker."""
        worker = self._workers.get(topic)
        if worker is not None:
            return worker.send(payload)
        if self.is_held:
            return False
        return self._link.publish(topic, payload, qos=qos, retain=retain)

    def keeps_order(self, topic: str) -> bool:
        """Return whether a worker reads the topic here: a stream may end, but it has no gaps."""
        return topic in self._workers

    def ack(self, delivery: Any) -> None:
        """Acknowledge a stored delivery to the broker; frames of workers here need no acknowledgement."""
        self._link.ack(delivery)

    def flush(self) -> None:
        """Send what was published and is still buffered."""
        self._link.flush()

    def subscribe(self, filters: Sequence[str]) -> None:
        """Receive these topics from the broker too."""
        self._link.subscribe(filters)

    # Callbacks of the connections.

    def on_opened(self, connection: _Connection) -> None:
        """Add a new connection."""
        self._connections.add(connection)

    def on_introduced(self, connection: _Connection, topic: str) -> str | None:
        """Route a dispatch topic to the connection that claims it.

        Returns:
            The topic of the frames that the connection sends; None if it may not read the dispatch topic.
        """
        match topics.parse(topic):
            case topics.DispatchTopic(user=user) as found if user == self._user and topic not in self._workers:
                self._workers[topic] = connection
                return topics.results(user, found.queue)
        self._log.warning("refused a connection to the socket for workers: it claims the topic %.200r", topic)
        return None

    def on_frames(self, topic: str, frames: list[bytes]) -> None:
        """Pass on the frames that a worker has sent."""
        self._on_deliveries([Delivery(topic, frame, retain=False, is_local=True) for frame in frames])

    def on_lost(self, connection: _Connection, reads: str) -> None:
        """Remove a connection that has ended, and its topic."""
        self._connections.discard(connection)
        if self._workers.get(reads) is connection:
            del self._workers[reads]


class _Connection(RecordStream):
    """The connection of one worker.

    Its first record names the dispatch topic that it reads, and the frame to be delivered when the connection ends.
    """

    def __init__(self, owner: WorkerSocket) -> None:
        super().__init__(Records(MAX_FRAME_BYTES))
        self._owner = owner
        self._reads = ""
        self._sends = ""
        self._will = b""

    def send(self, content: bytes) -> bool:
        """Send a frame; return whether it was sent."""
        if self.unsent_bytes > MAX_UNREAD_BYTES:
            self.abort()
        return super().send(content)

    def on_open(self) -> None:
        self._owner.on_opened(self)

    def on_records(self, records: list[bytes]) -> None:
        frames = records if self._sends else self._introduce(records)
        if frames:
            self._owner.on_frames(self._sends, frames)

    def on_close(self, error: Exception | None) -> None:
        del error
        self._owner.on_lost(self, self._reads)
        if self._sends:
            self._owner.on_frames(self._sends, [self._will])

    def _introduce(self, records: list[bytes]) -> list[bytes]:
        """Read the first record; return the frames that follow it."""
        try:
            topic, will = unpack(records[0])
            reads = topic.decode()
        except ValueError:
            self.abort()
            return []
        sends = self._owner.on_introduced(self, reads)
        if sends is None:
            self.abort()
            return []
        self._reads, self._sends, self._will = reads, sends, will
        return records[1:]
