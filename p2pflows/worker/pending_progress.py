"""What runs have reported and no frame carries yet; pieces of a text that follow each other become one report."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from p2pflows.protocol.notice import MAX_PROGRESS_LINES
from p2pflows.protocol.progress import joined
from p2pflows.protocol.worker_frames import Progress

MAX_JOINED_CHARS = 1_000
"""Most characters of the text in a report that was joined; any of them fits into one report."""


class PendingProgress:
    """The reports of all runs of a worker, of each run in order. The oldest of a run is dropped beyond a limit."""

    def __init__(self) -> None:
        self._reports: dict[str, list[dict[str, Any]]] = {}

    def add(self, task_id: str, data: dict[str, Any]) -> None:
        """Add what the run of a task reports."""
        reports = self._reports.setdefault(task_id, [])
        whole = joined(reports[-1], data, MAX_JOINED_CHARS) if reports else None
        if whole is not None:
            reports[-1] = whole
            return
        if len(reports) >= MAX_PROGRESS_LINES:
            del reports[0]
        reports.append(data)

    def take(self) -> list[Progress]:
        """Take the reports of all runs."""
        return self.take_of(list(self._reports))

    def take_of(self, task_ids: Collection[str]) -> list[Progress]:
        """Take the reports of some tasks."""
        return [Progress(each, data) for each in task_ids for data in self._reports.pop(each, ())]
