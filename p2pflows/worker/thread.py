"""Workers as threads of this process, for notebooks: several side by side, each with its own API keys."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from p2pflows.client import Client
from p2pflows.config import DEFAULT_POINT
from p2pflows.errors import CallError, UsageError
from p2pflows.protocol.channel import Enrolment, read_token
from p2pflows.worker.process import Worker

if TYPE_CHECKING:
    from p2pflows.models.api_info import ApiInfo

_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 35.0


class WorkerThread:
    """A worker that runs in a thread of this process until `stop`, or until the process ends.

    Args:
        enrolment: the address of its daemon, and the key of its dispatch point.
        concurrency: how many tasks may run at once.
        api_infos: API keys for its flows; they stay in this worker, and no other worker sees them.
        daemon: the socket of a daemon on this machine; None connects through the broker.

    Raises:
        CallError: the broker, or the daemon, cannot be reached.
    """

    def __init__(
        self, enrolment: Enrolment, concurrency: int, api_infos: Sequence[ApiInfo], daemon: Path | None = None
    ) -> None:
        self.dispatch_point = enrolment.point
        self._enrolment = enrolment
        self._concurrency = concurrency
        self._api_infos = list(api_infos)
        self._daemon = daemon
        self._connected = threading.Event()
        self._failed: Exception | None = None
        self._worker: Worker | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name=f"worker of {enrolment.point}", daemon=True)
        self._thread.start()
        if not self._connected.wait(_START_TIMEOUT_S):
            self.stop()
            raise CallError("The worker cannot reach its daemon.", "See: p2pflows status")
        if self._failed is not None:
            raise self._failed

    @property
    def is_alive(self) -> bool:
        """Whether the worker still runs."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take no more tasks, and wait until running tasks have ended."""
        if self._worker is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._worker.stop)
            self._thread.join(_STOP_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._run())
        except Exception as error:  # noqa: BLE001 - raised where the worker was started
            self._failed = error
        finally:
            self._connected.set()
            self._loop.close()

    async def _run(self) -> None:
        self._worker = Worker(
            self._enrolment,
            self._concurrency,
            self._api_infos,
            on_connected=self._connected.set,
            daemon=self._daemon,
        )
        await self._worker.run()


def run_dispatch_worker_thread(
    cl: Client,
    dispatch_point: str = DEFAULT_POINT,
    *,
    api_infos: Sequence[ApiInfo] = (),
    concurrency: int = 4,
) -> WorkerThread:
    """Start a worker in a thread of this process.

    Args:
        cl: the client of the local daemon.
        dispatch_point: the dispatch point whose tasks it runs.
        api_infos: API keys for its flows; they stay in this worker.
        concurrency: how many tasks may run at once.

    Returns:
        The thread, whose `stop` ends the worker.

    Raises:
        UsageError: the concurrency is less than 1, or the name of the dispatch point is malformed.
        CallError: the broker cannot be reached.
    """
    if concurrency < 1:
        raise UsageError("A worker runs at least one task at a time.", "Give a concurrency of 1 or more.")
    token = cl.request("worker_token", dispatch_point=dispatch_point, local=True)["token"]
    return WorkerThread(read_token(token), concurrency, api_infos, cl.worker_socket)


def run_dispatch_worker_threads(
    cl: Client, dispatch_point: str = DEFAULT_POINT, *, num_workers: int = 1, api_infos: Sequence[ApiInfo] = ()
) -> list[WorkerThread]:
    """Start several workers, each in its own thread."""
    return [run_dispatch_worker_thread(cl, dispatch_point, api_infos=api_infos) for _ in range(num_workers)]
