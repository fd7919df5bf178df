"""The inbox of the human: each prompt is asked once, and its first answer counts."""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pflows import short_ids
from p2pflows.errors import BadInput, DeadlinePassed, Declined, Delegated, NotAllowed, TooLarge, UsageError
from p2pflows.foreign_text import shorten
from p2pflows.forms.shown import show
from p2pflows.forms.wire import MAX_REMARK_CHARS, SHOWN, SNOOZED, form_of, reply_data
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock
from p2pflowsd.human.claims import Claims
from p2pflowsd.human.open_prompts import OpenPrompts
from p2pflowsd.human.texts import text_in
from p2pflowsd.human.transcript import Transcript, delegated_text
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, PromptRow
from p2pflowsd.lifecycle import PromptState
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.outbox import Outbox

MAX_OPEN_OF_PEER = 1_000
"""Open questions and notes of one asker."""
MAX_SNOOZED = 1_000
"""How many questions and notes may be hidden."""
MAX_WHY_CHARS = 1_000
"""How long the reason may be for which a question is passed on."""
MAX_ANSWER_BYTES = 100_000
"""So that the answer fits into a message even when JSON escapes all of it."""


_ENDED_BY_USER = frozenset({PromptState.ANSWERED, PromptState.DECLINED, PromptState.DELEGATED})


@dataclass(frozen=True, slots=True)
class Typed:
    """An answer as a person typed it: a text, or its words as a shell has split them."""

    words: str | Sequence[str]

    def as_text(self) -> str:
        """Return it as text."""
        return self.words if isinstance(self.words, str) else " ".join(self.words)


@dataclass(frozen=True, slots=True)
class Value:
    """An answer as a program gives it: a JSON value."""

    value: Any

    def as_text(self) -> str:
        """Return it as text.

        Raises:
            BadInput: it is no text.
        """
        if not isinstance(self.value, str):
            raise BadInput("The question asks for text.", "Give the answer as text.")
        return self.value


Answer = Typed | Value


class Inbox:
    """The prompts, from asked to answered, declined, dismissed, expired or cancelled.

    Args:
        journal: where prompts are stored.
        clock: the time.
        name_of: returns the name of a user, or None if they are no contact.
        notices: tells askers that their questions are shown.
        settlement: ends the request of a prompt, with its answer or an error.
        callbacks: run after the commit.
        transcript: gets each prompt, and how it ends.
        on_prompt: called after the commit with each prompt that is new or has changed.
        user: the user id of the owner.
        outbox: tells askers who works on an answer.
        max_open_of_peer: how many open prompts one asker may have.

    Attributes:
        open: how many prompts are open, by asker.
        claims: who works on the answers.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        name_of: Callable[[str], str | None],
        settlement: Settlement,
        notices: Notices,
        callbacks: Callbacks,
        transcript: Transcript,
        on_prompt: Callable[[PromptRow], None],
        user: str,
        outbox: Outbox,
        max_open_of_peer: int = MAX_OPEN_OF_PEER,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._name_of = name_of
        self._settlement = settlement
        self._outbox = outbox
        self._notices = notices
        self._shown: set[int] = set()
        self._callbacks = callbacks
        self._transcript = transcript
        self._on_prompt = on_prompt
        self.claims = Claims(
            user=user,
            journal=journal,
            clock=clock,
            outbox=outbox,
            name_of=name_of,
            callbacks=callbacks,
            on_prompt=on_prompt,
        )
        self.open = OpenPrompts(journal)
        self._wakes = [(prompt.snoozed, prompt.row_id) for prompt in journal.prompts.snoozed()]
        """A heap of when each hidden prompt is shown again, with its number."""
        self._max_open_of_peer = max_open_of_peer

    def ask(self, row: IncomingRow, data: dict[str, Any], label: str = "", flow: str = "") -> None:
        """Ask the human what a request asks.

        Args:
            row: the request.
            data: its data, with the text for the human.
            label: the name by which the asking flow knows the human.
            flow: the flow that asks, with its dispatch point; empty if the sender does in person.

        Raises:
            BadInput: the data has no text or a form that cannot be shown, or another prompt has the same id.
            NotAllowed: the asker has as many open questions as one may have.
        """
        if self.open.count_of(row.peer) >= self._max_open_of_peer:
            raise NotAllowed(
                f"You have {self._max_open_of_peer:,} open questions there, as many as one may have.",
                "Ask again when some of them have ended.",
            )
        if self._journal.prompts.has_id(row.id):
            raise BadInput("Another question has the same id.", "Send it again under an id of its own.")
        form_of(data)
        prompt = self._journal.prompts.add(row, prompt_text(data), json.dumps(data, ensure_ascii=False), label, flow)
        self.open.add(prompt)
        self._transcript.on_asked(prompt)
        self._changed(prompt)

    def find(self, part: str) -> PromptRow:
        """Return a prompt, open or not.

        Raises:
            UsageError: not exactly one has such an id.
        """
        found = self._journal.prompts.matching(part)
        if len(found) == 1:
            return found[0]
        return self._find_open(part)

    def note_shown(self, prompts: Iterable[PromptRow]) -> None:
        """Tell the askers of open questions, once each, that the human sees them now."""
        for prompt in prompts:
            if prompt.state == PromptState.OPEN and prompt.type == Type.CALL and prompt.row_id not in self._shown:
                self._shown.add(prompt.row_id)
                self._notices.send_progress(prompt.peer, prompt.id, SHOWN)

    def answer(self, part: str, answer: Answer, remark: str = "", files: Sequence[dict[str, Any]] = ()) -> PromptRow:
        """Answer a prompt.

        Args:
            part: the beginning or end of the prompt's id.
            answer: what was typed, or a value.
            remark: what the human adds; may be empty.
            files: references to the files that go with it.

        Raises:
            FileLost: one of the files is not here.
            UsageError: not exactly one open prompt has such an id, or it wants no answer.
            DeadlinePassed: it has expired.
            BadInput: the answer is not what the prompt asks for.
            TooLarge: the answer or the remark is too long.
        """
        prompt = self._find_open(part)
        if prompt.type == Type.POST:
            raise UsageError(
                f"Message {prompt.id[-8:]} wants no answer.",
                f"Write back with: p2pflows send {self._name_of(prompt.peer) or prompt.peer}/User text=...; "
                f"put it away with: p2pflows dismiss {prompt.id[-8:]}",
            )
        form = form_of(json.loads(prompt.data))
        if form is None:
            value = answer.as_text()
        elif isinstance(answer, Typed):
            value = form.parse(answer.words)
        else:
            value = answer.value
            form.check(value)
        if _size(show(value)) > MAX_ANSWER_BYTES:
            raise TooLarge(
                f"The answer is longer than {MAX_ANSWER_BYTES:,} bytes.", "Answer with less, or with a link."
            )
        if len(remark) > MAX_REMARK_CHARS:
            raise TooLarge(f"The remark is longer than {MAX_REMARK_CHARS:,} characters.", "Write a shorter one.")
        data = reply_data(form, value, remark, files)
        if files:
            self._outbox.check(prompt.peer, topics.REPLY, data, Type.REPLY)
        self._end(prompt, PromptState.ANSWERED, data["human_input"])
        self._settlement.finish(self._request(prompt), data)
        return prompt

    def decline(self, part: str, reason: str) -> PromptRow:
        """Decline a question.

        Args:
            part: the beginning or end of the prompt's id.
            reason: the reason for the sender; may be empty.

        Raises:
            UsageError: not exactly one open prompt has such an id, or it is a note.
        """
        prompt = self._find_open(part)
        if prompt.type == Type.POST:
            raise UsageError(
                f"Message {prompt.id[-8:]} is a note, which asks nothing.",
                f"Put it away with: p2pflows dismiss {prompt.id[-8:]}",
            )
        self._end_unanswered(prompt, reason)
        return prompt

    def delegate(self, part: str, to: str, why: str) -> PromptRow:
        """Let somebody else answer a question: its asker is told whom to ask instead.

        Args:
            part: the beginning or end of the prompt's id.
            to: the user id of the other one.
            why: the reason for the asker; may be empty.

        Raises:
            UsageError: not exactly one open prompt has such an id, it is a note, or the other one asks it.
            TooLarge: the reason is too long.
        """
        prompt = self._find_open(part)
        if prompt.type == Type.POST:
            raise UsageError(f"Message {prompt.id[-8:]} is a note, which asks nothing.", "Tell them yourself.")
        if to == prompt.peer:
            raise UsageError("They ask it themselves.", f"Answer it: p2pflows answer {prompt.id[-8:]} TEXT")
        if len(why) > MAX_WHY_CHARS:
            raise TooLarge(f"The reason is longer than {MAX_WHY_CHARS:,} characters.", "Write a shorter one.")
        self._end(prompt, PromptState.DELEGATED, delegated_text(to, why))
        reason = f": {why}" if why else "."
        error = Delegated(f"Your question was passed on to user {to}{reason}", "Ask them.", to=to, why=why)
        self._settlement.fail(self._request(prompt), error)
        return prompt

    def claim(self, part: str, ms: int) -> PromptRow:
        """Say that this user works on the answer to a question of which others are asked, too; with 0, no more.

        Args:
            part: the beginning or end of the prompt's id.
            ms: for how many milliseconds.

        Raises:
            UsageError: not exactly one open prompt has such an id, nobody else is asked, or somebody else works on it.
            DeadlinePassed: it has expired.
        """
        prompt = self._find_open(part)
        return self.claims.claim(prompt, ms) if ms else self.claims.release(prompt)

    def dismiss(self, parts: Sequence[str]) -> list[PromptRow]:
        """Put notes away.

        Args:
            parts: of each note the beginning or end of its id.

        Raises:
            UsageError: not exactly one open prompt has such an id, or it is a question; then no note is put away.
        """
        prompts = {prompt.row_id: prompt for prompt in map(self._find_open, parts)}
        for prompt in prompts.values():
            if prompt.type != Type.POST:
                raise UsageError(
                    f"Message {prompt.id[-8:]} is a question, which waits for an answer.",
                    f"Answer it, or refuse to: p2pflows decline {prompt.id[-8:]}",
                )
        for prompt in prompts.values():
            self._end_unanswered(prompt, "")
        return list(prompts.values())

    def end_some(self, peer: str, reason: str, limit: int, kind: Type | None = None) -> Counter[str]:
        """Decline some of the open questions of one user, and put away some of their notes.

        Args:
            peer: the user.
            reason: the reason for the user; may be empty.
            limit: the most prompts to end.
            kind: of which type; None for both.

        Returns:
            How many prompts of each type there were.
        """
        prompts = self._journal.prompts.open_of(peer, limit, kind)
        for prompt in prompts:
            self._end_unanswered(prompt, reason)
        return Counter(prompt.type for prompt in prompts)

    def snooze(self, part: str, ms: int) -> PromptRow:
        """Hide a prompt for a while; with 0, show it again. Its deadline stays.

        Raises:
            UsageError: not exactly one open prompt has such an id, it ends before, or too many are hidden.
        """
        prompt = self._find_open(part)
        until = self._clock.now() + ms if ms else 0
        if until >= prompt.expires:
            left = (prompt.expires - self._clock.now()) // 1000
            raise UsageError(
                f"Message {prompt.id[-8:]} ends in {left:,} s, while it would be hidden.", "Snooze it for less time."
            )
        if until and not prompt.snoozed and len(self._wakes) >= MAX_SNOOZED:
            raise UsageError(
                f"{MAX_SNOOZED:,} messages are snoozed, as many as may be.", "See: p2pflows inbox --snoozed"
            )
        self._journal.prompts.snooze(prompt.row_id, until)
        self._wakes = [wake for wake in self._wakes if wake[1] != prompt.row_id]
        heapq.heapify(self._wakes)
        if until:
            heapq.heappush(self._wakes, (until, prompt.row_id))
        prompt = prompt._replace(snoozed=until)
        self._changed(prompt)
        if until and prompt.type == Type.CALL:
            self._shown.discard(prompt.row_id)
            self._notices.send_progress(prompt.peer, prompt.id, {"human": SNOOZED, "until": until})
        return prompt

    def wake(self) -> None:
        """Show the prompts again whose time has come."""
        while self._wakes and self._wakes[0][0] <= self._clock.now():
            _, row_id = heapq.heappop(self._wakes)
            prompt = self._journal.prompts.get(row_id)
            if prompt is not None and self._journal.prompts.snooze(row_id, 0):
                self._changed(prompt._replace(snoozed=0))

    def withdraw(self, row_id: int, state: PromptState, why: str = "") -> None:
        """End the prompt of a request that needs no answer any more; does nothing if there is none.

        Args:
            row_id: the number of the request.
            state: how the prompt ends.
            why: what its sender says about that; may be empty.
        """
        prompt = self._journal.prompts.get(row_id)
        if prompt is not None and prompt.state == PromptState.OPEN:
            self._end(prompt, state, why[:MAX_REMARK_CHARS] or None)

    def _end_unanswered(self, prompt: PromptRow, reason: str) -> None:
        if prompt.type == Type.POST:
            self._end(prompt, PromptState.DISMISSED, None)
            self._settlement.finish(self._request(prompt), {})
        else:
            self._end(prompt, PromptState.DECLINED, reason or None)
            self._settlement.fail(self._request(prompt), Declined(reason or "The human declined to answer."))

    def _request(self, prompt: PromptRow) -> IncomingRow:
        row = self._journal.incoming.get(prompt.row_id)
        assert row is not None  # noqa: S101 - the journal keeps a request at least as long as its open prompt
        return row

    def _changed(self, prompt: PromptRow) -> None:
        self._callbacks.after_commit(lambda: self._on_prompt(prompt))

    def _end(self, prompt: PromptRow, state: PromptState, answer: str | None) -> None:
        self._shown.discard(prompt.row_id)
        if self._journal.prompts.end(prompt.row_id, state, self._clock.now(), answer):
            self.open.remove(prompt)
            self._transcript.on_prompt_ended(prompt, state, answer)
            if state in _ENDED_BY_USER:
                self.claims.drop(prompt)
        self._wakes = [wake for wake in self._wakes if wake[1] != prompt.row_id] if prompt.snoozed else self._wakes
        self._changed(prompt._replace(state=state, answer=answer, snoozed=0))

    def _find_open(self, part: str) -> PromptRow:
        """Return the open prompt with an id.

        Raises:
            UsageError: there is not exactly one.
            DeadlinePassed: its time is over, whether it is marked as expired already or not.
        """
        found = self._journal.prompts.matching(part)
        now = self._clock.now()
        open_prompts = [row for row in found if row.state == PromptState.OPEN and row.expires > now]
        if len(open_prompts) > 1:
            ids = short_ids.name_all([row.id for row in open_prompts])
            raise UsageError(f"Several prompts have an id like {part!r}: {ids}.", "Give more of the id.")
        if open_prompts:
            return open_prompts[0]
        if found and found[0].state in (PromptState.OPEN, PromptState.EXPIRED):
            raise DeadlinePassed(
                f"Too late: prompt {found[0].id[-8:]} has expired, so nothing was sent.",
                "See: p2pflows inbox --all",
            )
        if found:
            why = (
                f": {shorten(found[0].answer)}" if found[0].state == PromptState.CANCELLED and found[0].answer else "."
            )
            raise UsageError(f"Prompt {found[0].id[-8:]} is already {found[0].state}{why}", "See: p2pflows inbox --all")
        raise UsageError(f"No prompt has the id {part!r}.", "See the open ones with: p2pflows inbox")


def _size(text: str) -> int:
    return len(text.encode(errors="surrogatepass"))


def prompt_text(data: dict[str, Any]) -> str:
    """Return the text for the human in the data of a request.

    Raises:
        BadInput: it has no text.
    """
    text = text_in(data)
    if text is not None:
        return text
    raise BadInput("A human needs a text to answer.", 'Put it under "api_output", "prompt" or "text".')
