"""The data of a task for a class of flows (docs/PROTOCOL.md, section 15, Instances).

The daemon writes it from JSON texts that its journal holds, without parsing them; a worker reads it into values.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

from pydantic_core import from_json

from p2pflows.protocol.run_result import Subflow
from p2pflows.protocol.strict_json import dumps, text_of


class MountPlan(NamedTuple):
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


class StoredInstance(NamedTuple):
    """An instance as a journal holds it: JSON texts of its config, its subflows and its state."""

    config: str
    subflows: str
    state: str


class InstanceState(NamedTuple):
    """An instance that is there: its config, its subflows by key, and its state; None for that of the class."""

    config: dict[str, Any]
    subflows: dict[str, Subflow]
    state: dict[str, Any] | None


class InstanceMessage(NamedTuple):
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


class InstanceTask(NamedTuple):
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
        content = _loads(data)
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


def _loads(data: bytes) -> Any:
    """Read JSON quickly, or with a reader that also takes what is nested deeper than a message."""
    try:
        return from_json(data)
    except ValueError:
        return json.loads(data)


def write_instance_task(
    instance: str,
    kind: str,
    *,
    message: InstanceMessage | None = None,
    mount: MountPlan | None = None,
    stored: StoredInstance | None = None,
) -> bytes:
    """The data of a class's task, which `InstanceTask.read` reads."""
    parts = [dumps({"instance": instance, "type": kind})[:-1]]
    if message is not None:
        about = message.as_json()
        data = about.pop("data")
        parts += [b',"data":', text_of(data), b',"about":', dumps(about)]
    if stored is not None:  # its state comes last, where `begins_with` finds it
        parts.append(f',"config":{stored.config},"subflows":{stored.subflows},"state":{stored.state}'.encode())
    else:
        parts += [b',"mount":', b"null" if mount is None else dumps(mount.as_json())]
    return b"".join([*parts, b"}"])


def begins_with(task: bytes, state: bytes) -> bool:
    """Return whether the data of a task holds a state that has this text: then a run has not changed it."""
    return task.endswith(b',"state":' + state + b"}")
