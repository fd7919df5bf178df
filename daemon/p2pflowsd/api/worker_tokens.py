"""The methods about worker tokens: made, listed, revoked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from p2pflows.config import DEFAULT_POINT
from p2pflows.errors import UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Enrolment
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Flag, MustBe, NoParameters, Parameters, Text
from p2pflowsd.journal.rows import WorkerTokenRow

MAX_NAME_CHARS = 100
MAX_LIFETIME_S = 366 * 24 * 3600

Lifetime = Annotated[
    float | None,
    Field(gt=0, le=MAX_LIFETIME_S),
    MustBe("more than 0 and at most 366 days", "Give it in seconds, or leave it out."),
]


class WorkerTokenParameters(Parameters):
    """The dispatch point that the worker is to serve, and what becomes of the token."""

    dispatch_point: Text = ""
    name: Text = ""
    expires_in: Lifetime = None
    local: Flag = False


class TokenParameters(Parameters):
    """A worker token, by its id or how that begins."""

    id: Text


async def worker_token(daemon: Daemon, params: WorkerTokenParameters) -> Any:
    """Make a token with which a worker on another machine serves a dispatch point.

    A `local` token is good for `worker.sock` alone, and is not listed. `expires_in` is in seconds.

    Returns:
        `token`, a secret; `id`, `dispatch_point`, `name`, `expires` (null for never)
    """
    node = daemon.node
    point = topics.check_name(params.dispatch_point or DEFAULT_POINT, "a dispatch point")
    if len(params.name) > MAX_NAME_CHARS:
        raise UsageError(f"The name has more than {MAX_NAME_CHARS} characters.", "Give a shorter one.")
    broker = await daemon.broker_url()
    if params.local:
        if params.name or params.expires_in:
            raise UsageError("A local token has no name, and does not expire.", "Leave both out.")
        key = node.worker_tokens.key(point, "")
        return {"token": Enrolment(broker, node.user, point, key).token(), "dispatch_point": point}
    lifetime_ms = None if params.expires_in is None else int(params.expires_in * 1000)
    row = await daemon.run(lambda: daemon.node.worker_tokens.make(point, params.name, lifetime_ms))
    enrolment = Enrolment(broker, node.user, point, node.worker_tokens.key(point, row.id), row.id)
    return {"token": enrolment.token(), **_shown(daemon, row)}


async def worker_tokens(daemon: Daemon, _params: NoParameters) -> Any:
    """List the worker tokens, without their secrets.

    Returns:
        `tokens`: list of `id`, `dispatch_point`, `name`, `created` and `expires` (null if unknown, or never), `state`
        (`good`, `expired` or `revoked`), `workers` (how many are connected with it)
    """
    rows = await daemon.read(daemon.node.worker_tokens.all)
    return {"tokens": [_shown(daemon, row) for row in rows]}


async def revoke_worker_token(daemon: Daemon, params: TokenParameters) -> Any:
    """Revoke a worker token; its workers are disconnected at once, and others get their tasks.

    Returns:
        the token as in the list; `workers` is how many it disconnects
    """

    def revoke() -> dict[str, Any]:
        row = daemon.node.worker_tokens.revoke(params.id.strip())
        daemon.node.callbacks.after_commit(daemon.node.dispatch.disconnect_refused)
        return {**_shown(daemon, row), "state": "revoked"}

    return await daemon.run(revoke)


def _shown(daemon: Daemon, row: WorkerTokenRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "dispatch_point": row.point,
        "name": row.name,
        "created": views.rfc3339(row.created) if row.created else None,
        "expires": None if row.expires is None else views.rfc3339(row.expires),
        "state": daemon.node.worker_tokens.state(row),
        "workers": daemon.node.points.workers_with(row.id),
    }
