"""The human's inbox: prompts are asked once, and their first answer counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from p2pflows.errors import BadInput, Declined, TooLarge, UsageError
from p2pflows.protocol.message import Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, PromptRow
from p2pflowsd.lifecycle import PromptState
from p2pflowsd.running.settlement import Settlement

TEXT_NAMES = ("api_output", "prompt", "text")
MAX_ANSWER_BYTES = 100_000
"""Bytes; escaped as JSON it still fits a message."""


class Inbox:
    """Prompts: from asked to answered, declined, expired or cancelled."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        name_of: Callable[[str], str | None],
        settlement: Settlement,
        callbacks: Callbacks,
        on_prompt: Callable[[dict[str, Any]], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._name_of = name_of
        self._settlement = settlement
        self._callbacks = callbacks
        self._on_prompt = on_prompt

    def ask(self, row: IncomingRow, data: dict[str, Any], label: str = "") -> None:
        """Put a request before the human; the label is by which name the asking flow knows them.

        Raises:
            BadInput: it has no text for them, or the id of another question.
        """
        if self._journal.prompts.has_id(row.id):
            raise BadInput("Another question has the same id.", "Send it again under an id of its own.")
        prompt = self._journal.prompts.add(row, prompt_text(data), json.dumps(data, ensure_ascii=False), label)
        self._changed(prompt)

    def answer(self, part: str, text: str) -> PromptRow:
        """Give a prompt its answer.

        Raises:
            UsageError: no such open prompt, or it wants no answer.
        """
        prompt = self._open(part)
        if prompt.type == Type.POST:
            raise UsageError(
                f"Message {prompt.id[-8:]} wants no answer.",
                f"Write back with: p2pflows send {self._name_of(prompt.peer) or prompt.peer}/User text=...; "
                f"clear it with: p2pflows decline {prompt.id[-8:]}",
            )
        if len(text.encode()) > MAX_ANSWER_BYTES:
            raise TooLarge(
                f"The answer is longer than {MAX_ANSWER_BYTES:,} bytes.", "Answer with less, or with a link."
            )
        self._end(prompt, PromptState.ANSWERED, text)
        self._settlement.finish(self._request(prompt), {"human_input": text})
        return prompt

    def decline(self, part: str, reason: str) -> PromptRow:
        """Say no to a prompt; a message that wants no answer is only cleared away.

        Raises:
            UsageError: no such open prompt.
        """
        prompt = self._open(part)
        self._end(prompt, PromptState.DECLINED, reason or None)
        if prompt.type == Type.POST:
            self._settlement.finish(self._request(prompt), {})
        else:
            self._settlement.fail(self._request(prompt), Declined(reason or "They declined to answer."))
        return prompt

    def withdraw(self, row_id: int, state: PromptState) -> None:
        """End a prompt that needs no answer any more."""
        prompt = self._journal.prompts.get(row_id)
        if prompt is not None and prompt.state == PromptState.OPEN:
            self._end(prompt, state, None)

    def list(self, *, everything: bool) -> list[dict[str, Any]]:
        """Open prompts, or all that are remembered."""
        rows = self._journal.prompts.all() if everything else self._journal.prompts.open()
        return [self.show(row) for row in rows]

    def show(self, row: PromptRow) -> dict[str, Any]:
        """A prompt as programs see it."""
        return {
            "id": row.id,
            "from": row.peer,
            "name": self._name_of(row.peer),
            "endpoint": row.endpoint,
            "text": row.text,
            "data": json.loads(row.data),
            "received": rfc3339(row.received),
            "expires": rfc3339(row.expires),
            "status": row.state,
            "wants_answer": row.type == Type.CALL,
            "conversation": row.conversation,
            "label": row.label,
            "answer": row.answer,
        }

    def _request(self, prompt: PromptRow) -> IncomingRow:
        row = self._journal.incoming.get(prompt.row_id)
        assert row is not None  # noqa: S101 - requests are remembered longer than their open prompts
        return row

    def _changed(self, prompt: PromptRow) -> None:
        shown = self.show(prompt)
        self._callbacks.after_commit(lambda: self._on_prompt(shown))

    def _end(self, prompt: PromptRow, state: PromptState, answer: str | None) -> None:
        self._journal.prompts.end(prompt.row_id, state, self._clock.now(), answer)
        self._changed(prompt._replace(state=state, answer=answer))

    def _open(self, part: str) -> PromptRow:
        found = self._journal.prompts.matching(part)
        still = [row for row in found if row.state == PromptState.OPEN]
        if len(still) > 1:
            raise UsageError(f"Several prompts have an id like {part!r}.", "Give more of the id.")
        if still:
            return still[0]
        if found:
            raise UsageError(f"Prompt {found[0].id[-8:]} is already {found[0].state}.", "See: p2pflows inbox --all")
        raise UsageError(f"No prompt has the id {part!r}.", "See the open ones with: p2pflows inbox")


def prompt_text(data: dict[str, Any]) -> str:
    """The text for the human in a request's data.

    Raises:
        BadInput: there is none.
    """
    for name in TEXT_NAMES:
        text = data.get(name)
        if isinstance(text, str) and text.strip():
            return text
    raise BadInput("A human needs a text to answer.", 'Put it under "api_output", "prompt" or "text".')


def rfc3339(ms: int) -> str:
    """A time in milliseconds since the Unix epoch as text, UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
