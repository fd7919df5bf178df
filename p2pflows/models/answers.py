"""Reads a model server's answers, whole or streamed; servers send many forms, and each wrong one has a reason."""

from __future__ import annotations

import itertools
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from p2pflows.models.answer import Answer, Completion, Usage
from p2pflows.models.tools import ToolCall

MAX_ANSWER_BYTES = 32 * 1024 * 1024
"""Most bytes of one response."""
MAX_DELTA_CHARS = 600
"""Most characters of one piece that is reported, so that any of them fits into one progress report."""

_MAX_WORD_CHARS = 200
_MAX_CALLS = 128
_BROKE_OFF = "its answer broke off"
_UNREADABLE = "its answer cannot be read"
_NO_TEXT = "its answer holds no text"
_EVENT_LINE = re.compile(rb"(\xef\xbb\xbf)?(data|event|id|retry)?:")
_REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")


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


class ServerError(BadAnswer):
    """The server sent an error in place of an answer, with a status that says that all is well.

    Args:
        text: the server's own words.
        body: the error, as the server wrote it.
    """

    def __init__(self, text: str, body: Any) -> None:
        super().__init__(text)
        self.body = body


class UnreadableAnswer(BadAnswer):
    """The server's answer has a form that nobody can read."""


class CollectedAnswers:
    """Collects the answers to one request, over several attempts.

    Args:
        first_index: the index of the request's first answer among all answers.
        on_delta: called with each piece; None when nobody listens.
    """

    def __init__(self, first_index: int, on_delta: OnDelta | None) -> None:
        self._first_index = first_index
        self._on_delta = on_delta
        self._reported: set[int] = set()
        self._restarting: set[int] = set()
        self.begin()

    def begin(self) -> None:
        """Begin an attempt; the pieces of an earlier one are dropped."""
        self._restarting = set(self._reported)
        self._texts: dict[int, list[str]] = {}
        self._reasons: dict[int, str | None] = {}
        self._reasoned: set[int] = set()
        self._calls: dict[int, _Calls] = {}
        self._model: str | None = None
        self._usage = Usage()

    def read(self, parts: Iterator[bytes], check: Callable[[], object]) -> None:
        """Read a response: a stream of events, or one document.

        Args:
            parts: the bytes of the response as they arrive.
            check: called before each event is taken; what it raises is let through.

        Raises:
            BadAnswer: the response cannot be read, or ended too early.
            OpenAIError: `openai` refused the response.
        """
        lines = _lines(_received(parts))
        first = next((line for line in lines if line.strip()), b"")
        if not _EVENT_LINE.match(first):
            self._add_document(_parsed(b"\n".join([first, *lines])))
            return
        for data in _events(itertools.chain([first.removeprefix(b"\xef\xbb\xbf")], lines)):
            check()
            if data.startswith(b"[DONE]"):
                # Some servers end a stream without saying why an answer ended.
                self._reasons = {index: self._reasons.get(index) for index in self._texts}
                break
            self._add_chunk(_parsed(data))
        if not self._texts or set(self._reasons) != set(self._texts):
            raise BadAnswer(_BROKE_OFF)

    @property
    def has_begun(self) -> bool:
        """Whether anything of an answer has come."""
        return bool(self._texts)

    def completion(self) -> Completion:
        """Return the answers in order."""
        answers = [
            Answer(
                _without_surrogates("".join(texts)),
                self._reasons.get(index),
                index in self._reasoned,
                self._calls[index].whole() if index in self._calls else (),
            )
            for index, texts in sorted(self._texts.items())
        ]
        return Completion(answers, self._model, self._usage)

    def _add_document(self, document: Any) -> None:
        """Take a whole response."""
        choices = document.get("choices") if isinstance(document, dict) else None
        if not isinstance(choices, list) or not choices:
            _check_no_error(document)
            if choices == []:
                raise BadAnswer(_NO_TEXT)
            raise UnreadableAnswer(_UNREADABLE)
        self._add_facts(document)
        for choice in choices:
            match choice:
                case {"message": dict(message)}:
                    index = choice.get("index", 0 if len(choices) == 1 else None)
                    self._add_piece(index, message, choice.get("finish_reason"), is_end=True)
                case _:
                    raise UnreadableAnswer(_UNREADABLE)

    def _add_chunk(self, chunk: Any) -> None:
        """Take a chunk of a stream. A choice that only annotates an answer is no piece of it."""
        _check_no_error(chunk)
        if not isinstance(chunk, dict) or chunk.get("error"):
            raise UnreadableAnswer(_UNREADABLE)
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UnreadableAnswer(_UNREADABLE)
        self._add_facts(chunk)
        for choice in choices:
            delta, reason = choice.get("delta"), choice.get("finish_reason")
            if delta is not None or reason is not None:
                self._add_piece(choice.get("index"), delta or {}, reason, is_end=reason is not None)

    def _add_piece(self, index: Any, message: Any, reason: Any, *, is_end: bool) -> None:
        try:
            index, text, has_reasoning = operator.index(index), _text(message), _has_reasoning(message)
            if wanted := message.get("tool_calls"):
                self._calls.setdefault(index, _Calls()).add(wanted)
        except (AttributeError, TypeError):
            raise UnreadableAnswer(_UNREADABLE) from None
        self._texts.setdefault(index, [])
        if is_end:
            self._reasons[index] = reason[:_MAX_WORD_CHARS] if isinstance(reason, str) else None
        if has_reasoning:
            self._reasoned.add(index)
        if text:
            self._texts[index].append(text)
            self._report(self._first_index + index, text)

    def _add_facts(self, document: dict[str, Any]) -> None:
        match document.get("model"):
            case str(model) if model:
                self._model = model[:_MAX_WORD_CHARS]
        match document.get("usage"):
            case dict(usage):
                details = usage.get("prompt_tokens_details")
                self._usage = Usage(
                    _count(usage.get("prompt_tokens")),
                    _count(usage.get("completion_tokens")),
                    _count(details.get("cached_tokens")) if isinstance(details, dict) else None,
                )

    def _report(self, answer: int, text: str) -> None:
        if self._on_delta is None:
            return
        whole = _without_surrogates(text)
        for start in range(0, len(whole), MAX_DELTA_CHARS):
            piece = whole[start : start + MAX_DELTA_CHARS]
            self._on_delta(Delta(answer, piece, restart=answer in self._restarting))
            self._restarting.discard(answer)
            self._reported.add(answer)


class _Calls:
    """The calls of tools in one answer, of which a stream brings pieces."""

    def __init__(self) -> None:
        self._parts: dict[int, list[str]] = {}
        """By index: the id, the name and the pieces of the arguments."""

    def add(self, pieces: Any) -> None:
        """Add what a message, or a piece of one, holds.

        Raises:
            AttributeError, TypeError: it has another form.
        """
        for number, piece in enumerate(pieces):
            # A whole message numbers no calls; in a stream, a piece with an id and no number is a call of its own.
            index = piece.get("index")
            if index is None:
                index = len(self._parts) if piece.get("id") else number
            known = self._parts.setdefault(operator.index(index), ["", ""])
            if len(self._parts) > _MAX_CALLS:
                raise TypeError
            function = piece.get("function") or {}
            arguments = function.get("arguments") or ""
            known[0] = known[0] or str(piece.get("id") or "")
            known[1] = known[1] or str(function.get("name") or "")
            known.append(arguments if isinstance(arguments, str) else json.dumps(arguments))

    def whole(self) -> list[ToolCall]:
        """Return the calls in order; one without an id gets its number."""
        return [
            ToolCall(_without_surrogates(call_id) or f"call_{index}", _without_surrogates(name), _joined(arguments))
            for index, (call_id, name, *arguments) in sorted(self._parts.items())
        ]


def _joined(pieces: Iterable[str]) -> str:
    return _without_surrogates("".join(pieces))


def _received(parts: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the parts of a response.

    Raises:
        BadAnswer: the transport failed, or there are too many bytes.
        OpenAIError: `openai` refused the response.
    """
    from openai import OpenAIError

    size = 0
    while True:
        try:
            part = next(parts, None)
        except OpenAIError:
            raise
        except Exception as error:
            raise BadAnswer(_BROKE_OFF) from error
        if part is None:
            return
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise BadAnswer(f"its answer has over {MAX_ANSWER_BYTES:,} bytes")
        yield part


def _lines(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the lines of a response without their ends, as soon as they are complete."""
    rest: list[bytes] = []
    for part in parts:
        *ended, last = part.split(b"\n")
        for end in ended:
            line = b"".join([*rest, end]).removesuffix(b"\r")
            rest.clear()
            yield from line.splitlines() or [b""]
        rest.append(last)
    yield from b"".join(rest).splitlines()


def _events(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the data of each server-sent event that has any (WHATWG HTML, section 9.2.6)."""
    data: list[bytes] = []
    for line in itertools.chain(lines, [b""]):
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line:
            whole = b"\n".join(data).strip()
            data.clear()
            if whole:
                yield whole


def _parsed(text: bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UnreadableAnswer(_UNREADABLE) from None


def _text(message: Any) -> str:
    """Return the text of a message, or of a piece of one.

    Raises:
        AttributeError, TypeError: the message or its content has another form.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(_part_text(part) for part in content)
    text = content or message.get("refusal") or ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _part_text(part: Any) -> str:
    """Return the text of a part of a content; a part of another type, such as a picture or a thought, has none."""
    match part:
        case str(text) | {"type": "text" | "output_text", "text": str(text)}:
            return text
        case {"type": str()}:
            return ""
    raise TypeError


def _has_reasoning(message: Any) -> bool:
    return any(message.get(name) for name in _REASONING_FIELDS)


def _count(number: Any) -> int | None:
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def _check_no_error(document: Any) -> None:
    """Check that a document is no error of the server.

    Raises:
        ServerError: it is one, in the server's own words.
    """
    match body := error_in(document):
        case {"choices": _}:
            pass
        case str(text) | {"message": str(text)} | {"detail": str(text)} if text:
            raise ServerError(text, body)


def error_in(document: Any) -> Any:
    """Return the error in a document of a server, of which some wrap it in a list."""
    match document:
        case [first]:
            return error_in(first)
        case {"error": {} | str() as body} if body:
            return body
    return document


def _without_surrogates(text: str) -> str:
    """Return the text with surrogate pairs joined and lone surrogates replaced, as JSON cannot store them."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
