"""The home folder: one person's files, and where each of them is.

`P2PFLOWS_HOME` moves the whole home (default `~/.p2pflows`). Nothing heavy is imported here: every command
needs this.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Home:
    """One person's folder, and the files in it."""

    path: Path

    @property
    def key(self) -> Path:
        """The secret Ed25519 seed."""
        return self.path / "identity.key"

    @property
    def contacts(self) -> Path:
        """The address book."""
        return self.path / "contacts.yaml"

    @property
    def config(self) -> Path:
        """The settings file."""
        return self.path / "config.yaml"

    @property
    def journal(self) -> Path:
        """The SQLite file."""
        return self.path / "journal.sqlite3"

    @property
    def socket(self) -> Path:
        """The daemon's control socket."""
        return self.path / "daemon.sock"

    @property
    def worker_socket(self) -> Path:
        """Where the daemon takes the frames of workers on this machine."""
        return self.path / "worker.sock"

    @property
    def lock(self) -> Path:
        """Locked while a daemon runs on this home."""
        return self.path / "daemon.lock"


def home() -> Home:
    """The home folder that the environment names; it need not exist."""
    named = os.environ.get("P2PFLOWS_HOME")
    path = Path(named).expanduser() if named else Path.home() / ".p2pflows"
    return Home(path.absolute())
