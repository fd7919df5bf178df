"""The real brokers of a soak."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from soak import ejabberd
from support.network import MOSQUITTO
from support.processes import free_port

from p2pflows.errors import UsageError
from p2pflows.links.broker_url import BrokerUrl
from p2pflowsd.processes import broker_programs
from p2pflowsd.processes.broker_home import HOST, USER, BrokerHome
from p2pflowsd.processes.broker_programs import Program

KINDS = ("mosquitto", "iotcore", "bridged", "ejabberd")
_START_TIMEOUT_S = 15.0
_BRIDGE = """
connection other
address {host}:{port}
topic p2pflows/# both 1
remote_username {user}
remote_password {password}
bridge_protocol_version mqttv50
cleansession false
notifications false
restart_timeout 1
"""


class Broker(Protocol):
    """One broker process on a port of loopback."""

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""

    def url(self, host: str, port: int) -> str:
        """Return the broker setting of a daemon that reaches it at an address."""

    async def start(self) -> None:
        """Start the process, and wait until it listens."""

    async def kill(self, *, forget: bool = False) -> None:
        """Kill -9 the process; with `forget`, it loses all that it had stored."""

    async def close(self) -> None:
        """End everything that belongs to it."""


class DaemonsBroker:
    """A broker that daemons can run themselves, with the config that they write.

    Args:
        program: which program runs.
        folder: for its files.
        other: a broker that is running already, to which this one keeps a bridge.
    """

    def __init__(self, program: Program, folder: Path, other: DaemonsBroker | None = None) -> None:
        self._program = program
        self._home = BrokerHome(free_port(), folder)
        self._other = other
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return HOST, self._home.port

    @property
    def password(self) -> str:
        """The password of its user."""
        return self._home.password()

    def url(self, host: str, port: int) -> str:
        """Return the broker setting of a daemon that reaches it at an address."""
        return BrokerUrl(host, port, username=USER, password=self.password).with_secret()

    async def start(self) -> None:
        """Start the process, and wait until it listens."""
        self._home.check()
        command = broker_programs.prepare(self._home, self._program)
        if self._other is not None:
            with (self._home.folder / "mosquitto.conf").open("a") as config:
                host, port = self._other.address
                config.write(_BRIDGE.format(host=host, port=port, user=USER, password=self._other.password))
        with self._home.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *command.arguments,
                stdin=asyncio.subprocess.PIPE,  # iotcore ends when it is closed
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal must not reach it
            )
        async with asyncio.timeout(_START_TIMEOUT_S):
            while not await self._listens():
                if self._process.returncode is not None:
                    if broker_programs.set_aside_unreadable_messages(self._home):
                        await self.start()
                        return
                    raise UsageError(f"The broker {command.name} does not start.", self._home.last_log_line())
                await asyncio.sleep(0.05)

    async def kill(self, *, forget: bool = False) -> None:
        """Kill -9 the process; with `forget`, it loses all that it had stored."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        if forget:
            for database in self._home.folder.glob("*.db*"):
                database.unlink()

    async def close(self) -> None:
        """End the process."""
        await self.kill()

    async def _listens(self) -> bool:
        try:
            _, writer = await asyncio.open_connection(*self.address)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


def make(kind: str, folder: Path) -> Sequence[Broker]:
    """Return the brokers of a kind in the order in which they must be started; daemons are spread over them.

    Raises:
        UsageError: this kind is not on this machine.
    """
    if kind == "ejabberd":
        return ejabberd.pair(folder)
    if kind != "iotcore" and MOSQUITTO is None:
        raise UsageError("mosquitto is not installed.", "Install it, or choose --broker iotcore.")
    program: Program = "iotcore" if kind == "iotcore" else "mosquitto"
    first = DaemonsBroker(program, folder / "broker")
    return [first, DaemonsBroker(program, folder / "broker-2", first)] if kind == "bridged" else [first]
