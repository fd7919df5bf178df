"""Become a program that Linux ends when its owner is gone: `python tied_child.py OWNER_PID PROGRAM ARGUMENT...`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for the signal, which outlives exec, and turn into the program."""
    owner, program = int(sys.argv[1]), sys.argv[2:]
    # Not SIGKILL: mosquitto stores its sessions when it is asked to end.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == owner:  # else it went before we asked
        os.execv(program[0], program)  # noqa: S606 - no shell on purpose


if __name__ == "__main__":
    main()
