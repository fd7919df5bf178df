"""Local users for tests and notebooks: daemons with new homes in a temporary folder, and a broker of their own.

For example:

    with start_local(2) as (alice, bob):
        print(alice.call("bob/User", {"text": "Hello?"}))
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self, overload

from p2pflows import contacts, yaml_file
from p2pflows.client import Client
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.home import Home
from p2pflows.protocol import identity

NAMES = ("alice", "bob", "carol", "dave", "eve", "frank", "grace", "heidi")
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 15.0


class LocalUser(Client):
    """The client of one local user, who has a daemon and a home of their own.

    Args:
        name: the petname that the other local users have for this user.
        home: the home folder.
    """

    def __init__(self, name: str, home: Path) -> None:
        super().__init__(home)
        self.name = name
        self.home = home


class LocalUsers(Sequence[LocalUser]):
    """The clients of local users, whose daemons run until `close`, the end of the `with` block, or of the program."""

    def __init__(self, num_users: int, workers: int) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="p2pflows-"))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._users: list[LocalUser] = []
        atexit.register(self.close)
        try:
            self._start(num_users, workers)
        except BaseException:
            self.close()
            raise

    @overload
    def __getitem__(self, index: int) -> LocalUser: ...
    @overload
    def __getitem__(self, index: slice) -> list[LocalUser]: ...
    def __getitem__(self, index: int | slice) -> LocalUser | list[LocalUser]:
        return self._users[index]

    def __len__(self) -> int:
        return len(self._users)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def restart(self, user: LocalUser) -> None:
        """Kill a user's daemon, start it again, and wait until it is connected.

        Raises:
            UsageError: the daemon does not start.
        """
        number = self._users.index(user)
        self._processes[number].kill()
        self._processes[number].wait()
        self._processes[number] = _daemon(Home(user.home))
        _wait_for(user, self._processes[number])

    def close(self) -> None:
        """Stop the daemons and remove their homes."""
        atexit.unregister(self.close)
        for user in self._users:
            user.close()
        for process in self._processes:
            process.send_signal(signal.SIGINT)
        for process in self._processes:
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self, num_users: int, workers: int) -> None:
        port = _free_port()
        books = []
        for name in NAMES[:num_users]:
            home = Home(self._folder / name)
            home.path.mkdir(mode=0o700)
            identity.create(home.key)
            books.append((name, home, identity.load(home.key).user_id))
            yaml_file.write(home.config, {"broker": f"embedded:{port}", "workers": [{}] * workers})
        for _, home, user in books:
            book = contacts.Contacts(home.contacts)
            for name, _, other in books:
                if other != user:
                    book.add(name, other)
        for name, home, _ in books:
            self._processes.append(_daemon(home))
            self._users.append(LocalUser(name, home.path))
        for client, process in zip(self._users, self._processes, strict=True):
            _wait_for(client, process)


def start_local(num_users: int = 1, *, workers: int = 0) -> LocalUsers:
    """Start the daemons of local users, who are contacts of each other and named alice, bob, carol, ...

    Args:
        num_users: the number of users, 1 to 8.
        workers: the number of worker processes of each user; with 0, run workers as threads of this program.

    Returns:
        The clients of the users.

    Raises:
        UsageError: the number is wrong, or a daemon does not start.
    """
    if not 1 <= num_users <= len(NAMES):
        raise UsageError(f"Cannot start {num_users} local users.", f"Start 1 to {len(NAMES)}.")
    return LocalUsers(num_users, workers)


def _daemon(home: Home) -> subprocess.Popen[bytes]:
    with (home.path / "daemon.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "p2pflowsd"],
            env={
                **{name: value for name, value in os.environ.items() if name != "P2PFLOWS_BROKER"},
                "P2PFLOWS_HOME": str(home.path),
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_for(user: LocalUser, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        with contextlib.suppress(P2pflowsError):
            if user.request("status")["broker"]["connected"]:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            lines = (user.home / "daemon.log").read_text(errors="replace").strip().splitlines()
            raise UsageError(f"The daemon of {user.name} did not start: {lines[-1] if lines else 'its log is empty'}")
        time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return int(trial.getsockname()[1])
