"""Runs the checkpoints of the journal on a thread, so that they hold up nobody."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor

from p2pflowsd.journal import Journal
from p2pflowsd.journal.checkpoint import LONG_LOG_BYTES, MAX_LEFT, Checkpoint

MAX_ROUNDS = 3
"""How often the thread goes on at most, while commits add to the log."""


class Checkpoints:
    """The thread, and what is done after it on the loop."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._running: Future[None] | None = None
        self._checkpoint: Checkpoint | None = None
        self._may_finish = False

    def after_batch(self, journal: Journal) -> None:
        """Begin a checkpoint if one is due and none runs, or copy what the last one has left of a long log."""
        checkpoint = journal.checkpoint
        if checkpoint is None or self._running is not None:
            return
        if self._may_finish and not journal.in_transaction:
            self._may_finish = False
            if journal.log_bytes >= LONG_LOG_BYTES:
                checkpoint.finish()
        elif checkpoint.is_due(journal.log_bytes):
            self._checkpoint = checkpoint
            self._run(asyncio.get_running_loop(), 1)

    def wait(self) -> None:
        """Wait until none runs; the journal may be closed then."""
        self._checkpoint, self._may_finish = None, False
        if self._running is not None:
            self._running.result()

    def close(self) -> None:
        """End the thread."""
        self.wait()
        self._thread.shutdown()

    def _run(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        assert self._checkpoint is not None  # noqa: S101 - set by `after_batch`
        self._checkpoint.begin()
        self._running = self._thread.submit(self._checkpoint.run_beside)
        self._running.add_done_callback(lambda _done: loop.call_soon_threadsafe(self._go_on, loop, number))

    def _go_on(self, loop: asyncio.AbstractEventLoop, number: int) -> None:
        """Copy more, if commits have added much meanwhile; only a log that is copied whole begins anew."""
        self._running = None
        if self._checkpoint is None:
            return
        if self._checkpoint.left > MAX_LEFT and number < MAX_ROUNDS:
            self._run(loop, number + 1)
        else:
            self._may_finish = self._checkpoint.left > 0
