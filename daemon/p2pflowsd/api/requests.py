"""The methods about strangers who want to be let in, until the user allows or denies them."""

from __future__ import annotations

import contextlib
from typing import Any

from p2pflows.contacts import normal_user_id
from p2pflows.errors import JournalFailed, UsageError
from p2pflows.protocol.identity import check_user_id
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import NoParameters, Parameters, Text

MIN_USER_ID_CHARS = 16
"""How many of its first digits may stand for the id of a stranger who waits; fewer can be found by trying keys."""


class AllowParameters(Parameters):
    """A stranger, and the name that they get as a contact."""

    user: Text
    name: Text = ""


class DenyParameters(Parameters):
    """A stranger."""

    user: Text


async def requests(daemon: Daemon, _params: NoParameters) -> Any:
    """List the strangers who asked to be let in, and the users whom contacts have introduced.

    Returns:
        `requests`: list of `user`, `endpoints`, `messages` (how many wait; 0 if their time has passed), `first`,
        `last`, `introduced_by` (list of `user`, `name`, and `as`, the name that they suggest)
    """
    return {"requests": await daemon.read(lambda: views.requests(daemon.node))}


async def allow(daemon: Daemon, params: AllowParameters) -> Any:
    """Make a stranger a contact, and let their requests in.

    Returns:
        `user`, `name`, `released`: how many messages were let in; `told`: whether they learn of it, because the time of
        all that they sent has passed
    """
    user = check_user_id(_find_stranger(daemon, params.user))
    name = params.name or daemon.contacts().by_user.get(user) or f"user-{user[:8]}"
    released, told = await daemon.run(lambda: _allow(daemon, user, name))
    return {"user": user, "name": name, "released": released, "told": told}


async def deny(daemon: Daemon, params: DenyParameters) -> Any:
    """Drop a stranger's requests, and refuse them from now on.

    Returns:
        `user`, `dropped`
    """
    user = _find_stranger(daemon, params.user)
    if user in daemon.contacts().by_user:
        name = daemon.node.name_of(user)
        raise UsageError(f"{name!r} is a contact.", f"First run: p2pflows contacts remove {name}")
    incoming = daemon.node.journal.incoming
    dropped = await daemon.read(lambda: len(incoming.held_by(user)) + len(incoming.blocked_by(user)))
    daemon.node.contacts.block(user)  # now, so that it holds even while the journal cannot be written
    with contextlib.suppress(JournalFailed):  # they are dropped as soon as it can
        await daemon.run(lambda: daemon.node.admission.deny(user))
    return {"user": user, "dropped": dropped}


def _allow(daemon: Daemon, user: str, name: str) -> tuple[int, bool]:
    """Make a user a contact.

    Returns:
        How many of their requests go on; and whether none does, so that they are told of it.
    """
    wanted = user in daemon.node.people.wishes.peers
    released = daemon.node.admission.allow(user, name)
    return released, wanted and not released


def _find_stranger(daemon: Daemon, part: str) -> str:
    """Return a user id; the first digits of one are enough if they fit a single stranger who waits.

    Raises:
        UsageError: it is no user id, and fits nobody or several.
    """
    part = part.strip().lower()
    waiting = {request["user"] for request in views.requests(daemon.node)}
    found = [user for user in waiting if part and user.startswith(part)]
    if found and len(part) < MIN_USER_ID_CHARS:
        raise UsageError(
            f"{part!r} is too short: others can make a key that begins so.",
            f"Give at least {MIN_USER_ID_CHARS} digits of the user id, or all of it.",
        )
    return found[0] if len(found) == 1 else normal_user_id(part)
