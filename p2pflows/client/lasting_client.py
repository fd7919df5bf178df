"""A client of the daemon for programs that run longer than the daemon does."""

from __future__ import annotations

import asyncio
import os

from p2pflows.client.async_client import AsyncClient


class LastingClient:
    """One connection to the daemon of a home, made when it is needed, and anew after the daemon has been away.

    Args:
        home: the home folder of the daemon.
    """

    def __init__(self, home: os.PathLike[str]) -> None:
        self._home = home
        self._client: AsyncClient | None = None
        self._connecting = asyncio.Lock()

    async def get(self) -> AsyncClient:
        """Return a client that is connected.

        Raises:
            DaemonNotRunning: no daemon runs.
        """
        async with self._connecting:
            if self._client is None or self._client.is_closed:
                client = AsyncClient(self._home)
                await client.open()
                self._client = client
            return self._client

    async def close(self) -> None:
        """Close the connection, if there is one."""
        if self._client is not None:
            await self._client.close()
