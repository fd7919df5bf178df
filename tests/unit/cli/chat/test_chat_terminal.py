"""The line that is edited in a chat: what is pasted is one text, and keys that were meant for another are lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from p2pflows.cli.chat import chat_terminal
from p2pflows.cli.chat.chat_terminal import Terminal
from p2pflows.cli.chat.dialogue import Dialogue


class _Typed:
    """A terminal without a screen, and the texts that were entered in it; None at the end."""

    def __init__(self, keyboard: PipeInput, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keyboard = keyboard
        self.entered: list[str | None] = []
        self.shown: list[str] = []
        self.dialogue = Dialogue(takes_notes=True, show=lambda _question: None)
        self.front = Terminal(self.dialogue, self.entered.append, lambda: "> ")
        monkeypatch.setattr(self.front, "show", self.shown.append)

    async def types(self, text: str, *, until: int) -> None:
        """Press keys, and wait until so many texts have been entered."""
        self.keyboard.send_text(text)
        await self.waits(lambda: len(self.entered) >= until)

    async def waits(self, condition: Callable[[], bool]) -> None:
        """Wait for something to become true."""
        async with asyncio.timeout(10):
            while not condition():  # noqa: ASYNC110 - what changes is not ours
                await asyncio.sleep(0.01)


@asynccontextmanager
async def _terminal(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[_Typed]:
    with create_pipe_input() as keyboard, create_app_session(input=keyboard, output=DummyOutput()):
        typed = _Typed(keyboard, monkeypatch)
        running = asyncio.create_task(typed.front.run())
        yield typed
        typed.front.close()
        await asyncio.wait_for(running, 10)


async def test_a_pasted_text_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all its lines, between the brackets that a terminal puts around it."""
    async with _terminal(monkeypatch) as typed:
        await typed.types("\x1b[200~one\r\ntwo\n  three\x1b[201~\r", until=1)
        await typed.types("four\r\r  \rfive\r", until=3)
        assert typed.entered == ["one\ntwo\n  three", "four", "five"]


async def test_fingers_that_are_on_their_way_answer_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a question has ended, keys are ignored until a pause or Enter, and the terminal says so once."""
    monkeypatch.setattr(chat_terminal, "PAUSE_S", 60)
    async with _terminal(monkeypatch) as typed:
        typed.front.pause()
        await typed.types("yes\x1b[200~and more\x1b[201~\rno\r", until=1)
        assert typed.entered == ["no"]
        assert len(typed.shown) == 1
        assert "Keys are ignored" in typed.shown[0]


async def test_a_discarded_text_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Ctrl-D ends the input also in the pause after it."""
    monkeypatch.setattr(chat_terminal, "PAUSE_S", 60)
    async with _terminal(monkeypatch) as typed:
        typed.keyboard.send_text("ye")
        await typed.waits(lambda: typed.front._session.default_buffer.text == "ye")
        typed.front.discard()
        typed.front.put_back("kept")
        await typed.types("\r\r", until=1)
        assert typed.entered == ["kept"]
        typed.front.pause()
        await typed.types("\x04", until=2)
        assert typed.entered == ["kept", None]
