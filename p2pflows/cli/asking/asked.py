"""Commands for what you have asked: `asked` and `asked clear`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
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

_PAGE = 50


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows asked", "p2pflows asked --open", "p2pflows asked --page 2", "p2pflows asked clear"),
)
@click.option("--open", "is_open", is_flag=True, help="List only what has no answer yet.")
@click.option("--page", type=click.IntRange(1, 20), default=1, help=f"Which {_PAGE} to list (by default the first).")
@json_option
@click.pass_context
def asked(ctx: click.Context, is_open: bool, page: int, as_json: bool) -> None:
    """List what you have asked, and what became of it.

    Open questions come first, then the newest. Calls that programs made are listed, too, and notes that failed.
    Calls are forgotten a day after their end, or when `retention` in config.yaml says; of questions, 1,000 are kept.
    """
    if ctx.invoked_subcommand is not None:
        return
    with p2pflows.connect() as me:
        found = me.request("asked", limit=_PAGE, offset=(page - 1) * _PAGE, open=is_open)
    if as_json:
        print_json(found["asked"])
        return
    if not found["asked"]:
        say("You have asked nothing." if page == 1 else "There are no more.")
        return
    print_table(["ID", "TO", "ASKED", "LEFT", "STATE", "ANSWER", "TEXT"], [_cells(each) for each in found["asked"]])
    if found["more"]:
        say(f"There are more: p2pflows asked --page {page + 1}")
    if any(each["outcome"] == "failed" and each["kind"] != "question" for each in found["asked"]):
        say("Send a failed call or note again with: p2pflows outbox retry ID")
    say("Wait for one with: p2pflows wait ID; withdraw one with: p2pflows cancel ID")


@asked.command(epilog=examples("p2pflows asked clear"))
@json_option
def clear(as_json: bool) -> None:
    """Forget what has ended; open questions stay."""
    with p2pflows.connect() as me:
        result = me.request("clear_asked")
    print_result(result, f"Forgot {result['cleared']:,}.", as_json)


def _cells(entry: dict[str, Any]) -> list[object]:
    people = entry["people"] or [{"user": entry["to"], "to_name": entry["to_name"]}]
    to = ", ".join(display_name(person["to_name"], person["user"]) for person in people)
    is_open = entry["outcome"] == "open"
    error = entry["error"] or {}
    return [
        short_id(entry["id"]),
        to if entry["endpoint"] == "User" else f"{to}/{entry['endpoint']}",
        ago(entry["created"]),
        time_left(entry["expires"]) if is_open else "",
        entry["where"] if is_open else entry["outcome"],
        entry["answer"] or ("" if is_open else error.get("message", "")),
        entry["text"],
    ]
