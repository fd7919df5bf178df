"""Asks a model server: retries, keys that take turns, and other servers when one fails.

Only `p2pflows.models` uses the `openai` library. It is imported when the first question is asked, as it takes a second.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

from p2pflows.backoff import Backoff
from p2pflows.errors import Cancelled, DeadlinePassed, UsageError
from p2pflows.models.answer import Answer, Completion, Usage
from p2pflows.models.answers import BadAnswer, CollectedAnswers, OnDelta
from p2pflows.models.api_info import NO_KEY, REDACTED, ApiInfo
from p2pflows.models.connections import Connection
from p2pflows.models.failures import Cause, Failure, ModelFailed, Remedy, explain
from p2pflows.models.keyring import Keyring
from p2pflows.models.routes import Route, find_routes, read_choices

_log = logging.getLogger(__name__)

MAX_ATTEMPTS = 6
MAX_ATTEMPTS_AT_DEAD_SERVER = 3
"""How often a server is asked to which no connection can be made; it may be restarting."""
MAX_ATTEMPTS_BEFORE_NEXT = 2
"""How often a model is asked when there is another one to ask after it."""
INITIAL_BACKOFF_S = 1.0
MAX_BACKOFF_S = 20.0
TIMEOUT_S = 600.0
CONNECT_TIMEOUT_S = 20.0
"""Connecting is the one wait that `Backend.interrupt` cannot end, as there is no socket yet."""
ASIDE_S = 300.0
"""How long others are asked before a model that refused."""
DEAD_ASIDE_S = 30.0
"""How long others are asked before a model whose server cannot be reached."""

SETTINGS = frozenset(
    {
        *("n", "max_tokens", "max_completion_tokens", "temperature", "top_p", "frequency_penalty"),
        *("presence_penalty", "stop", "seed", "response_format", "reasoning_effort", "verbosity", "stream"),
        *("stream_options", "tools"),
    }
)
"""What may be set besides `model_name`; none of it names a server, a header or a key."""

_STREAM_SETTINGS = frozenset({"stream", "stream_options"})


@dataclass(slots=True)
class _Search:
    """What is known while one request goes from route to route.

    Attributes:
        groups: the routes of each model of the config, in the order of preference.
        tries: how often each group was asked.
        failures: why each route was given up, with the last failure of each.
        attempts: how many requests were sent.
    """

    groups: Sequence[Sequence[Route]]
    tries: list[int] = field(default_factory=list)
    failures: dict[Route, Failure] = field(default_factory=dict)
    attempts: int = 0

    def __post_init__(self) -> None:
        self.tries = [0] * len(self.groups)

    def open_groups(self) -> list[int]:
        """The indexes of the groups with routes that were not given up."""
        return [number for number, group in enumerate(self.groups) if any(each not in self.failures for each in group)]


class Backend:
    """Asks model servers, for one flow at a time. Close it, or use it as a context manager.

    Args:
        api_infos: the worker's keys. A Keyring remembers over many Backends when each key was used, and keeps its
            connections open.
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

    Attributes:
        unfinished: what had come of the answers to requests that were broken off: their servers may count them.

    Raises:
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
        self._owns_keyring = not isinstance(api_infos, Keyring)
        self._keyring = api_infos if isinstance(api_infos, Keyring) else Keyring(api_infos, clock=clock)
        self._api_base = api_base
        self._attempts = attempts
        self._backoff = Backoff(initial_s=INITIAL_BACKOFF_S, max_s=max_wait, jitter=(0.5, 1.0))
        self._wait_time_per_key = wait_time_per_key
        self._timeout = timeout
        self._time_left = time_left
        self._interrupted = threading.Event()
        self._is_late = False
        self._connection: Connection | None = None
        self.unfinished: list[Completion] = []
        self._sleep = self._interrupted.wait if sleep is None else sleep
        self._wall = wall
        self._chance = chance

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections, unless they belong to a Keyring that others use."""
        if self._owns_keyring:
            self._keyring.close()

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
            settings: `model_name`: one name, a mapping of names by backend, or a list of models in the order of
                preference; and any of SETTINGS. None leaves a setting to the server.
            on_delta: called with each piece of an answer as it arrives, when `stream` is set.

        Returns:
            As many answers as `n` asks for, even from a server that sends fewer at a time. Any of them may be cut, or
            have no text: `Completion.check_whole` tells.

        Raises:
            ModelFailed: no server gave an answer.
            UsageError: a setting is unknown, or no model is named for any key.
            Cancelled, DeadlinePassed: nobody waits for the answer any more.
        """
        groups, parameters = self._read(settings)
        wanted = parameters.pop("n", 1)
        answers: list[Answer] = []
        usage = Usage(0, 0, 0)
        model, attempts = None, 0
        with self._ending_at_deadline():
            while len(answers) < wanted:
                request = {**parameters, "messages": list(messages)}
                if (missing := wanted - len(answers)) > 1:
                    request["n"] = missing
                completion = self._ask(groups, request, len(answers), on_delta)
                answers += completion.answers[:missing]
                usage += completion.usage
                attempts += completion.attempts
                model = completion.model or model
        return Completion(answers, model, usage, attempts)

    def _read(self, settings: Mapping[str, Any]) -> tuple[list[list[Route]], dict[str, Any]]:
        """Return the routes of each model, and the parameters of a request."""
        unknown = sorted(set(settings) - SETTINGS - {"model_name"})
        if unknown:
            raise UsageError(
                f"The model's settings have unknown keys: {', '.join(unknown)}.",
                f"Use only: {', '.join(sorted(SETTINGS))}.",
            )
        groups = find_routes(read_choices(settings.get("model_name"), self._api_base), self._keyring)
        parameters = {name: settings[name] for name in sorted(SETTINGS) if settings.get(name) is not None}
        n = parameters.get("n", 1)
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UsageError("n must be a whole number, at least 1.", "Correct the flow's config.")
        return groups, parameters

    def _ask(
        self, groups: list[list[Route]], request: dict[str, Any], first_index: int, on_delta: OnDelta | None
    ) -> Completion:
        """Send one request, again or elsewhere if need be, and return its answers."""
        collected = CollectedAnswers(first_index, on_delta if request.get("stream") else None)
        search = _Search(groups)
        pause = 0.0
        while open_groups := search.open_groups():
            number, route, wait = self._next_route(search, open_groups)
            if (wait := max(wait, pause)) > 0:
                self._sleep(min(wait, self._seconds_left()))
            search.attempts += 1
            search.tries[number] += 1
            collected.begin()
            outcome = self._attempt(route, request, collected)
            if isinstance(outcome, Completion):
                return self._answered(route, outcome, search)
            self._seconds_left()
            _log.warning(
                "The model server %s gave no answer (attempt %d): %s", route.info.base, search.attempts, outcome.reason
            )
            if outcome.is_unreadable and request.get("stream"):
                # The server may stream in a way of its own, so the rest is asked for as plain documents.
                request = {name: value for name, value in request.items() if name not in _STREAM_SETTINGS}
            pause = self._pause_after(outcome, search, number, route)
        raise self._failed(search)

    def _next_route(self, search: _Search, open_groups: list[int]) -> tuple[int, Route, float]:
        """Return the group and the route to ask next, and how long to wait for its key.

        Models and keys that have failed lately come after the others.
        """
        ready = {
            number: [each for each in search.groups[number] if each not in search.failures] for number in open_groups
        }
        fresh = {
            number: [each for each in routes if not self._keyring.is_set_aside(*each)]
            for number, routes in ready.items()
        }
        number = next((number for number in open_groups if fresh[number]), open_groups[0])
        routes = fresh[number] or ready[number]
        info, wait = self._keyring.reserve([route.info for route in routes], self._wait_time_per_key)
        return number, next(route for route in routes if route.info == info), wait

    def _pause_after(self, outcome: Failure, search: _Search, number: int, route: Route) -> float:
        """Decide what is tried after a failed attempt.

        Returns:
            How many seconds to wait before it.
        """
        if outcome.refuses_format:
            self._keyring.note_formless(*route)
            return 0.0
        is_last = len(search.open_groups()) == 1
        limit = self._attempts if is_last else min(self._attempts, MAX_ATTEMPTS_BEFORE_NEXT)
        if outcome.remedy is Remedy.SOON:
            limit = min(limit, MAX_ATTEMPTS_AT_DEAD_SERVER if is_last else 1)
        if outcome.remedy is Remedy.ELSEWHERE:
            search.failures[route] = outcome
            if outcome.cause in (Cause.NOT_SET_UP, Cause.BUSY, Cause.UNREACHABLE):
                self._keyring.set_aside(*route, max(ASIDE_S, outcome.retry_after or 0.0))
            return 0.0
        pause = max(outcome.retry_after or 0.0, self._backoff.delay_s(search.tries[number] - 1, self._chance()))
        if search.tries[number] >= limit or pause >= self._seconds_left():
            for each in search.groups[number]:
                search.failures.setdefault(each, outcome)
            if outcome.remedy is Remedy.SOON:
                self._keyring.set_aside(*route, DEAD_ASIDE_S)
            return 0.0
        return pause

    def _answered(self, route: Route, completion: Completion, search: _Search) -> Completion:
        if search.attempts > 1:
            _log.info("%s at %s answered at attempt %d.", route.model, route.info.base, search.attempts)
        return Completion(completion.answers, completion.model or route.model, completion.usage, search.attempts)

    def _failed(self, search: _Search) -> ModelFailed:
        """Return the error of a request that no route answered: for its owner, with what each of them said."""
        failures = search.failures
        said = dict.fromkeys(f"{failure.reason} (from {route.info.base})" for route, failure in failures.items())
        hints = dict.fromkeys(failure.hint for failure in failures.values() if failure.hint)
        tried = f" after {search.attempts} attempts" if search.attempts > 1 else ""
        cause = min((failure.cause for failure in failures.values()), key=list(Cause).index)
        sizes = [failure.max_tokens for failure in failures.values() if failure.max_tokens]
        details = f"The model gave no answer{tried}: {'; '.join(said)}. {' '.join(hints)}".strip()
        return ModelFailed(cause, details, max(sizes, default=None))

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
        with self._keyring.connections.alarms.after(left, self._end_late):
            yield

    def _end_late(self) -> None:
        self._is_late = True
        self._break_off()

    def _break_off(self) -> None:
        """End the connection in use; one that is being made ends as soon as it is there."""
        connection = self._connection
        if connection is not None:
            connection.break_off()

    def _attempt(self, route: Route, request: dict[str, Any], collected: CollectedAnswers) -> Completion | Failure:
        from openai import APIConnectionError, APITimeoutError, OpenAIError, Timeout

        limit = min(self._timeout, self._seconds_left())
        timeout = Timeout(limit, connect=min(limit, CONNECT_TIMEOUT_S))
        request = {**request, "model": route.model}
        if self._keyring.is_formless(*route):
            request.pop("response_format", None)
        try:
            with self._keyring.connections.lent(route.info) as connection:
                self._use(connection)
                try:
                    return self._read_response(connection, request, timeout, collected)
                except (APIConnectionError, BadAnswer) as error:
                    # Many servers close an unused connection after some seconds, now and then just as it is used again.
                    if not connection.is_stale or connection.is_broken_off or isinstance(error, APITimeoutError):
                        raise
                    return self._read_response(connection, request, timeout, collected)
        except (Cancelled, DeadlinePassed):
            self._note_unfinished(route, collected)
            raise
        except (OpenAIError, BadAnswer, OSError) as error:
            if collected.has_begun or self._interrupted.is_set() or self._is_late:
                self._note_unfinished(route, collected)
            return explain(error, request, base=route.info.base, redact=self._redact, wall=self._wall)
        finally:
            self._connection = None

    def _note_unfinished(self, route: Route, collected: CollectedAnswers) -> None:
        completion = collected.completion()
        self.unfinished.append(replace(completion, model=completion.model or route.model))

    def _use(self, connection: Connection) -> None:
        """Let `interrupt`, and the end of the time, break off this connection."""
        self._connection = connection
        if self._interrupted.is_set() or self._is_late:
            connection.break_off()

    def _read_response(
        self, connection: Connection, request: dict[str, Any], timeout: Any, collected: CollectedAnswers
    ) -> Completion:
        with connection.response(request, timeout) as parts:
            collected.read(parts, self._seconds_left)
        return collected.completion()

    def _redact(self, text: str) -> str:
        """Return the words of a server with keys replaced."""
        for info in self._keyring.api_infos:
            if info.api_key != NO_KEY:
                text = text.replace(info.api_key, REDACTED)
        return text
