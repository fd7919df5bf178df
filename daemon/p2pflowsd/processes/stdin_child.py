"""A module of the library that runs beside the daemon as a process, and ends when its stdin does."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Collection

from p2pflows.home import Home
from p2pflowsd.processes.environment import without_secrets

STOP_TIMEOUT_S = 5.0


async def start(
    module: str, home: Home, *, hidden_variables: Collection[str], reports: bool = False
) -> asyncio.subprocess.Process:
    """Start a module on a home; if the daemon dies, the pipe to it closes, and so it ends as well.

    Args:
        module: its name.
        home: the home folder.
        hidden_variables: environment variables with keys of workers, which it does not get.
        reports: whether its stdout is read by the daemon, and not printed.
    """
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", module,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE if reports else None,
        env={**without_secrets(hidden_variables), "P2PFLOWS_HOME": str(home.path)},
    )  # fmt: skip


async def stop(process: asyncio.subprocess.Process) -> None:
    """Let the process end, and kill it if it does not."""
    if process.returncode is not None:
        return
    assert process.stdin is not None  # noqa: S101 - a pipe was asked for
    process.stdin.close()
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
