"""Reads a request for a chat completion, and writes it as the input of a flow."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

MAX_MESSAGES = 2_000
"""Most messages in one request."""

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS = {"user": "User", "assistant": "Assistant"}
_CHANGES_THE_ANSWER = ("tools", "functions", "logprobs", "top_logprobs", "stop", "modalities", "audio", "prediction")
"""Parameters that an answer without them would break; all others are left to the owner of the flow."""


class BadRequest(Exception):
    """The request cannot be served.

    Args:
        message: why, in a sentence.
        param: the parameter that is wrong; None if it is none of them.
        code: OpenAI's word for the error.
    """

    def __init__(self, message: str, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class Turn(NamedTuple):
    """What was said before: by `system`, `user` or `assistant`."""

    role: str
    text: str
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A request for a chat completion.

    Args:
        model: the model, as the client names it.
        before: what was said before the question, in order.
        question: what the user says now.
        is_streamed: whether the client wants the answer while it grows.
        wants_usage: whether the last chunk of a stream is to hold the usage.
    """

    model: str
    before: tuple[Turn, ...]
    question: Turn
    is_streamed: bool
    wants_usage: bool

    def continuation(self) -> dict[str, Any]:
        """Return the input of a flow that remembers what was said before."""
        return _input(self.question.text, self.question.pictures)

    def beginning(self) -> dict[str, Any]:
        """Return the input of a flow that does not: the client's system message, what was said, and the question."""
        turns = [turn for turn in self.before if turn.role != "system"]
        parts = [turn.text for turn in self.before if turn.role == "system" and turn.text]
        if turns:
            said = [f"{_SPEAKERS[turn.role]}: {turn.text}" for turn in turns]
            parts += ["This was said before:", *said, f"User: {self.question.text}"]
        else:
            parts.append(self.question.text)
        pictures = [picture for turn in (*self.before, self.question) for picture in turn.pictures]
        return _input("\n\n".join(parts), pictures)


def read_request(body: bytes) -> ChatRequest:
    """Read the body of a request.

    Raises:
        BadRequest: it has another form, or asks for what flows cannot do.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise BadRequest("The body is not JSON.") from None
    if not isinstance(content, dict):
        raise BadRequest("The body is not a JSON object.")
    model = content.get("model")
    if not isinstance(model, str) or not model:
        raise BadRequest("The parameter 'model' must be a text.", "model")
    _check_parameters(content)
    messages = content.get("messages")
    if not isinstance(messages, list) or not 0 < len(messages) <= MAX_MESSAGES:
        raise BadRequest(f"'messages' must be a list of 1 to {MAX_MESSAGES:,} messages.", "messages")
    before, question = _split([_turn(number, message) for number, message in enumerate(messages)])
    options = content.get("stream_options")
    return ChatRequest(
        model=model,
        before=before,
        question=question,
        is_streamed=content.get("stream") is True,
        wants_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _check_parameters(content: dict[str, Any]) -> None:
    for name in _CHANGES_THE_ANSWER:
        if content.get(name) not in (None, False, [], ["text"]):
            raise BadRequest(
                f"The models of this server are flows, which take no {name!r}.", name, "unsupported_parameter"
            )
    if content.get("n") not in (None, 1):
        raise BadRequest("The models of this server give one answer: 'n' must be 1.", "n", "unsupported_value")
    if (content.get("response_format") or {"type": "text"}) != {"type": "text"}:
        raise BadRequest(
            "The models of this server answer as their owners have set: 'response_format' must be text.",
            "response_format",
            "unsupported_value",
        )


def _turn(number: int, message: Any) -> Turn:
    where = f"messages.[{number}]"
    role = message.get("role") if isinstance(message, dict) else None
    if not isinstance(role, str) or role not in _ROLES:
        raise BadRequest(f"'{where}.role' must be one of: {', '.join(_ROLES)}.", f"{where}.role")
    if message.get("tool_calls") or message.get("function_call"):
        raise BadRequest("The models of this server call no tools of yours.", where, "unsupported_value")
    return Turn(_ROLES[role], *_content(f"{where}.content", message.get("content")))


def _content(where: str, content: Any) -> tuple[str, tuple[str, ...]]:
    """Return the text and the pictures of a message."""
    texts: list[str] = []
    pictures: list[str] = []
    for part in content if isinstance(content, list) else [] if content is None else [content]:
        match part:
            case str(text) | {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case {"type": "image_url", "image_url": {"url": str(url)} | str(url)}:
                pictures.append(url)
            case _:
                raise BadRequest(f"'{where}' must be a text, or a list of texts and pictures.", where)
    return "\n".join(texts), tuple(pictures)


def _split(turns: Sequence[Turn]) -> tuple[tuple[Turn, ...], Turn]:
    """Return what was said before, and what the user says at the end, in one message or several."""
    end = len(turns)
    while end and turns[end - 1].role == "user":
        end -= 1
    last = turns[end:]
    text = "\n\n".join(turn.text for turn in last if turn.text)
    pictures = tuple(picture for turn in last for picture in turn.pictures)
    if not text.strip() and not pictures:
        raise BadRequest("The last message must be of the user, and say something.", "messages")
    return tuple(turns[:end]), Turn("user", text, pictures)


def _input(text: str, pictures: Sequence[str]) -> dict[str, Any]:
    return {"query": text, **({"images": list(pictures)} if pictures else {})}
