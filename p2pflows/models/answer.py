"""Answer: what a model said, how it ended, and whether that is a whole answer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from p2pflows.errors import FlowFailed
from p2pflows.models.tools import ToolCall

ABOUT_THE_ANSWER = ("finish_reason", "model", "usage", "attempts", "trimmed")
"""What a flow says beside the text of an answer."""

_CUT_REASONS = frozenset(
    {"length", "max_tokens", "max_output_tokens", "model_length", "model_context_window_exceeded", "incomplete"}
)
_WITHHELD_REASONS = frozenset(
    {"content_filter", "safety", "recitation", "prohibited_content", "blocklist", "spii", "sensitive", "refusal"}
)
_TOOL_REASONS = frozenset({"tool_calls", "function_call", "tool_use"})
_BROKEN_REASONS = frozenset({"error", "abort", "cancelled", "timeout", "network_error", "insufficient_system_resource"})
_THOUGHTS_ALONE = re.compile(r"\s*(<think(ing)?>((?!</think).)*|.*</think(ing)?>\s*)", re.DOTALL)
"""Thoughts that some servers leave in the text, when no answer follows them."""
_ACCEPT = "set accept_incomplete: true in the flow's config to get it as it is."


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of a model.

    Args:
        text: its text; empty when it has none.
        finish_reason: why the model ended it, in the server's words; None when the server did not say.
        has_reasoning: whether the model wrote down how it reasoned, which is no part of the text.
        tool_calls: what it wants done before it answers.
    """

    text: str
    finish_reason: str | None = None
    has_reasoning: bool = False
    tool_calls: Sequence[ToolCall] = ()

    def check_whole(self) -> None:
        """Check that this is a whole answer with a text.

        Raises:
            FlowFailed: it was cut or withheld, wants a tool, or has no text.
        """
        reason = (self.finish_reason or "").lower()
        if reason in _WITHHELD_REASONS:
            raise for_two(f"The model's server withheld its answer ({reason}).", "Ask in other words.", f"Or {_ACCEPT}")
        if reason in _TOOL_REASONS:
            raise for_two(
                f"The model wants a tool, and this flow has none ({reason}).",
                "Ask in other words.",
                f"Or tell it in the system message to answer in words, or {_ACCEPT}",
            )
        if reason in _BROKEN_REASONS:
            raise for_two(f"The model's server ended the answer early ({reason}).", "Ask again.", f"Or {_ACCEPT}")
        if reason in _CUT_REASONS:
            what = (
                "The model's answer was cut off" if self.text.strip() else "The model reached its limit before a text"
            )
            raise for_two(
                f"{what} ({reason}).",
                "Ask for less.",
                f"Or raise backend.max_tokens or the server's limit, or {_ACCEPT}",
            )
        is_thought = _THOUGHTS_ALONE.fullmatch(self.text) is not None
        if is_thought or not self.text.strip():
            what = (
                "only reasoned, and gave no answer"
                if self.has_reasoning or is_thought
                else "gave an answer without text"
            )
            raise for_two(f"The model {what}.", "Ask again or in other words.", f"Or {_ACCEPT}")


def for_two(message: str, for_caller: str, for_owner: str) -> FlowFailed:
    """Return an error that tells a caller what to do, and the owner of the flow what else they can do."""
    error = FlowFailed(message, for_caller)
    error.details = f"{message} {for_caller} {for_owner}"
    return error


@dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens a model read and wrote; None when its server did not say."""

    tokens_in: int | None = None
    tokens_out: int | None = None
    tokens_cached: int | None = None
    """How many of those that it read it had at hand from an earlier question, which many servers sell for less."""

    def __add__(self, other: Usage) -> Usage:
        """Return the sum, in which what one of both does not know is unknown."""
        return Usage(
            _sum(self.tokens_in, other.tokens_in),
            _sum(self.tokens_out, other.tokens_out),
            _sum(self.tokens_cached, other.tokens_cached),
        )

    def to_data(self) -> dict[str, int | None]:
        """Return this as an answer has it."""
        return {"tokens_in": self.tokens_in, "tokens_out": self.tokens_out, "tokens_cached": self.tokens_cached}


@dataclass(frozen=True, slots=True)
class Completion:
    """All answers to one question.

    Args:
        answers: in order.
        model: the model that answered, in the server's words; None when the server did not say.
        usage: the tokens of all requests that were answered.
        attempts: how many requests were sent, those included that failed.
    """

    answers: Sequence[Answer]
    model: str | None = None
    usage: Usage = Usage()
    attempts: int = 1

    @property
    def texts(self) -> list[str]:
        """The texts of the answers."""
        return [answer.text for answer in self.answers]

    def check_whole(self) -> None:
        """Check that every answer is a whole one.

        Raises:
            FlowFailed: one is not.
        """
        for answer in self.answers:
            answer.check_whole()

    def to_record(self) -> dict[str, Any]:
        """Return this as JSON can store it."""
        return {
            "answers": [
                [each.text, each.finish_reason, each.has_reasoning, [list(call) for call in each.tool_calls]]
                for each in self.answers
            ],
            "model": self.model,
            "usage": [self.usage.tokens_in, self.usage.tokens_out, self.usage.tokens_cached],
            "attempts": self.attempts,
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any] | Sequence[str]) -> Self:
        """Return what `to_record` stored; a release before stored a list of texts."""
        if isinstance(record, Mapping):
            answers = [
                Answer(text, reason, has_reasoning, [ToolCall(*call) for calls in more for call in calls])
                for text, reason, has_reasoning, *more in record["answers"]
            ]
            return cls(answers, record["model"], Usage(*record["usage"]), record.get("attempts", 1))
        return cls([Answer(text) for text in record])

    def to_data(self) -> dict[str, Any]:
        """Return what a flow answers; texts and reasons are lists when there are several answers."""
        texts, reasons = self.texts, [answer.finish_reason for answer in self.answers]
        is_one = len(self.answers) == 1
        return {
            "api_output": texts[0] if is_one else texts,
            "finish_reason": reasons[0] if is_one else reasons,
            "model": self.model,
            "usage": self.usage.to_data(),
            "attempts": self.attempts,
        }


def _sum(one: int | None, other: int | None) -> int | None:
    return None if one is None or other is None else one + other


def output_fields(schema: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the fields of a chat flow's answer as properties of a JSON Schema, for people.

    Args:
        schema: what the answer of the model must be; None for a text.
    """
    text = {"type": "string", "description": "what the model says"}
    return {
        "api_output": text if schema is None else dict(schema),
        "finish_reason": {"type": "string", "description": "why it ended, in the words of its server"},
        "model": {"type": "string", "description": "the model that answered"},
        "usage": {"type": "object", "description": "tokens_in, tokens_out and tokens_cached"},
        "attempts": {"type": "integer", "description": "how many requests it took"},
        "trimmed": {"type": "integer", "description": "how many earlier messages the model did not receive"},
    }
