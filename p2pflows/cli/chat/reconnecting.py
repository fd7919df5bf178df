"""Wait until a daemon that went away is back."""

from __future__ import annotations

import asyncio

import p2pflows
from p2pflows.errors import DaemonNotRunning

INTERVAL_S = 0.3


async def reconnect(old: p2pflows.AsyncClient) -> p2pflows.AsyncClient:
    """Close a client that has lost its daemon, and return one that is connected again, however long it takes."""
    await old.close()
    while True:
        new = p2pflows.connect_async()
        try:
            await new.open()
            await new.request("id")  # a daemon that is about to end takes connections, but answers nothing
        except DaemonNotRunning:
            await asyncio.sleep(INTERVAL_S)
        else:
            return new
