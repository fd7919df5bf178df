"""`chat --answer`: show the questions that others ask, one at a time; each line typed answers the one shown."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable
from typing import Any

import click

import p2pflows
from p2pflows.cli.input.arguments import decode, stdin_is_piped
from p2pflows.cli.printing.output import say, say_error, stdout_is_terminal, time_left
from p2pflows.cli.printing.speech import asker, print_speech
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.foreign_text import escape
from p2pflows.terminal import run_interruptible

_QUIT, _SKIP, _DECLINE = "/quit", "/skip", "/decline"

Event = dict[str, Any] | bytes | P2pflowsError
"""A new or changed prompt, a line of input (empty at its end), or the error that ends the stream of prompts."""


def answer_questions() -> None:
    """Show questions and send answers until the input ends.

    Raises:
        P2pflowsError: the daemon does not run, or went away.
    """
    run_interruptible(_answer_questions())


async def _answer_questions() -> None:
    if not stdin_is_piped() and sys.stdin is not None and stdout_is_terminal():
        from p2pflows.cli.chat.answering_at_terminal import TerminalAnswerer

        await TerminalAnswerer().run()
        return
    async with p2pflows.connect_async() as me:
        say("Waiting for questions. Type an answer, or /skip, or /decline REASON; Ctrl-D ends.")
        events: asyncio.Queue[Event] = asyncio.Queue()
        watching = asyncio.create_task(_watch(me, events))
        try:
            await _Answerer(me, events).run()
        finally:
            watching.cancel()


class _Answerer:
    """Shows one question at a time: those of the current conversation first, then the oldest of the others.

    Args:
        me: the client of the daemon.
        events: prompts and lines of input, in the order they arrive.
    """

    def __init__(self, me: p2pflows.AsyncClient, events: asyncio.Queue[Event]) -> None:
        self._me = me
        self._events = events
        self._open: dict[str, dict[str, Any]] = {}
        self._passed: set[str] = set()
        self._shown: dict[str, Any] | None = None
        self._line: str | None = None
        self._conversation: tuple[str, str] | None = None
        self._input = _Input(events)

    async def run(self) -> None:
        """Handle events until the input ends.

        Raises:
            P2pflowsError: the daemon went away.
        """
        while True:
            if self._events.empty():  # so that the choice is among all prompts that have arrived
                await self._show_next()
            event = await self._events.get()
            match event:
                case P2pflowsError():
                    raise event
                case dict():
                    self._update(event)
                case b"":
                    break
                case _:
                    self._line = decode(event).strip("\r\n")
            if self._line is not None and self._line.strip() == _QUIT:
                break
            await self._use_line()
        waiting = len(self._open)
        if waiting:
            say(f"Questions still open: {waiting}. See: p2pflows inbox")

    async def _show_next(self) -> None:
        """Show the next question unless one is shown; also show the notes before it, which need no answer."""
        while self._shown is None and (prompt := self._choose()) is not None:
            self._conversation = prompt["conversation"], prompt["from"]
            print_speech(asker(prompt), prompt["text"])
            if prompt.get("wants_answer", True):
                if prompt.get("form"):
                    say(f"Expected: {escape(prompt['form']['expects'])}.")
                self._shown = prompt
                self._show_input_prompt()
                await self._use_line()
            else:
                self._forget(prompt)
                await self._succeeds(self._me.dismiss(prompt["id"]))

    def _choose(self) -> dict[str, Any] | None:
        waiting = [prompt for prompt in self._open.values() if prompt["id"] not in self._passed]
        current = [prompt for prompt in waiting if (prompt["conversation"], prompt["from"]) == self._conversation]
        return next(iter(current or waiting), None)

    def _update(self, prompt: dict[str, Any]) -> None:
        if prompt["status"] == "open":
            if prompt["id"] not in self._passed:  # else it was announced twice
                self._open.setdefault(prompt["id"], prompt)
            return
        self._open.pop(prompt["id"], None)
        if self._shown is not None and self._shown["id"] == prompt["id"]:
            self._shown = None
            if stdout_is_terminal():
                click.echo()
            say(f"This question is already {escape(prompt['status'])}.")

    async def _use_line(self) -> None:
        """Answer with the line that was typed; a line that was piped in waits for a question."""
        line, prompt = self._line, self._shown
        if line is None or (prompt is None and stdin_is_piped()):
            return
        self._line = None
        if prompt is None:
            if line.strip():
                say("No question is open; that line was not sent.")
        elif not line.strip():
            self._show_input_prompt()
        else:
            await self._answer(prompt, line)
        self._input.request_line()

    async def _answer(self, prompt: dict[str, Any], line: str) -> None:
        word, _, reason = line.strip().partition(" ")
        if word == _SKIP:
            self._shown = None
            self._passed.add(prompt["id"])
            return
        if word == _DECLINE:
            done = await self._succeeds(self._me.decline(prompt["id"], reason.strip() or None))
        else:
            done = await self._succeeds(self._me.answer(prompt["id"], line))
        if done:
            self._shown = None
            self._forget(prompt)
        else:
            self._show_input_prompt()

    def _forget(self, prompt: dict[str, Any]) -> None:
        self._open.pop(prompt["id"], None)
        self._passed.add(prompt["id"])

    async def _succeeds(self, request: Awaitable[object]) -> bool:
        """Await a request to the daemon; print its error, and continue unless the daemon is gone."""
        try:
            await request
        except DaemonNotRunning:
            raise
        except P2pflowsError as error:
            say_error(error)
            return False
        return True

    def _show_input_prompt(self) -> None:
        if stdout_is_terminal() and self._shown is not None:
            click.echo(f"you ({time_left(self._shown['expires'])} left): ", nl=False)


class _Input:
    """Reads stdin in a daemon thread, which the process need not wait for; each next line only on request.

    Args:
        events: the queue for lines; an empty one marks the end.
    """

    def __init__(self, events: asyncio.Queue[Event]) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(1)
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def request_line(self) -> None:
        """Let the thread read the next line."""
        self._wanted.release()

    def _read(self) -> None:
        # Not the buffered stream: a thread blocked in a read holds its lock, which the process needs to end.
        stream = None if sys.stdin is None else getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        line = b"-"
        while line:
            self._wanted.acquire()
            line = b"" if stream is None else stream.readline()
            if self._loop.is_closed():
                return
            self._loop.call_soon_threadsafe(self._events.put_nowait, line)


async def _watch(me: p2pflows.AsyncClient, events: asyncio.Queue[Event]) -> None:
    try:
        async for prompt in me.watch():
            events.put_nowait(prompt)
    except P2pflowsError as error:
        events.put_nowait(error)
