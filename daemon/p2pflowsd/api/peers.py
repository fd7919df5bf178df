"""Questions to the daemons of other users, about the flows that they serve."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from p2pflows.errors import FlowFailed
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.messages import wait_for_call
from p2pflowsd.api.replies import Reply

TIMEOUT_S = 10.0


async def ask(
    daemon: Daemon,
    user: str,
    data: dict[str, Any],
    reply_type: type[Reply],
    *,
    endpoint: str = topics.FLOWS,
    timeout_s: float = TIMEOUT_S,
) -> dict[str, Any]:
    """Call an endpoint of a daemon itself, and return its checked reply as JSON.

    Raises:
        FlowFailed: its reply has another form.
        P2pflowsError: it sent an error, or nothing.
    """
    life_ms = int(timeout_s * 1000)
    result = await wait_for_call(
        daemon, lambda: daemon.node.messages.send(Type.CALL, user, endpoint, data, life_ms=life_ms, source="describe")
    )
    try:
        reply = reply_type.model_validate(result["data"])
    except ValidationError as error:
        raise FlowFailed(
            f"The daemon of {daemon.node.name_of(user) or user} does not answer as a daemon should.",
            "Ask its owner which release it is.",
        ) from error
    return reply.model_dump(mode="json", by_alias=True, exclude_none=True)
