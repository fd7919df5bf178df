"""The broker that the daemons of one user on this machine run for themselves on loopback.

The daemon that holds the lock runs the broker as its child; the other daemons use it. When that daemon ends, its broker
ends too, and another daemon takes the lock and starts a new one. A broker that outlives its daemon is ended first.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from p2pflows.errors import P2pflowsError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_connection import NoAnswer
from p2pflowsd.processes.broker_child import STOP_TIMEOUT_S, BrokerChild
from p2pflowsd.processes.broker_home import BrokerHome
from p2pflowsd.processes.broker_programs import Program

_LOOK_INTERVAL_S = 1.0
"""How often the owner checks its child, and how often the others try to take the lock."""
_PROBE_INTERVAL_S = 10.0
_SHARED_TIMEOUT_S = 15.0
"""How long to wait for the broker of another daemon to answer."""


class EmbeddedBroker:
    """One daemon's access to the shared broker of a port.

    Use it on the event loop of the main thread: Linux ends the child when the thread that started it ends.

    Args:
        port: the port on which the broker listens, on loopback only.
        directory: the folder for its files; by default one of this user in /var/tmp.
        program: which broker to run; see `broker_programs.prepare`.
        log: gets a line for each start and each fault.

    Attributes:
        owned: whether this daemon runs the broker.
    """

    def __init__(
        self, port: int, *, directory: Path | None = None, program: Program | None = None, log: logging.Logger
    ) -> None:
        self._home = BrokerHome(port, directory)
        self._child = BrokerChild(self._home, program, log)
        self._log = log
        self._busy = asyncio.Lock()
        self._closed = False
        self.owned = False

    @property
    def name(self) -> str:
        """The program that this daemon runs, with its version; "shared" if another daemon runs the broker."""
        return self._child.name if self.owned else "shared"

    async def ensure(self) -> BrokerUrl:
        """Return the address of a broker that answers; start it if no other daemon does.

        Raises:
            UsageError: other users can write to the folder, there is no such program, or another program uses the port.
            P2pflowsError: the broker does not start.
            TimeoutError: the broker of another daemon does not answer.
        """
        async with self._busy:
            return await self._ensure()

    async def ensure_for_workers(self) -> BrokerUrl:
        """Return the address of the broker for workers with a token; start it as `ensure` does.

        Raises:
            UsageError: as `ensure`.
            P2pflowsError: as `ensure`.
            TimeoutError: as `ensure`.
        """
        await self.ensure()
        return self._home.url_for_workers()

    async def watch(self) -> None:
        """Run until cancelled: start the broker again when it ends or hangs, and when its owner has ended."""
        loop = asyncio.get_running_loop()
        probed = loop.time()
        last_error = ""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            async with self._busy:
                try:
                    if self._closed or not self._home.take_lock():
                        continue
                    if self._running and loop.time() - probed > _PROBE_INTERVAL_S:
                        if not await self._answers():
                            self._log.error("the embedded broker does not answer; starting it again")
                            await self._child.stop(grace_s=0)
                        probed = loop.time()
                    if not self._running:
                        await self._ensure()
                        last_error = ""
                except (P2pflowsError, OSError) as error:
                    if last_error != str(error):
                        last_error = str(error)
                        self._log.error("%s %s", last_error, getattr(error, "hint", ""))

    async def close(self) -> None:
        """Stop the broker if it is ours, and let another daemon start one."""
        async with self._busy:
            self._closed = True
            await self._child.stop(grace_s=STOP_TIMEOUT_S)
            self._give_up()

    async def _ensure(self) -> BrokerUrl:
        if self._closed:
            raise ConnectionError("the embedded broker is closed")
        self._home.check()
        deadline = asyncio.get_running_loop().time() + _SHARED_TIMEOUT_S
        while not self._home.take_lock():
            try:
                await self._home.probe()
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"the embedded broker on port {self._home.port} does not answer") from error
                await asyncio.sleep(0.1)
            else:
                return self._home.url()
        if not self._running:
            await self._start()
        return self._home.url()

    async def _start(self) -> None:
        """Start the broker as the holder of the lock; release the lock if that fails."""
        try:
            await self._child.start()
        except BaseException:
            await self._child.stop(grace_s=0)
            self._give_up()
            raise
        self.owned = True
        self._log.info("embedded broker: %s on port %d", self.name, self._home.port)

    async def _answers(self) -> bool:
        """Return whether the broker answers one of two probes; one alone may fail because the machine is busy.

        A broker that closes the connection has as many clients as it takes. It works, and restarting it would not help.
        """
        for _ in range(2):
            try:
                await self._home.probe()
            except (NoAnswer, ConnectionResetError):
                self._log.warning("the embedded broker takes no more connections; see which programs use it")
            except OSError:
                continue
            return True
        return False

    @property
    def _running(self) -> bool:
        return self.owned and self._child.running

    def _give_up(self) -> None:
        self.owned = False
        self._home.release_lock()
