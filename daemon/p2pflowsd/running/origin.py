"""The origin of a message that a run has sent: what has to hear of its end. It is stored with the message, as JSON."""

from __future__ import annotations

import json
from typing import NamedTuple

from p2pflows.protocol.strict_json import compact


class AskOrigin(NamedTuple):
    """A call of a running task.

    Attributes:
        row_id: the row of the task's request.
        call_index: the index of the call in its run.
        is_declared: whether it mounts a subflow just as the flow declares it, and so speaks for the owner.
        passes_progress: whether its progress is that of the request.
    """

    row_id: int
    call_index: int
    is_declared: bool = False
    passes_progress: bool = False

    def to_json(self) -> str:
        """The text that is stored."""
        flags = {"declared": self.is_declared, "progress": self.passes_progress}
        return compact(
            {"n": self.row_id, "k": self.call_index, **{name: True for name, is_set in flags.items() if is_set}}
        )


class CallBackOrigin(NamedTuple):
    """A call whose answer runs an instance again.

    Attributes:
        instance: the id of the instance.
        endpoint: the endpoint of its flow.
        root_request: the row of the request that the call was made for, if any.
        subflow: the key of the subflow that was called.
        packaged: the id under which the flow knows the call.
        passes_progress: whether its progress is that of the root request.
    """

    instance: str
    endpoint: str
    root_request: int | None
    subflow: str
    packaged: str
    passes_progress: bool = False

    def to_json(self) -> str:
        """The text that is stored; the journal has an index of `root`."""
        return compact(
            {
                "instance": self.instance,
                "endpoint": self.endpoint,
                "root": self.root_request,
                "subflow": self.subflow,
                "packaged": self.packaged,
                **({"progress": True} if self.passes_progress else {}),
            }
        )


class AcceptOrigin(NamedTuple):
    """The acceptance of an invitation.

    Attributes:
        invitation: its id.
        name: what its user will be called.
        suggested: what they suggest to call them.
    """

    invitation: str
    name: str
    suggested: str

    def to_json(self) -> str:
        """The text that is stored."""
        return compact({"accept": list(self)})


Origin = AskOrigin | CallBackOrigin | AcceptOrigin


def read_origin(text: str) -> Origin:
    """The origin in a stored text."""
    content = json.loads(text)
    if "accept" in content:
        return AcceptOrigin(*content["accept"])
    passes_progress = content.get("progress") is True
    if "k" in content:
        return AskOrigin(content["n"], content["k"], content.get("declared") is True, passes_progress)
    names = ("instance", "endpoint", "root", "subflow", "packaged")
    return CallBackOrigin(*(content[name] for name in names))._replace(passes_progress=passes_progress)


def row_of_progress(text: str | None) -> int | None:
    """The row of the request whose progress the progress of a call is, by the stored text; None if there is none."""
    content = json.loads(text) if text else {}
    if content.get("progress") is not True:
        return None
    row_id: int | None = content["n"] if "k" in content else content["root"]
    return row_id
