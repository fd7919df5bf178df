"""The server of a language model: one question, n answers, with keys in turn and failures told in plain words.

This room alone knows the `openai` library, and imports it when the first question is asked.
"""

from __future__ import annotations

import contextlib
import json
import operator
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self

from p2pflows.backoff import Backoff
from p2pflows.errors import FlowFailed, UsageError
from p2pflows.models.api_info import AZURE, NO_KEY, REDACTED, ApiInfo
from p2pflows.models.keyring import GIVE_THE_WORKER_A_KEY, Keyring

MAX_ATTEMPTS = 6
INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 20.0
TIMEOUT_S = 600.0
MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer rest than this is not asked again."""

SETTINGS = frozenset(
    {
        *("n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "frequency_penalty"),
        *("presence_penalty", "stop", "seed", "response_format", "reasoning_effort", "verbosity", "stream"),
    }
)
"""What a config may set beside `model_name`. Nothing here names a server, a header or a key."""

_MAX_REASON_CHARS = 300
_BROKE_OFF = "its answer broke off"
_UNREADABLE = "its answer cannot be read"
_REFUSED_KEY = (401, 403)
_PASSING = (408, 409, 429)
_SERVER_FAULT = 500
_HINTS = {
    400: "Check the model's name and the settings in the flow's config.",
    404: "Check the model's name, and the URL that the worker was given beside the key.",
    429: "Wait, raise the limit at the model's provider, or give the worker more keys.",
}


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of an answer while it is being written.

    Args:
        answer: which of the n answers it belongs to, from 0.
        text: what comes next.
        restart: whether an earlier attempt failed after some pieces, so that this answer begins anew.
    """

    answer: int
    text: str
    restart: bool = False


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why an attempt gave no answer. It holds no exception, since those hold the request, and that the key."""

    reason: str
    hint: str
    passing: bool
    retry_after: float | None = None


OnDelta = Callable[[Delta], None]


class Backend:
    """A model's server, for one flow at a time. Close it, or use it as a context manager.

    Args:
        api_infos: the worker's keys; a Keyring keeps the turns and rests of its keys over many Backends.
        api_base: the server that the config names; only keys for it are used.
        attempts: how often one question is asked before its failure counts.
        longest_wait: the most seconds between two attempts, unless the server asks for more.
        wait_time_per_key: the least seconds between two uses of one key.
        timeout: seconds that the server may be silent.
        sleep: waits some seconds.
        clock: seconds that only grow.
        wall: seconds since 1970, for servers that name a moment.
        chance: a number from 0 to 1.

    Raises:
        FlowFailed: no key is for `api_base`.
        UsageError: there is no key, or a number makes no sense.
    """

    def __init__(
        self,
        api_infos: Iterable[ApiInfo] | Keyring,
        *,
        api_base: str | None = None,
        attempts: int = MAX_ATTEMPTS,
        longest_wait: float = MAX_BACKOFF_S,
        wait_time_per_key: float = 0.0,
        timeout: float = TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        for name, number, least in (("attempts", attempts, 1), ("longest_wait", longest_wait, 0)):
            if number < least:
                raise UsageError(f"{name} must be at least {least}.", "Mend the flow's config.")
        self._keyring = api_infos if isinstance(api_infos, Keyring) else Keyring(api_infos, clock=clock)
        self._infos = self._keyring.for_base(api_base)
        self._attempts = attempts
        self._backoff = Backoff(initial_s=INITIAL_BACKOFF_S, max_s=longest_wait, jitter=(0.5, 1.0))
        self._spacing = wait_time_per_key
        self._timeout = timeout
        self._sleep = sleep
        self._wall = wall
        self._chance = chance
        self._clients: dict[ApiInfo, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        while self._clients:
            self._clients.popitem()[1].close()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        on_delta: OnDelta | None = None,
    ) -> list[str]:
        """Ask the model.

        Args:
            messages: the conversation as dicts with `role` and `content`.
            settings: `model_name`, one for all or by backend; and what SETTINGS lists, None leaving it to the server.
            on_delta: is given each piece of an answer at once, when `stream` is set.

        Returns:
            As many answers as `n` asks for, also from a server that gives fewer at a time.

        Raises:
            FlowFailed: the server refused, or failed at every attempt.
            UsageError: a setting is unknown, or no model is named for any key.
        """
        models, parameters = self._read(settings)
        wanted = parameters.pop("n", 1)
        answers: list[str] = []
        while len(answers) < wanted:
            question = {**parameters, "messages": list(messages), "n": wanted - len(answers)}
            answers += self._ask(models, question, len(answers), on_delta)[: wanted - len(answers)]
        return answers

    def _read(self, settings: Mapping[str, Any]) -> tuple[dict[ApiInfo, str], dict[str, Any]]:
        """The model for each key that has one, and the parameters of a request."""
        unknown = sorted(set(settings) - SETTINGS - {"model_name"})
        if unknown:
            raise UsageError(
                f"The model's settings have unknown keys: {', '.join(unknown)}.",
                f"It may have: {', '.join(sorted(SETTINGS))}.",
            )
        names = settings.get("model_name")
        models = {info: model for info in self._infos if (model := _model(info, names))}
        if not models:
            backends = ", ".join(sorted({info.backend_used for info in self._infos}))
            raise UsageError(f"The config names no model for: {backends}.", "Set backend.model_name.")
        parameters = {name: settings[name] for name in sorted(SETTINGS) if settings.get(name) is not None}
        n = parameters.get("n", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError("n must be a whole number from 1.", "Mend the flow's config.")
        return models, parameters

    def _ask(
        self, models: dict[ApiInfo, str], question: dict[str, Any], first: int, on_delta: OnDelta | None
    ) -> list[str]:
        """The answers to one request, after as many attempts as it takes."""
        pieces = _Pieces(first, on_delta)
        attempt = 0
        while True:
            attempt += 1
            info, wait = self._keyring.take(models, self._spacing)
            if wait > 0:
                self._sleep(wait)
            pieces.begin()
            outcome = self._attempt(info, {**question, "model": models[info]}, pieces)
            if isinstance(outcome, list):
                return outcome
            rest = outcome.retry_after or 0.0
            if attempt >= self._attempts or not outcome.passing or rest > MAX_RETRY_AFTER_S:
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise FlowFailed(f"The model gave no answer{tried}: {outcome.reason}.", outcome.hint)
            self._sleep(max(rest, self._backoff.delay_s(attempt - 1, self._chance())))

    def _attempt(self, info: ApiInfo, request: dict[str, Any], pieces: _Pieces) -> list[str] | _Trouble:
        from openai import APIStatusError, OpenAIError

        try:
            create = self._client(info).chat.completions.create
            if not request.get("stream"):
                return _whole_answers(create, request)
            with contextlib.closing(create(**request)) as chunks:
                _check_stream(chunks)
                for delta in _unless_broken(chunks):
                    pieces.add(delta)
            return pieces.whole()
        except APIStatusError as error:
            return self._refusal(error)
        except (OpenAIError, _BrokenOff) as error:
            reason = self._scrubbed(error) or "its connection broke"
            return _Trouble(
                reason, f"Check that the worker reaches {info.base}, and that a model answers there.", passing=True
            )

    def _refusal(self, error: Any) -> _Trouble:
        """What to say of an answer that is none; `error` is an APIStatusError."""
        status: int = error.status_code
        if status in _REFUSED_KEY:
            # What the server says of a key may show a part of it.
            return _Trouble(f"the worker's key was refused ({status})", GIVE_THE_WORKER_A_KEY, passing=False)
        spent = error.code == "insufficient_quota"
        return _Trouble(
            reason=f"{self._scrubbed(error)} ({status})",
            hint=_HINTS.get(status, "Try again later." if status >= _SERVER_FAULT else _HINTS[400]),
            passing=(status in _PASSING or status >= _SERVER_FAULT) and not spent,
            retry_after=_retry_after(error.response.headers, self._wall),
        )

    def _scrubbed(self, error: Any) -> str:
        """The server's own words on one line, without any key."""
        body = getattr(error, "body", None)
        told = body.get("message") if isinstance(body, dict) else None
        text = told if isinstance(told, str) and told else str(error)
        for info in self._keyring.api_infos:
            if info.api_key != NO_KEY:
                text = text.replace(info.api_key, REDACTED)
        return " ".join(text.split())[:_MAX_REASON_CHARS].rstrip(".")

    def _client(self, info: ApiInfo) -> Any:
        client = self._clients.get(info)
        if client is None:
            client = self._clients[info] = _new_client(info, self._timeout)
        return client


class _BrokenOff(Exception):
    """The answer ended before its end."""


class _Pieces:
    """The answers of one request while they are streamed; a new attempt begins them anew."""

    def __init__(self, first: int, on_delta: OnDelta | None) -> None:
        self._first = first
        self._on_delta = on_delta
        self._told: set[int] = set()
        self._again: set[int] = set()
        self._texts: dict[int, list[str]] = {}
        self._ended: set[int] = set()

    def begin(self) -> None:
        self._again = set(self._told)
        self._texts, self._ended = {}, set()

    def add(self, chunk: Any) -> None:
        for index, text, is_end in _pieces_in(chunk):
            texts = self._texts.setdefault(index, [])
            if is_end:
                self._ended.add(index)
            if text:
                texts.append(text)
                self._tell(self._first + index, text)

    def whole(self) -> list[str]:
        if not self._texts or self._ended != set(self._texts):
            raise _BrokenOff(_BROKE_OFF)
        return [_valid("".join(self._texts[index])) for index in sorted(self._texts)]

    def _tell(self, answer: int, text: str) -> None:
        if self._on_delta is not None:
            self._on_delta(Delta(answer, _valid(text), restart=answer in self._again))
            self._again.discard(answer)
            self._told.add(answer)


def _check_stream(chunks: Any) -> None:
    """Refuse the one document, mostly an error, that a server gives instead of a stream."""
    if "json" not in chunks.response.headers.get("content-type", ""):
        return
    try:
        document = json.loads(chunks.response.read())
    except ValueError:
        return  # a stream by another name
    except Exception as error:
        raise _BrokenOff(_BROKE_OFF) from error
    raise _BrokenOff(_told(document.get("error") if isinstance(document, dict) else None) or _UNREADABLE)


def _unless_broken(chunks: Iterator[Any]) -> Iterator[Any]:
    """The chunks; what the transport under `openai` raises, which older versions let through, is one error of ours."""
    from openai import OpenAIError

    while True:
        try:
            chunk = next(chunks, None)
        except OpenAIError:
            raise
        except Exception as error:
            raise _BrokenOff(_BROKE_OFF) from error
        if chunk is None:
            return
        yield chunk


def _whole_answers(create: Callable[..., Any], request: dict[str, Any]) -> list[str]:
    try:
        answer = create(**request)
    except ValueError:
        raise _BrokenOff(_UNREADABLE) from None
    # A server that is none of a model answers anything: a web page, an empty object, half of one.
    try:
        choices = sorted(answer.choices, key=lambda choice: choice.index)
        texts = [_valid(_text(choice.message)) for choice in choices]
    except (AttributeError, TypeError):
        raise _BrokenOff(_told(getattr(answer, "error", None)) or _UNREADABLE) from None
    if not texts:
        raise _BrokenOff(_told(getattr(answer, "error", None)) or "its answer holds no text")
    return texts


def _pieces_in(chunk: Any) -> list[tuple[int, str, bool]]:
    """Of which answer each piece is, its text, and whether the answer ends; what only annotates an answer is none."""
    pieces = []
    try:
        for choice in chunk.choices or ():
            text, is_end = "" if choice.delta is None else _text(choice.delta), choice.finish_reason is not None
            if choice.delta is not None or is_end:
                pieces.append((operator.index(choice.index), text, is_end))
    except (AttributeError, TypeError):
        raise _BrokenOff(_UNREADABLE) from None
    return pieces


def _text(said: Any) -> str:
    """What a message, or a piece of one, says.

    Raises:
        TypeError: it is no text.
    """
    text = said.content or getattr(said, "refusal", None) or ""
    if not isinstance(text, str):
        raise TypeError
    return text


def _told(error: Any) -> str | None:
    """The server's own words in the `error` of an answer, whatever its status."""
    match error:
        case {"code": 401 | 403 | "401" | "403" | "invalid_api_key"}:
            return "the worker's key was refused"  # what the server says of a key may show a part of it
        case {"message": str(text)} | str(text):
            return text
    return None


def _valid(text: str) -> str:
    """The text with halves of characters joined, or replaced where the other half is missing: JSON cannot keep them."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _model(info: ApiInfo, names: Any) -> str | None:
    name = info.model or (names.get(info.backend_used) if isinstance(names, Mapping) else names)
    return name if isinstance(name, str) and name else None


def _retry_after(headers: Any, wall: Callable[[], float]) -> float | None:
    """The seconds that a server asks to wait, from either form of the header."""
    text = headers.get("retry-after")
    if text is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall())
    return None


def _new_client(info: ApiInfo, timeout: float) -> Any:
    """A client that sends the key to one server, follows it nowhere else, and leaves all trying again to us."""
    import openai

    common: dict[str, Any] = {
        "api_key": info.api_key,
        "max_retries": 0,
        "timeout": timeout,
        "http_client": openai.DefaultHttpxClient(follow_redirects=False),
    }
    if info.backend_used == AZURE:
        return openai.AzureOpenAI(azure_endpoint=info.base, api_version=info.api_version, **common)
    return openai.OpenAI(base_url=info.base, **common)
