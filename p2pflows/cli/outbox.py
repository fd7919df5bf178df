"""Commands for what is under way or failed: `outbox` and `outbox retry`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import examples, json_option
from p2pflows.cli.output import ago, document, done, left, say, short, table, who


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows outbox", "p2pflows outbox --json", "p2pflows outbox retry 4f1c22d9"),
)
@json_option
@click.pass_context
def outbox(ctx: click.Context, as_json: bool) -> None:
    """List messages under way, failed ones, and dead letters.

    Under way is what is not delivered yet; dead letters are messages to you that no worker survived.
    """
    if ctx.invoked_subcommand is not None:
        return
    with p2pflows.connect() as me:
        messages = me.request("outbox")
    if as_json:
        document(messages)
        return
    for kind, head, cells in _TABLES:
        if messages.get(kind):
            table(head, [cells(message) for message in messages[kind]])
    if messages.get("failed") or messages.get("dead"):
        say("Try one again with: p2pflows outbox retry ID")
    elif not messages["pending"]:
        say("All is delivered, and there are no dead letters.")


@outbox.command(epilog=examples("p2pflows outbox retry 4f1c22d9"))
@click.argument("message_id", metavar="ID")
@json_option
def retry(message_id: str, as_json: bool) -> None:
    """Try a failed message or a dead letter again."""
    with p2pflows.connect() as me:
        result = me.request("retry", id=message_id)
    done(result, f"{short(result['id'])} is tried again.", as_json)


def _pending(m: dict[str, Any]) -> list[object]:
    to = who(m["name"], m["to"])
    times = [ago(m["created"]), left(m["expires"])]
    return [short(m["id"]), to, m["endpoint"], m["type"], *times, m["attempts"], m["state"]]


def _failed(m: dict[str, Any]) -> list[object]:
    return [short(m["id"]), who(m["name"], m["to"]), m["endpoint"], ago(m["created"]), _reason(m["error"])]


def _dead(m: dict[str, Any]) -> list[object]:
    sender = who(m["name"], m["from"])
    return [short(m["id"]), sender, m["endpoint"], ago(m["received"]), m["attempts"], _reason(m["error"])]


def _reason(error: Any) -> str:
    return str(error.get("message") or error.get("kind") or "") if isinstance(error, dict) else str(error or "")


_TABLES = (
    ("pending", ["PENDING", "TO", "ENDPOINT", "TYPE", "SENT", "LEFT", "TRIES", "STATE"], _pending),
    ("failed", ["FAILED", "TO", "ENDPOINT", "SENT", "ERROR"], _failed),
    ("dead", ["DEAD", "FROM", "ENDPOINT", "CAME", "TRIES", "ERROR"], _dead),
)
