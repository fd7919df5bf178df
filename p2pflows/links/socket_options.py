"""How the system treats what is written to a local socket."""

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
