"""`chat --answer` as a process: somebody reads questions and types answers."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
from collections.abc import Iterator

from support.processes import wait_until
from support.scripted_daemon import ScriptedDaemon, ScriptedInbox, command, prompt
from support.typing_terminal import typing

FIRST, SECOND, THIRD = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9", "1197f6a0c3de7b0e9a5d0f0e4f1c0000", "2" * 32


def test_questions_are_answered_as_they_arrive(daemon: ScriptedDaemon) -> None:
    """Each line answers the question shown; the next question of the same conversation precedes older ones."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "One\nor two?", label="User1"), prompt(SECOND, "Other?", name=None))
    with _typing(daemon) as typed:
        typed.reads("bob (User1): One\n             or two?\n")
        daemon.tell("prompt", prompt(THIRD, "And three?", conversation=FIRST, label="User1"))
        typed.types("two\n")
        typed.reads("bob (User1): And three?\n")
        typed.types("\n  three \n")
        typed.reads("b0b0b0b0…: Other?\n")
        typed.types("no\n")
        assert typed.ends() == 0
    assert inbox.taken == [("answer", FIRST, "two"), ("answer", THIRD, "  three "), ("answer", SECOND, "no")]


def test_a_question_may_end_while_it_is_shown(daemon: ScriptedDaemon) -> None:
    """If a shown question is answered elsewhere or withdrawn, the next line answers the next question."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"), prompt(SECOND, "Milk?"))
    with _typing(daemon) as typed:
        typed.reads("bob: Tea?\n")
        daemon.tell("prompt", prompt(FIRST, "Tea?", status="cancelled"))
        typed.reads("bob: Milk?\n")
        typed.types("yes\n")
        assert typed.ends() == 0
    assert inbox.taken == [("answer", SECOND, "yes")]


def test_a_line_without_an_open_question_is_not_sent(daemon: ScriptedDaemon) -> None:
    """A message says that the line was not sent; Ctrl-D ends the command."""
    inbox = ScriptedInbox(daemon)
    with typing(*command(daemon.home, "chat", "--answer")) as terminal:
        terminal.reads("Waiting for questions")
        terminal.types("hello?\r")
        terminal.reads("Not sent, because no question is open: hello?")
        wait_until(lambda: "watch" in dict(daemon.asked))
        daemon.tell("prompt", prompt(FIRST, "Tea?"))
        terminal.reads("bob: Tea?")
        terminal.types("yes\r")
        terminal.reads("you: yes")
        assert terminal.ends() == 0
    assert inbox.taken == [("answer", FIRST, "yes")]


def test_no_answer_goes_to_a_later_question(daemon: ScriptedDaemon) -> None:
    """What is typed under a question that expires is discarded."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"), prompt(SECOND, "Delete PRODUCTION?"))
    with typing(*command(daemon.home, "chat", "--answer")) as terminal:
        terminal.reads("bob: Tea?")
        terminal.types("ye")
        terminal.reads("ye")
        daemon.tell("prompt", prompt(FIRST, "Tea?", status="expired"))
        terminal.reads("This question is already expired.")
        terminal.reads("Discarded, because the question is over: ye")
        terminal.reads("bob: Delete PRODUCTION?")
        terminal.types("\rno\r")  # the first Enter ends the pause in which no keys are taken
        terminal.reads("you: no")
        assert terminal.ends() == 0
    assert inbox.taken == [("answer", SECOND, "no")]


def test_what_is_pasted_without_brackets_answers_one_question(daemon: ScriptedDaemon) -> None:
    """A second line that comes with the first answers no question that was not shown yet."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"), prompt(SECOND, "Delete PRODUCTION?"))
    with typing(*command(daemon.home, "chat", "--answer")) as terminal:
        terminal.reads("bob: Tea?")
        terminal.types("yes\rcertainly\rabso")
        terminal.reads(
            "Not sent, because it was typed before the next question was shown: certainly",
            "Delete PRODUCTION?",
            "Discarded, because it was typed before the next question was shown: abso",
        )
        assert terminal.ends() == 0
    assert inbox.taken == [("answer", FIRST, "yes")]


def test_ctrl_c_and_a_lost_daemon_end_it(daemon: ScriptedDaemon) -> None:
    """Neither waits for another line of input."""
    ScriptedInbox(daemon, prompt(FIRST, "Tea?"))
    with _typing(daemon) as typed:
        typed.reads("bob: Tea?\n")
        typed.process.send_signal(2)
        assert typed.process.wait(20) == 130
    with _typing(daemon) as typed:
        typed.reads("bob: Tea?\n")
        daemon.script["answer"] = lambda _: daemon.die()
        typed.types("yes\n")
        assert typed.process.wait(20) == 3


class _Typing:
    """A process of `chat --answer`, with somebody who reads and types."""

    def __init__(self, daemon: ScriptedDaemon) -> None:
        arguments, environment = command(daemon.home, "chat", "--answer")
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            arguments,
            env={**environment, "NO_COLOR": "1", "PYTHONUNBUFFERED": "1"},
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
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

    def _read(self) -> bytes:
        assert self.process.stdout is not None
        return os.read(self.process.stdout.fileno(), 4096)


@contextlib.contextmanager
def _typing(daemon: ScriptedDaemon) -> Iterator[_Typing]:
    typed = _Typing(daemon)
    try:
        yield typed
    finally:
        typed.close()
