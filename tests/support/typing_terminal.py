"""A command on a pseudo terminal, with somebody who reads what is shown and types."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Iterator, Sequence

_CONTROLS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07|[\r\x00-\x08\x0b-\x1f]")
"""What moves the cursor and colours text; only the text is compared."""
WAIT_S = 20.0


class TypingTerminal:
    """A process on a pseudo terminal of its own.

    Args:
        arguments: the command.
        environment: its environment.
        columns: how wide the terminal is.
    """

    def __init__(self, arguments: Sequence[str], environment: dict[str, str], columns: int = 80) -> None:
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            arguments,
            env={**environment, "NO_COLOR": "1", "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self._seen = ""

    def reads(self, *texts: str) -> None:
        """Wait until some texts are shown, in any order, after what was waited for before."""
        deadline = time.monotonic() + WAIT_S
        while any(text not in self._seen for text in texts):
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise AssertionError(f"not all of {texts!r} are in {self._seen!r}")
        self._seen = self._seen[max(self._seen.index(text) + len(text) for text in texts) :]

    def has_shown(self, text: str) -> bool:
        """Return whether a text was shown after what was waited for, as far as it has arrived."""
        while self._read(0):
            pass
        return text in self._seen

    def types(self, text: str) -> None:
        """Press keys; a carriage return is Enter."""
        os.write(self._ours, text.encode())

    def pastes(self, text: str) -> None:
        """Paste a text, as a terminal does that brackets what is pasted."""
        self.types(f"\x1b[200~{text}\x1b[201~")

    def ends(self) -> int:
        """Press Ctrl-D, and return the exit code."""
        self.types("\x04")
        return self.waits()

    def waits(self) -> int:
        """Wait for the end of the process; return its exit code."""
        deadline = time.monotonic() + WAIT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        return self.process.wait(0.1)

    def close(self) -> None:
        """Kill the process, and close the terminal."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._ours], [], [], seconds)[0]:
            return False
        try:
            content = os.read(self._ours, 65_536)
        except OSError:  # the process has closed its end
            return False
        self._seen += _CONTROLS.sub("", content.decode(errors="replace"))
        return bool(content)


@contextlib.contextmanager
def typing(arguments: Sequence[str], environment: dict[str, str], columns: int = 80) -> Iterator[TypingTerminal]:
    """Run a command on a pseudo terminal, until the end of the block."""
    terminal = TypingTerminal(arguments, environment, columns)
    try:
        yield terminal
    finally:
        terminal.close()
