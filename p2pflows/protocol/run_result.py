"""What a run of an instance leaves behind when it ends well (docs/PROTOCOL.md, section 15, Instances).

The daemon commits all of it at once: the messages that leave, the new state, and an instance that was mounted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field, Strict, TypeAdapter

from p2pflows.protocol.asks import FlowRequest, Label
from p2pflows.protocol.message import MessageId, Name, UserId
from p2pflows.protocol.strict_json import dumps, text_of
from p2pflows.protocol.worker_frames import ErrorInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class Post(FlowRequest):
    """A message that wants no answer."""

    op: Literal["post"] = "post"

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"op": self.op, **FlowRequest.as_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class CallBack(FlowRequest):
    """A call whose answer runs the instance again.

    Attributes:
        subflow: the key of the subflow that is called.
        packaged: the id under which the flow knows the message.
    """

    op: Literal["call_back"] = "call_back"
    subflow: Label
    packaged: Label

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"op": self.op, "subflow": self.subflow, "packaged": self.packaged, **FlowRequest.as_json(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to a request of this run or an earlier one.

    Attributes:
        request: the id of the request.
        data: the data of the reply.
        error: why there is no reply, in place of the data.
    """

    op: Literal["reply"] = "reply"
    request: MessageId
    data: dict[str, Any]
    error: ErrorInfo | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        error = None if self.error is None else self.error.as_json()
        return {"op": self.op, "request": self.request, "data": self.data, "error": error}


Sent = Post | CallBack | Reply


@dataclass(frozen=True, slots=True)
class Subflow:
    """A subflow of an instance.

    Attributes:
        instance: None for what its endpoint alone addresses.
        shared: whether others use it, too, so that it outlives this instance.
    """

    user: UserId
    endpoint: Name
    instance: MessageId | None = None
    shared: Annotated[bool, Strict()] = False

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel and are kept."""
        return {"user": self.user, "endpoint": self.endpoint, "instance": self.instance, "shared": self.shared}


@dataclass(frozen=True, slots=True)
class Mounted:
    """An instance that a run has made: its frozen config, and its subflows by key."""

    config: dict[str, Any]
    subflows: dict[Label, Subflow]

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {"config": self.config, "subflows": {key: part.as_json() for key, part in self.subflows.items()}}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run leaves behind.

    Attributes:
        out: the messages that leave, in order.
        state: the new state; None keeps the one before.
        mounted: the instance that the run has made; None if it was there already.
    """

    out: list[Annotated[Sent, Field(discriminator="op")]] = field(default_factory=list)
    state: dict[str, Any] | None = None
    mounted: Mounted | None = None


def write_run_result(out: Sequence[Sent], state: bytes | None, mounted: Mounted | None) -> bytes:
    """The data of a task's result, which `read_run_result` reads.

    Args:
        out: the messages that leave; the data of one that was written before is not written again.
        state: the JSON of the new state; None keeps the one before.
        mounted: the instance that the run has made.
    """
    parts = [b'{"out":[', b",".join(map(_written, out)), b"]"]
    if mounted is not None:
        parts += [b',"mounted":', dumps(mounted.as_json())]
    if state is not None:
        parts += [b',"state":', state]
    return b"".join([*parts, b"}"])


def _written(sent: Sent) -> bytes:
    if isinstance(sent, Reply) and sent.error is None and sent.request.isalnum():  # as nearly all are
        return b'{"op":"reply","request":"%s","error":null,"data":%s}' % (sent.request.encode(), text_of(sent.data))
    fields = sent.as_json()
    data = fields.pop("data")
    return dumps(fields)[:-1] + b',"data":' + text_of(data) + b"}"


@cache
def _result_adapter() -> TypeAdapter[RunResult]:
    """The validator of results, built when it is first needed: workers only write them."""
    return TypeAdapter(RunResult)


@cache
def _subflow_adapter() -> TypeAdapter[Subflow]:
    return TypeAdapter(Subflow)


def read_run_result(content: dict[str, Any]) -> RunResult:
    """What a run leaves behind, as the data of its task's result; unknown fields are ignored.

    Raises:
        ValueError: it has another form.
    """
    return _result_adapter().validate_python(content)


def read_subflow(content: dict[str, Any]) -> Subflow:
    """The subflow in a JSON object; unknown fields are ignored.

    Raises:
        ValueError: it has another form.
    """
    return _subflow_adapter().validate_python(content)
