"""The method about the user's contacts: how they are known, and whether their daemons are online."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import MustBe, Parameters, Text

MAX_PAGE = 1_000
"""The most contacts of a page."""


class ContactsParameters(Parameters):
    """Which page of the contacts to list."""

    limit: Annotated[int, Field(ge=1, le=MAX_PAGE), MustBe(f"a whole number from 1 to {MAX_PAGE}")] = 100
    page: Text = ""


async def contacts(daemon: Daemon, params: ContactsParameters) -> Any:
    """List a page of the contacts by name, and say whose daemon is online.

    Returns:
        `contacts`: list of `user`, `name`, `verified`, `introduced_by` (user id, or null), `online` (true, false, or
        null when not known); `next`: the `page` to ask for next, or null
    """
    book = daemon.contacts()
    online = daemon.node.presence.online
    found = book.names.page(params.page, params.limit + 1)
    names = found[: params.limit]
    return {
        "contacts": [
            {
                "user": (user := book.by_name[name]),
                "name": name,
                "verified": user in book.verified,
                "introduced_by": book.introduced_by.get(user),
                "online": online(user),
            }
            for name in names
        ],
        "next": names[-1] if len(found) > len(names) else None,
    }
