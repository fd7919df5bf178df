"""Run a program that Linux ends together with its owner: `python tied_child.py OWNER_PID PROGRAM ARGUMENT...`."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Ask for a signal at the death of the parent, which stays in force across exec, and execute the program."""
    owner, program = int(sys.argv[1]), sys.argv[2:]
    # Not SIGKILL: mosquitto saves its sessions at SIGTERM.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() == owner:  # otherwise the owner has ended before we asked
        os.execv(program[0], program)  # noqa: S606 - no shell on purpose


if __name__ == "__main__":
    main()
