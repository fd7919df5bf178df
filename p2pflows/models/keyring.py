"""A worker's keys: which one is next, when it may be used, and to which server each may go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.models.api_info import ApiInfo, check_api_infos, normal_base

GIVE_THE_WORKER_A_KEY = "Give the worker the key: p2pflows worker --api-key-env NAME"


class Keyring:
    """Keys that take turns; for use from many threads. A worker keeps one for as long as it runs.

    Args:
        api_infos: the keys.
        clock: seconds that only grow.

    Raises:
        UsageError: there is none.
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
        """The keys that may go to this server.

        A config may come from a caller, so it only chooses among the servers that the worker has keys for; it never
        sends a key to another one. A key without an `api_base` is for OpenAI's own server, not for any.

        Args:
            api_base: the server that a config names; None leaves the choice to the worker.

        Raises:
            FlowFailed: no key is for that server.
        """
        if api_base is None:
            return self.api_infos
        hint = "Start the worker with that server's URL beside its key, or take backend.api_base out of the config."
        try:
            wanted = normal_base(api_base)
        except UsageError as error:
            raise FlowFailed(f"backend.api_base cannot be used: {error.message}", error.hint) from None
        infos = [info for info in self._infos if normal_base(info.base) == wanted]
        if not infos:
            raise FlowFailed(f"No key of this worker is for the model server {wanted}.", hint)
        return infos

    def take(self, among: Iterable[ApiInfo], spacing: float) -> tuple[ApiInfo, float]:
        """Reserve the key that has rested longest.

        Args:
            among: some of the keys.
            spacing: seconds between two uses of one key.

        Returns:
            The key, and how many seconds to wait before it is used.
        """
        wanted = set(among)
        with self._lock:
            now = self._clock()
            index = min((i for i, info in enumerate(self._infos) if info in wanted), key=self._used.__getitem__)
            at = max(now, self._used[index] + spacing)
            self._used[index] = at
            return self._infos[index], at - now
