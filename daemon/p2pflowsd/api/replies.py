"""What workers and other users' daemons reply: they may send anything, so each reply is read into a strict model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from p2pflows.protocol.message import MessageId, Name, UserId


class Reply(BaseModel):
    """A reply of another daemon; fields that a later release adds are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class FlowInfo(Reply):
    """A flow that the other user serves."""

    endpoint: Name
    kind: str = ""
    description: str = ""
    dispatch_point: str = ""
    input_schema: dict[str, Any] | None = Field(default=None, alias="schema")


class LoadedFlow(Reply):
    """What a worker found in a flow that it was to load."""

    description: str | None = None
    input_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    output_schema: dict[str, Any] | None = Field(default=None, alias="output")
    interleaved: bool | None = None
    overridable: list[str] | None = None
    subflows: dict[str, Any] | None = None
    release: str | None = None


class FlowList(Reply):
    """All that the other user serves to us."""

    flows: list[FlowInfo]


class DescribeReply(Reply):
    """One endpoint of the other user."""

    served: bool
    allowed: bool
    workers: bool = False
    kind: str = ""
    description: str = ""
    dispatch_point: str = ""
    input_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    output_schema: dict[str, Any] | None = Field(default=None, alias="output")
    overridable: list[str] | None = None


class MountReply(Reply):
    """The instance that was mounted for us."""

    instance: MessageId | None = None
    endpoint: Name
    kind: Annotated[str, StringConstraints(max_length=64)] = ""
    shared: bool = False


class ChangeReply(Reply):
    """The instance that was deleted or reset for us."""

    instance: MessageId


class InstanceInfo(Reply):
    """An instance that the other user has for us; times are in milliseconds since the Unix epoch."""

    instance: MessageId
    endpoint: Name
    client: UserId
    subflows: dict[str, dict[str, str | None]] = {}
    created: Annotated[int, Field(ge=0, le=10**14)] = 0
    used: Annotated[int, Field(ge=0, le=10**14)] = 0
    open: Annotated[int, Field(ge=0, le=10**9)] = 0


class InstanceList(Reply):
    """All instances that the other user has for us."""

    instances: list[InstanceInfo]
