"""The state of a chat with a person: what is shown, which question is asked, and to what a typed text belongs.

A text belongs to the question that was shown when its first character was typed; with no question shown, it is a note.
So no answer ever goes to a question that came later. When that question ends, the text is discarded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

COMMANDS = {
    "/decline": "/decline REASON  do not answer it",
    "/skip": "/skip            leave it open",
    "/who": "/who             person and questions",
    "/end": "/end             leave, as Ctrl-D does",
    "/help": "/help            show this",
}
_ENDS = {"/end", "/quit"}


@dataclass(frozen=True, slots=True)
class Target:
    """To what a text belongs.

    Attributes:
        kind: `answer` to a question, `note`, or `early`: typed before the next question was shown.
        question: the id of the question; empty if the text is no answer.
    """

    kind: Literal["answer", "note", "early"]
    question: str = ""


@dataclass(frozen=True, slots=True)
class Send:
    """The user has typed a text to send."""

    target: Target
    text: str


@dataclass(frozen=True, slots=True)
class Decline:
    """The user refuses to answer a question."""

    question: str
    reason: str


@dataclass(frozen=True, slots=True)
class Show:
    """The user wants to know something."""

    what: Literal["who", "help"]


@dataclass(frozen=True, slots=True)
class NotSent:
    """The text was not sent, and why; it can be typed on if `is_kept`."""

    why: str
    is_kept: bool = False


@dataclass(frozen=True, slots=True)
class End:
    """The user leaves."""


Action = Send | Decline | Show | NotSent | End | None


class Dialogue:
    """The questions of one person, or of all, and the text that is being typed.

    Args:
        takes_notes: whether a text without a question is a note; otherwise it is refused.
        show: shows a question because it is asked now, though its line was shown before.
    """

    def __init__(self, *, takes_notes: bool, show: Callable[[dict[str, Any]], None]) -> None:
        self._takes_notes = takes_notes
        self._show = show
        self._open: dict[str, dict[str, Any]] = {}
        self._skipped: set[str] = set()
        self._answering: set[str] = set()
        self._shown: str | None = None
        self._last_shown: str | None = None
        self._conversation: tuple[object, object] | None = None
        self._target: Target | None = None
        self._text = ""

    @property
    def question(self) -> dict[str, Any] | None:
        """The question that is asked now."""
        return None if self._shown is None else self._open.get(self._shown)

    def is_asked(self, question_id: str) -> bool:
        """Return whether a question is asked now, and the user has not answered it yet."""
        return self._shown == question_id and question_id not in self._answering

    @property
    def open_questions(self) -> list[dict[str, Any]]:
        """The questions that are open, with those that were skipped."""
        return list(self._open.values())

    @property
    def target(self) -> Target:
        """To what the text belongs that is being typed, or that would be typed now."""
        return self._target or self._target_now()

    # What others do.

    def asked(self, question: dict[str, Any], *, is_shown: bool = True) -> None:
        """A question has come, and has been shown as a line unless `is_shown` says otherwise."""
        if question["id"] not in self._open:
            self._open[question["id"]] = question
            if is_shown:
                self._last_shown = question["id"]

    def ended(self, question_id: str) -> str | None:
        """A question has ended; return the text that was being typed as its answer, which is discarded."""
        self._open.pop(question_id, None)
        self._answering.discard(question_id)
        if self._shown == question_id:
            self._shown = None
        if self._target is not None and self._target.question == question_id and self._text:
            text, self._text, self._target = self._text, "", None
            return text
        return None

    def go_on(self) -> str | None:
        """Ask the next question, unless one is asked; return a text that was typed too early, and is discarded.

        The next one is of the same conversation if there is one, else the oldest.
        """
        if self._shown is not None and self._shown not in self._answering:
            return None
        if self._answering:
            return None
        waiting = [each for each in self._open if each not in self._skipped]
        current = [each for each in waiting if _conversation(self._open[each]) == self._conversation]
        self._shown = next(iter(current or waiting), None)
        if self._shown is None:
            return None
        self._conversation = _conversation(self._open[self._shown])
        if self._shown != self._last_shown:
            self._show(self._open[self._shown])
            self._last_shown = self._shown
        if self._target is not None and self._target.kind == "early":
            text, self._text, self._target = self._text, "", None
            return text
        return None

    # What the user does.

    def typed(self, text: str) -> None:
        """The text that is being typed has changed."""
        self._text = text
        if not text:
            self._target = None
        elif self._target is None:
            self._target = self._target_now()

    def enter(self, text: str) -> Action:
        """The user has entered a text; it must be told at once, so that what is typed next is no part of it."""
        target = self.target
        self._text, self._target = "", None
        if not text.strip():
            return None
        if text.startswith("//"):
            text = text[1:]
        elif text.startswith("/"):
            return self._command(text.strip(), target)
        if target.kind == "early":
            return NotSent("it was typed before the next question was shown")
        if target.kind == "note" and not self._takes_notes:
            return NotSent("no question is open")
        if target.kind == "answer":
            if target.question not in self._open or target.question in self._answering:
                return NotSent("the question under which it was begun is over")
            self._answering.add(target.question)
        return Send(target, text)

    def failed(self, target: Target) -> None:
        """An answer was not taken; the question is asked again."""
        self._answering.discard(target.question)
        self._last_shown = target.question

    def begin_again(self, text: str, target: Target) -> None:
        """Put a text back that was not sent, if nothing else is being typed."""
        if not self._text:
            self._text, self._target = text, target

    def _target_now(self) -> Target:
        if self._shown is not None and self._shown in self._open and self._shown not in self._answering:
            return Target("answer", self._shown)
        if any(each not in self._skipped | self._answering for each in self._open):
            return Target("early")
        return Target("note")

    def _command(self, text: str, target: Target) -> Action:
        word, _, rest = text.partition(" ")
        if word in _ENDS:
            return End()
        if word in ("/who", "/help"):
            return Show("who" if word == "/who" else "help")
        if word not in COMMANDS:
            known = ", ".join(COMMANDS)
            return NotSent(f"there is no {word}, but {known}; to send a text that begins with a slash, type //", True)
        if target.kind != "answer" or target.question not in self._open or target.question in self._answering:
            return NotSent("no question is asked here")
        if word == "/skip":
            self._skipped.add(target.question)
            if self._shown == target.question:
                self._shown = None
            return None
        self._answering.add(target.question)
        return Decline(target.question, rest.strip())


def _conversation(question: dict[str, Any]) -> tuple[object, object]:
    return question.get("conversation"), question.get("from")
