"""Asks a model server: retries, keys that take turns, and failures explained in plain words.

Only `p2pflows.models` uses the `openai` library. It is imported when the first question is asked, as it takes a second.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import json
import logging
import math
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Self

from p2pflows.backoff import Backoff
from p2pflows.errors import Cancelled, DeadlinePassed, FlowFailed, UsageError
from p2pflows.models.answer import Answer, Completion, Usage
from p2pflows.models.answers import BadAnswer, CollectedAnswers, OnDelta, UnreadableAnswer
from p2pflows.models.api_info import AZURE, NO_KEY, REDACTED, ApiInfo
from p2pflows.models.keyring import GIVE_THE_WORKER_A_KEY, Keyring

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 20.0
TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 20.0
"""Connecting is the one wait that `Backend.interrupt` cannot end, as there is no socket yet."""
MAX_RETRY_AFTER_S = 120.0
"""A server that asks for a longer pause is not asked again."""

SETTINGS = frozenset(
    {
        *("n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "frequency_penalty"),
        *("presence_penalty", "stop", "seed", "response_format", "reasoning_effort", "verbosity", "stream"),
        "stream_options",
    }
)
"""What a config may set besides `model_name`; none of it names a server, a header or a key."""

_STREAM_SETTINGS = frozenset({"stream", "stream_options"})
_MAX_REASON_CHARS = 300
_KEY_REFUSED_STATUSES = (401, 403)
_RETRYABLE_STATUSES = (408, 409, 429)
_FIRST_SERVER_ERROR_STATUS = 500
_HINTS = {
    400: "Check the model's name and the settings in the flow's config.",
    404: "Check the model's name, and the URL that the worker has for its key.",
    429: "Wait, raise the limit at the model's provider, or give the worker more keys.",
}


@dataclass(frozen=True, slots=True)
class _Failure:
    """Why an attempt failed. It keeps no exception, as that would keep the request, and so the key.

    Args:
        reason: part of a sentence.
        hint: what the user can do.
        is_retryable: whether another attempt may succeed.
        retry_after: seconds that the server asks to wait.
        is_unreadable: whether the answer had a form that nobody can read.
    """

    reason: str
    hint: str
    is_retryable: bool
    retry_after: float | None = None
    is_unreadable: bool = False


class Backend:
    """A client of a model server, for one flow at a time. Close it, or use it as a context manager.

    Args:
        api_infos: the worker's keys. A Keyring remembers over many Backends when each key was used.
        api_base: the server that the config names; only keys for that server are used.
        attempts: how often to send one request before it counts as failed.
        max_wait: most seconds between two attempts, unless the server asks for more.
        wait_time_per_key: least seconds between two uses of one key.
        timeout: seconds that the server may be silent.
        time_left: returns the seconds until nobody waits for the answer any more; raises Cancelled if nobody does.
        sleep: sleeps for some seconds; by default, until `interrupt` at the latest.
        clock: returns monotonic seconds.
        wall: returns seconds since the Unix epoch, for servers that name a point in time.
        chance: returns a random number from 0 to 1.

    Raises:
        FlowFailed: no key is for `api_base`.
        UsageError: there is no key, or a number is out of range.
    """

    def __init__(
        self,
        api_infos: Iterable[ApiInfo] | Keyring,
        *,
        api_base: str | None = None,
        attempts: int = MAX_ATTEMPTS,
        max_wait: float = MAX_BACKOFF_S,
        wait_time_per_key: float = 0.0,
        timeout: float = TIMEOUT_S,
        time_left: Callable[[], float] = lambda: math.inf,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        chance: Callable[[], float] = random.random,
    ) -> None:
        for name, number, least in (("attempts", attempts, 1), ("max_wait", max_wait, 0)):
            if number < least:
                raise UsageError(f"{name} must be at least {least}.", "Correct the flow's config.")
        self._keyring = api_infos if isinstance(api_infos, Keyring) else Keyring(api_infos, clock=clock)
        self._infos = self._keyring.for_base(api_base)
        self._attempts = attempts
        self._backoff = Backoff(initial_s=INITIAL_BACKOFF_S, max_s=max_wait, jitter=(0.5, 1.0))
        self._wait_time_per_key = wait_time_per_key
        self._timeout = timeout
        self._time_left = time_left
        self._interrupted = threading.Event()
        self._is_late = False
        self._sockets: list[socket.socket] = []
        self._sleep = self._interrupted.wait if sleep is None else sleep
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

    def interrupt(self) -> None:
        """Break off what `complete` waits for, from another thread, and let it raise Cancelled."""
        self._interrupted.set()
        self._break_off()

    def complete(
        self,
        messages: Sequence[Mapping[str, Any]],
        settings: Mapping[str, Any],
        on_delta: OnDelta | None = None,
    ) -> Completion:
        """Ask the model, and return its answers.

        Args:
            messages: the conversation as dicts with `role` and `content`.
            settings: `model_name`, one name or a mapping of names by backend; and any of SETTINGS. None leaves a
                setting to the server.
            on_delta: called with each piece of an answer as it arrives, when `stream` is set.

        Returns:
            As many answers as `n` asks for, even from a server that sends fewer at a time. Any of them may be cut, or
            have no text: `Completion.check_whole` tells.

        Raises:
            FlowFailed: the server refused the request, or every attempt failed.
            UsageError: a setting is unknown, or no model is named for any key.
            Cancelled, DeadlinePassed: nobody waits for the answer any more.
        """
        models, parameters = self._read(settings)
        wanted = parameters.pop("n", 1)
        answers: list[Answer] = []
        usage = Usage(0, 0)
        model = None
        with self._ending_at_deadline():
            while len(answers) < wanted:
                request = {**parameters, "messages": list(messages)}
                if (missing := wanted - len(answers)) > 1:
                    request["n"] = missing
                completion = self._ask(models, request, len(answers), on_delta)
                answers += completion.answers[:missing]
                usage += completion.usage
                model = completion.model or model
        return Completion(answers, model, usage)

    def _read(self, settings: Mapping[str, Any]) -> tuple[dict[ApiInfo, str], dict[str, Any]]:
        """Return the model for each key that has one, and the parameters of a request."""
        unknown = sorted(set(settings) - SETTINGS - {"model_name"})
        if unknown:
            raise UsageError(
                f"The model's settings have unknown keys: {', '.join(unknown)}.",
                f"Use only: {', '.join(sorted(SETTINGS))}.",
            )
        names = settings.get("model_name")
        models = {info: model for info in self._infos if (model := _model(info, names))}
        if not models:
            backends = ", ".join(sorted({info.backend_used for info in self._infos}))
            raise UsageError(f"The config names no model for: {backends}.", "Set backend.model_name.")
        parameters = {name: settings[name] for name in sorted(SETTINGS) if settings.get(name) is not None}
        n = parameters.get("n", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError("n must be a whole number, at least 1.", "Correct the flow's config.")
        return models, parameters

    def _ask(
        self, models: dict[ApiInfo, str], request: dict[str, Any], first_index: int, on_delta: OnDelta | None
    ) -> Completion:
        """Send one request, again if need be, and return its answers."""
        collected = CollectedAnswers(first_index, on_delta if request.get("stream") else None)
        attempt = 0
        while True:
            attempt += 1
            info, wait = self._keyring.reserve(models, self._wait_time_per_key)
            if wait > 0:
                self._sleep(min(wait, self._seconds_left()))
            collected.begin()
            outcome = self._attempt(info, {**request, "model": models[info]}, collected)
            if isinstance(outcome, Completion):
                return outcome
            self._seconds_left()
            _log.warning("The model server %s gave no answer (attempt %d): %s", info.base, attempt, outcome.reason)
            if outcome.is_unreadable and request.get("stream"):
                # The server may stream in a way of its own, so the rest is asked for as plain documents.
                request = {name: value for name, value in request.items() if name not in _STREAM_SETTINGS}
            retry_after = outcome.retry_after or 0.0
            pause = max(retry_after, self._backoff.delay_s(attempt - 1, self._chance()))
            is_hopeless = not outcome.is_retryable or retry_after > MAX_RETRY_AFTER_S
            if attempt >= self._attempts or is_hopeless or pause >= self._seconds_left():
                tried = f" after {attempt} attempts" if attempt > 1 else ""
                raise FlowFailed(f"The model gave no answer{tried}: {outcome.reason}.", outcome.hint)
            self._sleep(pause)

    def _seconds_left(self) -> float:
        """Seconds until nobody waits for the answer any more.

        Raises:
            Cancelled, DeadlinePassed: nobody does now.
        """
        if self._interrupted.is_set():
            raise Cancelled("The question to the model was withdrawn.")
        left = self._time_left()
        if left <= 0 or self._is_late:
            raise DeadlinePassed("The model gave no answer before the deadline.", "Give the call more time.")
        return left

    @contextlib.contextmanager
    def _ending_at_deadline(self) -> Iterator[None]:
        """Break off what the block waits for when the time is up.

        The timeout of a request does not: it begins anew with each byte, and some servers send a blank line now and
        then while the model works.
        """
        left = self._seconds_left()
        if left == math.inf:
            yield
            return
        timer = threading.Timer(left, self._end_late)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _end_late(self) -> None:
        self._is_late = True
        self._break_off()

    def _break_off(self) -> None:
        """End all connections; one that is being made ends as soon as it is there."""
        for each in list(self._sockets):
            _shut(each)

    def _attempt(self, info: ApiInfo, request: dict[str, Any], collected: CollectedAnswers) -> Completion | _Failure:
        from openai import APIStatusError, OpenAIError, Timeout

        limit = min(self._timeout, self._seconds_left())
        timeout = Timeout(limit, connect=min(limit, CONNECT_TIMEOUT_S))
        try:
            # Read by us, whether it is streamed or not: the reader of `openai` fails on much that servers send.
            with self._client(info).chat.completions.with_streaming_response.create(
                **request, timeout=timeout
            ) as response:
                collected.read(response.iter_bytes(), self._seconds_left)
            return collected.completion()
        except APIStatusError as error:
            return self._refusal(error)
        except (OpenAIError, BadAnswer) as error:
            reason = self._server_text(error) or "its connection broke"
            return _Failure(
                reason,
                f"Check that the worker reaches {info.base}, and that a model answers there.",
                is_retryable=True,
                is_unreadable=isinstance(error, UnreadableAnswer),
            )

    def _refusal(self, error: Any) -> _Failure:
        """Explain an answer with an error status; `error` is an APIStatusError."""
        status: int = error.status_code
        if status in _KEY_REFUSED_STATUSES:
            # The server's words may show a part of the key.
            return _Failure(f"the worker's key was refused ({status})", GIVE_THE_WORKER_A_KEY, is_retryable=False)
        is_quota_spent = error.code == "insufficient_quota"
        return _Failure(
            reason=f"{self._server_text(error)} ({status})",
            hint=_HINTS.get(status, "Try again later." if status >= _FIRST_SERVER_ERROR_STATUS else _HINTS[400]),
            is_retryable=(status in _RETRYABLE_STATUSES or status >= _FIRST_SERVER_ERROR_STATUS) and not is_quota_spent,
            retry_after=_retry_after(error.response.headers, self._wall),
        )

    def _server_text(self, error: Any) -> str:
        """Return the server's own words on one line, with keys replaced."""
        text = _words_in(getattr(error, "body", None)) or str(error)
        for info in self._keyring.api_infos:
            if info.api_key != NO_KEY:
                text = text.replace(info.api_key, REDACTED)
        return " ".join(text.split())[:_MAX_REASON_CHARS].rstrip(".")

    def _client(self, info: ApiInfo) -> Any:
        client = self._clients.get(info)
        if client is None:
            client = self._clients[info] = _new_client(info, self._timeout, self._on_transport_event)
        return client

    def _on_transport_event(self, name: str, event: Mapping[str, Any]) -> None:
        """Keep each new connection, so that `interrupt` can end what is read from it."""
        if name.endswith((".connect_tcp.complete", ".start_tls.complete")):
            connection = event["return_value"].get_extra_info("socket")
            if isinstance(connection, socket.socket):
                self._sockets.append(connection)
                if self._interrupted.is_set() or self._is_late:
                    _shut(connection)


def _words_in(body: Any) -> str | None:
    """Return a server's own words in the body of its error, of which `openai` has taken off the `error` around it."""
    match body:
        case str(text) if text.strip():
            return text
        case {"message": str(text)} | {"error": str(text)} if text:
            return text
        case {"detail": detail} if detail:
            return detail if isinstance(detail, str) else json.dumps(detail, ensure_ascii=False)
    return None


def _shut(connection: socket.socket) -> None:
    """End a connection that another thread reads; closing it would leave that thread waiting."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _model(info: ApiInfo, names: Any) -> str | None:
    name = info.model or (names.get(info.backend_used) if isinstance(names, Mapping) else names)
    return name if isinstance(name, str) and name else None


def _retry_after(headers: Any, wall: Callable[[], float]) -> float | None:
    """Return the seconds that a server asks to wait, from either form of the header (RFC 9110, section 10.2.3)."""
    text = headers.get("retry-after")
    if text is None:
        return None
    with contextlib.suppress(ValueError, OverflowError):
        return max(0.0, float(text))
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(text).timestamp() - wall())
    return None


def _new_client(info: ApiInfo, timeout: float, on_event: Callable[[str, Mapping[str, Any]], None]) -> Any:
    """Return a client that sends the key to one server, follows no redirect, and leaves retries to us."""
    import openai

    def trace(request: Any) -> None:
        request.extensions = {**request.extensions, "trace": on_event}

    common: dict[str, Any] = {
        "api_key": info.api_key,
        "max_retries": 0,
        "timeout": timeout,
        "http_client": openai.DefaultHttpxClient(
            follow_redirects=False, verify=_tls_context(), event_hooks={"request": [trace]}
        ),
    }
    if info.backend_used == AZURE:
        return openai.AzureOpenAI(azure_endpoint=info.base, api_version=info.api_version, **common)
    return openai.OpenAI(base_url=info.base, **common)


@functools.cache
def _tls_context() -> ssl.SSLContext:
    """Return the default TLS context of the HTTP library, for all clients: reading the certificates takes 40 ms."""
    import openai

    # httpx, or httpx2 in later versions of openai.
    http_client = next(base for base in openai.DefaultHttpxClient.__mro__ if not base.__module__.startswith("openai"))
    context: ssl.SSLContext = importlib.import_module(http_client.__module__.partition(".")[0]).create_ssl_context()
    return context
