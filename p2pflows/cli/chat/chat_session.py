"""What the chat with a person and `chat --answer` share: how what is typed is carried out, or discarded."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable

import p2pflows
from p2pflows.cli.chat.chat_terminal import Pipes, Terminal
from p2pflows.cli.chat.dialogue import COMMANDS, Action, Decline, Dialogue, End, NotSent, Send, Show, Target
from p2pflows.foreign_text import shorten


class ChatSession(ABC):
    """Carries out what is entered, one text after the other.

    Args:
        dialogue: knows to what a text belongs.
    """

    _front: Pipes | Terminal

    def __init__(self, dialogue: Dialogue) -> None:
        self._dialogue = dialogue
        self._me = p2pflows.connect_async()
        self._entered: asyncio.Queue[tuple[Action, str]] = asyncio.Queue()

    @abstractmethod
    def _who(self) -> str:
        """The answer to `/who`."""

    @abstractmethod
    async def _send(self, target: Target, words: str, text: str) -> None:
        """Send what was entered: `words`, which were typed as `text`."""

    @abstractmethod
    async def _answer(self, target: Target, text: str, request: Awaitable[object]) -> None:
        """Answer or decline a question, and show what became of it."""

    @abstractmethod
    def _tell(self, text: str) -> None:
        """Say something about the chat itself."""

    def _enter(self, text: str | None) -> None:
        self._entered.put_nowait((End() if text is None else self._dialogue.enter(text), text or ""))

    async def _send_all(self) -> None:
        """Carry out what is entered until the input ends."""
        while True:
            action, text = await self._entered.get()
            self._front.done()
            if isinstance(action, End):
                return
            await self._do(action, text)
            self._go_on()

    async def _do(self, action: Action, text: str) -> None:
        match action:
            case Show(what):
                self._front.show(self._who() if what == "who" else "\n".join(COMMANDS.values()))
            case NotSent(why, is_kept) if is_kept:
                self._tell(f"Not sent: {why}.")
                self._front.put_back(text)
            case NotSent(why):
                self._tell(f"Not sent, because {why}: {shorten(text, 60)}")
            case Send(target, words):
                await self._send(target, words, text)
            case Decline(question, reason):
                await self._answer(Target("answer", question), text, self._me.decline(question, reason or None))

    def _go_on(self) -> None:
        self._discard(self._dialogue.go_on(), "it was typed before the next question was shown")

    def _discard(self, text: str | None, why: str) -> None:
        if text is not None:
            self._front.discard()
            self._tell(f"Discarded, because {why}: {shorten(text, 60)}")
