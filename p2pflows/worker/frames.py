"""What a daemon and a worker tell each other, as values (docs/PROTOCOL.md, Dispatch); `channel` seals it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from p2pflows.protocol.channel import BadFrame

_RESULT_BYTES = 200
"""What a header says of a result besides its task and its message, at most."""
_ESCAPED = 12
"""Most bytes that JSON needs for one character."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a run has kept under one number: a call with its answer, or a step with its result."""

    mark: str
    """Tells whether a run that begins again asks for the same."""
    value: dict[str, Any] | None
    """None if it is too large to travel with the task: the daemon tells it when asked."""


@dataclass(slots=True, eq=False)
class Ask:
    """Something that a running task wants its daemon to keep; told again until the daemon has it."""

    task: str
    k: int
    content: dict[str, Any]
    kept: bool = False
    sent: float | None = None
    """When it was last put into a frame."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the daemon says to an ask: that it is kept or unknown, or what came of it."""

    task: str
    k: int
    value: dict[str, Any]


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
    records: dict[int, Record] = field(default_factory=dict)
    """What earlier attempts to run it have kept."""
    dropped: bool = False
    """The daemon withdrew it while it ran: nobody waits for its result."""
    stop: Callable[[], None] | None = None
    """Ends it while it runs, from any thread; of a plain function, no more than what it waits for."""


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
    answers: list[Answer]
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
            answers=[Answer(entry["task"], entry["k"], entry) for entry in header.get("answers", [])],
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
        records={k: Record(mark, value) for k, mark, value in entry.get("records", [])},
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
            more += _ESCAPED * sum(map(len, result.error.values()))
        if portion and size + more > limit:
            yield portion
            portion, size = [], 0
        portion.append(result)
        size += more
    if portion:
        yield portion


def parts(told: dict[str, Sequence[Any]], limit: int) -> Iterator[dict[str, list[Any]]]:
    """Split what a header lists into headers of about `limit` bytes; what is larger goes alone."""
    part: dict[str, list[Any]] = {}
    size = 0
    for name, entries in told.items():
        for entry in entries:
            more = len(json.dumps(entry, ensure_ascii=False).encode())
            if part and size + more > limit:
                yield part
                part, size = {}, 0
            part.setdefault(name, []).append(entry)
            size += more
    if part:
        yield part
