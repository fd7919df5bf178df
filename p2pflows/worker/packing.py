"""Packs what a worker has to say into frames that fit into a packet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from p2pflows.errors import FlowFailed
from p2pflows.protocol.asks import Ask
from p2pflows.protocol.worker_frames import ErrorInfo, Progress, TaskResult, Wait, json_size

_RESULT_BYTES = 200
"""Bytes that a header needs for a result beside the id of its task and its message, at most."""
_MAX_ESCAPED_BYTES = 12
"""Bytes that JSON needs for one character, at most."""


@dataclass(slots=True)
class Updates:
    """What running tasks say before their end."""

    asks: list[Ask] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    progress: list[Progress] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.asks or self.waits or self.progress)

    def add(self, entry: Ask | Wait | Progress) -> None:
        """Append an entry to the list of its kind."""
        match entry:
            case Ask():
                self.asks.append(entry)
            case Wait():
                self.waits.append(entry)
            case Progress():
                self.progress.append(entry)


def split_results(results: Sequence[TaskResult], max_bytes: int) -> Iterator[list[TaskResult]]:
    """Split results into lists that each fit into a frame.

    A result that no frame can hold is replaced by an error; else it would be sent again for ever.
    """
    portion: list[TaskResult] = []
    size = 0
    for result in results:
        fitting = result if len(result.data) <= max_bytes else _too_large(result, max_bytes)
        more = len(fitting.data) + len(fitting.task) + _RESULT_BYTES
        if fitting.error is not None:
            more += _MAX_ESCAPED_BYTES * sum(map(len, fitting.error.as_json().values()))
        if portion and size + more > max_bytes:
            yield portion
            portion, size = [], 0
        portion.append(fitting)
        size += more
    if portion:
        yield portion


def split_updates(updates: Updates, max_bytes: int) -> Iterator[Updates]:
    """Split updates into parts of about `max_bytes` each; an entry that is larger travels alone."""
    part, size = Updates(), 0
    entries: list[Ask | Wait | Progress] = [*updates.asks, *updates.waits, *updates.progress]
    if len(entries) == 1:  # travels alone, however large it is
        yield updates
        return
    for entry in entries:
        more = json_size(entry.as_json())
        if part and size + more > max_bytes:
            yield part
            part, size = Updates(), 0
        part.add(entry)
        size += more
    if part:
        yield part


def _too_large(result: TaskResult, max_bytes: int) -> TaskResult:
    message = f"The answer is too large: it has {len(result.data):,} bytes, over the {max_bytes:,} allowed."
    hint = "Its author can let it answer with less, or with a reference."
    return TaskResult(result.task, ErrorInfo(FlowFailed.kind, message, hint), b"null")
