"""p2pflows with everything on: signed, sealed, journalled with fsync by both daemons, run by a worker process.

It imports whatever release of p2pflows the interpreter has that runs it. The first line that it prints also names the
URL of the embedded broker, for others that are to use the same one.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from program import cases, free_port, measure, say

import p2pflows
from p2pflows.contacts import Contacts
from p2pflows.home import Home
from p2pflows.protocol.channel import read_token

FLOW = """
def echo(text: str) -> str:
    return text
"""
START_S = 30


def main() -> None:
    """Start two daemons, let them meet, and measure calls of one to the other."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        os.environ["P2PFLOWS_BROKER"] = f"embedded:{free_port()}"
        alice, bob = (Home(folder / name) for name in ("alice", "bob"))
        processes = {home.path.name: stack.enter_context(daemon(home)) for home in (alice, bob)}
        broker = prepare(alice, bob, folder)
        name = p2pflows.connect(alice.path).request("status")["broker"]["name"]
        worker = next(pid for pid in children(processes["bob"]) if b"worker" in command_of(pid))
        say(processes={**processes, "worker": worker}, broker=broker, broker_name=name)
        asyncio.run(serve(alice))


async def serve(alice: Home) -> None:
    """Measure case after case."""
    async with p2pflows.connect_async(alice.path) as client:
        lines = iter(cases())
        while (case := await asyncio.to_thread(next, lines, None)) is not None:
            await measure(lambda text: client.call("bob/echo", {"text": text}, timeout=600), *case)


@contextmanager
def daemon(home: Home) -> Iterator[int]:
    """Run a daemon, and yield its process id."""
    home.path.mkdir()
    log = (home.path / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "p2pflowsd"],
        env={**os.environ, "P2PFLOWS_HOME": str(home.path)},
        stdout=log,
        stderr=log,
    )
    try:
        until(lambda: home.socket.exists() and p2pflows.connect(home.path).request("status")["broker"]["connected"])
        yield process.pid
    finally:
        process.terminate()
        process.wait(20)


def prepare(alice: Home, bob: Home, folder: Path) -> str:
    """Make the two contacts of each other, and serve the echo; return the URL of the broker."""
    clients = {home: p2pflows.connect(home.path) for home in (alice, bob)}
    ids = {home: client.request("id")["user_id"] for home, client in clients.items()}
    Contacts(alice.contacts).add("bob", ids[bob])
    Contacts(bob.contacts).add("alice", ids[alice])
    (folder / "echo.py").write_text(FLOW)
    until(lambda: any(point["free"] for point in clients[bob].request("status")["workers"]))
    clients[bob].request("serve", endpoint="echo", kind="python", target=f"{folder}/echo.py:echo", cwd=str(folder))
    return read_token(clients[bob].request("worker_token", dispatch_point="default", local=True)["token"]).broker


def children(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid: int) -> bytes:
    """Return the command line of a process."""
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def until(condition: Callable[[], bool]) -> None:
    """Wait until something holds of a daemon that starts."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            if condition():
                return
        except p2pflows.DaemonNotRunning:
            pass
        time.sleep(0.05)
    sys.exit("The daemons did not start; nothing was measured.")


if __name__ == "__main__":
    main()
