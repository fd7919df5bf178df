"""The folder, address and password of the broker that the daemons of one user share."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from p2pflows import files
from p2pflows.errors import UsageError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_probe import probe

HOST = "127.0.0.1"
USER = "local"
"""The broker's user for workers with a token, whose password stays: it is in the tokens."""
DAEMON = "daemon"
"""The broker's user for daemons, with a new password at each start of the broker."""
MAX_SOCKET_PATH = 100
"""Bytes of the longest path that every system takes for a unix socket, rounded down."""
_PROBE_TIMEOUT_S = 3.0
_LISTENING = "0A"
_LOOPBACK = {
    "/proc/net/tcp": {"0100007F", "00000000"},
    "/proc/net/tcp6": {"0" * 32, "0000000000000000FFFF00000100007F"},
}
"""Where Linux lists sockets, and the addresses at which one receives connections to 127.0.0.1."""


class BrokerHome:
    """Where a user's embedded broker keeps its files, and how daemons reach it.

    Args:
        port: the port on which the broker listens.
        folder: the folder for its files; by default one of this user in /var/tmp.
    """

    def __init__(self, port: int, folder: Path | None = None) -> None:
        mine = Path(f"/var/tmp/p2pflows-{os.geteuid()}")  # noqa: S108 - `check` refuses it if others can write there
        self._folders = [folder.absolute()] if folder else [mine, mine / f"broker-{port}"]
        self._lock: int | None = None
        self.port = port
        self.folder = self._folders[-1]
        self.log = self.folder / "broker.log"
        self.pid_file = self.folder / "broker.pid"
        socket = self.folder / "broker.sock"
        self.socket = socket if len(os.fsencode(socket)) <= MAX_SOCKET_PATH else None
        """Where the broker listens for daemons, if it can: in a folder that is this user's alone."""

    def check(self) -> None:
        """Create the folder, and check that no other user can write to it.

        Raises:
            UsageError: another user could put files there.
        """
        for folder in self._folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
                raise UsageError(
                    f"The folder {folder} of the embedded broker is not yours alone.",
                    "Other users could put files there. Have it removed; it is then created again.",
                )

    def take_lock(self) -> bool:
        """Lock the broker for this daemon, unless another daemon holds the lock; return whether we hold it.

        The system releases the lock when the process ends. Child processes do not inherit it.
        """
        if self._lock is None:
            handle = os.open(self.folder / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._lock = handle
        return True

    def release_lock(self) -> None:
        """Let another daemon take the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def renew_password(self) -> str:
        """Make a new password for the daemons here, for a broker that starts, and return it."""
        password = secrets.token_urlsafe(24)
        files.replace(self.folder / "daemon-password", password)
        return password

    def password(self) -> str:
        """Return the password for workers with a token; the first daemon creates it."""
        path = self.folder / "password"
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                files.create(path, secrets.token_urlsafe(24))
        return path.read_text(encoding="ascii").strip()

    def url(self) -> BrokerUrl:
        """Return the address of the broker for daemons of this user: its socket, if it has one."""
        try:
            user, password = DAEMON, (self.folder / "daemon-password").read_text(encoding="ascii").strip()
        except FileNotFoundError:  # a daemon of an earlier release runs the broker
            user, password = USER, self.password()
        socket = str(self.socket) if self.socket is not None and self.socket.is_socket() else None
        return BrokerUrl(HOST, self.port, username=user, password=password, socket=socket)

    def url_for_workers(self) -> BrokerUrl:
        """Return the address of the broker for workers with a token, and other programs."""
        return BrokerUrl(HOST, self.port, username=USER, password=self.password())

    async def probe(self) -> None:
        """Check that the broker answers.

        Raises:
            UsageError: the port belongs to another user, who must not get our password.
            OSError: it does not answer, or refuses us.
        """
        if self.url().socket is None:
            self._check_listener()
        await probe(self.url(), _PROBE_TIMEOUT_S)

    def _check_listener(self) -> None:
        """Check that what listens on our port is ours; Linux alone tells."""
        for user in _listeners(self.port):
            if user != os.geteuid():
                raise UsageError(
                    f"Another user of this machine (uid {user}) listens on port {self.port}, where the embedded broker"
                    " should be.",
                    "Choose a free port: `broker: embedded:PORT` in config.yaml, or P2PFLOWS_BROKER.",
                )

    def last_log_line(self) -> str:
        """Return the last line that the broker program wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it wrote nothing")


def _listeners(port: int) -> Iterator[int]:
    """The uids whose processes listen on a port of loopback (proc(5), /proc/net/tcp)."""
    for table, addresses in _LOOPBACK.items():
        try:
            lines = Path(table).read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            address, _, number = fields[1].rpartition(":")
            if fields[3] == _LISTENING and int(number, 16) == port and address in addresses:
                yield int(fields[7])
