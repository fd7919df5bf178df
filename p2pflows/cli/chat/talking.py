"""`chat NAME`: a conversation with a person. What both say is shown as it comes, whoever began.

The daemon keeps what was said, so two chats that are open at the same time show the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Awaitable
from typing import Any

import click

from p2pflows.cli.chat.chat_session import ChatSession
from p2pflows.cli.chat.chat_terminal import new_front
from p2pflows.cli.chat.dialogue import Dialogue, Target
from p2pflows.cli.chat.reconnecting import reconnect
from p2pflows.cli.inbox.questions import question_text
from p2pflows.cli.input.arguments import stdin_is_piped
from p2pflows.cli.printing.output import display_name, error_lines, short_id, stdout_is_terminal, time_left
from p2pflows.cli.printing.speech import aside, speech, with_label
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.foreign_text import escape, shorten
from p2pflows.terminal import run_interruptible

DELIVERY_WAIT_S = 1.0
"""How long a line of the user waits to be shown together with the word that it was delivered."""
_VERBS = {"note": "", "question": " asks", "answer": " answers", "declined": " declines", "delegated": " passes it"}
_OWN_VERBS = {"note": "", "question": " ask", "answer": " answer", "declined": " decline", "delegated": " pass it"}
_ENDS = {"expired": "has expired", "cancelled": "was withdrawn", "delegated": "was passed on"}
_FATES = {"held": "waits until they let you in", "expired": "nobody answered in time", "cancelled": "withdrawn"}


def talk(user: str, endpoint: str, limit: int, topic: str | None) -> P2pflowsError | None:
    """Talk with a person until the input ends.

    Args:
        user: the petname or user id of the person.
        endpoint: the person's endpoint.
        limit: how many past lines to show.
        topic: the name of the conversation; by default all conversations with the person are shown.

    Returns:
        The last error, if lines were piped in and none was sent.

    Raises:
        P2pflowsError: there is no such person, or no daemon runs.
    """
    return run_interruptible(_Talk(user, endpoint, limit, topic).run())


class _Talk(ChatSession):
    def __init__(self, user: str, endpoint: str, limit: int, topic: str | None) -> None:
        super().__init__(Dialogue(takes_notes=True, show=self._show_again))
        self._address = f"{user}/{endpoint}"
        self._wanted = {"user": user, "endpoint": endpoint, "limit": limit, "title": topic}
        self._topic = topic
        self._conversation: str | None = None
        self._user = self._name = ""
        self._states: dict[int, str] = {}
        """The lines that were shown, by number, each with the state in which it was shown last."""
        self._unshown: dict[int, asyncio.Task[None]] = {}
        """Lines of the user that wait a moment to be delivered, each with what shows it then."""
        self._read: set[asyncio.Task[Any]] = set()
        self._is_away = False
        self._sent = 0
        self._failure: P2pflowsError | None = None
        self._on_terminal = not stdin_is_piped() and sys.stdin is not None and stdout_is_terminal()

    async def run(self) -> P2pflowsError | None:
        await self._me.open()
        self._front = new_front(
            self._dialogue,
            self._enter,
            self._label,
            on_terminal=self._on_terminal,
        )
        await self._begin()
        tasks = [asyncio.ensure_future(step) for step in (self._front.run(), self._listen(), self._send_all())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._front.close()
            for task in [*tasks, *self._unshown.values()]:
                task.cancel()
            await asyncio.gather(*tasks, *self._unshown.values(), *self._read, return_exceptions=True)
            await self._me.close()
        return None if self._sent else self._failure

    # What others say.

    async def _begin(self) -> None:
        """Show what was said before, and ask for what will be said."""
        found = await self._me.request("chat", **self._wanted)
        if self._is_away:
            self._is_away = False
            self._tell("The daemon is back.")
        self._user, self._name = found["user"], display_name(found["name"], found["user"])
        self._conversation = self._conversation or found["conversation"]
        is_first = not self._states
        for line in found["lines"]:
            self._on_line(line, is_past=is_first)
        if is_first and self._on_terminal:
            self._tell(f"You talk with {self._name}. /help shows what else you can do.")
        self._go_on()

    async def _listen(self) -> None:
        """Show what is said, also after the daemon has restarted."""
        while True:
            async for line in self._me.lines():
                if line["user"] == self._user and (self._topic is None or line["conversation"] == self._conversation):
                    self._on_line(line)
                    self._go_on()
            self._is_away = True
            self._tell("The daemon went away. What you type is kept; waiting until it is back.")
            while self._is_away:
                self._me = await reconnect(self._me)
                with contextlib.suppress(DaemonNotRunning):  # it goes away again
                    await self._begin()

    def _on_line(self, line: dict[str, Any], *, is_past: bool = False) -> None:
        number, state = line["n"], line["state"]
        before = self._states.get(number)
        if before is None:
            self._states[number] = state
            if line["by"] == "me" and state == "sent" and not is_past:
                self._unshown[number] = asyncio.ensure_future(self._show_late(line))
            else:
                self._show_line(line)
            if line["prompt"] is not None:
                self._on_prompt(line)
        elif before != state:
            self._states[number] = state
            self._on_change(line)
        if line["by"] == "them" and line["kind"] == "question" and state != "open":
            was_asked = self._dialogue.is_asked(line["message"])
            self._discard(self._dialogue.ended(line["message"]), "the question is over")
            if was_asked:
                self._front.pause()

    def _on_prompt(self, line: dict[str, Any]) -> None:
        """Ask a question that is open, and put a note away that was read."""
        if line["kind"] == "question":
            self._dialogue.asked(line["prompt"])
            return
        task = asyncio.ensure_future(self._ignore_errors(self._me.dismiss(line["message"])))
        self._read.add(task)
        task.add_done_callback(self._read.discard)

    def _on_change(self, line: dict[str, Any]) -> None:
        """Show what became of a line."""
        if line["by"] == "them":
            if line["kind"] == "question" and line["state"] in _ENDS:
                self._tell(f"The question {shorten(line['text'], 40)!r} {_ENDS[line['state']]}.")
            return
        waiting = self._unshown.pop(line["n"], None)
        if waiting is not None:
            waiting.cancel()
            self._show_line(line)
        elif line["state"] != "answered" and line["state"] != "declined":
            self._tell(f"{_fate(line)}: {shorten(line['text'], 40)}")

    async def _show_late(self, line: dict[str, Any]) -> None:
        await asyncio.sleep(DELIVERY_WAIT_S)
        self._unshown.pop(line["n"], None)
        self._show_line(line)

    def _show_line(self, line: dict[str, Any]) -> None:
        is_mine = line["by"] == "me"
        who = "you" if is_mine else with_label(self._name, line["label"])
        verb = (_OWN_VERBS if is_mine else _VERBS)[line["kind"]]
        mark = ""
        if is_mine and (line["kind"] in ("note", "question") or line["state"] != "answered"):
            mark = f"  ({_fate(line)})"
        elif line["prompt"] is not None and line["kind"] == "question":
            mark = f"  ({short_id(line['message'])}, {time_left(line['prompt']['expires'])} left)"
        elif line["kind"] == "question":
            mark = f"  ({escape(line['state'])})"
        if line["kind"] == "delegated":
            verb += f" on to {display_name(line['to_name'], line['to'])}"
        text = line["text"] if line["prompt"] is None else question_text(line["prompt"])
        self._front.show(speech(who, verb, text, mark))

    def _show_again(self, question: dict[str, Any]) -> None:
        self._front.show(speech(self._name, " asks", question_text(question)))

    # What the user says.

    async def _send(self, target: Target, words: str, text: str) -> None:
        if target.kind == "answer":
            await self._answer(target, text, self._me.answer(target.question, words))
        else:
            await self._note(words)

    async def _answer(self, target: Target, text: str, request: Awaitable[object]) -> None:
        try:
            await request
        except P2pflowsError as error:
            self._dialogue.failed(target)
            self._on_failure(error, text, target)
        else:
            self._sent += 1
            self._discard(self._dialogue.ended(target.question), "the question is over")

    async def _note(self, text: str) -> None:
        given = {"address": self._address, "data": {"text": text}, "conversation": self._conversation}
        try:
            sent = await self._me.request("send", **given)
            if self._topic is not None and self._conversation is None:
                await self._me.request("title", conversation=sent["id"], title=self._topic)
        except P2pflowsError as error:
            self._on_failure(error, text, Target("note"))
        else:
            self._sent += 1
            self._conversation = self._conversation or sent["id"]

    def _on_failure(self, error: P2pflowsError, text: str, target: Target) -> None:
        """Say why something was not sent, and let the user type on."""
        self._failure = error
        if isinstance(error, DaemonNotRunning):
            self._tell(f"Not sent, as the daemon is away: {shorten(text, 60)}")
        else:
            self._tell(" ".join([f"Error [{error.kind}]:", *error_lines(error)]))
        self._dialogue.begin_again(text, target)
        self._front.put_back(text)

    async def _ignore_errors(self, request: Awaitable[object]) -> None:
        try:
            await request
        except P2pflowsError:
            return  # it was put away elsewhere, or will be when the daemon is back

    def _who(self) -> str:
        questions = [
            f"  {short_id(each['id'])}  {time_left(each['expires'])} left  {shorten(each['text'], 60)}"
            for each in self._dialogue.open_questions
        ]
        return "\n".join([f"{self._name}, user id {self._user}", *questions])

    def _label(self) -> str:
        target = self._dialogue.target
        if self._is_away:
            return "(away) "
        return f"answer {short_id(target.question)}> " if target.kind == "answer" else f"to {self._name}> "

    def _tell(self, text: str) -> None:
        """Say something about the chat itself."""
        if self._on_terminal:
            self._front.show(aside(text))
        else:
            click.echo(text, err=True)


def _fate(line: dict[str, Any]) -> str:
    """Return what became of something that the user has said."""
    if line["state"] == "expired" and line["kind"] != "question":
        return "not delivered in time"
    return _FATES.get(line["state"], escape(line["state"]))
