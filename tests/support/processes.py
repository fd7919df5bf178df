"""Processes on this machine: find them, kill them, and wait for what they do."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import itertools
import os
import random
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PORTS = 100
"""How many ports a process of the tests has for itself."""


def command_line_of(pid: int) -> str:
    """The command line of a process; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that still run."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The command in parentheses may hold any character; the fields behind it have fixed places.
            state, parent = stat.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == pid and state != "Z":
                found.append(int(stat.parent.name))
    return found


def kill_process(pid: int) -> None:
    """Kill -9 a process, if it still runs."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def free_port() -> int:
    """A TCP port on which nobody listens, below the ports that Linux gives to outgoing connections.

    It is one of those of this process: what was free a moment ago is not what other tests on this machine are about
    to use.
    """
    for port in itertools.islice(_own_ports(), _PORTS):
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port
    raise AssertionError("all ports of this process are in use")


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process, again and again; a lock that ends with the process keeps them from others."""
    folder = Path(tempfile.gettempdir(), f"p2pflows-ports-{os.geteuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    while True:
        first = random.randrange(20_000, 32_000, _PORTS)  # noqa: S311 - no secret
        lock = os.open(folder / str(first), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
        else:
            return itertools.cycle(range(first, first + _PORTS))


def wait_until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Poll until a condition holds; fail after some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        time.sleep(0.02)
