"""The frame proxy passes MQTT frames on, and disturbs them as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest
from soak.frame_proxy import Disturbance, FrameFaults, FrameProxy, is_counted_publish, read_frame

PING = b"\xc0\x00"


def publish(number: int, *, qos: int = 1, size: int = 0) -> bytes:
    """A frame that begins like a PUBLISH and holds a number."""
    content = number.to_bytes(4) + bytes(size)
    length, digits = len(content), bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (0x80 if length else 0))
        if not length:
            return bytes([0x30 | qos << 1]) + bytes(digits) + content


def disturbed(faults: FrameFaults, *frames: bytes) -> list[bytes]:
    """What comes out when frames pass one direction."""
    disturbance = Disturbance(lambda: faults, Random(1))  # noqa: S311 - no secret
    return [out for frame in frames for out in disturbance.pass_on(frame)] + disturbance.release()


def test_a_repeated_publish_has_dup() -> None:
    """A frame is repeated with the bit DUP, and only a PUBLISH that is acknowledged."""
    first, once = publish(1), publish(2, qos=0)
    assert disturbed(FrameFaults(repeat=1.0), PING, first, once) == [PING, first, b"\x3a" + first[1:], once]


def test_a_dropped_publish() -> None:
    """Only acknowledged PUBLISH frames are dropped, so the connection itself goes on."""
    assert disturbed(FrameFaults(drop=1.0), PING, publish(1), publish(2, qos=0)) == [PING, publish(2, qos=0)]


def test_a_publish_is_overtaken_by_one_frame() -> None:
    """A frame that is held back comes after the next one, or alone if none comes."""
    first, second, third = publish(1), publish(2), publish(3)
    assert disturbed(FrameFaults(reorder=1.0), first, second, third) == [second, first, third]


@pytest.fixture
async def broker() -> AsyncIterator[tuple[str, int]]:
    """A server that sends every frame back."""
    connections: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        while data := await reader.read(100_000):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()
    server.close()
    for connection in connections:
        connection.close()


@pytest.fixture
async def proxy(broker: tuple[str, int]) -> AsyncIterator[FrameProxy]:
    """A proxy in front of that server."""
    proxy = FrameProxy(broker, Random(1))  # noqa: S311 - no secret
    yield proxy
    await proxy.close()


async def connect(proxy: FrameProxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection through the proxy."""
    return await asyncio.open_connection("127.0.0.1", await proxy.start())


async def test_frames_of_any_size_pass(proxy: FrameProxy) -> None:
    """Frames pass in order and unchanged, whatever their length, also with a delay."""
    proxy.faults = FrameFaults(delay_s=0.02)
    reader, writer = await connect(proxy)
    sent = [publish(number, size=size) for number, size in enumerate((0, 123, 124, 16_380, 16_384, 300_000))]
    writer.write(b"".join(sent))
    assert [await read_frame(reader) for _ in sent] == sent
    assert all(is_counted_publish(frame) for frame in sent)
    writer.close()


async def test_a_cut_in_the_middle_of_a_frame(proxy: FrameProxy) -> None:
    """The next frame is cut in two, and the connection is closed."""
    reader, writer = await connect(proxy)
    writer.write(publish(1))
    assert await read_frame(reader) == publish(1)
    proxy.cut_next_frame()
    writer.write(publish(2))
    assert await reader.read() == b""
    writer.close()


async def test_a_half_open_connection(proxy: FrameProxy) -> None:
    """Nothing passes and nothing is closed, until the proxy goes on with what has come."""
    reader, writer = await connect(proxy)
    writer.write(publish(1))
    assert await read_frame(reader) == publish(1)
    proxy.stop_forwarding()
    writer.write(publish(2))
    reading = asyncio.create_task(read_frame(reader))
    done, _ = await asyncio.wait([reading], timeout=0.1)
    assert not done
    proxy.go_on()
    assert await asyncio.wait_for(reading, 5) == publish(2)
    writer.close()


async def test_a_stream_that_is_no_mqtt(proxy: FrameProxy) -> None:
    """A length of more than four bytes ends the connection."""
    reader, writer = await connect(proxy)
    writer.write(b"\x30\xff\xff\xff\xff\x01")
    assert await reader.read() == b""
    writer.close()


async def test_disconnected(proxy: FrameProxy) -> None:
    """A disconnected client can connect again."""
    reader, writer = await connect(proxy)
    writer.write(PING)
    assert await read_frame(reader) == PING
    proxy.disconnect()
    assert await reader.read() == b""
    writer.close()
