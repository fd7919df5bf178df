"""The frames between a daemon and its workers, both ways (docs/PROTOCOL.md, section 15).

A frame is a JSON header and blobs; `channel` seals it. Each class writes and reads its own part, and ignores unknown
fields. What tasks ask for while they run is in `asks`. What travels once for each task is a named tuple, which is
created in a third of the time that a frozen dataclass takes.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple, Self

from p2pflows.errors import P2pflowsError, from_kind
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.asks import Ask, AskAnswer, Record, read_call_index, read_result
from p2pflows.protocol.channel import BadFrame
from p2pflows.protocol.spent import Spent, read_all
from p2pflows.protocol.strict_json import JsonObject

Header = dict[str, Any]

_MAX_HOST_CHARS = 255
_MAX_TASK_ID_CHARS = 100
_MAX_OVERDUE = 1_000
"""How many tasks that occupy slots a worker may name; a daemon keeps what it names until its next frame."""


# Tasks.


@dataclass(frozen=True, slots=True)
class PythonTarget:
    """A function, as `FILE.py:NAME` or `PACKAGE.MODULE:NAME`, and the folder that it is loaded from."""

    target: str
    cwd: str

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"kind": "python", "target": self.target, "cwd": self.cwd}


@dataclass(frozen=True, slots=True)
class ExecTarget:
    """A shell command, the folder that it runs in, and how much of its stderr callers see if it fails."""

    command: str
    cwd: str
    errors: str = "last-line"

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel; older workers know no `errors`."""
        errors = {} if self.errors == "last-line" else {"errors": self.errors}
        return {"kind": "exec", "command": self.command, "cwd": self.cwd, **errors}


@dataclass(frozen=True, slots=True)
class ClassTarget:
    """A class of flows, and what its owner sets for every instance."""

    target: str
    cwd: str
    config: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"kind": "class", "target": self.target, "cwd": self.cwd, "config": self.config}


@dataclass(frozen=True, slots=True)
class UnknownTarget:
    """A target of a kind that this release does not know; its tasks fail, the rest of their frame is taken in."""

    content: Any

    def as_json(self) -> Any:
        """The target as it came."""
        return self.content


TaskTarget = PythonTarget | ExecTarget | ClassTarget | UnknownTarget


def read_target(content: Any) -> TaskTarget:
    """The target in a task."""
    if not isinstance(content, dict):
        return UnknownTarget(content)
    target, command, cwd, config = (content.get(name) for name in ("target", "command", "cwd", "config"))
    match content.get("kind"):
        case "python" if isinstance(target, str) and isinstance(cwd, str):
            return PythonTarget(target, cwd)
        case "exec" if isinstance(command, str) and isinstance(cwd, str):
            return ExecTarget(command, cwd, str(content.get("errors", "last-line")))
        case "class" if isinstance(target, str) and isinstance(cwd, str) and isinstance(config, dict):
            return ClassTarget(target, cwd, config)
        case _:
            return UnknownTarget(content)


class TaskSpec(NamedTuple):
    """A task as it travels to a worker.

    Attributes:
        id: names the task; a task that is leased again has the same.
        op: `run`; `mount`: make an instance; or `load`: see whether the target can be run, and describe it.
        lane: tasks of one lane run one at a time, in order.
        revision: a higher one means that the target must be loaded again.
        sender: the user id that sent the request.
        sender_name: the petname of the sender; empty if there is none.
        conversation: the id of the request's conversation; empty for `load`.
        message: the id of the request; empty for `load`.
        expires: the deadline, in milliseconds since the epoch.
        attempt: 1 and up.
        records: what earlier attempts have recorded, by call index.
        data: the JSON bytes that it runs on.
        progress: whether somebody wants to hear how far it has got.
    """

    id: str
    op: str
    lane: str
    endpoint: str
    revision: int
    target: TaskTarget
    sender: str
    conversation: str
    message: str
    expires: int
    data: bytes
    sender_name: str = ""
    attempt: int = 1
    records: Mapping[int, Record] = MappingProxyType({})
    progress: bool = False

    @property
    def expires_s(self) -> float:
        """The deadline, in seconds since the epoch."""
        return self.expires / 1000

    def as_json(self) -> dict[str, Any]:
        """The task as an entry of `tasks`; its data is a blob."""
        return {
            "task": self.id,
            "op": self.op,
            "lane": self.lane,
            "endpoint": self.endpoint,
            "revision": self.revision,
            "target": self.target.as_json(),
            "from": self.sender,
            "name": self.sender_name or None,
            "conversation": self.conversation,
            "message": self.message,
            "expires": self.expires,
            "attempt": self.attempt,
            "records": [
                [call_index, fingerprint, None if result is None else result.as_json()]
                for call_index, (fingerprint, result) in self.records.items()
            ],
            **({"progress": True} if self.progress else {}),
        }

    @classmethod
    def read(cls, entry: Any, data: bytes) -> Self:
        """The task in an entry of `tasks`.

        Raises:
            KeyError, TypeError, ValueError: a field is missing, or of a wrong form.
        """
        return cls(
            id=entry["task"],
            op=entry["op"],
            lane=entry["lane"],
            endpoint=entry["endpoint"],
            revision=entry["revision"],
            target=read_target(entry["target"]),
            sender=entry["from"],
            sender_name=entry["name"] or "",
            conversation=entry["conversation"],
            message=entry["message"],
            expires=_count(entry["expires"]),
            attempt=entry.get("attempt", 1),
            records={
                call_index: Record(fingerprint, None if result is None else read_result(result))
                for call_index, fingerprint, result in entry.get("records", ())
            },
            data=data,
            progress=entry.get("progress") is True,
        )

    def size(self) -> int:
        """About how many bytes the task takes in a frame; measured only where the fields may be many."""
        if not self.records and not (isinstance(self.target, ClassTarget) and self.target.config):
            return len(self.data)
        return len(self.data) + json_size(self.as_json())


# Results.


@dataclass(frozen=True, slots=True)
class ErrorInfo:
    """An error as it travels: its kind, one sentence, what to do next, and the class that a flow raised.

    `details` is the whole cause, for the owner of the flow only.
    """

    kind: str
    message: str
    hint: str = ""
    type: str = ""
    details: str = ""

    def as_json(self) -> dict[str, str]:
        """The fields as they travel; empty ones are left out."""
        named = (("hint", self.hint), ("type", self.type), ("details", self.details))
        more = {name: text for name, text in named if text}
        return {"kind": self.kind, "message": self.message, **more}


@dataclass(frozen=True, slots=True)
class Success:
    """A task has ended well, with this data."""

    data: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """A task has ended in an error."""

    error: P2pflowsError


Outcome = Success | Failure


CANCELLED = "cancelled_task"
"""The kind of the error of a task that its daemon has cancelled: all that matters of its result is what it spent."""


class TaskResult(NamedTuple):
    """How a task ended: with the JSON bytes of its data, or an error and `null`.

    Attributes:
        took_ms: how long it ran, in milliseconds; 0 if that was next to nothing.
        spent: what it took at models, beside that of its steps; also of a task that was cancelled, whose error is
            CANCELLED.
    """

    task: str
    error: ErrorInfo | None
    data: bytes
    took_ms: int = 0
    spent: Sequence[Spent] = ()

    def as_json(self) -> dict[str, Any]:
        """The entry of `results`; the data is a blob."""
        entry: dict[str, Any] = {"task": self.task, "error": None if self.error is None else self.error.as_json()}
        if self.took_ms:
            entry["took_ms"] = self.took_ms
        if self.spent:
            entry["spent"] = [list(each) for each in self.spent]
        return entry

    @classmethod
    def read(cls, entry: Any, data: bytes) -> Self:
        """The result in an entry of `results` and its blob.

        Raises:
            KeyError: the entry has no task or no error, which may be null.
            TypeError: it is no object.
            ValueError: it has another wrong form.
        """
        took_ms, spent = _count(entry.get("took_ms", 0)), read_all(entry.get("spent", []))
        return cls(str(entry["task"]), _read_error(entry["error"]), data, took_ms, spent)

    @property
    def outcome(self) -> Outcome:
        """The data, or the error; a failure too if the worker sent neither."""
        if self.error is not None:
            error = from_kind(self.error.kind or "flow_failed", self.error.message, self.error.hint)
            error.details = self.error.details
            return Failure(error)
        for read in (JsonObject.read, strict_json.loads):  # a message cannot carry all that the latter reads
            with contextlib.suppress(ValueError):
                data = read(self.data)
                if isinstance(data, dict):
                    return Success(data)
        return Failure(from_kind("flow_failed", "The worker sent a result that is no JSON object."))


def _read_error(content: Any) -> ErrorInfo | None:
    if not isinstance(content, dict):
        return None
    # What a flow raised may hold half a character, as file names do, which no message can carry.
    names = ("kind", "message", "hint", "type", "details")
    return ErrorInfo(*(str(content.get(name, "")).encode(errors="replace").decode() for name in names))


# From a worker to its daemon.


class Wait(NamedTuple):
    """A task still waits for the result of an ask that is recorded."""

    task: str
    call_index: int

    def as_json(self) -> list[str | int]:
        """The entry of `waits`."""
        return [self.task, self.call_index]


class Progress(NamedTuple):
    """Data for the caller of a task, before its answer; it may be lost."""

    task: str
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The entry of `progress`."""
        return {"task": self.task, "data": self.data}


class Overdue(NamedTuple):
    """A task that was cancelled, because its deadline passed or its sender withdrew it, and that occupies a slot."""

    task: str
    endpoint: str
    expires: int

    @classmethod
    def read(cls, entry: Any) -> Self:
        """The entry of a frame.

        Raises:
            TypeError, ValueError: it has a wrong form.
        """
        task, endpoint, expires = entry
        return cls(str(task), topics.check_name(str(endpoint), "an endpoint"), int(expires))


class SuspendedRun(NamedTuple):
    """A run that its worker has ended while it waited for answers, so that it takes no room there."""

    task: str
    awaited: Sequence[int]
    """The call indexes of the asks whose results it waited for."""

    def as_json(self) -> list[Any]:
        """The entry of `suspended`."""
        return [self.task, list(self.awaited)]

    @classmethod
    def read(cls, entry: Any) -> Self:
        """The entry of a frame.

        Raises:
            TypeError, ValueError: it has a wrong form.
        """
        task, awaited = entry
        return cls(str(task), [read_call_index(index) for index in awaited])


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """Who sends a frame.

    Attributes:
        name: `w-` and 16 random hex digits, new at each start of the worker.
        slots: how many lanes can run at once, 1 or more.
        keys: how many keys of model servers it has; None from a release that does not say.
    """

    name: str
    slots: int
    pid: int = 0
    host: str = ""
    keys: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFrame:
    """A frame from a worker.

    Attributes:
        boot: the daemon's boot that the worker knows; 0 before its first frame.
        number: grows with each frame of this worker.
        seen: the highest number of the daemon's frames, of that boot, that the worker has taken in.
        held: ids of all tasks that were received, and whose results are not acknowledged; None in a frame that says
            only what has changed.
        received: ids of tasks that were received since the last frame; for a frame without `held`.
        parked: ids of tasks that wait for others and hold no slot: all of them, or without `held` the new ones.
        unparked: ids of tasks that were parked and go on; for a frame without `held`.
        suspended: runs that have ended because they waited, and are to begin again when they can go on.
        overdue: cancelled tasks that still occupy a slot.
        draining: the worker takes no more tasks.
        bye: the worker is gone.
    """

    worker: WorkerInfo
    boot: int
    number: int
    seen: int
    held: Collection[str] | None = ()
    received: Collection[str] = ()
    parked: Collection[str] = ()
    unparked: Collection[str] = ()
    suspended: Sequence[SuspendedRun] = ()
    results: Sequence[TaskResult] = ()
    draining: bool = False
    bye: bool = False
    asks: Sequence[Ask] = ()
    waits: Sequence[Wait] = ()
    progress: Sequence[Progress] = ()
    overdue: Sequence[Overdue] = ()

    def to_wire(self) -> tuple[Header, list[bytes]]:
        """The header and the blobs."""
        header: Header = {
            "worker": self.worker.name,
            "slots": self.worker.slots,
            "pid": self.worker.pid,
            "host": self.worker.host,
            "parked": list(self.parked),
            "boot": self.boot,
            "n": self.number,
            "seen": self.seen,
            "results": [result.as_json() for result in self.results],
            "draining": self.draining,
            "bye": self.bye,
        }
        if self.worker.keys is not None:
            header["keys"] = self.worker.keys
        if self.held is not None:
            header["held"] = list(self.held)
        if self.received:
            header["received"] = list(self.received)
        if self.unparked:
            header["unparked"] = list(self.unparked)
        if self.suspended:
            header["suspended"] = [run.as_json() for run in self.suspended]
        if self.asks:
            header["asks"] = [ask.as_json() for ask in self.asks]
        if self.waits:
            header["waits"] = [wait.as_json() for wait in self.waits]
        if self.progress:
            header["progress"] = [entry.as_json() for entry in self.progress]
        if self.overdue:
            header["overdue"] = [list(entry) for entry in self.overdue]
        return header, [result.data for result in self.results]

    @classmethod
    def read(cls, header: Header, blobs: Sequence[bytes]) -> Self:
        """The frame in an opened header and its blobs.

        Raises:
            BadFrame: a field is missing, or of a wrong form.
        """
        try:
            frame = cls(
                worker=WorkerInfo(
                    str(header["worker"]),
                    _count(header["slots"]),
                    _count(header.get("pid", 0)),
                    str(header.get("host", ""))[:_MAX_HOST_CHARS],
                    None if header.get("keys") is None else _count(header["keys"]),
                ),
                boot=_count(header["boot"]),
                number=_count(header["n"]),
                seen=_count(header["seen"]),
                held=None if header.get("held") is None else dict.fromkeys(map(str, header["held"])),
                received=[str(task) for task in header.get("received", ())],
                parked={_task_id(task) for task in header.get("parked", ())},
                unparked=[str(task) for task in header.get("unparked", ())],
                suspended=[SuspendedRun.read(entry) for entry in header.get("suspended", ())],
                results=[TaskResult.read(result, blob) for result, blob in zip(header["results"], blobs, strict=True)],
                draining=bool(header["draining"]),
                bye=bool(header["bye"]),
                asks=[Ask.read(entry) for entry in header.get("asks", ())],
                waits=[Wait(str(task), read_call_index(index)) for task, index in header.get("waits", ())],
                progress=[Progress(str(entry["task"]), _object(entry["data"])) for entry in header.get("progress", ())],
                overdue=[Overdue.read(entry) for entry in header.get("overdue", ())][:_MAX_OVERDUE],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise BadFrame("a frame without its fields") from error
        if not topics.is_name(frame.worker.name) or frame.worker.slots < 1:
            raise BadFrame("a frame of nobody")
        return frame


# From a daemon to one of its workers.


@dataclass(frozen=True, slots=True, kw_only=True)
class DaemonFrame:
    """A frame to a worker.

    Attributes:
        worker: the name of the worker.
        boot: grows with each start of the daemon.
        number: grows with each frame of this boot.
        tasks: tasks leased to this worker, in the order in which each lane runs them.
        done: ids of tasks whose results are committed.
        cancel: ids of tasks that are not wanted any more.
        stop: the worker finishes what runs, and ends.
        reads_changes: the daemon reads frames without `held`, and suspended runs; those of older releases do not.
        refused: why the daemon takes nothing from this worker, in a sentence; "" if it does.
    """

    worker: str
    boot: int
    number: int
    tasks: Sequence[TaskSpec] = ()
    done: Sequence[str] = ()
    cancel: Sequence[str] = ()
    answers: Sequence[AskAnswer] = ()
    stop: bool = False
    reads_changes: bool = True
    refused: str = ""

    def to_wire(self) -> tuple[Header, list[bytes]]:
        """The header and the blobs."""
        header: Header = {
            "worker": self.worker,
            "boot": self.boot,
            "n": self.number,
            "tasks": [task.as_json() for task in self.tasks],
            "done": self.done,
            "cancel": self.cancel,
            "answers": [answer.as_json() for answer in self.answers],
            "stop": self.stop,
            "reads_changes": self.reads_changes,
        }
        if self.refused:
            header["refused"] = self.refused
        return header, [task.data for task in self.tasks]

    @classmethod
    def read(cls, header: Header, blobs: Sequence[bytes]) -> Self:
        """The frame in an opened header and its blobs.

        Raises:
            BadFrame: a field is missing, or tasks and blobs do not pair up.
        """
        try:
            return cls(
                worker=header.get("worker", ""),
                boot=_count(header["boot"]),
                number=_count(header["n"]),
                tasks=[TaskSpec.read(entry, blob) for entry, blob in zip(header["tasks"], blobs, strict=True)],
                done=header["done"],
                cancel=header["cancel"],
                answers=[AskAnswer.read(entry) for entry in header.get("answers", ())],
                stop=header["stop"],
                reads_changes=bool(header.get("reads_changes", False)),
                refused=str(header.get("refused") or ""),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadFrame(f"a frame without its fields: {error!r}") from error


def json_size(content: Any) -> int:
    """How many bytes a value takes as JSON, or a few more."""
    return len(json.dumps(content, ensure_ascii=False).encode(errors="replace"))


def _object(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise TypeError("no object")
    return content


def _count(value: Any) -> int:
    """Return a value that is a count; workers and daemons of older releases number frames from 2^62 on."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{value!r} is not a count")
    return value


def _task_id(value: Any) -> str:
    """Return a value that is the id of a task; a daemon keeps those of tasks that wait."""
    text = str(value)
    if len(text) > _MAX_TASK_ID_CHARS:
        raise ValueError("the id of a task is too long")
    return text
