"""A daemon without a terminal: started in the background, found by its lock, and ended."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from p2pflows.client import Client
from p2pflows.errors import DaemonNotRunning, P2pflowsError, UsageError
from p2pflows.home import Home

START_S = 30.0
STOP_S = 30.0
LAST_LINES = 5
"""How many lines of the log the error shows, when a daemon does not start."""
_POLL_S = 0.05


def log_file(home: Home) -> Path:
    """Return where a daemon without a terminal writes what it has to say."""
    return home.path / "daemon.log"


def lock_holder(home: Home) -> int | None:
    """Return the process that holds the lock of a home, 0 if it does not say which; None if nobody does."""
    try:
        with home.lock.open("r") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                text = file.read().strip()
                return int(text) if text.isdigit() else 0
    except OSError:
        return None
    return None


def start(home: Home, *words: str) -> int:
    """Start a daemon that outlives this process and its terminal; return its process id once it answers.

    Args:
        home: its home folder.
        words: more arguments of the daemon.

    Raises:
        UsageError: it does not start, or one runs already.
    """
    running = lock_holder(home)
    if running is not None:
        raise UsageError(f"A daemon already runs on {home.path} (process {running}).", "See: p2pflows status")
    path = log_file(home)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab") as log:
        begin = log.tell()
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p2pflowsd", "--log-file", str(path), *words],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "P2PFLOWS_HOME": str(home.path)},
            cwd=home.path,
        )
    end = time.monotonic() + START_S
    while time.monotonic() < end and process.poll() is None:
        if _answers(home):
            return process.pid
        time.sleep(_POLL_S)
    said = path.read_bytes()[begin:].decode(errors="replace").strip().splitlines()[-LAST_LINES:]
    raise UsageError(
        f"The daemon did not start: {' '.join(line.strip() for line in said) or 'it said nothing'}",
        f"See {path}, or run it here: p2pflows up",
    )


def stop(home: Home) -> int | None:
    """End the daemon of a home, and return the process that it was; None if there is none.

    Raises:
        P2pflowsError: it does not end.
    """
    pid = lock_holder(home)
    if pid is None:
        return None
    if pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + STOP_S
    while time.monotonic() < end:
        if lock_holder(home) is None:
            return pid
        time.sleep(_POLL_S)
    raise P2pflowsError(f"Process {pid} does not end.", f"Look at what it says; if it hangs: kill -9 {pid}")


def _answers(home: Home) -> bool:
    try:
        with Client(home.path, timeout=START_S) as client:
            client.request("id")
    except DaemonNotRunning:
        return False
    return True
