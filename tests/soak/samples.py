"""How the daemons of a soak do over time, seen from outside."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import NamedTuple

from soak.participant import Participant

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Sample(NamedTuple):
    """One daemon at one moment.

    Attributes:
        at: seconds after the beginning.
        backlog: messages and requests that have not ended.
        memory: resident bytes of the daemon; 0 while it does not run.
        descriptors: open files and sockets of the daemon; 0 while it does not run.
        journal: bytes of the journal, without the history that a soak adds.
    """

    at: float
    backlog: int
    memory: int
    descriptors: int
    journal: int


def take(participant: Participant, at: float) -> Sample:
    """Measure a daemon now."""
    memory = descriptors = 0
    daemon = participant.person.daemon
    if daemon is not None:
        folder = Path(f"/proc/{daemon.pid}")
        with contextlib.suppress(OSError, IndexError):
            memory = int((folder / "statm").read_text().split()[1]) * _PAGE_BYTES
            descriptors = len(os.listdir(folder / "fd"))  # noqa: PTH208 - names are enough
    return Sample(at, participant.open_messages(), memory, descriptors, participant.journal_bytes)
