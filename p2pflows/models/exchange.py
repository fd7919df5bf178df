"""One question to a model, and what it takes to get a whole answer: leaving turns out, and asking again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from p2pflows.errors import FlowFailed
from p2pflows.flows.state import MAX_STATE_BYTES
from p2pflows.foreign_text import shorten
from p2pflows.models.answer import Completion, Usage, for_two
from p2pflows.models.context import (
    MAX_SUMMARY_CHARS,
    SUMMARY_QUESTION,
    Conversation,
    Counter,
    Message,
    size_in_state,
    summary_request,
)
from p2pflows.models.failures import Cause, ModelFailed
from p2pflows.models.history import to_send
from p2pflows.models.structured import NoFit, OutputSchema, correction, with_text
from p2pflows.models.tools import Toolbox

TRIM, SUMMARISE, ERROR = "trim", "summarise", "error"
OVERFLOWS = (TRIM, SUMMARISE, ERROR)
"""What may happen when a conversation does not fit."""

_ANSWER_RESERVE_BYTES = 25_000
_MAX_HISTORY_BYTES = MAX_STATE_BYTES - _ANSWER_RESERVE_BYTES
_MAX_TRANSCRIPT_CHARS = 40_000
"""How much of the turns that are left out is read for a summary, where the model's context is not known."""


class Roles(NamedTuple):
    """The names of the roles."""

    system: str
    user: str
    assistant: str


@dataclass(frozen=True, slots=True)
class Rules:
    """What a config says of a conversation.

    Args:
        roles: the names of the roles.
        first_k: how many messages from the start are sent; see `to_send`.
        last_k: how many messages from the end are sent.
        max_tokens: how many tokens are sent at most; None if the model's context is not known.
        on_overflow: what happens to what does not fit.
        schema: what an answer must be; None for any text.
        retries: how often an answer is asked for again that does not fit the schema.
        accept_incomplete: whether an answer that was cut or withheld, or has no text, is taken.
        tool_rounds: how often the model may use its tools before it answers.
        tool_tokens: how many tokens all requests may take together, if it uses tools; None for any number.
    """

    roles: Roles
    first_k: int | None = None
    last_k: int | None = None
    max_tokens: int | None = None
    on_overflow: str = TRIM
    schema: OutputSchema | None = None
    retries: int = 2
    accept_incomplete: bool = False
    tool_rounds: int = 8
    tool_tokens: int | None = None


class Request(NamedTuple):
    """One request to the model.

    Attributes:
        messages: what is sent.
        is_summary: whether it only prepares the answer.
        is_again: whether it asks again for an answer of which pieces have been reported.
    """

    messages: list[Message]
    is_summary: bool = False
    is_again: bool = False


Ask = Callable[[Request], Completion | ModelFailed]
"""Asks the model once; returns the error if the conversation is too long, and raises any other."""


@dataclass(slots=True)
class Exchange:
    """One question and its answer.

    Attributes:
        rules: what the config says.
        ask: asks the model.
        toolbox: carries out what the model wants done; None if it has no tools.
        history: the conversation as it is to be stored, from the system message to the question; what was left out for
            good is missing.
        counter: counts tokens; after the answer, with what the server has counted.
        left_out: how many messages were left out for good, now and earlier.
        usage: the tokens of all requests.
        attempts: how many requests were sent.
        trimmed: how many messages of the conversation the model did not receive as they were.
    """

    rules: Rules
    ask: Ask
    history: list[Message]
    counter: Counter = field(default_factory=Counter)
    left_out: int = 0
    usage: Usage = field(default_factory=lambda: Usage(0, 0, 0))
    attempts: int = 0
    trimmed: int = 0
    toolbox: Toolbox | None = None
    _tool_turns: list[Message] = field(default_factory=list)
    _corrections: list[Message] = field(default_factory=list)

    def run(self) -> tuple[Completion, Any]:
        """Ask until there is an answer.

        Returns:
            The completion, with the tokens and attempts of all requests; and its data, or a list of them, if the rules
            have a schema, else None.

        Raises:
            ModelFailed: there is no answer, or the conversation does not fit.
            FlowFailed: the answer is not whole, does not fit the schema, or the conversation is too long to be stored.
        """
        self._fit_into_state()
        sent = self._selected()
        problem = ""
        for _ in range(1 + self.rules.retries):
            completion, sent = self._ask_with_tools(sent)
            if not self.rules.accept_incomplete:
                completion.check_whole()
            completion = replace(completion, usage=self.usage, attempts=self.attempts)
            if self.rules.schema is None:
                return completion, None
            try:
                found = [self.rules.schema.read(text) for text in completion.texts]
            except NoFit as error:
                problem = str(error)
                self._correct(completion.texts[0], problem)
            else:
                return completion, found[0] if len(found) == 1 else found
        raise for_two(
            f"The model's answer does not fit the output_schema, after {1 + self.rules.retries} answers: {problem}.",
            "Ask in other words.",
            f"Or choose a larger model. The last answer was: {shorten(completion.texts[0])}",
        )

    def _ask_with_tools(self, sent: Conversation) -> tuple[Completion, Conversation]:
        """Ask, and carry out what the model wants done, until it answers."""
        rounds = 0
        while True:
            completion, sent = self._ask_shorter_and_shorter(sent)
            answer = completion.answers[0]
            if self.toolbox is None or not answer.tool_calls:
                return completion, sent
            used = (self.usage.tokens_in or 0) + (self.usage.tokens_out or 0)
            if rounds >= self.rules.tool_rounds:
                raise for_two(
                    f"The model used its tools {rounds} times without an answer.",
                    "Ask for less.",
                    "Or raise tool_rounds.",
                )
            if self.rules.tool_tokens is not None and used > self.rules.tool_tokens:
                what = f"The model took {used:,} tokens without an answer."
                raise for_two(what, "Ask for less.", "Or raise tool_tokens.")
            rounds += 1
            calls = [call.as_message_part() for call in answer.tool_calls]
            said = {"role": self.rules.roles.assistant, "content": answer.text or None, "tool_calls": calls}
            self._tool_turns += [said, *self.toolbox.run(answer.tool_calls)]

    def _ask_shorter_and_shorter(self, sent: Conversation) -> tuple[Completion, Conversation]:
        """Ask, and leave out more while the server says that the conversation is too long."""
        while True:
            messages = sent.messages
            if self.rules.schema is not None:
                messages = with_text(messages, self.rules.schema.instructions)
            messages = [*messages, *self._tool_turns, *self._corrections]
            outcome = self.ask(Request(messages, is_again=bool(self._tool_turns or self._corrections)))
            if isinstance(outcome, Completion):
                self._take(outcome)
                self.counter = self.counter.measured(messages, outcome.usage.tokens_in or 0)
                self.trimmed = self.left_out + len(self.history) - len(sent.messages) - (sent.system is None)
                return outcome, sent
            shorter = sent.halved()
            if self.rules.on_overflow == ERROR or shorter is None:
                raise outcome
            sent = self._shorten(sent, shorter, outcome.max_tokens or self.rules.max_tokens)

    def _correct(self, text: str, problem: str) -> None:
        """Tell the model what was wrong with its answer."""
        roles = self.rules.roles
        wrong = {"role": roles.assistant, "content": text if text.strip() else "(no answer)"}
        self._corrections = [wrong, {"role": roles.user, "content": correction(problem)}]

    def _selected(self) -> Conversation:
        """Return the part of the conversation that is sent, as far as its length is known."""
        rules = self.rules
        sent = self._read(to_send(self.history, rules.first_k, rules.last_k, user=rules.roles.user))
        limit = rules.max_tokens
        if limit is None:
            return sent
        if rules.schema is not None:
            limit -= self.counter.count([{"content": rules.schema.instructions}])
        fitted = sent.fitted(limit, self.counter.count)
        if fitted is sent or fitted.middle == sent.middle:
            return sent
        if rules.on_overflow == ERROR:
            size = self.counter.count(sent.messages)
            raise ModelFailed(
                Cause.TOO_LONG,
                f"The conversation has up to {size:,} tokens; previous_messages.context_tokens is {rules.max_tokens:,}."
                " Raise it, reset the instance, or set previous_messages.on_overflow to trim.",
            )
        if rules.on_overflow == SUMMARISE:
            # Half, so that not every question has to be preceded by a summary.
            return self._shorten(sent, sent.fitted(limit // 2, self.counter.count), rules.max_tokens)
        return fitted

    def _fit_into_state(self) -> None:
        """Leave out what the state has no space for.

        Raises:
            FlowFailed: the newest question is too large, or nothing may be left out: an answer would cost money and be
                lost.
        """
        size = size_in_state(self.history)
        if size <= _MAX_HISTORY_BYTES:
            return
        whole = self._read(self.history)
        fitted = whole.fitted(_MAX_HISTORY_BYTES * 3 // 4, size_in_state)
        if self.rules.on_overflow == ERROR or size_in_state(fitted.messages) > _MAX_HISTORY_BYTES:
            raise FlowFailed(
                f"The conversation has {size} bytes, too many to be stored.",
                "Reset the instance or get a new one; send pictures by URL, or smaller ones.",
            )
        self._shorten(whole, fitted, self.rules.max_tokens)

    def _read(self, messages: Sequence[Message]) -> Conversation:
        if self.history[0] is not messages[0]:  # an empty system message is not sent
            messages = [self.history[0], *messages]
        return Conversation.read(messages, user=self.rules.roles.user, first_k=self.rules.first_k or 0)

    def _shorten(self, before: Conversation, after: Conversation, max_tokens: int | None) -> Conversation:
        """Leave turns out for good, or put a summary in their place; return what is left of what is sent."""
        turns = before.middle[: len(before.middle) - len(after.middle)]
        lost = [message for turn in turns for message in turn]
        if not lost:
            return after
        start = next(index for index, message in enumerate(self.history) if message is lost[0])
        names = set(map(id, lost))
        self.history = [message for message in self.history if id(message) not in names]
        self.left_out += len(lost)
        summary = self._summary(lost, max_tokens) if self.rules.on_overflow == SUMMARISE else None
        if summary is None:
            return after
        roles = self.rules.roles
        pair = (
            {"role": roles.user, "content": SUMMARY_QUESTION},
            {"role": roles.assistant, "content": summary},
        )
        self.history[start:start] = pair
        return replace(after, middle=(pair, *after.middle))

    def _summary(self, lost: Sequence[Message], max_tokens: int | None) -> str | None:
        """Return a summary of what is left out; None if the model gives none."""
        roles = self.rules.roles
        max_chars = _MAX_TRANSCRIPT_CHARS
        if max_tokens is not None:
            max_chars = min(max_chars, int(max_tokens * max(1.0, self.counter.bytes_per_token or 0.0) / 2))
        outcome = self.ask(
            Request(summary_request(lost, max_chars, system=roles.system, user=roles.user), is_summary=True)
        )
        if isinstance(outcome, ModelFailed):
            return None
        self._take(outcome)
        return outcome.texts[0].strip()[:MAX_SUMMARY_CHARS] or None

    def _take(self, completion: Completion) -> None:
        self.usage += completion.usage
        self.attempts += completion.attempts
