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
    """

    row_id: int
    call_index: int
    is_declared: bool = False

    def to_json(self) -> str:
        """The text that is stored."""
        return compact({"n": self.row_id, "k": self.call_index, **({"declared": True} if self.is_declared else {})})


class CallBackOrigin(NamedTuple):
    """A call whose answer runs an instance again.

    Attributes:
        instance: the id of the instance.
        endpoint: the endpoint of its flow.
        root_request: the row of the request that the call was made for, if any.
        subflow: the key of the subflow that was called.
        packaged: the id under which the flow knows the call.
    """

    instance: str
    endpoint: str
    root_request: int | None
    subflow: str
    packaged: str

    def to_json(self) -> str:
        """The text that is stored; the journal has an index of `root`."""
        return compact(
            {
                "instance": self.instance,
                "endpoint": self.endpoint,
                "root": self.root_request,
                "subflow": self.subflow,
                "packaged": self.packaged,
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
    if "k" in content:
        return AskOrigin(content["n"], content["k"], content.get("declared") is True)
    return CallBackOrigin(*(content[name] for name in ("instance", "endpoint", "root", "subflow", "packaged")))
