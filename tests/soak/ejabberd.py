"""A pair of ejabberd nodes as one cluster, where ejabberd is installed."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from support.processes import free_port

from p2pflows.errors import UsageError
from p2pflows.links.broker_url import BrokerUrl

HOST = "127.0.0.1"
_START_TIMEOUT_S = 60.0
_LIBRARIES = Path("/usr/lib")
"""Where Debian puts the folder of ejabberd's libraries, in one for the processor."""
_CONFIG = """\
hosts: [localhost]
loglevel: warning
auth_method: anonymous
anonymous_protocol: login_anon
allow_multiple_connections: true
listen:
  - {{port: {port}, ip: "{host}", module: mod_mqtt, backlog: 100}}
modules:
  mod_mqtt:
    session_expiry: 1 day
    max_queue: 10000
    access_publish: {{"#": [{{allow: all}}]}}
    access_subscribe: {{"#": [{{allow: all}}]}}
"""


class Cluster:
    """What the nodes of a cluster share: a secret, and the port mapper of Erlang on a port of its own."""

    def __init__(self) -> None:
        found = next(_LIBRARIES.glob("*/ejabberd-*/ebin"), None)
        if found is None or shutil.which("erl") is None or shutil.which("epmd") is None:
            raise UsageError(
                "ejabberd is not installed.", "Install it, or choose --broker mosquitto, iotcore or bridged."
            )
        self.cookie = secrets.token_hex(16)
        self.environment = {
            **os.environ,
            "ERL_LIBS": str(found.parents[1]),
            "ERL_EPMD_PORT": str(free_port()),
            "ERL_EPMD_ADDRESS": HOST,
        }
        self._port_mapper: Process | None = None

    async def start(self) -> None:
        """Start the port mapper, unless it runs."""
        if self._port_mapper is None:
            self._port_mapper = await asyncio.create_subprocess_exec(
                "epmd", env=self.environment, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, start_new_session=True
            )

    async def stop(self) -> None:
        """End the port mapper."""
        if self._port_mapper is not None and self._port_mapper.returncode is None:
            self._port_mapper.kill()
            await self._port_mapper.wait()


class EjabberdNode:
    """One node of a cluster; has the methods of `soak.brokers.Broker`.

    Args:
        name: the name of the node.
        folder: for its files.
        cluster: what it shares with the other node.
        other: the node that it joins at its first start.
    """

    def __init__(self, name: str, folder: Path, cluster: Cluster, other: EjabberdNode | None = None) -> None:
        self.node = f"{name}@localhost"
        self.address = (HOST, free_port())
        self._folder = folder
        self._cluster = cluster
        self._other = other
        self._has_joined = other is None
        self._process: Process | None = None

    def url(self, host: str, port: int) -> str:
        """Return the broker setting of a daemon that reaches it at an address."""
        return BrokerUrl(host, port, username=f"u{port}@localhost", password="any").with_secret()  # noqa: S106

    async def start(self) -> None:
        """Start the node, wait until it listens, and let it join the other one at the first start."""
        await self._cluster.start()
        self._folder.mkdir(exist_ok=True)
        config = self._folder / "ejabberd.yml"
        config.write_text(_CONFIG.format(host=HOST, port=self.address[1]))
        environment = {"EJABBERD_CONFIG_PATH": str(config), "EJABBERD_LOG_PATH": str(self._folder / "ejabberd.log")}
        self._process = await self._erl(
            *(self.node, "-mnesia", "dir", f'"{self._folder}/mnesia"', "-s", "ejabberd"), **environment
        )
        await self._wait_until_it_listens()
        if not self._has_joined and self._other is not None:
            joining = await self._erl(
                *(f"join-{self.node}", "-hidden", "-s", "ejabberd_ctl"),
                *("-extra", self.node, "join_cluster", self._other.node),
            )
            if await joining.wait() != 0:
                raise UsageError("The nodes of ejabberd form no cluster.", f"See {self._folder}/ejabberd.log.")
            await self._wait_until_it_listens()
            self._has_joined = True

    async def kill(self, *, forget: bool = False) -> None:
        """Kill -9 the node; it forgets nothing else than it loses so, or it would leave the cluster."""
        del forget
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def close(self) -> None:
        """End the node, and what the cluster shares."""
        await self.kill()
        await self._cluster.stop()

    async def _erl(self, node: str, *words: str, **environment: str) -> Process:
        arguments = ["-sname", node, "-setcookie", self._cluster.cookie, "-start_epmd", "false", "-noinput", *words]
        with (self._folder / "erl.log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *("erl", *arguments), env={**self._cluster.environment, **environment}, stdin=DEVNULL, stdout=log,
                stderr=log, start_new_session=True,
            )  # fmt: skip

    async def _wait_until_it_listens(self) -> None:
        async with asyncio.timeout(_START_TIMEOUT_S):
            while True:
                try:
                    _, writer = await asyncio.open_connection(*self.address)
                except OSError:
                    await asyncio.sleep(0.1)
                else:
                    writer.close()
                    return


def pair(folder: Path) -> list[EjabberdNode]:
    """Return two nodes in the order in which they must be started.

    Raises:
        UsageError: ejabberd is not installed.
    """
    cluster = Cluster()
    first = EjabberdNode("one", folder / "ejabberd-1", cluster)
    return [first, EjabberdNode("two", folder / "ejabberd-2", cluster, first)]
