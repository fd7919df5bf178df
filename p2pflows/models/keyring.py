"""A worker's keys: which one is next, when it may be used, which server it may be sent to, and its connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from p2pflows.errors import UsageError
from p2pflows.models.api_info import ApiInfo, check_api_infos, normal_base
from p2pflows.models.connections import Connections

GIVE_THE_WORKER_A_KEY = "Give the worker the key: p2pflows worker --api-key-env NAME"
MAX_SET_ASIDE = 1_000
"""How many models at servers a keyring remembers as failing."""


class Keyring:
    """Keys that take turns. It is thread-safe; a worker has one for as long as it runs.

    Args:
        api_infos: the keys.
        clock: returns monotonic seconds.

    Attributes:
        connections: what the keys are sent over; it stays open until `close`.

    Raises:
        UsageError: there is no key.
    """

    def __init__(self, api_infos: Iterable[ApiInfo], *, clock: Callable[[], float] = time.monotonic) -> None:
        self.connections = Connections()
        self._infos = check_api_infos(api_infos)
        self._clock = clock
        self._used = [float("-inf")] * len(self._infos)
        self._aside_until: dict[tuple[ApiInfo, str], float] = {}
        self._formless: set[tuple[ApiInfo, str]] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Keyring({self._infos!r})"

    def close(self) -> None:
        """Close the connections."""
        self.connections.close()

    @property
    def api_infos(self) -> list[ApiInfo]:
        """The keys, in the order given."""
        return list(self._infos)

    def for_base(self, api_base: str | None) -> list[ApiInfo]:
        """Return the keys that may be sent to this server.

        A config may come from a caller. It can only choose among the servers that the worker has keys for, so no key
        is sent anywhere else. A key without an `api_base` is for OpenAI's own server, not for every server.

        Args:
            api_base: the server that a config names; None for all servers that the worker has keys for.

        Raises:
            UsageError: no key is for that server, or it is no URL.
        """
        if api_base is None:
            return self.api_infos
        try:
            wanted = normal_base(api_base)
        except UsageError as error:
            raise UsageError(f"backend.api_base cannot be used: {error.message}", error.hint) from None
        infos = [info for info in self._infos if normal_base(info.base) == wanted]
        if not infos:
            raise UsageError(
                f"No key of this worker is for the model server {wanted}.",
                "Start the worker with the URL of that server beside its key, or remove backend.api_base from the"
                " config.",
            )
        return infos

    def reserve(self, among: Iterable[ApiInfo], min_interval_s: float) -> tuple[ApiInfo, float]:
        """Reserve the key that has been unused for longest.

        Args:
            among: some of the keys.
            min_interval_s: least seconds between two uses of one key.

        Returns:
            The key, and how many seconds to wait before using it.
        """
        candidates = set(among)
        with self._lock:
            now = self._clock()
            index = min((i for i, info in enumerate(self._infos) if info in candidates), key=self._used.__getitem__)
            at = max(now, self._used[index] + min_interval_s)
            self._used[index] = at
            return self._infos[index], at - now

    def set_aside(self, info: ApiInfo, model: str, seconds: float) -> None:
        """Let others be asked before this model with this key, as it has just failed."""
        with self._lock:
            if len(self._aside_until) >= MAX_SET_ASIDE:
                self._aside_until.clear()
            self._aside_until[info, model] = self._clock() + seconds

    def is_set_aside(self, info: ApiInfo, model: str) -> bool:
        """Return whether others are to be asked first."""
        with self._lock:
            return self._aside_until.get((info, model), float("-inf")) > self._clock()

    def note_formless(self, info: ApiInfo, model: str) -> None:
        """Remember that this model does not know `response_format`, or does not follow it."""
        with self._lock:
            if len(self._formless) >= MAX_SET_ASIDE:
                self._formless.clear()
            self._formless.add((info, model))

    def is_formless(self, info: ApiInfo, model: str) -> bool:
        """Return whether this model does not know `response_format`, as far as is known."""
        with self._lock:
            return (info, model) in self._formless
