"""The method about the user's contacts: how they are known, and whether their daemons are online."""

from __future__ import annotations

from typing import Any

from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import NoParameters


async def contacts(daemon: Daemon, _params: NoParameters) -> Any:
    """List the contacts by name, and say whose daemon is online.

    Returns:
        `contacts`: list of `user`, `name`, `verified`, `introduced_by` (user id, or null), `online` (true, false, or
        null when not known)
    """
    book = daemon.contacts()
    online = daemon.node.presence.online
    return {
        "contacts": [
            {
                "user": user,
                "name": name,
                "verified": user in book.verified,
                "introduced_by": book.introduced_by.get(user),
                "online": online(user),
            }
            for name, user in sorted(book.by_name.items(), key=lambda each: each[0].casefold())
        ]
    }
