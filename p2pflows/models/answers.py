"""Reads a model server's answers, whole or streamed; servers send many forms, and each wrong one has a reason."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

_BROKE_OFF = "its answer broke off"
_UNREADABLE = "its answer cannot be read"


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of a streamed answer.

    Args:
        answer: the index of the answer among the n answers, from 0.
        text: the next piece of its text.
        restart: whether an earlier attempt failed after some pieces, so that this piece begins the answer again.
    """

    answer: int
    text: str
    restart: bool = False


OnDelta = Callable[[Delta], None]


class BadAnswer(Exception):
    """The server's answer is incomplete or unreadable; the text says why."""


class StreamedAnswers:
    """Collects the answers to one request from its chunks, over several attempts.

    Args:
        first_index: the index of the request's first answer among all answers.
        on_delta: called with each piece; None when nobody listens.
    """

    def __init__(self, first_index: int, on_delta: OnDelta | None) -> None:
        self._first_index = first_index
        self._on_delta = on_delta
        self._reported: set[int] = set()
        self._restarting: set[int] = set()
        self._texts: dict[int, list[str]] = {}
        self._finished: set[int] = set()

    def begin(self) -> None:
        """Begin an attempt; the pieces of an earlier one are dropped."""
        self._restarting = set(self._reported)
        self._texts, self._finished = {}, set()

    def add(self, chunk: Any) -> None:
        """Take a chunk of the stream.

        Raises:
            BadAnswer: it cannot be read.
        """
        for index, text, is_end in _pieces_in(chunk):
            texts = self._texts.setdefault(index, [])
            if is_end:
                self._finished.add(index)
            if text:
                texts.append(text)
                self._report(self._first_index + index, text)

    def texts(self) -> list[str]:
        """Return the answers in order.

        Raises:
            BadAnswer: the stream ended before every answer had ended.
        """
        if not self._texts or self._finished != set(self._texts):
            raise BadAnswer(_BROKE_OFF)
        return [_without_surrogates("".join(self._texts[index])) for index in sorted(self._texts)]

    def _report(self, answer: int, text: str) -> None:
        if self._on_delta is not None:
            self._on_delta(Delta(answer, _without_surrogates(text), restart=answer in self._restarting))
            self._restarting.discard(answer)
            self._reported.add(answer)


def check_stream(chunks: Any) -> None:
    """Check that a stream is one: some servers send a JSON document instead, mostly an error.

    Raises:
        BadAnswer: it is such a document.
    """
    if "json" not in chunks.response.headers.get("content-type", ""):
        return
    try:
        document = json.loads(chunks.response.read())
    except ValueError:
        return  # a stream with a wrong content type
    except Exception as error:
        raise BadAnswer(_BROKE_OFF) from error
    raise BadAnswer(_error_text(document.get("error") if isinstance(document, dict) else None) or _UNREADABLE)


def read_chunks(chunks: Iterator[Any]) -> Iterator[Any]:
    """Yield the chunks of a stream. Older versions of `openai` let errors of the transport below them through.

    Raises:
        BadAnswer: the transport failed.
        OpenAIError: `openai` refused the stream.
    """
    from openai import OpenAIError

    while True:
        try:
            chunk = next(chunks, None)
        except OpenAIError:
            raise
        except Exception as error:
            raise BadAnswer(_BROKE_OFF) from error
        if chunk is None:
            return
        yield chunk


def whole_answers(create: Callable[..., Any], request: dict[str, Any]) -> list[str]:
    """Send a request that is not streamed, and return its answers in order.

    Raises:
        BadAnswer: the answer is incomplete or unreadable.
        OpenAIError: the server refused, or cannot be reached.
    """
    try:
        answer = create(**request)
    except ValueError:
        raise BadAnswer(_UNREADABLE) from None
    # A server that is not a model server may send anything: a web page, an empty object, half of one.
    try:
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        texts = [_without_surrogates(_text(choice.message)) for choice in choices]
    except (AttributeError, TypeError):
        raise BadAnswer(_error_text(getattr(answer, "error", None)) or _UNREADABLE) from None
    if not texts:
        raise BadAnswer(_error_text(getattr(answer, "error", None)) or "its answer holds no text")
    return texts


def _pieces_in(chunk: Any) -> list[tuple[int, str, bool]]:
    """Return the pieces in a chunk: the index of the answer, its text, and whether the answer ends.

    A choice that only annotates an answer is no piece.
    """
    pieces = []
    try:
        for choice in chunk.choices or ():
            text, is_end = "" if choice.delta is None else _text(choice.delta), choice.finish_reason is not None
            if choice.delta is not None or is_end:
                pieces.append((operator.index(choice.index), text, is_end))
    except (AttributeError, TypeError):
        raise BadAnswer(_UNREADABLE) from None
    return pieces


def _text(message: Any) -> str:
    """Return the text of a message, or of a piece of one.

    Raises:
        TypeError: its content is not text.
    """
    text = message.content or getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _error_text(error: Any) -> str | None:
    """Return the server's own words in the `error` of an answer, whatever its status."""
    match error:
        case {"code": 401 | 403 | "401" | "403" | "invalid_api_key"}:
            return "the worker's key was refused"  # the server's words may show a part of the key
        case {"message": str(text)} | str(text):
            return text
    return None


def _without_surrogates(text: str) -> str:
    """Return the text with surrogate pairs joined and lone surrogates replaced, as JSON cannot store them."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
