"""Unix sockets that only their owner can connect to."""

from __future__ import annotations

import socket
from pathlib import Path

from p2pflows.errors import UsageError


def private_socket(path: Path) -> socket.socket:
    """Bind a socket to a path, in place of one that a dead daemon has left there.

    Raises:
        UsageError: the path is too long for a unix socket, or cannot be written.
    """
    try:
        path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(path))
        path.chmod(0o600)
    except OSError as error:
        raise UsageError(
            f"The socket {path} cannot be made: {error}.", "Use a shorter P2PFLOWS_HOME, on a local disk."
        ) from error
    return bound
