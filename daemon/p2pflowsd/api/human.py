"""The methods of the user's human: prompts and conversations."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from p2pflows.errors import UsageError
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Count, Flag, IdPart, Json, NoParameters, Parameters, Text, Words
from p2pflowsd.human.conversations import newest
from p2pflowsd.human.inbox import Answer, Typed, Value
from p2pflowsd.lifecycle import PromptState

MAX_DECLINED = 200
"""Prompts that one batch declines, so that no batch takes long."""


class InboxParameters(Parameters):
    """Which prompts to list."""

    all: Flag = False


class PromptParameters(Parameters):
    """A prompt, by its id or a part of it."""

    id: IdPart


class ConversationsParameters(Parameters):
    """How many conversations to list."""

    limit: Count = 100


class AnswerParameters(Parameters):
    """A prompt, by its id or a part of it, and the human's answer: as text, as words of a shell, or as a value."""

    NOT_NULL: ClassVar[frozenset[str]] = frozenset({"value"})

    id: IdPart
    text: Text = ""
    words: Words = Field(default_factory=list)
    value: Json = None
    remark: Text = ""

    def answer(self) -> Answer:
        """Return the answer.

        Raises:
            UsageError: there is none, or more than one.
        """
        given = self.model_fields_set & {"text", "words", "value"}
        if len(given) != 1:
            raise UsageError("An answer is one of `text`, `words` and `value`.", "Give one of them.")
        if "value" in given:
            return Value(self.value)
        return Typed(self.text if "text" in given else self.words)


class DeclineParameters(Parameters):
    """A prompt, by its id or a part of it, and why the human declines."""

    id: IdPart
    reason: Text = ""


class DeclineAllParameters(Parameters):
    """Whose prompts, and why the human declines them."""

    user: Text
    reason: Text = ""


async def inbox(daemon: Daemon, params: InboxParameters) -> Any:
    """List the open prompts; with `all`, past ones too.

    Returns:
        `prompts`: list of [prompts](#prompts)
    """
    daemon.contacts()  # so that nothing is shown of users whom the owner has just removed, even on a full disk
    return {"prompts": await daemon.read(lambda: views.prompts(daemon.node, everything=params.all))}


async def prompt(daemon: Daemon, params: PromptParameters) -> Any:
    """Show one prompt.

    Returns:
        a [prompt](#prompts)
    """
    daemon.contacts()

    def step() -> dict[str, Any]:
        found = daemon.node.inbox.find(params.id)
        if found.state == PromptState.OPEN and not daemon.node.rights.shows(found):
            raise UsageError(f"No prompt has the id {params.id!r}.", "See the open ones with: p2pflows inbox")
        return views.prompt(daemon.node, found)

    return await daemon.read(step)


async def conversations(daemon: Daemon, params: ConversationsParameters) -> Any:
    """List conversations, newest first.

    Returns:
        `conversations`: list of [conversations](#conversations)
    """
    found = await daemon.read(lambda: newest(daemon.node.journal, params.limit))
    return {"conversations": [views.conversation(daemon.node, each) for each in found]}


async def answer(daemon: Daemon, params: AnswerParameters) -> Any:
    """Answer a prompt: with a text, with the words of a shell, or with a JSON value; a `remark` goes with it.

    Returns:
        `id`
    """
    given = params.answer()
    answered = await daemon.run(lambda: daemon.node.inbox.answer(params.id, given, params.remark))
    return {"id": answered.id}


async def decline(daemon: Daemon, params: DeclineParameters) -> Any:
    """Decline a prompt, or clear away one that wants no answer.

    Returns:
        `id`
    """
    declined = await daemon.run(lambda: daemon.node.inbox.decline(params.id, params.reason))
    return {"id": declined.id}


async def decline_all(daemon: Daemon, params: DeclineAllParameters) -> Any:
    """Decline all open prompts of one user, and clear away their notes.

    Returns:
        `declined`: how many there were
    """
    user = daemon.resolve_user(params.user)
    total = 0
    while found := await daemon.run(lambda: daemon.node.inbox.decline_some(user, params.reason, MAX_DECLINED)):
        total += found
    return {"declined": total}


async def watch(daemon: Daemon, _params: NoParameters) -> Any:
    """Send an event whenever a prompt appears or changes; in JSON Lines only.

    Returns:
        `prompts`: the open ones
    """
    return await inbox(daemon, InboxParameters())
