"""What a process owes to the terminal that it was started in: streams that are closed, and the terminal's own end."""

from __future__ import annotations

import os
import signal

TERMINAL_CLOSED = "The terminal was closed (SIGHUP), so this process stops. To go on without one, start it with nohup."


def open_closed_streams() -> None:
    """Open `/dev/null` in place of stdin, stdout and stderr where they are closed.

    Else the next file or socket takes their place, and what is printed goes there. `sys.stdin` stays None.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # it gets the lowest number that is free


def stop_signals() -> list[signal.Signals]:
    """Return the signals that stop a process properly; SIGHUP unless it is ignored, as under nohup."""
    ignores_hangup = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return [signal.SIGINT, signal.SIGTERM, *([] if ignores_hangup else [signal.SIGHUP])]
