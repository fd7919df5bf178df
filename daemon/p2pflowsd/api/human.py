"""The methods of the user's human: prompts and conversations."""

from __future__ import annotations

from typing import Any

from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Count, Flag, IdPart, NoParameters, Parameters, Text
from p2pflowsd.human.conversations import newest

MAX_DECLINED = 200
"""Prompts that one batch declines, so that no batch takes long."""


class InboxParameters(Parameters):
    """Which prompts to list."""

    all: Flag = False


class ConversationsParameters(Parameters):
    """How many conversations to list."""

    limit: Count = 100


class AnswerParameters(Parameters):
    """A prompt, by its id or a part of it, and the human's answer."""

    id: IdPart
    text: Text


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


async def conversations(daemon: Daemon, params: ConversationsParameters) -> Any:
    """List conversations, newest first.

    Returns:
        `conversations`: list of [conversations](#conversations)
    """
    found = await daemon.read(lambda: newest(daemon.node.journal, params.limit))
    return {"conversations": [views.conversation(daemon.node, each) for each in found]}


async def answer(daemon: Daemon, params: AnswerParameters) -> Any:
    """Answer a prompt.

    Returns:
        `id`
    """
    prompt = await daemon.run(lambda: daemon.node.inbox.answer(params.id, params.text))
    return {"id": prompt.id}


async def decline(daemon: Daemon, params: DeclineParameters) -> Any:
    """Decline a prompt, or clear away one that wants no answer.

    Returns:
        `id`
    """
    prompt = await daemon.run(lambda: daemon.node.inbox.decline(params.id, params.reason))
    return {"id": prompt.id}


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
