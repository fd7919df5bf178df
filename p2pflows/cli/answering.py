"""The other side of `chat`: what others ask comes one after the other, and each line that is typed answers it."""

from __future__ import annotations

import asyncio
import sys
import threading
from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import decode, no_stdin
from p2pflows.cli.output import complain, is_terminal, left, plain, say, who
from p2pflows.cli.speech import labelled, speech
from p2pflows.errors import DaemonNotRunning, P2pflowsError

_QUIT, _SKIP, _DECLINE = "/quit", "/skip", "/decline"

Event = dict[str, Any] | bytes | P2pflowsError
"""A prompt that came or changed, a line (empty at the end of the input), or why no more prompts will come."""


def answer_all() -> None:
    """Answer prompts until the input ends.

    Raises:
        P2pflowsError: the daemon does not run, or went away.
    """
    asyncio.run(_answer_all())


async def _answer_all() -> None:
    async with p2pflows.connect_async() as me:
        say("Waiting for questions: a line answers, /skip leaves it open, /decline REASON refuses, Ctrl-D ends.")
        events: asyncio.Queue[Event] = asyncio.Queue()
        watching = asyncio.create_task(_watch(me, events))
        try:
            await _Answering(me, events).run()
        finally:
            watching.cancel()


class _Answering:
    """One human, one question at a time: first those of the conversation they are in, then the one that waits longest.

    Args:
        me: the daemon.
        events: what happens.
    """

    def __init__(self, me: p2pflows.AsyncClient, events: asyncio.Queue[Event]) -> None:
        self._me = me
        self._events = events
        self._open: dict[str, dict[str, Any]] = {}
        self._past: set[str] = set()
        self._shown: dict[str, Any] | None = None
        self._line: str | None = None
        self._conversation: tuple[str, str] | None = None
        self._input = _Input(events)

    async def run(self) -> None:
        """Go on until the end of the input.

        Raises:
            P2pflowsError: the daemon went away.
        """
        while True:
            if self._events.empty():  # so that the choice is among all that have come
                await self._show_next()
            event = await self._events.get()
            match event:
                case P2pflowsError():
                    raise event
                case dict():
                    self._changed(event)
                case b"":
                    break
                case _:
                    self._line = decode(event).strip("\r\n")
            if self._line is not None and self._line.strip() == _QUIT:
                break
            await self._use_line()
        waiting = len(self._open)
        if waiting:
            say(f"Still open: {waiting}. See: p2pflows inbox")

    async def _show_next(self) -> None:
        """Put the next question before the human, if none is; notes need no answer, and are cleared when shown."""
        while self._shown is None and (prompt := self._next()) is not None:
            self._conversation = prompt["conversation"], prompt["from"]
            speech(labelled(who(prompt["name"], prompt["from"]), prompt.get("label", "")), prompt["text"])
            if prompt.get("wants_answer", True):
                self._shown = prompt
                self._ask()
                await self._use_line()
            else:
                self._end(prompt)
                await self._try(self._me.decline(prompt["id"]))

    def _next(self) -> dict[str, Any] | None:
        waiting = [prompt for prompt in self._open.values() if prompt["id"] not in self._past]
        here = [prompt for prompt in waiting if (prompt["conversation"], prompt["from"]) == self._conversation]
        return next(iter(here or waiting), None)

    def _changed(self, prompt: dict[str, Any]) -> None:
        if prompt["status"] == "open":
            if prompt["id"] not in self._past:  # else it was announced twice
                self._open.setdefault(prompt["id"], prompt)
            return
        self._open.pop(prompt["id"], None)
        if self._shown is not None and self._shown["id"] == prompt["id"]:
            self._shown = None
            if is_terminal():
                click.echo()
            say(f"That question is {plain(prompt['status'])} by now.")

    async def _use_line(self) -> None:
        """Answer with what was typed; what is piped in waits for its question."""
        line, prompt = self._line, self._shown
        if line is None or (prompt is None and not no_stdin()):
            return
        self._line = None
        if prompt is None:
            if line.strip():
                say("Nobody asks you anything just now, so that went nowhere.")
        elif not line.strip():
            self._ask()
        else:
            await self._answer(prompt, line)
        self._input.go_on()

    async def _answer(self, prompt: dict[str, Any], line: str) -> None:
        word, _, reason = line.strip().partition(" ")
        if word == _SKIP:
            self._shown = None
            self._past.add(prompt["id"])
            return
        if word == _DECLINE:
            done = await self._try(self._me.decline(prompt["id"], reason.strip() or None))
        else:
            done = await self._try(self._me.answer(prompt["id"], line))
        if done:
            self._shown = None
            self._end(prompt)
        else:
            self._ask()

    def _end(self, prompt: dict[str, Any]) -> None:
        self._open.pop(prompt["id"], None)
        self._past.add(prompt["id"])

    async def _try(self, doing: Any) -> bool:
        """Ask the daemon; an error is told, and is no end."""
        try:
            await doing
        except DaemonNotRunning:
            raise
        except P2pflowsError as error:
            complain(error)
            return False
        return True

    def _ask(self) -> None:
        if is_terminal() and self._shown is not None:
            click.echo(f"you ({left(self._shown['expires'])} left): ", nl=False)


class _Input:
    """Standard input, read by a thread that nobody has to wait for; the next line only when the last one was used.

    Args:
        events: where lines go, with an empty one for the end.
    """

    def __init__(self, events: asyncio.Queue[Event]) -> None:
        self._events = events
        self._loop = asyncio.get_running_loop()
        self._wanted = threading.Semaphore(1)
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def go_on(self) -> None:
        """Read the next line."""
        self._wanted.release()

    def _read(self) -> None:
        # The raw stream has no lock that a thread blocked in it would hold when the process ends.
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
