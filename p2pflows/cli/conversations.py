"""Earlier conversations: shown as a table, and found by their id or by whom they are with."""

from __future__ import annotations

from typing import Any

import p2pflows
from p2pflows import short_ids
from p2pflows.cli.output import ago, say, short, table, who
from p2pflows.cli.speech import labelled, speech
from p2pflows.errors import UsageError


def show_all(conversations: list[dict[str, Any]]) -> None:
    """Print them as a table, newest first as they come."""
    if not conversations:
        say("There are no conversations of the last day.")
        return
    table(
        ["ID", "WITH", "AT", "WHEN", "OPEN", "LAST"],
        [
            [
                short(each["conversation"]),
                labelled(who(each["name"], each["user"]), each["label"]),
                f"{who(each['name'], each['user']) if each['way'] == 'asking' else 'me'}/{each['endpoint']}",
                ago(each["at"]),
                each["open"],
                f"{'you: ' if each['by'] == 'me' else ''}{each['text']}",
            ]
            for each in conversations
        ],
    )
    answer = "; answer with: p2pflows chat --answer" if any(each["open"] for each in conversations) else ""
    say(f"Go on with: p2pflows chat ADDRESS --resume ID{answer}")


def find(me: p2pflows.Client, flow: dict[str, Any], address: str, part: str) -> dict[str, Any]:
    """The conversation with an address that has an id like this, or the latest one.

    Raises:
        UsageError: there is none, or there are several.
    """
    part = short_ids.normalize(part)
    known: list[dict[str, Any]] = [
        each
        for each in me.request("conversations", limit=1_000)["conversations"]
        if each["way"] == "asking" and (each["user"], each["endpoint"]) == (flow["user"], flow["endpoint"])
    ]
    if not part:
        found = known[:1]
    else:
        _check_id(part)
        found = [each for each in known if short_ids.matches(part, each["conversation"])]
    if not found and len(part) == short_ids.LENGTH:
        return {"conversation": part}  # it is older than what is remembered, but the other side may know it
    if len(found) != 1:
        many = "Several earlier conversations" if found else "No earlier conversation"
        like = f" and an id like {part!r}" if part else ""
        raise UsageError(f"{many} with {address}{like}.", "See: p2pflows chat --list")
    return found[0]


def show_last(conversation: dict[str, Any], name: str) -> None:
    """Say where the talk was left."""
    say(f"Going on with {short(conversation['conversation'])}.")
    if conversation.get("text") and conversation["by"] is not None:
        speech(name if conversation["by"] == "them" else "you", conversation["text"])


def _check_id(part: str) -> None:
    if not short_ids.is_id_part(part):
        raise UsageError(
            f"{part!r} is no conversation: give {short_ids.MIN_CHARS} to {short_ids.LENGTH} hex digits of its id.",
            "See: p2pflows chat --list. An ADDRESS comes before --resume.",
        )
