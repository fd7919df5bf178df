"""The methods about the daemon itself: who it is, how it does, what it noted, and tokens for its workers."""

from __future__ import annotations

import contextlib
from typing import Any

from p2pflows.config import DEFAULT_POINT
from p2pflows.errors import JournalFailed
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Enrolment
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Count, NoParameters, Parameters, Text
from p2pflowsd.running.points import point_key


class LogParameters(Parameters):
    """Which entries of the owner's log to list."""

    limit: Count = 100
    after: Count = 0


class WorkerTokenParameters(Parameters):
    """The dispatch point that the worker is to serve."""

    dispatch_point: Text = ""


async def user_id(daemon: Daemon, _params: NoParameters) -> Any:
    """Say whose daemon this is.

    Returns:
        `user_id`
    """
    return {"user_id": daemon.node.user}


async def status(daemon: Daemon, _params: NoParameters) -> Any:
    """Say how the daemon does.

    Returns:
        see [below](#status)
    """
    with contextlib.suppress(JournalFailed):  # the problem is shown, with what was counted last
        daemon.last_counts = await daemon.read(lambda: views.counts(daemon.node))
    return {**daemon.about(), **daemon.last_counts}


async def log(daemon: Daemon, params: LogParameters) -> Any:
    """List the newest entries of the owner's log with `n` over `after`, oldest first.

    Returns:
        `entries`: list of `n`, `at`, `what` (a kind of error, `refused`, `met`, `introduced` or `allowed`), `peer`,
        `name`, `endpoint`, `detail`
    """
    rows = await daemon.read(lambda: daemon.node.journal.log.newest(params.limit, params.after))
    return {"entries": [views.log_entry(daemon.node, row) for row in rows]}


async def worker_token(daemon: Daemon, params: WorkerTokenParameters) -> Any:
    """Make a token with which a worker on another machine serves a dispatch point.

    Returns:
        `token`, a secret
    """
    node = daemon.node
    point = topics.check_name(params.dispatch_point or DEFAULT_POINT, "a dispatch point")
    enrolment = Enrolment(await daemon.broker_url(), node.user, point, point_key(node.identity, point))
    return {"token": enrolment.token()}
