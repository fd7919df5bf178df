"""Runs a shell command: JSON on its stdin, the reply on its stdout; it is killed at its deadline."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from p2pflows.errors import Cancelled, DeadlinePassed, FlowFailed, UsageError
from p2pflows.foreign_text import escape
from p2pflows.protocol.message import MAX_BODY_BYTES

VARIABLES = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("VIRTUAL_ENV", "P2PFLOWS_HOME"),
    }
)
"""The environment variables that commands get, beside LC_* and those about their message."""
_MAX_ERROR_TAIL_CHARS = 500
_CHUNK_BYTES = 65_536
MAX_STDERR_LINES = 100
MAX_STDERR_BYTES = 64_000
"""How much of what one run writes to stderr goes to the stderr of the worker."""
_LEFT_BEHIND_TIMEOUT_S = 0.5
"""How long to read, after the command has ended, what a child that it left behind writes."""
_SYNTAX_CHECK_TIMEOUT_S = 5
_SHELL_MARKS = frozenset("$`\\\"'(){}[]*?~!<>|&;=#")
"""Only the shell can interpret a first word that holds one of these."""


@dataclass(frozen=True, slots=True)
class Command:
    """A shell command, the folder it runs in, and how much of its stderr callers see: `none`, `last-line`, `all`."""

    command: str
    cwd: str
    errors: str = "last-line"

    def check(self) -> None:
        """Check that the command could run, without running it.

        Raises:
            UsageError: the folder or the program is missing, or the shell cannot parse the command.
        """
        if not Path(self.cwd).is_dir():
            raise UsageError(f"The folder {self.cwd} does not exist.", "Serve the command from its folder.")
        parsed = _sh(["-n", "-c", self.command], self.cwd)
        if parsed.returncode:
            reason = parsed.stderr.strip().splitlines()[-1] if parsed.stderr.strip() else "syntax error"
            raise UsageError(f"The shell cannot parse {self.command!r}: {reason}.", "Mend the command.")
        word = _first_word(self.command)
        if "/" in word:
            program = Path(self.cwd, word)
            if not program.is_file():
                raise UsageError(f"There is no program {word} in {self.cwd}.", "Check the path.")
            if not os.access(program, os.X_OK):
                raise UsageError(f"{word} is not executable.", f"Run: chmod +x {program}")
        elif word and _sh(["-c", 'command -v "$1"', "sh", word], self.cwd).returncode:
            raise UsageError(f"There is no program {word!r} on the PATH.", f"Install it, or write ./{word}.")


class ShellRun:
    """One run of a command."""

    def __init__(self, command: Command, env: Mapping[str, str]) -> None:
        self._command = command
        self._env = env
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def stop(self) -> None:
        """Kill the command and the children in its process group; callable from any thread, at any time."""
        with self._lock:
            self._stopped = True
            # poll reaps: unless it returns None, the number of the group may belong to other processes by now.
            if self._process is not None and self._process.poll() is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def reply(self, data: bytes, seconds: float) -> dict[str, Any]:
        """Run the command to its end.

        Args:
            data: what it reads from stdin.
            seconds: the time until it is killed.

        Returns:
            The data of the reply.

        Raises:
            FlowFailed: it could not start, or its exit code is not 0.
            DeadlinePassed: its time was up.
            FlowFailed: it wrote more than a reply may hold.
            Cancelled: it was stopped.
        """
        deadline = time.monotonic() + seconds
        process = self._start()
        try:
            output, errors = self._exchange(process, data + b"\n", deadline)
            code = process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise DeadlinePassed("The command was killed at its deadline.") from None
        finally:
            with self._lock:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            for pipe in _pipes(process):
                pipe.close()
        if self._stopped:
            raise Cancelled("The command was killed because it was cancelled.")
        if code:
            raise FlowFailed(_describe_exit(code, errors, self._command.errors))
        return parse(output)

    def _start(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise Cancelled("The command was cancelled before it started.")
            try:
                self._process = subprocess.Popen(
                    ["/bin/sh", "-c", self._command.command],
                    cwd=self._command.cwd,
                    env={**environment(), **self._env},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    bufsize=0,
                    start_new_session=True,
                )
            except OSError as error:
                raise FlowFailed(f"The command could not start: {error.strerror}: {error.filename}.") from error
            return self._process

    def _exchange(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Write stdin, and read stdout and stderr until all are closed.

        Returns:
            What stdout was, and the end of stderr.
        """
        stdin, stdout, stderr = _pipes(process)
        output, errors = bytearray(), ErrorOutput()
        unwritten = memoryview(data)
        os.set_blocking(stdin.fileno(), False)
        with contextlib.closing(errors), selectors.DefaultSelector() as selector:
            selector.register(stdin, selectors.EVENT_WRITE)
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                ready = selector.select(min(left, _LEFT_BEHIND_TIMEOUT_S))
                if not ready and process.poll() is not None:
                    break
                for key, _ in ready:
                    if key.fileobj is stdin:
                        unwritten = _write(stdin, unwritten)
                        if not unwritten:
                            selector.unregister(stdin)
                            stdin.close()
                        continue
                    chunk = os.read(key.fd, _CHUNK_BYTES)
                    if not chunk:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is stderr:
                        errors.write(chunk)
                    else:
                        output += chunk
                        if len(output) > MAX_BODY_BYTES:
                            raise FlowFailed(
                                f"The answer is too large: the command wrote more than {MAX_BODY_BYTES:,} bytes to "
                                "its stdout.",
                                "Its author can let it answer with less, or with a reference.",
                            )
        return bytes(output), errors.tail


class ErrorOutput:
    """What a command writes to stderr: its lines go to ours, with their controls visible, up to a limit.

    Attributes:
        tail: the last bytes, for the error.
    """

    def __init__(self) -> None:
        self.tail = b""
        self._rest = b""
        self._lines = 0
        self._bytes = 0
        self._dropped = 0

    def write(self, chunk: bytes) -> None:
        """Take the next bytes."""
        self.tail = (self.tail + chunk)[-4 * _MAX_ERROR_TAIL_CHARS :]
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        for line in lines:
            self._show(line)
        if len(self._rest) > MAX_STDERR_BYTES:  # a line without an end
            self._show(self._rest, end=0)
            self._rest = b""

    def close(self) -> None:
        """Show the last line, and say how much was dropped."""
        if self._rest:
            self._show(self._rest, end=0)
        if self._dropped:
            _to_stderr(f"… the command wrote {self._dropped} more bytes to stderr.")

    def _show(self, line: bytes, end: int = 1) -> None:
        room = MAX_STDERR_BYTES - self._bytes
        if self._lines >= MAX_STDERR_LINES or room <= 0:
            self._dropped += len(line) + end
            return
        self._lines += 1
        self._bytes += len(line) + end
        self._dropped += max(0, len(line) - room)
        _to_stderr(escape(line[:room].decode(errors="replace").expandtabs(4)))


def _to_stderr(line: str) -> None:
    with contextlib.suppress(OSError):  # nobody may read it any more
        os.write(2, line.encode() + b"\n")


def parse(output: bytes) -> dict[str, Any]:
    """The reply's data in the output of a command: a JSON object, other JSON as `result`, all else as `text`."""
    try:
        value = json.loads(output, parse_constant=_not_json)
        json.dumps(value, allow_nan=False)  # 1e999 parses, as an infinity
    except (ValueError, RecursionError):
        return {"text": output.decode(errors="replace").removesuffix("\n")}
    return value if isinstance(value, dict) else {"result": value}


def _not_json(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _write(stdin: IO[bytes], data: memoryview) -> memoryview:
    """Write a chunk, and return what is left; nothing if the command has closed its stdin."""
    try:
        return data[os.write(stdin.fileno(), data[:_CHUNK_BYTES]) :]
    except BlockingIOError:
        return data
    except BrokenPipeError:
        return data[:0]


def environment() -> dict[str, str]:
    """The variables of ours that a command gets: none that may hold a password or a key."""
    return {name: value for name, value in os.environ.items() if name in VARIABLES or name.startswith("LC_")}


def _describe_exit(code: int, errors: bytes, shown: str) -> str:
    end = f"exit code {code}" if code > 0 else f"ended by {signal.Signals(-code).name}"
    tail = errors.decode(errors="replace").strip()[-_MAX_ERROR_TAIL_CHARS:]
    if shown != "all":
        tail = tail.splitlines()[-1] if tail and shown == "last-line" else ""
    return f"{end}: {tail}" if tail else end


def _first_word(command: str) -> str:
    """The word that names the program; empty if only the shell can tell."""
    try:
        words = shlex.split(command, posix=False)
    except ValueError:
        return ""
    return words[0] if words and not _SHELL_MARKS & set(words[0]) else ""


def _sh(arguments: list[str], cwd: str) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["/bin/sh", *arguments],
            cwd=cwd,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SYNTAX_CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"The shell could not check the command: {error}.", "Try again.") from error


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None or process.stderr is None:
        raise AssertionError("all three are pipes")
    return process.stdin, process.stdout, process.stderr
