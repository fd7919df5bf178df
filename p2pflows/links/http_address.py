"""Where an HTTP server of this user listens, and under which names clients may ask for it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import re
import socket

from p2pflows.errors import UsageError

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
"""The names under which a browser finds a server of its own machine, whatever the name service says."""
_MAX_PORT = 65_535
_HOST = re.compile(r"(\[(?P<address>[^\]]*)\]|(?P<name>[^:\[]*))(:[0-9]*)?")


def read_address(text: str, default: str) -> tuple[str, int]:
    """Return the host and the port in `HOST:PORT`, `[HOST]:PORT` or `PORT`.

    Args:
        text: what a person has written.
        default: an address that has the host for a mere port, and is the example in the error.

    Raises:
        UsageError: it has another form.
    """
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") or default.rpartition(":")[0]
    if not (port.isascii() and port.isdigit() and int(port) <= _MAX_PORT):
        raise UsageError(f"{text!r} is no address to listen at.", f"Write HOST:PORT, such as {default}.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Return whether an address is one that only this machine reaches."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port; empty if it has another form."""
    found = _HOST.fullmatch(header)
    return "" if found is None else (found["address"] or found["name"]).lower()


def in_url(host: str) -> str:
    """Return a host as it stands in a URL."""
    return f"[{host}]" if ":" in host else host


def cannot_listen(host: str, port: int, error: Exception, hint: str) -> UsageError:
    """Return the error for an address at which a server cannot listen."""
    number = error.errno if isinstance(error, OSError) and not isinstance(error, socket.gaierror) else None
    reason = os.strerror(number) if number else str(error)
    return UsageError(f"{in_url(host)}:{port} cannot be used: {reason}.", hint)


class Hangup(asyncio.Protocol):
    """What becomes of a connection beyond the limit."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Close it."""
        transport.close()
