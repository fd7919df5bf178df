# /// script
# dependencies = ["nats-py>=2.9"]
# ///
"""NATS JetStream: the request is kept by the server in a stream on disk until it is acknowledged; the reply is not.

Not signed. The server is a compiled program, and syncs its files every two minutes by default.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile

import nats
from nats.aio.msg import Msg
from nats.js.api import RetentionPolicy
from program import free_port, running, serve


async def main() -> None:
    """Measure requests of this process to a responder in another."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running("nats-server", "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", folder, port=port) as server,
    ):
        client = await nats.connect(url)
        stream = client.jetstream()
        await stream.add_stream(name="requests", subjects=["echo"], retention=RetentionPolicy.WORK_QUEUE)
        with running(sys.executable, __file__, url) as responder:
            numbers = itertools.count()
            waiting: dict[str, asyncio.Future[bytes]] = {}

            async def answered(message: Msg) -> None:
                waiting.pop(message.subject).set_result(message.data)

            await client.subscribe("back.*", cb=answered)

            async def exchange(text: str) -> None:
                back = f"back.{next(numbers)}"
                waiting[back] = reply = asyncio.get_running_loop().create_future()
                await stream.publish("echo", text.encode(), headers={"back": back}, timeout=60)
                assert len(await reply) == len(text)

            await serve(exchange, server=server.pid, responder=responder.pid)


async def respond(url: str) -> None:
    """Echo what comes, then acknowledge it."""
    client = await nats.connect(url)

    async def echo(message: Msg) -> None:
        assert message.headers is not None
        await client.publish(message.headers["back"], message.data)
        await message.ack()

    await client.jetstream().subscribe(
        "echo", durable="responder", cb=echo, manual_ack=True, pending_msgs_limit=100_000
    )
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(respond(sys.argv[1]) if sys.argv[1:] else main())
