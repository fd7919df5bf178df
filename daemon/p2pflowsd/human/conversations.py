"""Conversations with other users, composed from the calls and prompts in the journal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Literal

from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import LineRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, PromptState

MAX_ROWS_READ = 1_000
"""How many of the last calls, of the last prompts and of the last lines are read."""
_AFTER_ALL = 2**62
"""A number after those of all lines."""
MAX_TEXT_CHARS = 500

_TEXTS = ("human_input", "api_output", "text", "prompt", "query", "result")


@dataclass(slots=True)
class Conversation:
    """The messages under one conversation id between us and one user, in one direction.

    Attributes:
        conversation: its id.
        way: "asking" if we call the user, "asked" if the user asks our human.
        user: the user id of the other side.
        endpoint: the user's endpoint that we call, or ours that the user calls.
        label: the name by which the asking flow knows our human.
        text: the last text; cut if it is long.
        by: the author of the last text, "me" or "them"; None for an error.
        at: when the last question was asked, in milliseconds since the Unix epoch.
        open: how many of its prompts wait for our human.
        waiting: the id of our last call in it that has no answer yet.
    """

    conversation: str
    way: Literal["asking", "asked"]
    user: str
    endpoint: str
    label: str
    text: str
    by: Literal["me", "them"] | None
    at: int
    open: int = 0
    waiting: str | None = None


def newest(journal: Journal, limit: int) -> list[Conversation]:
    """Return the conversations of our user and of our human, newest first."""
    found: dict[tuple[str, ...], Conversation] = {}
    key: tuple[str, ...]
    for call in journal.outgoing.newest_calls(MAX_ROWS_READ):
        key = ("asking", call.conversation, call.peer, call.endpoint)
        if key not in found:
            found[key] = _asking(journal, call)
        if call.state in OPEN_OUTGOING and found[key].waiting is None:
            found[key].waiting = call.id
    for prompt in journal.prompts.newest(MAX_ROWS_READ):
        key = ("asked", prompt.conversation, prompt.peer, prompt.endpoint, prompt.label)
        if key not in found:
            found[key] = _asked(prompt)
        found[key].open += prompt.state == PromptState.OPEN
    talked = {(each.conversation, each.user) for each in found.values()}
    for line in journal.lines.newest(MAX_ROWS_READ, _AFTER_ALL):
        if line.kind == "note" and (line.conversation, line.peer) not in talked:
            talked.add((line.conversation, line.peer))
            found["notes", line.conversation, line.peer] = _noted(line)
    return sorted(found.values(), key=lambda each: each.at, reverse=True)[:limit]


def _asking(journal: Journal, call: OutgoingRow) -> Conversation:
    by: Literal["me", "them"] | None
    if call.state in OPEN_OUTGOING:
        body = journal.outgoing.body(call.id)  # the journal has it until the recipient has stored the call
        text, by = _text(json.loads(body).get("data", {}) if body else {}), "me"
    elif call.state == OutgoingState.DONE:
        text, by = _text(json.loads(call.answer or b"{}")), "them"
    else:
        text, by = str(json.loads(call.answer or b"{}").get("message", "")), None
    return Conversation(
        call.conversation, "asking", call.peer, call.endpoint, "", text[:MAX_TEXT_CHARS], by, call.created
    )


def _asked(prompt: PromptRow) -> Conversation:
    answered = prompt.state == PromptState.ANSWERED and prompt.answer is not None
    text = prompt.answer if answered and prompt.answer is not None else prompt.text
    return Conversation(
        prompt.conversation,
        "asked",
        prompt.peer,
        prompt.endpoint,
        prompt.label,
        text[:MAX_TEXT_CHARS],
        "me" if answered else "them",
        prompt.received,
    )


def _noted(line: LineRow) -> Conversation:
    return Conversation(
        line.conversation,
        "asking" if line.by_me else "asked",
        line.peer,
        line.endpoint,
        line.label,
        line.text[:MAX_TEXT_CHARS],
        "me" if line.by_me else "them",
        line.at,
    )


def _text(data: dict[str, Any]) -> str:
    """Return the text in the data of a message, or all of the data as JSON."""
    for name in _TEXTS:
        if isinstance(data.get(name), str):
            return str(data[name])
    return json.dumps(data, ensure_ascii=False) if data else ""
