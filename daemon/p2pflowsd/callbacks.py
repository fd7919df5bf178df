"""Callbacks that a batch collects: some run before its commit, some after it."""

from __future__ import annotations

from collections.abc import Callable

Callback = Callable[[], None]


class Callbacks:
    """Two queues of callbacks, which the node runs once per batch."""

    def __init__(self) -> None:
        self._before_commit: list[Callback] = []
        self._after_commit: list[Callback] = []

    def before_commit(self, callback: Callback) -> None:
        """Run a callback as soon as the batch is recorded. A crash may forget it, so its cause must come again."""
        self._before_commit.append(callback)

    def after_commit(self, callback: Callback) -> None:
        """Run a callback once the batch is committed."""
        self._after_commit.append(callback)

    @property
    def need_commit(self) -> bool:
        """Whether a callback waits for the commit."""
        return bool(self._after_commit)

    def run_before_commit(self) -> None:
        """Run the callbacks that need no commit."""
        callbacks, self._before_commit = self._before_commit, []
        for callback in callbacks:
            callback()

    def run_after_commit(self) -> None:
        """Run the callbacks that waited for the commit."""
        callbacks, self._after_commit = self._after_commit, []
        for callback in callbacks:
            callback()
