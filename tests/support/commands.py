"""Commands of the command line, run as real processes, and their results."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The exit code and the output of a command that has ended.

    Attributes:
        code: its exit code.
        out: its stdout.
        err: its stderr.
        seconds: how long it ran.
    """

    code: int
    out: str
    err: str
    seconds: float = 0.0

    def __repr__(self) -> str:
        return f"exit code {self.code}\n--- stdout\n{self.out}\n--- stderr\n{self.err}"

    @property
    def document(self) -> Any:
        """Its stdout as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """Its stdout as JSON Lines."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """Its stderr as the one JSON object of an error."""
        assert self.err.count("\n") == 1, self.err
        error: dict[str, Any] = json.loads(self.err)
        assert set(error) == {"code", "message", "hint"}, error
        return error

    def ok(self) -> CommandResult:
        """Check that the command succeeded; returns itself."""
        assert self.code == 0, repr(self)
        return self


class Command:
    """A `p2pflows` command that runs in the background.

    Args:
        words: its arguments.
        environment: its whole environment.
        folder: its current folder.
        piped: whether `wait` writes its stdin; otherwise it has none.
    """

    def __init__(self, words: Sequence[str], environment: dict[str, str], folder: Path, *, piped: bool) -> None:
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p2pflows", *words],
            env=environment,
            cwd=folder,
            text=True,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait(self, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT_S) -> CommandResult:
        """Wait for the end of the command, and check that it has shown no traceback.

        Args:
            stdin: what the command reads, if it is piped.
            timeout: after so many seconds the command is killed, and the test fails.
        """
        try:
            out, err = self.process.communicate(stdin, timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"{self.process.args!r} did not end\n{out}\n{err}") from None
        assert "Traceback" not in out + err, out + err
        return CommandResult(self.process.returncode, out, err, time.monotonic() - self._started)
