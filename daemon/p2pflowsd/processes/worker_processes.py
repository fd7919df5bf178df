"""The worker processes that `up` starts: started again when they end; each ends when its daemon closes its stdin."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from p2pflows.backoff import Backoff
from p2pflows.config import WorkerConfig
from p2pflows.worker.__main__ import UNUSABLE_SETTINGS
from p2pflowsd.processes.environment import without_secrets

BACKOFF = Backoff(initial_s=0.1, max_s=10.0)
STABLE_AFTER_S = 10.0
"""The back-off starts over after a worker that ran longer than this."""
STOP_TIMEOUT_S = 10.0


class WorkerProcess:
    """A worker process that is started again whenever it ends.

    Args:
        config: the settings of the worker.
        token: returns the token of a dispatch point.
        worker_socket: the path of the socket on which the daemon listens for workers.
        on_ended: called with dispatch point and process id of each process that has ended.
        log: gets a warning for each process that has ended.
        hidden_variables: environment variables with keys of workers; each worker gets its own through a pipe.
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        token: Callable[[str], Awaitable[str]],
        worker_socket: Path,
        on_ended: Callable[[str, int], None],
        log: logging.Logger,
        hidden_variables: Collection[str] = (),
    ) -> None:
        self._config = config
        self._hidden_variables = hidden_variables
        self._token = token
        self._worker_socket = worker_socket
        self._on_ended = on_ended
        self._log = log
        self._pid: int | None = None

    def replace(self, pid: int) -> bool:
        """End the process with this id, and what it has started, so that another takes its place.

        Returns:
            Whether it is this one.
        """
        if pid != self._pid:
            return False
        self._log.warning(
            "all slots of a worker of dispatch point %s have runs that nobody waits for; it is replaced",
            self._config.dispatch_point,
        )
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        return True

    async def run(self) -> None:
        """Run the process again and again until cancelled; then let it finish its tasks, and end it.

        A worker whose settings cannot be used is not started again: it would end each time for the same reason.
        """
        failures = 0
        while True:
            if missing := self._missing_variables():
                self._log.error(
                    "no worker of dispatch point %s runs, as its key is missing: set %s, and start p2pflows up again",
                    self._config.dispatch_point,
                    " and ".join(missing),
                )
                return
            began = asyncio.get_running_loop().time()
            code = await self._run_once()
            if code == UNUSABLE_SETTINGS:  # it has said why
                self._log.error(
                    "no worker of dispatch point %s runs; correct its settings, and start p2pflows up again",
                    self._config.dispatch_point,
                )
                return
            if asyncio.get_running_loop().time() - began > STABLE_AFTER_S:
                failures = 0
            self._log.warning(
                "a worker of dispatch point %s ended (%s); starting another",
                self._config.dispatch_point,
                _describe(code),
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
            "--keys-on-stdin",
            "--concurrency",
            str(self._config.concurrency),
            "--max-waiting",
            str(self._config.max_waiting),
            *(
                word
                for key in self._config.api_infos
                for word in ("--api-info", key.model_dump_json(exclude_none=True))
            ),
            stdin=asyncio.subprocess.PIPE,
            env=without_secrets(self._hidden_variables),
            start_new_session=True,
        )
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        self._pid = process.pid
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                names = {key.api_key_env for key in self._config.api_infos if key.api_key_env is not None}
                keys = {name: os.environ[name] for name in names if name in os.environ}
                process.stdin.write(f"{token}\n{json.dumps(keys)}\n".encode())
                await process.stdin.drain()
            code = await process.wait()
        except asyncio.CancelledError:
            await _stop(process)
            raise
        finally:
            self._pid = None
        self._on_ended(self._config.dispatch_point, process.pid)
        return code

    def _missing_variables(self) -> list[str]:
        """The names of the variables that are to hold its keys, and do not."""
        names = {key.api_key_env for key in self._config.api_infos if key.api_key_env is not None}
        return sorted(name for name in names if not os.environ.get(name))


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End a worker; it has some seconds to finish its tasks."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
        except TimeoutError:
            process.kill()
            await process.wait()


def _describe(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"
