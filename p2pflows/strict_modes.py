"""Checks, as ssh's StrictModes does, that no other user of the machine can change what a daemon obeys."""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from p2pflows.errors import UsageError
from p2pflows.home import Home

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def check_home(home: Home) -> None:
    """Check the home folder and its files, as far as they exist.

    Raises:
        UsageError: another user owns one, or can write it, or can read the key; the error has path, mode and command.
    """
    check(home.path)
    for path in (
        home.key,
        home.contacts,
        home.config,
        home.journal,
        home.last_change,
        home.lock,
        home.path / "hooks.yaml",
        home.path / "trusted_sources.yaml",
    ):
        check(path)
    for suffix in ("-wal", "-shm"):
        check(home.journal.with_name(home.journal.name + suffix))


def check(path: Path) -> None:
    """Check one file or folder; one that is missing is right.

    Raises:
        UsageError: as for `check_home`.
    """
    try:
        info = path.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error.strerror}.", "Check who owns it.") from error
    if info.st_uid not in (os.geteuid(), 0):
        raise UsageError(
            f"{path} belongs to another user (uid {info.st_uid}).",
            f"Run: chown {os.geteuid()} {shlex.quote(str(path))}",
        )
    if info.st_mode & _WRITABLE_BY_OTHERS:
        raise UsageError(
            f"{path} can be changed by other users (mode {stat.S_IMODE(info.st_mode):04o}).",
            f"Run: chmod go-w {shlex.quote(str(path))}",
        )
