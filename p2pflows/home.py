"""The home folder, which holds all files of one user: `~/.p2pflows`, or the folder that `P2PFLOWS_HOME` names.

Every command imports this module, so it imports only the standard library and errors.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from p2pflows.errors import UsageError


@dataclass(frozen=True, slots=True)
class Home:
    """The paths in a home folder; the files need not exist."""

    path: Path

    @property
    def key(self) -> Path:
        """The secret key."""
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
        """The journal, a SQLite file."""
        return self.path / "journal.sqlite3"

    @property
    def last_change(self) -> Path:
        """What the daemon notes about the last change of the journal."""
        return self.path / "last_change"

    @property
    def socket(self) -> Path:
        """The daemon's control socket."""
        return self.path / "daemon.sock"

    @property
    def worker_socket(self) -> Path:
        """The daemon's socket for workers on this machine."""
        return self.path / "worker.sock"

    @property
    def files(self) -> Path:
        """The folder of the files that travel beside messages."""
        return self.path / "files"

    @property
    def openai_key(self) -> Path:
        """The key that clients of the OpenAI-compatible server need."""
        return self.path / "openai.key"

    @property
    def notifying(self) -> Path:
        """What the process that notifies the user says of itself."""
        return self.path / "notifying.json"

    @property
    def uploads(self) -> Path:
        """The folder of files on their way from a browser to the daemon."""
        return self.path / "uploads"

    @property
    def lock(self) -> Path:
        """The lock file that a running daemon holds."""
        return self.path / "daemon.lock"


def home() -> Home:
    """Return the home folder that the environment selects; it need not exist.

    Raises:
        UsageError: there is none, as in a container without HOME.
    """
    configured = os.environ.get("P2PFLOWS_HOME")
    if configured:
        return Home(expand_user(configured).absolute())
    try:
        return Home((Path.home() / ".p2pflows").absolute())
    except RuntimeError as error:
        raise UsageError(
            "There is no home folder: HOME is not set, and the system knows none for this user.",
            "Name a folder for the files of p2pflows, for example: export P2PFLOWS_HOME=/var/lib/p2pflows",
        ) from error


def expand_user(path: str) -> Path:
    """Return a path that a person typed, with the home of the user in place of `~` or `~NAME`.

    Raises:
        UsageError: that user has none.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UsageError(f"There is no home folder for {path!r}.", "Write the whole path.") from error
