"""The worker processes of a daemon: when they are not started again."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from p2pflows.config import KeyConfig, WorkerConfig
from p2pflowsd.processes.worker_processes import WorkerProcess


async def run_worker(config: WorkerConfig, folder: Path) -> None:
    """Run a worker until its daemon gives up, with a token that no worker can use."""

    async def token(_: str) -> str:
        return "no token"

    process = WorkerProcess(
        config,
        token=token,
        worker_socket=folder / "worker.sock",
        on_ended=lambda _point, _pid: None,
        log=logging.getLogger("test"),
    )
    await asyncio.wait_for(process.run(), 20)


async def test_a_worker_whose_key_is_missing_is_not_started(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon names the variable, once, in place of starting the worker for ever."""
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    keys = [KeyConfig(api_key_env="NO_SUCH_KEY"), KeyConfig(api_base="http://localhost:1/v1")]
    await run_worker(WorkerConfig(dispatch_point="assistant", api_infos=keys), tmp_path)
    [line] = caplog.messages
    assert "no worker of dispatch point assistant runs, as its key is missing: set NO_SUCH_KEY" in line


async def test_a_worker_that_cannot_use_its_settings_is_not_started_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It would end each time for the same reason, which it says on stderr."""
    await run_worker(WorkerConfig(), tmp_path)
    assert "no worker of dispatch point default runs; correct its settings" in caplog.messages[-1]
    assert "starting another" not in caplog.text
