"""A TCP proxy between a daemon and its broker that understands the frames of MQTT 5 and disturbs them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

_PUBLISH = 0x30
_TYPE_BITS = 0xF0
_DUP_BIT = 0x08
_QOS_BITS = 0x06
_MAX_LENGTH_BYTES = 4
_MAX_HELD_BACK_S = 0.3
"""How long a frame that another one is to overtake waits for it."""
_QUEUED_FRAMES = 1_000


@dataclass(frozen=True, slots=True)
class FrameFaults:
    """What a proxy does to frames; all probabilities are per PUBLISH with QoS 1.

    Attributes:
        delay_s: every frame is late by up to so many seconds; their order stays.
        repeat: probability that a frame comes twice, the second time with DUP.
        reorder: probability that the next frame overtakes it.
        drop: probability that it is lost. A TCP stream does not lose frames, but a hostile broker may.
    """

    delay_s: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    drop: float = 0.0


async def read_frame(reader: asyncio.StreamReader) -> bytes:
    """Return the next whole frame of MQTT (section 2.1 of the specification).

    Raises:
        EOFError: the stream has ended.
        ValueError: the length of the frame is no variable byte integer.
    """
    frame = bytearray(await reader.readexactly(1))
    length, shift = 0, 0
    for _ in range(_MAX_LENGTH_BYTES):
        frame += await reader.readexactly(1)
        length |= (frame[-1] & 0x7F) << shift
        shift += 7
        if frame[-1] < 0x80:
            return bytes(frame + await reader.readexactly(length))
    raise ValueError("a frame whose length has more than four bytes")


def is_counted_publish(frame: bytes) -> bool:
    """Return whether a frame is a PUBLISH that wants an acknowledgement."""
    return frame[0] & _TYPE_BITS == _PUBLISH and bool(frame[0] & _QOS_BITS)


class Disturbance:
    """Decides what becomes of the frames of one direction of one connection; does no I/O.

    Args:
        faults: returns what to do at this moment.
        random: decides.
    """

    def __init__(self, faults: Callable[[], FrameFaults], random: Random) -> None:
        self._faults = faults
        self._random = random
        self._held: bytes | None = None

    def pass_on(self, frame: bytes) -> list[bytes]:
        """Return the frames to pass on now that this one has come."""
        faults, chance = self._faults(), self._random.random
        frames = [frame]
        if is_counted_publish(frame):
            if chance() < faults.drop:
                return []
            if chance() < faults.repeat:
                frames.append(bytes([frame[0] | _DUP_BIT]) + frame[1:])
            if self._held is None and chance() < faults.reorder:
                self._held = frames.pop(0)
                return frames
        return frames + self.release()

    def release(self) -> list[bytes]:
        """Return the frame that was held back, if there is one."""
        held, self._held = self._held, None
        return [] if held is None else [held]


class FrameProxy:
    """Forwards the connections of one daemon to its broker, and disturbs them.

    Args:
        broker: address and port of the broker.
        random: decides which frames are disturbed, and how.

    Attributes:
        faults: what is done to frames at this moment.
    """

    def __init__(self, broker: tuple[str, int], random: Random) -> None:
        self.faults = FrameFaults()
        self._broker = broker
        self._random = random
        self._flows = asyncio.Event()
        self._flows.set()
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, host: str = "127.0.0.1") -> int:
        """Listen on a free port of an address, and return the port."""
        self._server = await asyncio.start_server(self._serve, host, 0)
        return int(self._server.sockets[0].getsockname()[1])

    def stop_forwarding(self) -> None:
        """Forward nothing more without closing a connection: a half-open connection, or a partition."""
        self._flows.clear()

    def go_on(self) -> None:
        """Forward again, beginning with what has come in the meantime."""
        self._flows.set()

    def disconnect(self) -> None:
        """Close all connections between two frames."""
        for connection in list(self._connections):
            connection.close()

    def cut_next_frame(self) -> None:
        """Close each connection in the middle of the next frame that passes."""
        for connection in self._connections:
            connection.is_cut = True

    async def close(self) -> None:
        """Close all connections, and listen no more."""
        self.disconnect()
        if self._server is not None:
            self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._flows.wait()
        try:
            from_broker, to_broker = await asyncio.open_connection(*self._broker)
        except OSError:
            writer.close()
            return
        connection = _Connection([writer, to_broker])
        self._connections.add(connection)
        pumps = [
            asyncio.create_task(self._pump(connection, source, target))
            for source, target in ((reader, to_broker), (from_broker, writer))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            connection.close()
            self._connections.discard(connection)

    async def _pump(self, connection: _Connection, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        """Forward the frames of one direction until it ends."""
        loop = asyncio.get_running_loop()
        disturbance = Disturbance(lambda: self.faults, self._random)
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED_FRAMES)
        writing = asyncio.create_task(self._write(connection, queue, target))
        reading: asyncio.Task[bytes] | None = None
        last_due = 0.0
        try:
            while True:
                reading = reading or asyncio.create_task(read_frame(source))
                done, _ = await asyncio.wait(
                    [reading, writing], timeout=_MAX_HELD_BACK_S, return_when=asyncio.FIRST_COMPLETED
                )
                if writing in done:
                    return
                if reading in done:
                    frames, reading = disturbance.pass_on(reading.result()), None
                else:
                    frames = disturbance.release()
                for frame in frames:
                    last_due = max(last_due, loop.time() + self._random.random() * self.faults.delay_s)
                    await queue.put((last_due, frame))
        except (EOFError, OSError, ValueError):
            pass
        finally:
            writing.cancel()
            if reading is not None:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)

    async def _write(
        self, connection: _Connection, queue: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter
    ) -> None:
        """Write frames when they are due; return when the connection is lost or cut."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError):
            while True:
                due, frame = await queue.get()
                if due > loop.time():
                    await asyncio.sleep(due - loop.time())
                await self._flows.wait()
                if connection.is_cut:
                    target.write(frame[: max(1, len(frame) // 2)])
                    await target.drain()
                    return
                target.write(frame)
                await target.drain()


class _Connection:
    """The two sockets of one forwarded connection."""

    def __init__(self, writers: list[asyncio.StreamWriter]) -> None:
        self.is_cut = False
        self._writers = writers

    def close(self) -> None:
        """Close both sockets; the pumps then end."""
        for writer in self._writers:
            writer.close()
