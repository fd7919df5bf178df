"""A line on the terminal that says what a command waits for, once that takes more than a second."""

from __future__ import annotations

import contextlib
import shutil
import sys
import threading
import time
from collections.abc import Iterator

from p2pflows.cli.printing.output import in_one_unit, truncate
from p2pflows.foreign_text import escape

QUIET_S = 1.0
"""How long a command waits before it says so."""


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show on stderr, if that is a terminal, what the block waits for and for how long; nothing else may print there.

    Args:
        what: a sentence without its full stop, such as `Waiting for bob/User`.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_show, args=(escape(what), ended), name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _show(what: str, ended: threading.Event) -> None:
    begun, is_shown = time.monotonic(), False
    # A terminal that has gone is no reason to stop waiting.
    with contextlib.suppress(OSError):
        while not ended.wait(QUIET_S):
            line = f"{what} … {in_one_unit(time.monotonic() - begun)}"
            sys.stderr.write(f"\r{truncate(line, shutil.get_terminal_size().columns - 1)}\x1b[K")
            sys.stderr.flush()
            is_shown = True
        if is_shown:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
