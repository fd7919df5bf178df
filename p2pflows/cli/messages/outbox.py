"""Commands for what waits: `outbox` and `outbox retry`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import (
    ago,
    display_name,
    print_json,
    print_result,
    print_table,
    say,
    short_id,
    time_left,
)

_PAGE = 100


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows outbox", "p2pflows outbox --page 2", "p2pflows outbox retry 4f1c22d9"),
)
@click.option("--page", type=click.IntRange(1), default=1, help=f"Which {_PAGE} to list (by default the oldest).")
@json_option
@click.pass_context
def outbox(ctx: click.Context, page: int, as_json: bool) -> None:
    """List undelivered messages and dead letters.

    Dead letters are messages to you whose workers died at every attempt to run them. For what you have asked, and
    what became of it, see: p2pflows asked
    """
    if ctx.invoked_subcommand is not None:
        return
    with p2pflows.connect() as me:
        messages = me.request("outbox", limit=_PAGE, offset=(page - 1) * _PAGE)
    if as_json:
        print_json(messages)
        return
    for kind, head, cells in _TABLES:
        if messages.get(kind):
            print_table(head, [cells(message) for message in messages[kind]])
    more = max(messages.get("count", {"all": 0}).values()) - page * _PAGE
    if more > 0:
        say(f"There are {more:,} more: p2pflows outbox --page {page + 1}")
    if messages.get("dead"):
        say("Retry one with: p2pflows outbox retry ID")
    elif not messages["pending"] and page > 1:
        say("There are no more.")
    elif not messages["pending"]:
        say("All messages are delivered, and there are no dead letters.")


@outbox.command(epilog=examples("p2pflows outbox retry 4f1c22d9"))
@click.argument("message_id", metavar="ID", shell_complete=candidates.failed)
@json_option
def retry(message_id: str, as_json: bool) -> None:
    """Retry a failed message or a dead letter."""
    with p2pflows.connect() as me:
        result = me.request("retry", id=message_id)
    print_result(result, f"Retrying {short_id(result['id'])}.", as_json)


def _pending(m: dict[str, Any]) -> list[object]:
    to = display_name(m["name"], m["to"])
    times = [ago(m["created"]), time_left(m["expires"])]
    return [short_id(m["id"]), to, m["endpoint"], m["type"], *times, m["attempts"], m["state"]]


def _dead(m: dict[str, Any]) -> list[object]:
    sender = display_name(m["name"], m["from"])
    return [short_id(m["id"]), sender, m["endpoint"], ago(m["received"]), m["attempts"], _reason(m["error"])]


def _reason(error: Any) -> str:
    return str(error.get("message") or error.get("kind") or "") if isinstance(error, dict) else str(error or "")


_TABLES = (
    ("pending", ["PENDING", "TO", "ENDPOINT", "TYPE", "SENT", "LEFT", "TRIES", "STATE"], _pending),
    ("dead", ["DEAD", "FROM", "ENDPOINT", "CAME", "TRIES", "ERROR"], _dead),
)
