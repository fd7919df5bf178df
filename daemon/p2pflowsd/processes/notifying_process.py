"""The process that notifies the user: it runs while there is something to notify, and ends with its daemon."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection
from pathlib import Path

from p2pflows.backoff import Backoff
from p2pflows.home import Home
from p2pflows.notifying.hooks import path_of
from p2pflows.settings.notify import NotifySettings
from p2pflowsd.processes import stdin_child

BACKOFF = Backoff(initial_s=1.0, max_s=60.0)
LOOK_AGAIN_S = 2.0
"""How often the file of hooks is looked at."""


class NotifyingProcess:
    """Runs `p2pflows.notifying` again whenever it ends, and anew when the hooks change.

    Args:
        home: the home folder.
        settings: what is in `config.yaml`.
        hidden_variables: environment variables with keys of workers, which no hook gets.
        log: gets a warning when the process ends by itself.
    """

    def __init__(
        self, home: Home, settings: NotifySettings, *, hidden_variables: Collection[str], log: logging.Logger
    ) -> None:
        self._home = home
        self._hidden_variables = hidden_variables
        self._has_services = bool(settings.urls)
        self._hooks = path_of(home)
        self._log = log

    async def run(self) -> None:
        """Run the process again and again until cancelled, as long as there are services or hooks."""
        failures = 0
        while True:
            stamp = _stamp(self._hooks)
            if not self._has_services and stamp is None:
                await asyncio.sleep(LOOK_AGAIN_S)
                continue
            ended = await self._run_until_change(stamp)
            if ended is None:
                failures = 0
                continue
            self._log.warning("the process that notifies you has ended (exit code %d); see p2pflows doctor", ended)
            await self._wait_for_change(stamp, BACKOFF.delay_s(failures))
            failures += 1

    async def _run_until_change(self, stamp: object) -> int | None:
        """Run the process once; return its exit code, or None if it was ended because the hooks have changed."""
        process = await stdin_child.start("p2pflows.notifying", self._home, hidden_variables=self._hidden_variables)
        ending = asyncio.create_task(process.wait())
        try:
            while not ending.done():
                await asyncio.wait({ending}, timeout=LOOK_AGAIN_S)
                if not ending.done() and _stamp(self._hooks) != stamp:
                    return None
            return ending.result()
        finally:
            await stdin_child.stop(process)
            await ending

    async def _wait_for_change(self, stamp: object, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while _stamp(self._hooks) == stamp:  # noqa: ASYNC110 - a file has no event
                    await asyncio.sleep(LOOK_AGAIN_S)


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        info = path.stat()
    except OSError:
        return None
    return info.st_mtime_ns, info.st_ino
