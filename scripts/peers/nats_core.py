# /// script
# dependencies = ["nats-py>=2.9"]
# ///
"""NATS: a request and its reply over one server, in memory; neither signed nor kept."""

from __future__ import annotations

import asyncio
import sys

import nats
from nats.aio.msg import Msg
from program import free_port, running, serve


async def main() -> None:
    """Measure requests of this process to a responder in another."""
    port = free_port()
    url = f"nats://127.0.0.1:{port}"
    with (
        running("nats-server", "-a", "127.0.0.1", "-p", str(port), port=port) as server,
        running(sys.executable, __file__, url) as responder,
    ):
        client = await nats.connect(url)

        async def exchange(text: str) -> None:
            reply = await client.request("echo", text.encode(), timeout=60)
            assert len(reply.data) == len(text)

        await serve(exchange, server=server.pid, responder=responder.pid)


async def respond(url: str) -> None:
    """Echo what comes."""
    client = await nats.connect(url)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe("echo", cb=echo)
    await client.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(respond(sys.argv[1]) if sys.argv[1:] else main())
