"""A worker's keys: which one is next, when it may be used, and which server it may be sent to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.models.api_info import ApiInfo, check_api_infos, normal_base

GIVE_THE_WORKER_A_KEY = "Give the worker the key: p2pflows worker --api-key-env NAME"


class Keyring:
    """Keys that take turns. It is thread-safe; a worker has one for as long as it runs.

    Args:
        api_infos: the keys.
        clock: returns monotonic seconds.

    Raises:
        UsageError: there is no key.
    """

    def __init__(self, api_infos: Iterable[ApiInfo], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._infos = check_api_infos(api_infos)
        self._clock = clock
        self._used = [float("-inf")] * len(self._infos)
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"Keyring({self._infos!r})"

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
            FlowFailed: no key is for that server.
        """
        if api_base is None:
            return self.api_infos
        hint = (
            "Start the worker with the URL of that server beside its key, or remove backend.api_base from the config."
        )
        try:
            wanted = normal_base(api_base)
        except UsageError as error:
            raise FlowFailed(f"backend.api_base cannot be used: {error.message}", error.hint) from None
        infos = [info for info in self._infos if normal_base(info.base) == wanted]
        if not infos:
            raise FlowFailed(f"No key of this worker is for the model server {wanted}.", hint)
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
