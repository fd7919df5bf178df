"""Runs the console blocks of a page as a person would: several terminals, real commands, and the output compared.

The convention, as the pages explain it to their readers:
- A block tagged `console` is typed into terminals. `alice$ ls` is typed into Alice's; each terminal is one shell, which
  keeps its folder and variables from block to block. `> ` goes on with the command of the line before.
- Below a command stands what it prints, all of it. `...` in a line is any text, and alone in a line any lines.
- Output before the first prompt of a block is what the command that still waits in that terminal prints at last.
- Hex words of 8, 32 or 64 digits, and lines of invitations, are examples: the first time they stand for what is there,
  then for the same.
- A block of another kind whose first or second line is a comment with nothing but a file name is that file.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

TIMEOUT_S = 30.0
"""Seconds that any one command may take."""
_START = 20.0
"""Seconds until a command in the background has printed what the page shows."""

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_PROMPT = re.compile(r"^([a-z]+)\$(?: (.*))?$")
_FILE = re.compile(r"^(?:#|//) ([\w.-]+\.\w+)$")
_EXAMPLE = re.compile(r"\b(?:[0-9a-f]{64}|[0-9a-f]{32}|[0-9a-f]{8}|p2pf1[0-9a-z]{50,})\b")
_ENDED = re.compile(rb"\x1e(\d+)\n")
_OF_THE_SHELL = re.compile(r"^bash: line \d+: +\d+ \w+")
"""How a shell that no person uses tells of a job that was killed; a person's says it in another way."""
_LOOP = r"""
set -m
while IFS= read -r -d "" -u 9 line; do (exit "${code:-0}"); eval "$line"; code=$?; printf '\036%d\n' "$code"; done
"""


@dataclass(slots=True)
class File:
    """A file that the page shows."""

    name: str
    content: str


@dataclass(slots=True)
class Command:
    """Input to a terminal and its output; `waits` if the page goes on before the command ends."""

    terminal: str
    text: str
    shown: list[str]
    waits: bool = False


@dataclass(slots=True)
class Result:
    """The last output of a command that waited."""

    terminal: str
    shown: list[str]


Step = File | Command | Result


def read(page: str) -> list[Step]:
    """The steps of a page, in order."""
    steps: list[Step] = []
    for language, body in _FENCE.findall(page):
        if language == "console":
            _read_console(body.splitlines(), steps)
        else:
            named = [found[1] for line in body.splitlines()[:2] if (found := _FILE.match(line))]
            steps += [File(name, body) for name in named[:1]]
    return steps


def _read_console(lines: list[str], steps: list[Step]) -> None:
    before: list[str] = []
    current: Command | None = None
    for line in lines:
        prompt = _PROMPT.match(line)
        if prompt:
            if before:
                _find_waiting(prompt[1], steps).waits = True
                steps.append(Result(prompt[1], before))
                before = []
            current = Command(prompt[1], prompt[2] or "", [])
            if current.text:
                steps.append(current)
        elif current is None:
            before.append(line)
        elif line.startswith("> ") and not current.shown:
            current.text += "\n" + line[2:]
        else:
            current.shown.append(line)
    if before:
        raise AssertionError(f"no prompt says whose output this is: {before}")


def _find_waiting(terminal: str, steps: list[Step]) -> Command:
    return next(step for step in reversed(steps) if isinstance(step, Command) and step.terminal == terminal)


class PageRunner:
    """Runs the steps of one page in one folder.

    Args:
        folder: the folder in which everything happens.
        environment: the environment of the terminals.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = environment
        self._terminals: dict[str, Terminal] = {}
        self._waiting: dict[str, Command] = {}
        self._examples: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in self._terminals.values():
            terminal.stop()
        for terminal in self._terminals.values():
            terminal.close()

    def run_step(self, step: Step) -> None:
        """Run one step; an AssertionError shows the output beside what the page shows."""
        match step:
            case File(name, content):
                (self._folder / name).write_text(content, encoding="utf-8")
            case Command():
                self._type(step)
            case Result(terminal, shown):
                waited = self._waiting.pop(terminal)
                self._compare(waited, waited.shown + shown, self._terminals[terminal].result(TIMEOUT_S))

    def _type(self, command: Command) -> None:
        terminal = self._terminals.get(command.terminal)
        if terminal is None:
            terminal = self._terminals[command.terminal] = Terminal(self._folder, self._environment)
        text = _EXAMPLE.sub(lambda found: self._examples.get(found[0], found[0]), command.text)
        terminal.type(text)
        if command.waits:
            self._waiting[command.terminal] = command
            time.sleep(0.3)  # as long as it takes to turn to another terminal
            return
        printed = terminal.result(TIMEOUT_S)
        until = time.monotonic() + _START
        while not self._matches(command.shown, printed) and time.monotonic() < until:
            if command.text.endswith("&"):
                time.sleep(0.05)
                printed += terminal.more()
            elif self._waiting:
                time.sleep(0.5)  # what another terminal has begun may not be here yet: look again
                terminal.type(text)
                printed = terminal.result(TIMEOUT_S)
            else:
                break
        self._compare(command, command.shown, printed)

    def _compare(self, command: Command, shown: list[str], printed: str) -> None:
        assert self._matches(shown, printed), (
            f"{command.terminal}$ {command.text}\n--- the page shows\n" + "\n".join(shown) + f"\n--- printed\n{printed}"
        )

    def _matches(self, shown: list[str], printed: str) -> bool:
        """Whether the output is what the page shows; if so, its example ids stand for the real ones."""
        names: list[str] = []

        def pattern(text: str) -> str:
            parts, end = [], 0
            for found in _EXAMPLE.finditer(text):
                parts.append(re.escape(text[end : found.start()]))
                end = found.end()
                known = self._examples.get(found[0])
                if known is None and found[0] not in names:
                    names.append(found[0])
                    is_line = found[0].startswith("p2pf1")
                    parts.append("(p2pf1[0-9a-z]+)" if is_line else f"([0-9a-f]{{{len(found[0])}}})")
                else:
                    parts.append(known or f"\\{names.index(found[0]) + 1}")
            return "".join([*parts, re.escape(text[end:])])

        lines = []
        for line in shown:
            if line.strip() == "...":
                lines.append(r"(?:.*\n)*?")
            else:
                lines.append(".*?".join(map(pattern, _squeezed(line).split("..."))) + r"\n")
        wanted = "".join(lines)
        told = [line for line in printed.splitlines() if not _OF_THE_SHELL.match(line)]
        found = re.fullmatch(wanted, "".join(_squeezed(line) + "\n" for line in told))
        if found:
            for name, value in zip(names, found.groups(), strict=True):
                self._examples |= {name: value, name[-8:]: value[-8:]}  # ids go by their last eight digits, too
        return found is not None


def _squeezed(line: str) -> str:
    """A line with the padding of its columns removed."""
    return re.sub(r" +", " ", line).strip()


class Terminal:
    """One shell that runs commands."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        reader, self._keys = os.pipe()
        # The shell's own stdin is nothing, as a command may read it; what is typed comes on descriptor 9.
        self._shell = subprocess.Popen(
            ["bash", "-c", f"exec 9<&{reader} {reader}<&-\n{_LOOP}"],
            cwd=folder,
            env=dict(environment),
            pass_fds=[reader],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        os.close(reader)
        self._printed = b""
        self._news = threading.Condition()
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()

    def type(self, text: str) -> None:
        """Start a command."""
        os.write(self._keys, text.encode() + b"\0")

    def result(self, timeout: float) -> str:
        """Wait for the end of the command; returns its output."""
        with self._news:
            ended = self._news.wait_for(lambda: _ENDED.search(self._printed), timeout)
            found = _ENDED.search(self._printed)
            assert ended, f"it did not end within {timeout:g} s:\n{self._printed.decode(errors='replace')}"
            assert found is not None
            printed, self._printed = self._printed[: found.start()], self._printed[found.end() :]
        return printed.decode(errors="replace")

    def more(self) -> str:
        """The output since then, of commands in the background."""
        with self._news:
            printed, self._printed = self._printed, b""
        return printed.decode(errors="replace")

    def stop(self) -> None:
        """Ask all processes of this shell to end."""
        self.type("kill -- $(jobs -p) 2>/dev/null; wait")

    def close(self) -> None:
        """End the shell, and kill what does not end."""
        os.close(self._keys)
        try:
            self._shell.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            for group in _groups(self._shell.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, signal.SIGKILL)
            self._shell.wait()
        self._reading.join(TIMEOUT_S)
        if self._shell.stdout:
            self._shell.stdout.close()

    def _read(self) -> None:
        assert self._shell.stdout is not None
        while chunk := os.read(self._shell.stdout.fileno(), 65_536):
            with self._news:
                self._printed += chunk
                self._news.notify_all()


def _groups(session: int) -> set[int]:
    """The process groups of a session."""
    found = {session}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            group, its_session = stat.read_text().rpartition(")")[2].split()[2:4]
            if int(its_session) == session:
                found.add(int(group))
    return found
