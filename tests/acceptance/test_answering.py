"""`chat --answer` as a process: somebody reads questions and types answers."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import threading
from collections.abc import Iterator

from support.scripted_daemon import ScriptedDaemon, ScriptedInbox, command, prompt

FIRST, SECOND, THIRD = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9", "1197f6a0c3de7b0e9a5d0f0e4f1c0000", "2" * 32


def test_questions_are_answered_as_they_arrive(daemon: ScriptedDaemon) -> None:
    """Each line answers the question shown; the next question of the same conversation precedes older ones."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "One\nor two?", label="User1"), prompt(SECOND, "Other?", name=None))
    with _typing(daemon) as typing:
        typing.reads("bob (User1): One\n             or two?\n")
        daemon.tell("prompt", prompt(THIRD, "And three?", conversation=FIRST, label="User1"))
        typing.types("two\n")
        typing.reads("bob (User1): And three?\n")
        typing.types("\n  three \n")
        typing.reads("b0b0b0b0…: Other?\n")
        typing.types("no\n")
        assert typing.ends() == 0
    assert inbox.taken == [("answer", FIRST, "two"), ("answer", THIRD, "  three "), ("answer", SECOND, "no")]


def test_a_question_may_end_while_it_is_shown(daemon: ScriptedDaemon) -> None:
    """If a shown question is answered elsewhere or withdrawn, the next line answers the next question."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"), prompt(SECOND, "Milk?"))
    with _typing(daemon) as typing:
        typing.reads("bob: Tea?\n")
        daemon.tell("prompt", prompt(FIRST, "Tea?", status="cancelled"))
        typing.reads("bob: Milk?\n")
        typing.types("yes\n")
        assert typing.ends() == 0
    assert inbox.taken == [("answer", SECOND, "yes")]


def test_a_line_without_an_open_question_is_not_sent(daemon: ScriptedDaemon) -> None:
    """A message says that the line was not sent; Ctrl-D ends the command."""
    inbox = ScriptedInbox(daemon)
    with _typing(daemon, terminal=True) as typing:
        typing.reads("Waiting for questions")
        typing.types("hello?\n")
        typing.reads("that line was not sent.")
        daemon.tell("prompt", prompt(FIRST, "Tea?"))
        typing.reads("you (1h left): ")
        typing.types("yes\n")
        typing.types("\x04")
        assert typing.ends() == 0
    assert inbox.taken == [("answer", FIRST, "yes")]


def test_ctrl_c_and_a_lost_daemon_end_it(daemon: ScriptedDaemon) -> None:
    """Neither waits for another line of input."""
    ScriptedInbox(daemon, prompt(FIRST, "Tea?"))
    with _typing(daemon) as typing:
        typing.reads("bob: Tea?\n")
        typing.process.send_signal(2)
        assert typing.process.wait(20) == 130
    with _typing(daemon) as typing:
        typing.reads("bob: Tea?\n")
        daemon.script["answer"] = lambda _: daemon.die()
        typing.types("yes\n")
        assert typing.process.wait(20) == 3


class _Typing:
    """A process of `chat --answer`, with somebody who reads and types."""

    def __init__(self, daemon: ScriptedDaemon, terminal: bool) -> None:
        arguments, environment = command(daemon.home, "chat", "--answer")
        ends: tuple[int | None, int | None] = pty.openpty() if terminal else (None, None)
        self._terminal, self._far = ends
        self.process = subprocess.Popen(
            arguments,
            env={**environment, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.PIPE if self._far is None else self._far,
            stdout=subprocess.PIPE if self._far is None else self._far,
            stderr=subprocess.PIPE if self._far is None else self._far,
        )
        self._seen = ""
        self._guard = threading.Timer(30, self.process.kill)
        self._guard.start()

    def reads(self, text: str) -> None:
        """Wait until a text is shown."""
        while text not in self._seen:
            content = self._read()
            assert content, self._seen
            self._seen += content.decode().replace("\r\n", "\n")
        self._seen = self._seen.partition(text)[2]

    def types(self, text: str) -> None:
        """Type a text."""
        if self._terminal is not None:
            os.write(self._terminal, text.encode())
        else:
            assert self.process.stdin is not None
            self.process.stdin.write(text.encode())
            self.process.stdin.flush()

    def ends(self) -> int:
        """End the input, and return the exit code."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        return self.process.wait()

    def close(self) -> None:
        """Kill the process, and close all streams."""
        self._guard.cancel()
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        for end in (self._terminal, self._far):
            if end is not None:
                os.close(end)

    def _read(self) -> bytes:
        if self._terminal is not None:
            return os.read(self._terminal, 4096)
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 4096)


@contextlib.contextmanager
def _typing(daemon: ScriptedDaemon, *, terminal: bool = False) -> Iterator[_Typing]:
    typing = _Typing(daemon, terminal)
    try:
        yield typing
    finally:
        typing.close()
