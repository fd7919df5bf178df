"""The process that serves the page for browsers: it runs while the daemon does, if `config.yaml` has `web`."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection
from dataclasses import asdict

from p2pflows.backoff import Backoff
from p2pflows.home import Home
from p2pflows.web.page_state import PageState
from p2pflowsd.processes import stdin_child

BACKOFF = Backoff(initial_s=1.0, max_s=60.0)
STABLE_AFTER_S = 60.0
"""After so long, the next failure counts as the first."""


class WebProcess:
    """Runs `p2pflows.web` again whenever it ends.

    Args:
        home: the home folder.
        hidden_variables: environment variables with keys of workers, which it does not get.
        log: gets a warning when the process ends by itself.
    """

    def __init__(self, home: Home, *, hidden_variables: Collection[str], log: logging.Logger) -> None:
        self._home = home
        self._hidden_variables = hidden_variables
        self._log = log
        self._state = PageState()

    def about(self) -> dict[str, str | None]:
        """Return how the page is, for `status`."""
        return asdict(self._state)

    async def run(self) -> None:
        """Run the process again and again until cancelled."""
        failures = 0
        while True:
            began = time.monotonic()
            code = await self._run_once()
            failures = 0 if time.monotonic() - began > STABLE_AFTER_S else failures
            self._log.warning("the page for browsers has ended (exit code %d); it is started again", code)
            await asyncio.sleep(BACKOFF.delay_s(failures))
            failures += 1

    async def _run_once(self) -> int:
        process = await stdin_child.start(
            "p2pflows.web", self._home, hidden_variables=self._hidden_variables, reports=True
        )
        try:
            assert process.stdout is not None  # noqa: S101 - a pipe was asked for
            async for line in process.stdout:
                self._state = PageState.read(line) or self._state
            code = await process.wait()
            if self._state.problem is None:  # it was killed, or has a defect
                self._state = PageState(
                    problem=f"It has ended (exit code {code}).", next="See what the daemon has printed."
                )
            return code
        finally:
            await stdin_child.stop(process)
            await process.wait()
