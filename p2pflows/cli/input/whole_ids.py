"""Ids of instances and conversations that a person writes in short, looked up in what the daemon lists."""

from __future__ import annotations

from collections.abc import Sequence

import p2pflows
from p2pflows import short_ids
from p2pflows.errors import UsageError

_MAX_CONVERSATIONS = 1_000


def whole_instance(me: p2pflows.Client, owner: str | None, part: str) -> str:
    """Return the whole id of an instance.

    Args:
        me: the client of the daemon.
        owner: the contact who serves the flow; None for oneself.
        part: the id, or its beginning or end.

    Raises:
        P2pflowsError: no instance matches, or several do; or the owner cannot be asked.
    """
    part = short_ids.normalize(part)
    if short_ids.is_whole(part):
        return part
    where = f"p2pflows instances {owner}" if owner else "p2pflows instances"
    _check(part, where)
    found = me.request("instances", user=owner)["instances"]
    return _only(part, [str(each["instance"]) for each in found], "instance", where)


def whole_conversation(me: p2pflows.Client, part: str) -> str:
    """Return the whole id of a conversation; arguments and errors as of `whole_instance`."""
    part = short_ids.normalize(part)
    if short_ids.is_whole(part):
        return part
    where = "p2pflows chat --list"
    _check(part, where)
    found = me.request("conversations", limit=_MAX_CONVERSATIONS)["conversations"]
    return _only(part, [str(each["conversation"]) for each in found], "conversation", where)


def _check(part: str, where: str) -> None:
    if not short_ids.is_id_part(part):
        raise UsageError(
            f"{part!r} is not an id: give its first or last {short_ids.MIN_CHARS} to {short_ids.LENGTH} hex digits.",
            f"See: {where}",
        )


def _only(part: str, ids: Sequence[str], what: str, where: str) -> str:
    """Return the only one of some ids that a part stands for."""
    found = sorted({whole_id for whole_id in ids if short_ids.matches(part, whole_id)})
    if len(found) > 1:
        raise UsageError(f"Several {what}s have an id like {part!r}: {short_ids.name_all(found)}.", "Give more of it.")
    if not found:
        raise UsageError(f"No {what} has an id like {part!r}.", f"See: {where}")
    return found[0]
