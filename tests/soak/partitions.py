"""Network namespaces: each daemon behind a link of its own, which a partition takes down."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess


class NamespaceFailed(Exception):
    """A network namespace cannot be made here; the text says why."""


class Namespace:
    """A network namespace whose only link leads to this machine.

    Args:
        number: makes names and addresses differ; below 250.

    Raises:
        NamespaceFailed: it cannot be made here.
    """

    def __init__(self, number: int) -> None:
        self._name = f"p2pf-{os.getpid()}-{number}"
        self.link = f"pf{os.getpid() % 1_000_000}-{number}"
        """The name of its link on this machine."""
        network = f"10.{100 + os.getpid() % 100}.{number}"
        self.host = f"{network}.1"
        """The address of this machine, as the namespace sees it."""
        self.prefix = ["ip", "netns", "exec", self._name]
        """What to put before a command that is to run in the namespace."""
        if os.geteuid() != 0 or shutil.which("ip") is None:
            raise NamespaceFailed("network namespaces need root and the command ip")
        try:
            _ip("netns", "add", self._name)
            _ip("link", "add", self.link, "type", "veth", "peer", "name", "eth0", "netns", self._name)
            _ip("addr", "add", f"{self.host}/24", "dev", self.link)
            _ip("link", "set", self.link, "up")
            _ip("-n", self._name, "addr", "add", f"{network}.2/24", "dev", "eth0")
            _ip("-n", self._name, "link", "set", "eth0", "up")
            _ip("-n", self._name, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            self.close()
            raise NamespaceFailed(error.stderr.strip() or "ip netns does not work here") from None

    async def is_connected(self) -> bool:
        """Return whether a program in the namespace reaches a port of this machine."""
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), self.host, 0)
        port = server.sockets[0].getsockname()[1]
        attempt = f"exec 3<>/dev/tcp/{self.host}/{port}"
        process = await asyncio.create_subprocess_exec(*self.prefix, "timeout", "3", "bash", "-c", attempt)
        code = await process.wait()
        server.close()
        return code == 0

    def cut(self) -> None:
        """Take the link down: packets are lost, and nobody is told."""
        _ip("link", "set", self.link, "down")

    def heal(self) -> None:
        """Take the link up again."""
        _ip("link", "set", self.link, "up")

    def close(self) -> None:
        """Remove namespace and link."""
        for words in (("link", "del", self.link), ("netns", "del", self._name)):
            subprocess.run(["ip", *words], capture_output=True, check=False)


async def make(count: int) -> list[Namespace]:
    """Return so many namespaces whose programs reach this machine.

    Raises:
        NamespaceFailed: that is not possible here.
    """
    made: list[Namespace] = []
    reason = "a network namespace cannot reach this machine"
    try:
        made.extend(Namespace(number) for number in range(count))
        if all([await namespace.is_connected() for namespace in made]):
            return made
    except NamespaceFailed as error:
        reason = str(error)
    for namespace in made:
        namespace.close()
    raise NamespaceFailed(reason)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, text=True, check=True)
