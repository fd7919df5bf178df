"""Conversations: who talks with whom, put together from what the journal remembers of calls and prompts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from p2pflowsd.human.inbox import rfc3339
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow, PromptRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, PromptState

MAX_ROWS_READ = 5_000
"""How many of the last calls, and of the last prompts, are looked at."""
MAX_TEXT_CHARS = 500

_TEXTS = ("human_input", "api_output", "text", "prompt", "query", "result")


@dataclass(slots=True)
class Conversation:
    """What was said under one conversation id, with one user, one way.

    Attributes:
        conversation: its id.
        way: "asking" if we call them, "asked" if they ask our human.
        user: who that is.
        endpoint: theirs that we call, or ours that they ask.
        label: by which name the asking flow knows our human.
        text: what was said last; the start of it, if it is long.
        by: who said it, "me" or "them"; None for an error.
        at: when the last question was asked.
        open: how many prompts of it wait for our human.
        waiting: our last call in it that has no answer yet.
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

    def as_json(self) -> dict[str, Any]:
        """The conversation as programs see it."""
        return {**asdict(self), "at": rfc3339(self.at)}


def newest(journal: Journal, limit: int) -> list[Conversation]:
    """The conversations of the user, and of their human with others' flows, newest first."""
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
    return sorted(found.values(), key=lambda each: each.at, reverse=True)[:limit]


def _asking(journal: Journal, call: OutgoingRow) -> Conversation:
    by: Literal["me", "them"] | None
    if call.state in OPEN_OUTGOING:
        body = journal.outgoing.body(call.id)  # which is kept until they have it
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


def _text(data: dict[str, Any]) -> str:
    """What a message says: its text if it has one, else all of it."""
    for name in _TEXTS:
        if isinstance(data.get(name), str):
            return str(data[name])
    return json.dumps(data, ensure_ascii=False) if data else ""
