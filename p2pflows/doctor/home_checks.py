"""Looks at the machine and the home folder: room, rights, and whether each file can be read."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator

from p2pflows import __version__, config, strict_modes
from p2pflows.contacts import Contacts
from p2pflows.doctor.finding import Finding, fine, from_error, note, problem
from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflows.notifying import state
from p2pflows.protocol import identity

LEAST_ROOM_BYTES = 50_000_000
LITTLE_ROOM_BYTES = 500_000_000
MAX_SOCKET_PATH_BYTES = 107
"""Of Linux; macOS takes 103."""
_MB = 1_000_000


def check_machine() -> Iterator[Finding]:
    """Which releases run here."""
    python = f"Python {platform.python_version()} on {platform.system()}"
    yield fine("versions", f"p2pflows {__version__}, {python}, {sys.executable}")


def check_home(home: Home) -> Iterator[Finding]:
    """Whether the folder can be used, and has room."""
    if not home.path.exists():
        yield note("home", f"There is no folder {home.path} yet.", "Run: p2pflows up")
        return
    try:
        strict_modes.check_home(home)
    except UsageError as error:
        yield from_error("home", error)
    where = shlex.quote(str(home.path))
    disk = os.statvfs(home.path)
    room = disk.f_bavail * disk.f_frsize
    if disk.f_flag & os.ST_RDONLY:
        yield problem("disk", f"{home.path} is on a file system that is mounted read-only.", "Mount it for writing.")
    elif not os.access(home.path, os.R_OK | os.W_OK | os.X_OK):
        yield problem("home", f"You may not write in {home.path}.", f"Run: chmod u+rwx {where}")
    elif room < LEAST_ROOM_BYTES:
        yield problem("disk", f"Only {room // _MB} MB are free at {home.path}.", "Free some disk space.")
    elif room < LITTLE_ROOM_BYTES:
        yield note("disk", f"{room // _MB} MB are free at {home.path}.", "Free some disk space soon.")
    else:
        yield fine("disk", f"{home.path} has {room // _MB:,} MB of room")
    if disk.f_files and disk.f_favail == 0:
        yield problem("disk", f"No more files can be made at {home.path}.", "Remove some files there.")
    if len(os.fsencode(home.worker_socket)) > MAX_SOCKET_PATH_BYTES:
        yield problem("home", f"The path {home.path} is too long for a socket.", "Set P2PFLOWS_HOME to a shorter one.")


def check_files(home: Home) -> Iterator[Finding]:
    """Whether key, settings and contacts can be read."""
    if home.key.exists() or home.key.is_symlink():
        try:
            yield fine("identity", f"user id {identity.load(home.key).user_id}")
        except UsageError as error:
            yield from_error("identity", error)
    elif home.path.exists():
        yield note("identity", "There is no identity yet.", "Run: p2pflows up")
    try:
        settings = config.load(home)
    except UsageError as error:
        yield from_error("settings", error)
    else:
        yield fine("settings", str(home.config) if home.config.exists() else "the defaults")
        yield from _check_keys(settings)
    try:
        book = Contacts(home.contacts).book()
    except UsageError as error:
        yield from_error("contacts", error)
    else:
        yield fine("contacts", f"{len(book.by_user):,} known, {len(book.blocked):,} denied")


def check_notices(home: Home) -> Iterator[Finding]:
    """Whether what tells the user works."""
    for name, why in state.failing(home).items():
        yield problem("notify", f"{name} does not take what it should tell you: {why}.", "Try it: p2pflows notify")


def check_journal(home: Home) -> Iterator[Finding]:
    """Whether the journal is whole; this reads all of it."""
    if not home.journal.exists():
        return
    size = home.journal.stat().st_size
    # Only the daemon's own modules open a journal.
    check = [sys.executable, "-P", "-m", "p2pflowsd.journal", str(home.journal)]
    verdict = subprocess.run(check, capture_output=True, text=True, check=False).stdout.strip() or "it cannot be read"
    if verdict == "ok":
        yield fine("journal", f"whole, {size / _MB:,.1f} MB")
    else:
        backup = f"Put back your copy of it. Move {home.journal} away to start an empty journal."
        yield problem("journal", f"{home.journal} is damaged or no journal: {verdict}.", backup)


def _check_keys(settings: config.Settings) -> Iterator[Finding]:
    """Whether the variables are set that hold the keys of model servers."""
    for worker in settings.workers:
        for info in worker.api_infos:
            if info.api_key_env and not os.environ.get(info.api_key_env):
                text = f"The worker of {worker.dispatch_point!r} needs a key, and {info.api_key_env} is not set here."
                yield note("keys", text, f"Where the daemon starts, run: export {info.api_key_env}=... && p2pflows up")
