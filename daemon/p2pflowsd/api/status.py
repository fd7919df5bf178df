"""The methods about the daemon itself: who it is, how it does, and what it noted."""

from __future__ import annotations

import contextlib
from typing import Any

from p2pflows.errors import JournalFailed
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Count, NoParameters, Parameters


class LogParameters(Parameters):
    """Which entries of the owner's log to list."""

    limit: Count = 100
    after: Count = 0


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
