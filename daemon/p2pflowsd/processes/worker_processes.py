"""The worker processes that `up` starts: kept alive, told by a pipe when their daemon is gone."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from p2pflows.backoff import Backoff
from p2pflows.config import WorkerConfig

BACKOFF = Backoff(initial_s=0.1, max_s=10.0)
STABLE_AFTER_S = 10.0
"""After a worker that lived longer, the back-off starts over."""
STOP_TIMEOUT_S = 10.0


class WorkerProcess:
    """One worker process, started again whenever it ends.

    Args:
        config: what the settings say of it.
        token: makes the token of a dispatch point.
        worker_socket: where its daemon listens.
        ended: told the dispatch point and process id of one that has ended.
        log: where that is told to people.
        not_its_own: environment variables with keys of other workers.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        token: Callable[[str], Awaitable[str]],
        worker_socket: Path,
        ended: Callable[[str, int], None],
        log: logging.Logger,
        not_its_own: Collection[str] = (),
    ) -> None:
        self._config = config
        self._not_its_own = not_its_own
        self._token = token
        self._worker_socket = worker_socket
        self._ended = ended
        self._log = log

    async def run(self) -> None:
        """Keep the process running until cancelled; then let it finish and end it."""
        failures = 0
        while True:
            began = asyncio.get_running_loop().time()
            code = await self._run_once()
            if asyncio.get_running_loop().time() - began > STABLE_AFTER_S:
                failures = 0
            self._log.warning(
                "a worker of dispatch point %s ended (%s); starting another", self._config.dispatch_point, _how(code)
            )
            await asyncio.sleep(BACKOFF.delay_s(failures))
            failures += 1

    async def _run_once(self) -> int:
        token = await self._token(self._config.dispatch_point)
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-P",
            "-m",
            "p2pflows.worker",
            "--socket",
            str(self._worker_socket),
            "--concurrency",
            str(self._config.concurrency),
            *(
                word
                for key in self._config.api_infos
                for word in ("--api-info", key.model_dump_json(exclude_none=True))
            ),
            stdin=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if name not in self._not_its_own},
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                process.stdin.write(token.encode() + b"\n")
                await process.stdin.drain()
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        self._ended(self._config.dispatch_point, process.pid)
        return code


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Let a worker finish what it runs, but not for ever."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
