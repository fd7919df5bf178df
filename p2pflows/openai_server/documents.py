"""The documents that the server sends, in the forms of OpenAI; all are plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pflows.errors import Busy, P2pflowsError
from p2pflows.foreign_text import quote

ANSWER_KEYS = ("api_output", "text", "result")
"""Where the data of an answer may have its text; the first key that is there counts."""
_REASONS = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})
_STATUSES = {
    "unknown_user": (404, "invalid_request_error", "model_not_found"),
    "not_served": (404, "invalid_request_error", "model_not_found"),
    "not_allowed": (403, "permission_error", "not_allowed"),
    "bad_input": (400, "invalid_request_error", "bad_input"),
    "usage": (400, "invalid_request_error", "bad_input"),
    "too_large": (413, "invalid_request_error", "too_large"),
    "busy": (429, "rate_limit_error", "busy"),
    "unreachable": (503, "server_error", "unreachable"),
    "no_worker": (503, "server_error", "no_worker"),
    "daemon_not_running": (503, "server_error", "daemon_not_running"),
    "disk": (503, "server_error", "disk"),
    "deadline": (504, "server_error", "deadline"),
}
"""HTTP status, type and code of the kinds of errors; all others are 502."""
_RETRYABLE = frozenset({429, 503})
_RETRY_AFTER_S = 2


@dataclass(frozen=True, slots=True)
class Failure:
    """Why there is no answer.

    Args:
        status: the HTTP status.
        message: a sentence for the user of the client.
        type: OpenAI's kind of the error.
        code: OpenAI's word for it, or the kind of ours.
        param: the parameter that is wrong.
        retry_after: seconds after which the client may try again; None if it should not.
    """

    status: int
    message: str
    type: str = "invalid_request_error"
    code: str | None = None
    param: str | None = None
    retry_after: float | None = None

    @classmethod
    def of(cls, error: P2pflowsError) -> Failure:
        """Return what the client hears of an error."""
        status, kind, code = _STATUSES.get(error.kind, (502, "server_error", error.kind))
        if error.user:  # the words of another user, and no advice of ours
            words = quote(error.name or f"User {error.user[:8]}…", error.message, error.hint)
        else:
            words = " ".join(filter(None, (error.message, error.hint)))
        retry_after = error.retry_after_s if isinstance(error, Busy) else 0
        return cls(
            status, words, kind, code, retry_after=retry_after or _RETRY_AFTER_S if status in _RETRYABLE else None
        )

    def document(self) -> dict[str, Any]:
        """Return the body of the response."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Return what tells the client whether to try again: what a flow has done once may cost money."""
        if self.retry_after is None:
            return {"x-should-retry": "false"}
        return {"Retry-After": str(math.ceil(self.retry_after)), "x-should-retry": "true"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a flow has answered."""

    text: str
    finish_reason: str
    usage: dict[str, Any]
    """All 0 if the flow does not say: clients take it for granted."""

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Answer:
        """Return the answer in the data of a reply: its text, or else all of the data as JSON."""
        value = next((data[key] for key in ANSWER_KEYS if key in data), data)
        if isinstance(value, list) and value:
            value = value[0]
        reason = data.get("finish_reason")
        return cls(
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False),
            reason if isinstance(reason, str) and reason in _REASONS else "stop",
            _usage(data.get("usage")),
        )


def _usage(usage: Any) -> dict[str, Any]:
    fields = usage if isinstance(usage, dict) else {}
    tokens_in, tokens_out, cached = (_count(fields.get(f"tokens_{name}")) for name in ("in", "out", "cached"))
    details = {"prompt_tokens_details": {"cached_tokens": cached}} if cached else {}
    total = tokens_in + tokens_out
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": total, **details}


def _count(value: Any) -> int:
    return value if type(value) is int and value >= 0 else 0


@dataclass(frozen=True, slots=True)
class Completion:
    """The documents of one completion.

    Args:
        id: names it: `chatcmpl-` and the id of the call.
        created: when it began, in seconds since the epoch.
        model: the model, as the client has named it.
    """

    id: str
    created: int
    model: str

    def whole(self, answer: Answer) -> dict[str, Any]:
        """Return the whole completion."""
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": answer.finish_reason}
        return {**self._about("chat.completion"), "choices": [choice], "usage": answer.usage}

    def piece(self, text: str, *, is_first: bool) -> dict[str, Any]:
        """Return a chunk with the next piece of the text."""
        delta = {"role": "assistant", "content": text} if is_first else {"content": text}
        return self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])

    def end(self, answer: Answer) -> dict[str, Any]:
        """Return the chunk that says why the answer ended."""
        return self._chunk([{"index": 0, "delta": {}, "logprobs": None, "finish_reason": answer.finish_reason}])

    def usage(self, answer: Answer) -> dict[str, Any]:
        """Return the chunk that says how many tokens it took."""
        return {**self._chunk([]), "usage": answer.usage}

    def _chunk(self, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self._about("chat.completion.chunk"), "choices": choices}

    def _about(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def model(name: str) -> dict[str, Any]:
    """Return the entry of a model; nobody says since when there is one."""
    return {"id": name, "object": "model", "created": 0, "owned_by": name.partition("/")[0]}


def models(names: list[str]) -> dict[str, Any]:
    """Return the list of models."""
    return {"object": "list", "data": [model(name) for name in names]}
