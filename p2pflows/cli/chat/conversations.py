"""Earlier conversations: print them, and find one by its id or address."""

from __future__ import annotations

from typing import Any

import p2pflows
from p2pflows import short_ids
from p2pflows.cli.printing.output import ago, display_name, print_table, say, short_id
from p2pflows.cli.printing.speech import print_speech, with_label
from p2pflows.errors import UsageError


def print_conversations(conversations: list[dict[str, Any]]) -> None:
    """Print conversations as a table, in the order given."""
    if not conversations:
        say("There were no conversations in the last day.")
        return
    head, rows = ["ID", "WITH", "AT", "WHEN", "OPEN", "LAST"], [_row(conversation) for conversation in conversations]
    if any(conversation.get("title") for conversation in conversations):
        head.insert(1, "TOPIC")
        for row, conversation in zip(rows, conversations, strict=True):
            row.insert(1, conversation.get("title") or "")
    print_table(head, rows)
    say("Continue one with: p2pflows chat ADDRESS --resume ID")
    if any(conversation["open"] for conversation in conversations):
        say("Answer open questions with: p2pflows chat --answer")


def _row(conversation: dict[str, Any]) -> list[object]:
    other = display_name(conversation["name"], conversation["user"])
    owner = other if conversation["way"] == "asking" else "me"
    speaker = "you: " if conversation["by"] == "me" else ""
    return [
        short_id(conversation["conversation"]),
        with_label(other, conversation["label"]),
        f"{owner}/{conversation['endpoint']}",
        ago(conversation["at"]),
        conversation["open"],
        f"{speaker}{conversation['text']}",
    ]


def find_conversation(me: p2pflows.Client, flow: dict[str, Any], address: str, part: str) -> dict[str, Any]:
    """Find a conversation with an address.

    Args:
        me: the client of the daemon.
        flow: what the daemon knows of the address.
        address: the address as the user gave it, for errors.
        part: the beginning, the end or the whole of the conversation's id; empty for the latest conversation.

    Raises:
        UsageError: no conversation matches, or several do.
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
        return {"conversation": part}  # the daemon has forgotten it, but the other side may still know it
    if len(found) > 1:
        ids = short_ids.name_all([each["conversation"] for each in found])
        raise UsageError(f"Several conversations with {address} have an id like {part!r}: {ids}.", "Give more of it.")
    if not found:
        matching = f" with an id like {part!r}" if part else ""
        raise UsageError(f"There is no earlier conversation with {address}{matching}.", "See: p2pflows chat --list")
    return found[0]


def print_last(conversation: dict[str, Any], name: str) -> None:
    """Say which conversation continues, and print its last message."""
    say(f"Continuing {short_id(conversation['conversation'])}.")
    if conversation.get("text") and conversation["by"] is not None:
        print_speech(name if conversation["by"] == "them" else "you", conversation["text"])


def _check_id(part: str) -> None:
    if not short_ids.is_id_part(part):
        raise UsageError(
            f"{part!r} is not an id: give its first or last {short_ids.MIN_CHARS} to {short_ids.LENGTH} hex digits.",
            "See: p2pflows chat --list. Put the ADDRESS before --resume.",
        )
