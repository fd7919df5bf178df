"""A note beside the journal of its last change, by which an older copy of the journal is noticed at the next start."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

FILE_NAME = "last_change"
_MAX_BYTES = 200


class OlderCopy(NamedTuple):
    """A journal that was replaced by an older copy of it.

    Attributes:
        until: when something was last added to the copy, in milliseconds since the Unix epoch; 0 if it is empty.
        changed: when the journal that it has replaced was changed last.
    """

    until: int
    changed: int


class Noted(NamedTuple):
    """What the file says.

    Attributes:
        generation: the generation of the journal.
        without_log: the generation of its database without the log.
        at: when it was written, in milliseconds since the Unix epoch.
    """

    generation: int
    without_log: int
    at: int


class LastChange:
    """The file with the generation that the journal of a user had after its last change.

    It is only written after a commit, so it is never ahead of a journal that is the latest. It promises nothing: if it
    cannot be written, an older copy goes unnoticed here.
    """

    def __init__(self, path: Path, user: str) -> None:
        self._path = path
        self._user = user

    def read(self) -> Noted | None:
        """Return what is noted; None if nothing is, or nothing of this user."""
        try:
            with self._path.open("rb") as file:
                user, generation, without_log = file.read(_MAX_BYTES).decode().split()
                noted = Noted(int(generation), int(without_log), os.fstat(file.fileno()).st_mtime_ns // 1_000_000)
        except (OSError, ValueError):
            return None
        return noted if user == self._user else None

    def write(self, generation: int, without_log: int) -> None:
        """Note a change that was committed; see `Noted`."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            descriptor = os.open(self._path, flags, 0o600)
            try:
                os.write(descriptor, f"{self._user} {generation:010} {without_log:010}\n".encode())
            finally:
                os.close(descriptor)
