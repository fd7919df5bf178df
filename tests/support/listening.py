"""Servers of tests that leave no socket open when they stop."""

from __future__ import annotations

import asyncio

_PASSES = 5
"""Of the event loop, more than it takes to accept or to close a connection."""


async def let_connections_settle() -> None:
    """Let the event loop finish what it has begun with its connections."""
    for _ in range(_PASSES):
        await asyncio.sleep(0)


async def stop_listening(server: asyncio.Server) -> None:
    """Close a server, after what it has just accepted has become a connection: asyncio would leave its socket open."""
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    await let_connections_settle()
    server.close()
