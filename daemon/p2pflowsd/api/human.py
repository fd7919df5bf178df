"""The methods of the user's human: prompts and conversations."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from p2pflows.errors import UsageError
from p2pflows.protocol.claims import MAX_CLAIM_MS
from p2pflows.protocol.message import Type
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import (
    MAX_TIMEOUT_S,
    Count,
    FileList,
    Flag,
    IdPart,
    Json,
    MustBe,
    NoParameters,
    Parameters,
    Text,
    Words,
)
from p2pflowsd.human.conversations import newest
from p2pflowsd.human.inbox import Answer, Typed, Value
from p2pflowsd.human.pages import MAX_PAGE, groups, groups_of, read_page
from p2pflowsd.journal.prompts import Page
from p2pflowsd.lifecycle import PromptState

CLAIM_S = 1_800.0
MAX_ENDED = 20
"""Prompts that one batch declines or puts away, so that no batch takes long."""
MAX_DISMISSED = 100
"""Notes that one request may name."""
_KINDS = {"": None, "question": Type.CALL, "note": Type.POST}


def _milliseconds(moment: str) -> int:
    """Return a time in RFC 3339 in milliseconds since the Unix epoch; without an offset it is in UTC."""
    parsed = datetime.fromisoformat(moment)
    return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp() * 1000)


def _check_moment(moment: str) -> str:
    if moment:
        _milliseconds(moment)
    return moment


class InboxParameters(Parameters):
    """Which prompts to list."""

    all: Flag = False
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), MustBe(f"a whole number from 1 to {MAX_PAGE}")] = 100
    page: IdPart = ""
    user: Text = ""
    kind: Annotated[Literal["", "question", "note"], MustBe("'question' or 'note'")] = ""
    since: Annotated[str, AfterValidator(_check_moment), MustBe("a time such as 2026-01-31T18:00:00Z")] = ""
    snoozed: Flag = False


class GroupsParameters(Parameters):
    """Which groups of prompts to list."""

    user: Text = ""
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), MustBe(f"a whole number from 1 to {MAX_PAGE}")] = 100


class DelegateParameters(Parameters):
    """A question, by its id or a part of it, who is to answer it instead, and why."""

    id: IdPart
    user: Text
    reason: Text = ""


class DismissParameters(Parameters):
    """Notes, by their ids or parts of them."""

    ids: Annotated[
        list[IdPart], Field(min_length=1, max_length=MAX_DISMISSED), MustBe(f"a list of 1 to {MAX_DISMISSED} ids")
    ]


class DismissAllParameters(Parameters):
    """Whose notes."""

    user: Text


class SnoozeParameters(Parameters):
    """A prompt, by its id or a part of it, and for how many seconds to hide it."""

    id: IdPart
    seconds: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S), MustBe("from 0 to 30 days", "Give it in seconds.")]


class ClaimParameters(Parameters):
    """A question, by its id or a part of it, and for how many seconds the user works on its answer."""

    id: IdPart
    seconds: Annotated[
        float, Field(ge=0, le=MAX_CLAIM_MS / 1000), MustBe("from 0 seconds to 24 hours", "Give it in seconds.")
    ] = CLAIM_S


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
    files: FileList = Field(default_factory=list)

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
    """List a page of the open prompts, questions before notes; with `all`, past ones too; with `snoozed`, hidden ones.

    Returns:
        `prompts`: list of [prompts](#prompts), `next`: the `page` to ask for next, or null; `questions`,
        `notes`: how many are open in all
    """
    daemon.contacts()  # so that nothing is shown of users whom the owner has just removed, even on a full disk
    page = Page(
        limit=params.limit,
        is_open=not params.all,
        peer=daemon.resolve_user(params.user) if params.user else None,
        type=_KINDS[params.kind],
        since=_milliseconds(params.since) if params.since else None,
        snoozed=params.snoozed,
    )

    def read() -> dict[str, Any]:
        node = daemon.node
        rows, more = read_page(node.journal, page, params.page)
        shown = rows if params.all else list(filter(node.rights.shows, rows))
        node.inbox.note_shown(shown)
        return {
            "prompts": [views.prompt(node, row) for row in shown],
            "next": more,
            "questions": node.inbox.open.questions,
            "notes": node.inbox.open.notes,
        }

    return await daemon.read(read)


async def inbox_groups(daemon: Daemon, params: GroupsParameters) -> Any:
    """Count the open prompts of each user, or those of each conversation with one user.

    Returns:
        `groups`: list of `user`, `name`, `conversation` (null for all of a user's), `questions`, `notes`, `first` (the
        [prompt](#prompts) that is shown first, or null)
    """
    user = daemon.resolve_user(params.user) if params.user else None

    def read() -> list[dict[str, Any]]:
        node = daemon.node
        if user is None:
            found = groups(node.journal, node.inbox.open, params.limit)
        else:
            found = groups_of(node.journal, user, params.limit)
        return [views.group(node, each) for each in found]

    return {"groups": await daemon.read(read)}


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
        daemon.node.inbox.note_shown([found])
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
    """Answer a prompt: with a text, with the words of a shell, or with a JSON value.

    A `remark` goes with it, and `files`: references to files.

    Returns:
        `id`
    """
    given = params.answer()
    answered = await daemon.run(lambda: daemon.node.inbox.answer(params.id, given, params.remark, params.files))
    return {"id": answered.id}


async def decline(daemon: Daemon, params: DeclineParameters) -> Any:
    """Decline a question.

    Returns:
        `id`
    """
    declined = await daemon.run(lambda: daemon.node.inbox.decline(params.id, params.reason))
    return {"id": declined.id}


async def decline_all(daemon: Daemon, params: DeclineAllParameters) -> Any:
    """Decline all open questions of one user, and put away their notes.

    Returns:
        `declined`, `dismissed`: how many there were
    """
    ended = await _end_all(daemon, daemon.resolve_user(params.user), params.reason)
    return {"declined": ended[Type.CALL], "dismissed": ended[Type.POST]}


async def delegate(daemon: Daemon, params: DelegateParameters) -> Any:
    """Pass a question on to a contact: the daemon of its asker asks them instead, if the asker knows them.

    Returns:
        `id`, `to` (user id)
    """
    to = daemon.resolve_user(params.user)
    if to == daemon.node.user:
        raise UsageError("A question cannot be passed on to yourself.", "Answer it.")
    prompt = await daemon.run(lambda: daemon.node.inbox.delegate(params.id, to, params.reason))
    return {"id": prompt.id, "to": to}


async def dismiss(daemon: Daemon, params: DismissParameters) -> Any:
    """Put notes away: all of them, or none if one is a question or not there.

    Returns:
        `ids`
    """
    prompts = await daemon.run(lambda: daemon.node.inbox.dismiss(params.ids))
    return {"ids": [prompt.id for prompt in prompts]}


async def dismiss_all(daemon: Daemon, params: DismissAllParameters) -> Any:
    """Put away all notes of one user.

    Returns:
        `dismissed`: how many there were
    """
    ended = await _end_all(daemon, daemon.resolve_user(params.user), "", Type.POST)
    return {"dismissed": ended[Type.POST]}


async def snooze(daemon: Daemon, params: SnoozeParameters) -> Any:
    """Hide a prompt for some seconds; its deadline stays. With 0 seconds it is shown again.

    Returns:
        `id`, `until` (null if it is shown)
    """
    ms = round(params.seconds * 1000)
    prompt = await daemon.run(lambda: daemon.node.inbox.snooze(params.id, ms))
    return {"id": prompt.id, "until": views.rfc3339(prompt.snoozed) if prompt.snoozed else None}


async def claim(daemon: Daemon, params: ClaimParameters) -> Any:
    """Say that the user works on the answer to a question of which others are asked, too; with 0 seconds, no more.

    Returns:
        `id`, `until` (null if it is released)
    """
    ms = math.ceil(params.seconds * 1000)
    prompt = await daemon.run(lambda: daemon.node.inbox.claim(params.id, ms))
    return {"id": prompt.id, "until": views.rfc3339(prompt.claimed_until) if prompt.claimed_until else None}


async def _end_all(daemon: Daemon, user: str, reason: str, kind: Type | None = None) -> Counter[str]:
    total: Counter[str] = Counter()
    while found := await daemon.run(lambda: daemon.node.inbox.end_some(user, reason, MAX_ENDED, kind)):
        total += found
    return total


async def watch(daemon: Daemon, _params: NoParameters) -> Any:
    """Send an event whenever a prompt appears or changes; in JSON Lines only.

    Returns:
        the first page of `inbox`; no event is about a prompt that is in it and has not changed since
    """
    return await inbox(daemon, InboxParameters())
