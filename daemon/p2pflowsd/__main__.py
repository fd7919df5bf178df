"""`python -m p2pflowsd`: settings, logging, signals, and the lock that keeps one daemon to a home."""

from __future__ import annotations

from p2pflows import terminal

if __name__ == "__main__":
    terminal.begin_quietly()

import asyncio
import contextlib
import fcntl
import gc
import logging
import os
import shlex
import shutil
import signal
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from p2pflows import config, logs, strict_modes
from p2pflows.errors import JournalFailed, P2pflowsError, UsageError
from p2pflows.home import Home, home
from p2pflows.memory import keep_large_buffers
from p2pflows.protocol import identity
from p2pflowsd.app import App
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError, from_system

LOG_FILE = "--log-file"
"""The argument before the path of the file that stdout and stderr are; it is begun anew when it is long."""
ROTATE_EVERY_S = 10.0
TAKE_OVER = "--take-over"
"""The argument with which another daemon of this identity has to end."""
COMPACT = "--compact"
"""The argument with which the journal is written anew first."""
GARBAGE_THRESHOLDS = (5_000, 4, 2_000)
"""For `gc`: a collection stops everything, 5 ms for 30,000 objects that are young and stay, as when much is queued.

One of all objects is rare, as it stops a daemon with 300,000 queued messages for 0.1 s.
"""


def main() -> int:
    """Run the daemon of the home that the environment names; return the exit code."""
    terminal.open_closed_streams()
    keep_large_buffers()
    try:
        where = home()
    except UsageError as error:
        return _print_error(error)
    try:
        strict_modes.check_home(where)
        settings = config.load(where)
        logs.to_stderr(settings.log_level)
        with _lock(where):
            if not where.key.exists():
                identity.create(where.key)
            if COMPACT in sys.argv[1:]:
                _compact(where)
            asyncio.run(_run(where, settings, take_over=TAKE_OVER in sys.argv[1:]))
    except P2pflowsError as error:
        return _print_error(error)
    except OSError as error:
        failing = from_system(error)
        hint = "Check who owns it, or set P2PFLOWS_HOME."
        if failing is not None:
            hint = f"{failing.remedy}. Then run: p2pflows up"
        return _print_error(UsageError(f"The home {where.path} cannot be used: {error}.", hint))
    except Exception as error:  # noqa: BLE001 - nothing above here could report it
        return _print_error(_known_cause(error) or _bug(where, error))
    return 0


def _compact(where: Home) -> None:
    """Write the journal anew, and tell the user what that brings."""
    with contextlib.closing(Journal(where.journal, identity.load(where.key).user_id, NoFaults())) as journal:
        before = where.journal.stat().st_size
        _write(
            sys.stderr, f"Compacting the journal of {before / 1e6:,.1f} MB; this takes a second for some 50 MB ...\n"
        )
        journal.compact()
    _write(sys.stderr, f"The journal has {where.journal.stat().st_size / 1e6:,.1f} MB now.\n")


def _known_cause(error: BaseException) -> P2pflowsError | None:
    """Return the first error with a message for the user, also from inside an exception group."""
    if isinstance(error, JournalError):
        return JournalFailed(f"The journal cannot be written: {error}.", f"{error.remedy}. Then run: p2pflows up")
    if isinstance(error, BaseExceptionGroup):
        return next((known for inner in error.exceptions if (known := _known_cause(inner)) is not None), None)
    return error if isinstance(error, P2pflowsError) else None


def _bug(where: Home, error: Exception) -> P2pflowsError:
    """Return the message for an unexpected error; the traceback goes to a file."""
    report = where.path / "crash.log"
    with contextlib.suppress(OSError):
        report.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return P2pflowsError(
        f"The daemon stopped because of a bug ({type(error).__name__}); nothing accepted is lost.",
        f"Start it again with: p2pflows up. Please report {report}.",
    )


async def _run(where: Home, settings: config.Settings, *, take_over: bool) -> None:
    stopping = asyncio.Event()
    log = logging.getLogger("p2pflowsd")

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            log.warning(terminal.TERMINAL_CLOSED)
        stopping.set()

    for number in terminal.stop_signals():
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    gc.freeze()  # the objects of start-up live as long as the process, so no collection need look at them
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    app = App(where, settings, log, take_over=take_over)
    rotating = asyncio.create_task(_keep_short(Path(log_file))) if (log_file := _value_of(LOG_FILE)) else None
    await app.run(stopping, lambda status: _print_greeting(sys.stdout, status, where))
    if rotating is not None:
        rotating.cancel()
    _write(sys.stderr, "stopped; everything accepted is kept\n")


async def _keep_short(path: Path) -> None:
    """Begin the log file anew whenever it is long."""
    while True:
        await asyncio.sleep(ROTATE_EVERY_S)
        with contextlib.suppress(OSError):  # a full disk, or a file that was moved, is no reason to end
            logs.rotate(path)


def _value_of(option: str) -> str | None:
    words = sys.argv[1:]
    return words[words.index(option) + 1] if option in words[:-1] else None


def _write(stream: TextIO | None, text: str) -> None:
    """Write to a terminal, pipe or file that may have gone; a daemon does not need it."""
    with contextlib.suppress(OSError):
        if stream is not None:
            stream.write(text)
            stream.flush()


def _print_greeting(out: TextIO | None, status: dict[str, Any], where: Home) -> None:
    broker = status["broker"]
    name = "" if broker["name"] == broker["url"] else f"{broker['name']} at "
    state = name + broker["url"] + ("" if broker["connected"] else " (not reached yet, still trying)")
    reason = "" if broker["connected"] or not broker["reason"] else f"\n           {broker['reason']}"
    command = "p2pflows" if shutil.which("p2pflows") else str(Path(sys.executable).with_name("p2pflows"))
    if os.environ.get("P2PFLOWS_HOME"):
        command = f"P2PFLOWS_HOME={shlex.quote(str(where.path))} {command}"
    _write(
        out,
        f"""p2pflows {status["version"]} is running; Ctrl-C stops it.

  user id  {status["user_id"]}
  broker   {state}{reason}
  socket   {where.socket}

Try next, in another terminal:
  {command} call me/User 'Hello, are you there?'
  {command} inbox
  {command} invite --for NAME

""",
    )


@contextlib.contextmanager
def _lock(where: Home) -> Iterator[None]:
    """Hold the lock of the home; the system releases it when the process ends, however that happens."""
    where.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _open_lock(where.lock) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            pid = lock.read().strip() or "unknown"
            raise UsageError(
                f"A daemon already runs on {where.path} (process {pid}).", "See: p2pflows status"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _open_lock(path: Path) -> TextIO:
    """Open the lock file; it is private, so that no other user can hold the lock, and never a link."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)  # an older release made it readable, which is enough to lock it
    return os.fdopen(handle, "a+")


def _print_error(error: P2pflowsError) -> int:
    _write(sys.stderr, f"Error [{error.kind}]: {error.message}\n" + (f"  {error.hint}\n" if error.hint else ""))
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
