"""What a daemon and a worker tell each other, as values (docs/PROTOCOL.md, Dispatch); `channel` seals it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from p2pflows.channel import BadFrame

_RESULT_BYTES = 200
"""What a header says of a result besides its task and its message, at most."""
_ESCAPED = 12
"""Most bytes that JSON needs for one character."""


@dataclass(slots=True, eq=False)
class Task:
    """One thing to run, and the JSON bytes it runs on."""

    id: str
    op: str
    lane: str
    endpoint: str
    revision: int
    target: dict[str, Any]
    sender: str
    name: str
    conversation: str
    message: str
    expires: float
    """Seconds since the epoch."""
    data: bytes
    dropped: bool = False
    """The daemon withdrew it while it ran: nobody waits for its result."""
    stop: Callable[[], None] | None = None
    """Ends it while it runs, from any thread; there is none for a plain function."""


@dataclass(slots=True, eq=False)
class Result:
    """How a task ended: an error, or the JSON bytes of its reply's data."""

    task: str
    error: dict[str, str] | None
    data: bytes
    sent: float | None = None
    """When it was last put into a frame."""


@dataclass(frozen=True, slots=True)
class Incoming:
    """A frame from the daemon."""

    boot: int
    n: int
    tasks: list[Task]
    done: list[str]
    cancel: list[str]
    stop: bool


def read(header: dict[str, Any], blobs: Sequence[bytes]) -> Incoming:
    """The daemon's frame in an opened header and its blobs; unknown fields are ignored.

    Raises:
        BadFrame: a field is missing, or tasks and blobs do not pair up.
    """
    try:
        return Incoming(
            boot=int(header["boot"]),
            n=int(header["n"]),
            tasks=[_task(entry, blob) for entry, blob in zip(header["tasks"], blobs, strict=True)],
            done=header["done"],
            cancel=header["cancel"],
            stop=header["stop"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadFrame(f"a frame without its fields: {error!r}") from error


def _task(entry: dict[str, Any], data: bytes) -> Task:
    return Task(
        id=entry["task"],
        op=entry["op"],
        lane=entry["lane"],
        endpoint=entry["endpoint"],
        revision=entry["revision"],
        target=entry["target"],
        sender=entry["from"],
        name=entry["name"] or "",
        conversation=entry["conversation"],
        message=entry["message"],
        expires=entry["expires"] / 1000,
        data=data,
    )


def portions(results: Sequence[Result], limit: int) -> Iterator[list[Result]]:
    """Split results into runs of at most `limit` bytes; a result over it becomes the error that says so."""
    portion: list[Result] = []
    size = 0
    for result in results:
        if len(result.data) > limit:
            result.error = {
                "kind": "too_large",
                "message": f"The reply has {len(result.data)} bytes, over the {limit} allowed.",
            }
            result.data = b"null"
        more = len(result.data) + len(result.task) + _RESULT_BYTES
        if result.error is not None:
            more += _ESCAPED * len(result.error["message"])
        if portion and size + more > limit:
            yield portion
            portion, size = [], 0
        portion.append(result)
        size += more
    if portion:
        yield portion
