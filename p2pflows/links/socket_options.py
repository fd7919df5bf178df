"""How the system treats what goes through a socket."""

from __future__ import annotations

import contextlib
import socket

_SEND_BUFFER_BYTES = 2**20
"""The largest message with what goes around it. The system may set a lower limit."""


def send_in_one_piece(sock: socket.socket | None) -> None:
    """Let a unix socket take a long message at once.

    By default Linux takes 208 KB, and then writer and reader wake each other for each further piece: a body of 256 KB
    takes five times the CPU time.
    """
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)


def acknowledge_at_once(sock: socket.socket) -> None:
    """Let the system acknowledge at once what comes next through TCP; it forgets that after a while.

    A peer that writes in pieces waits for it: its Nagle algorithm and our delayed ACK cost 40 ms.

    Raises:
        OSError: the socket is closed.
    """
    if hasattr(socket, "TCP_QUICKACK") and sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
