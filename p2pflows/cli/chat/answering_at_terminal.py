"""`chat --answer` on a terminal: the questions of all others, one at a time, and a line in which answers are typed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any

from p2pflows.cli.chat.chat_session import ChatSession
from p2pflows.cli.chat.chat_terminal import Terminal
from p2pflows.cli.chat.dialogue import Dialogue, Target
from p2pflows.cli.chat.reconnecting import reconnect
from p2pflows.cli.inbox.questions import question_text
from p2pflows.cli.printing.output import display_name, error_lines, say, short_id, time_left
from p2pflows.cli.printing.speech import aside, speech, with_label
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.foreign_text import escape


class TerminalAnswerer(ChatSession):
    """Shows one question at a time; what is typed answers the question under which it was begun, or nothing."""

    def __init__(self) -> None:
        super().__init__(Dialogue(takes_notes=False, show=self._show))
        self._front = Terminal(self._dialogue, self._enter, self._label)

    async def run(self) -> None:
        """Show questions and send answers until Ctrl-D or /end.

        Raises:
            DaemonNotRunning: no daemon runs.
        """
        await self._me.open()
        self._tell("Waiting for questions. Type an answer, or /skip, or /decline REASON; Ctrl-D ends.")
        tasks = [asyncio.ensure_future(step) for step in (self._front.run(), self._watch(), self._send_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._front.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._me.close()
        waiting = len(self._dialogue.open_questions)
        if waiting:
            say(f"Questions still open: {waiting}. See: p2pflows inbox")

    async def _watch(self) -> None:
        while True:
            with contextlib.suppress(DaemonNotRunning):
                async for prompt in self._me.watch():
                    await self._update(prompt)
            self._tell("The daemon went away. What you type is kept; waiting until it is back.")
            self._me = await reconnect(self._me)
            self._tell("The daemon is back.")

    async def _update(self, prompt: dict[str, Any]) -> None:
        if prompt["status"] != "open" or prompt.get("snoozed"):
            is_asked = self._dialogue.is_asked(prompt["id"])
            begun = self._dialogue.ended(prompt["id"])
            if is_asked:
                state = "snoozed" if prompt["status"] == "open" else prompt["status"]
                self._tell(f"This question is already {escape(state)}.")
            self._discard(begun, "the question is over")
            if is_asked:
                self._front.pause()
        elif prompt.get("wants_answer", True):
            self._dialogue.asked(prompt, is_shown=False)
        else:
            self._show(prompt)
            await self._succeeds(self._me.dismiss(prompt["id"]))
        self._go_on()

    def _who(self) -> str:
        questions = [f"{short_id(each['id'])}  {self._name(each)}" for each in self._dialogue.open_questions]
        return "\n".join(questions or ["No question is open."])

    async def _send(self, target: Target, words: str, text: str) -> None:
        await self._answer(target, text, self._me.answer(target.question, words))

    async def _answer(self, target: Target, text: str, request: Awaitable[object]) -> None:
        if await self._succeeds(request):
            self._front.show(speech("you", "", text))
            self._discard(self._dialogue.ended(target.question), "the question is over")
        else:
            self._dialogue.failed(target)
            self._dialogue.begin_again(text, target)
            self._front.put_back(text)

    async def _succeeds(self, request: Awaitable[object]) -> bool:
        try:
            await request
        except P2pflowsError as error:
            self._tell(" ".join([f"Error [{error.kind}]:", *error_lines(error)]))
            return False
        return True

    def _show(self, prompt: dict[str, Any]) -> None:
        self._front.show(speech(self._name(prompt), "", question_text(prompt)))

    def _name(self, prompt: dict[str, Any]) -> str:
        return with_label(display_name(prompt["name"], prompt["from"]), prompt.get("label", ""))

    def _label(self) -> str:
        question = self._dialogue.question
        target = self._dialogue.target
        if target.kind != "answer" or question is None or question["id"] != target.question:
            return "> "
        return f"you ({time_left(question['expires'])} left): "

    def _tell(self, text: str) -> None:
        self._front.show(aside(text))
