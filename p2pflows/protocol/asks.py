"""What a running task asks its daemon to record, and what the daemon answers (docs/PROTOCOL.md, section 15, Asks).

A run numbers its calls and steps in the order in which it makes them. A run that starts over finds what was recorded
under each number, so it does nothing twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, PlainValidator, Strict, StringConstraints, TypeAdapter, ValidationError

from p2pflows.errors import CallError, from_peer
from p2pflows.protocol.message import MessageId, Name, UserId
from p2pflows.protocol.spent import Spent, read_all

MAX_RECORDS = 10_000
"""Most calls and steps of one run."""
MAX_TIMEOUT_S = 30 * 24 * 3600.0
"""The longest timeout of a call."""
MAX_SOURCE_CHARS = 64
MAX_LABEL_CHARS = 200
_MAX_CALL_INDEX = 2**31

Label = Annotated[str, StringConstraints(max_length=MAX_LABEL_CHARS)]
_Index = Annotated[int, Strict(), Field(ge=0, lt=MAX_RECORDS)]
_TimeoutS = Annotated[float, Strict(), Field(gt=0, le=MAX_TIMEOUT_S)]


# What a run asks for.


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRequest:
    """The fields of every request that a flow sends.

    Attributes:
        source: a label for the recipient; it has no meaning.
        timeout: seconds until the deadline of a call; None takes the deadline of what the run answers.
        progress: whether the progress of a call is that of the request that the run answers.
    """

    user: UserId
    endpoint: Name
    instance: MessageId | None = None
    data: dict[str, Any]
    source: Annotated[str, StringConstraints(max_length=MAX_SOURCE_CHARS)] = ""
    timeout: _TimeoutS | None = None
    progress: Annotated[bool, Strict()] = False

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel; older daemons know no `progress`."""
        return {
            "user": self.user,
            "endpoint": self.endpoint,
            "instance": self.instance,
            "data": self.data,
            "source": self.source,
            "timeout": self.timeout,
            **({"progress": True} if self.progress else {}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(FlowRequest):
    """Send a call now, and record its answer.

    Attributes:
        fingerprint: equal for equal calls, so that a run which diverges from its earlier attempt is noticed.
    """

    op: Literal["call"] = "call"
    fingerprint: Annotated[Label, Field(alias="mark")]

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"op": self.op, **FlowRequest.as_json(self), "mark": self.fingerprint}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Record the result of something that must happen only once."""

    op: Literal["step"] = "step"
    value: Any
    fingerprint: Annotated[Label, Field(alias="mark")]
    spent: Annotated[tuple[Spent, ...], PlainValidator(read_all)] = ()
    """What it took at models."""

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        spent = {"spent": [list(each) for each in self.spent]} if self.spent else {}
        return {"op": self.op, "value": self.value, "mark": self.fingerprint, **spent}


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """Withdraw the call with this index, made earlier by the same run."""

    op: Literal["cancel"] = "cancel"
    call: _Index

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"op": self.op, "call": self.call}


@dataclass(frozen=True, slots=True)
class Malformed:
    """An ask whose form this release does not know; it is refused alone, the rest of its frame is taken in."""

    content: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The fields as they came."""
        return self.content


AskContent = Call | Step | CancelCall | Malformed


@cache
def _content_adapter() -> TypeAdapter[Call | Step | CancelCall]:
    """The validator of asks, built when it is first needed: workers only write asks."""
    return TypeAdapter(Annotated[Call | Step | CancelCall, Field(discriminator="op")])


class Ask(NamedTuple):
    """Something that a running task asks its daemon to record.

    Attributes:
        task: the id of the task.
        call_index: the index of the call or step in its run; -1 minus the index of the call that is withdrawn.
        content: what it asks for.
    """

    task: str
    call_index: int
    content: AskContent

    def as_json(self) -> dict[str, Any]:
        """The ask as an entry of `asks`."""
        return {"task": self.task, "k": self.call_index, **self.content.as_json()}

    @classmethod
    def read(cls, entry: Any) -> Self:
        """The ask in an entry of `asks`; unknown fields are ignored.

        Raises:
            KeyError: the entry names no task or no index.
            TypeError: the entry is no object, or the index no number.
            ValueError: the index is out of range.
        """
        return cls(str(entry["task"]), read_call_index(entry["k"]), _read_content(entry))


def read_call_index(value: Any) -> int:
    """The index of a call or step in its run; negative for one that is withdrawn.

    Raises:
        TypeError: it is no number.
        ValueError: it is out of range.
    """
    call_index = int(value)
    if abs(call_index) > _MAX_CALL_INDEX:
        raise ValueError("the index of a call is out of range")
    return call_index


def _read_content(entry: Any) -> AskContent:
    try:
        content = _content_adapter().validate_python(entry)
    except ValidationError:
        return Malformed(entry)
    call_index = entry["k"]
    first, end = (-MAX_RECORDS, 0) if isinstance(content, CancelCall) else (0, MAX_RECORDS)
    return content if type(call_index) is int and first <= call_index < end else Malformed(entry)


# What the daemon answers.


@dataclass(frozen=True, slots=True)
class StepValue:
    """The recorded result of a step; also confirms that a call was withdrawn."""

    value: Any = None

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel and are kept."""
        return {"value": self.value}


@dataclass(frozen=True, slots=True)
class CallReply:
    """The reply to a call.

    Attributes:
        message: the id of the call.
        sender: the user id that replied, authenticated by the daemon.
        data: the data of the reply.
    """

    message: str
    sender: str
    data: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel and are kept."""
        return {"id": self.message, "from": self.sender, "data": self.data}


@dataclass(frozen=True, slots=True)
class CallFailed:
    """Why there is no reply to a call, or why the daemon refused an ask.

    Attributes:
        error: the error as its sender wrote it.
        message: the id of the call; empty if none was sent.
        sender: the user id that was called; empty if none was.
    """

    error: dict[str, Any]
    message: str = ""
    sender: str = ""

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel and are kept."""
        about = {"id": self.message, "from": self.sender} if self.message else {}
        return {**about, "error": self.error}

    def as_error(self) -> CallError:
        """The error to raise in the flow."""
        return from_peer(self.error)


@dataclass(frozen=True, slots=True)
class Recorded:
    """The ask is recorded, and there is no result yet."""

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"kept": True}


@dataclass(frozen=True, slots=True)
class Unrecorded:
    """The daemon has no such record: the ask was lost, and has to be sent again."""

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"unknown": True}


AskResult = StepValue | CallReply | CallFailed
"""What came of an ask; a run that starts over gets the same."""
AskStatus = AskResult | Recorded | Unrecorded


class AskAnswer(NamedTuple):
    """The daemon's answer to an ask.

    Attributes:
        task: the id of the task.
        call_index: the index of the ask.
        status: its result, or where it stands.
    """

    task: str
    call_index: int
    status: AskStatus

    def as_json(self) -> dict[str, Any]:
        """The answer as an entry of `answers`."""
        return {"task": self.task, "k": self.call_index, **self.status.as_json()}

    @classmethod
    def read(cls, entry: Any) -> Self:
        """The answer in an entry of `answers`; unknown fields are ignored.

        Raises:
            KeyError: the entry names no task or no index.
            TypeError: the entry is no object.
        """
        task, call_index = entry["task"], entry["k"]
        if "kept" in entry:
            return cls(task, call_index, Recorded())
        if "unknown" in entry:
            return cls(task, call_index, Unrecorded())
        return cls(task, call_index, read_result(entry))


class Record(NamedTuple):
    """What an earlier attempt of a run has recorded under one index.

    Attributes:
        fingerprint: equal if the run asks for the same as before.
        result: None if it is too large to travel with the task, or not there yet; the run asks for it again.
    """

    fingerprint: str
    result: AskResult | None


def read_result(content: Any) -> AskResult:
    """The result of an ask, as a journal keeps it and a frame carries it.

    Raises:
        TypeError: it is no object.
    """
    if not isinstance(content, dict):
        raise TypeError("a result is an object")
    if content.get("error"):
        return CallFailed(content["error"], content.get("id", ""), content.get("from", ""))
    if "value" in content:
        return StepValue(content["value"])
    return CallReply(content.get("id", ""), content.get("from", ""), content.get("data") or {})
