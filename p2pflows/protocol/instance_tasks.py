"""The data of a task for a class of flows (docs/PROTOCOL.md, section 15, Instances).

The daemon writes it from JSON texts that its journal holds, without parsing them; a worker reads it into values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from p2pflows.protocol.run_result import Subflow
from p2pflows.protocol.strict_json import compact


@dataclass(frozen=True, slots=True)
class MountPlan:
    """How to make an instance.

    Attributes:
        config: what the owner sets for every instance.
        overrides: the config that the client asks for.
        state: the initial state that the client asks for; None for that of the class.
        trusted: whether the client is the owner.
        path: the flows above it in the tree that is being mounted, and itself, as (user id, endpoint).
    """

    config: dict[str, Any]
    overrides: dict[str, Any]
    state: dict[str, Any] | None
    trusted: bool
    path: Sequence[Sequence[str]]

    def as_json(self) -> dict[str, Any]:
        """The fields as they travel."""
        return {
            "config": self.config,
            "overrides": self.overrides,
            "state": self.state,
            "trusted": self.trusted,
            "path": self.path,
        }

    @classmethod
    def read(cls, content: Any) -> Self:
        """The plan in a JSON object.

        Raises:
            KeyError: a field is missing.
        """
        return cls(content["config"], content["overrides"], content["state"], content["trusted"], content["path"])


@dataclass(frozen=True, slots=True)
class StoredInstance:
    """An instance as a journal holds it: JSON texts of its config, its subflows and its state."""

    config: str
    subflows: str
    state: str


@dataclass(frozen=True, slots=True)
class InstanceState:
    """An instance that is there: its config, its subflows by key, and its state; None for that of the class."""

    config: dict[str, Any]
    subflows: dict[str, Subflow]
    state: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class InstanceMessage:
    """The message that an instance runs on.

    Attributes:
        data: its data; empty for an error.
        source: the label of the program or flow that sent it.
        error: for an answer, why there is no reply.
        subflow: for an answer, the key of the subflow that gave it.
        packaged: for an answer, the id under which the flow knows the message that it answers.
    """

    data: dict[str, Any]
    source: str | None = None
    error: dict[str, Any] | None = None
    subflow: str | None = None
    packaged: str | None = None

    @classmethod
    def read(cls, content: dict[str, Any]) -> Self:
        """The message in the body of a request or an answer."""
        return cls(content.get("data", {}), *(content.get(name) for name in ("source", "error", "subflow", "packaged")))

    def as_json(self) -> dict[str, Any]:
        """The fields as they are kept."""
        return {
            "data": self.data,
            "error": self.error,
            "subflow": self.subflow,
            "packaged": self.packaged,
            "source": self.source,
        }


@dataclass(frozen=True, slots=True)
class InstanceTask:
    """What a worker needs to mount or run an instance.

    Attributes:
        instance: its id.
        type: the type of the request or answer.
        message: the message to run on; None for a task that only mounts.
        mount: how to make the instance first; None if it is there already.
        state: the instance, if it is there already; None for a task that only mounts.
    """

    instance: str
    type: str
    message: InstanceMessage | None
    mount: MountPlan | None
    state: InstanceState | None

    @classmethod
    def read(cls, data: bytes) -> Self:
        """The task in the data of a class's task.

        Raises:
            KeyError, ValueError: it has another form.
        """
        content = json.loads(data)
        plan = content.get("mount")
        state = None
        if "config" in content:
            parts = content["subflows"].items()
            state = InstanceState(
                content["config"],
                {key: Subflow(part["user"], part["endpoint"], part["instance"]) for key, part in parts},
                content["state"],
            )
        return cls(
            content["instance"],
            content["type"],
            InstanceMessage.read({"data": content["data"], **content["about"]}) if "data" in content else None,
            None if plan is None else MountPlan.read(plan),
            state,
        )


def write_instance_task(
    instance: str,
    kind: str,
    *,
    message: InstanceMessage | None = None,
    mount: MountPlan | None = None,
    stored: StoredInstance | None = None,
) -> bytes:
    """The data of a class's task, which `InstanceTask.read` reads."""
    parts = {"instance": json.dumps(instance), "type": json.dumps(kind)}
    if message is not None:
        about = message.as_json()
        data = about.pop("data")
        parts |= {"data": compact(data), "about": compact(about)}
    if stored is not None:
        parts |= {"config": stored.config, "subflows": stored.subflows, "state": stored.state}
    else:
        parts["mount"] = "null" if mount is None else compact(mount.as_json())
    return ("{" + ",".join(f'"{name}":{text}' for name, text in parts.items()) + "}").encode()
