"""The command `log`: refusals, failures, and people who have become contacts."""

from __future__ import annotations

import time
from typing import Any

import click

import p2pflows
from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import ago, display_name, print_json, print_table, say
from p2pflows.foreign_text import escape

_POLL_INTERVAL_S = 1.0


@click.command(
    epilog=examples("p2pflows log", "p2pflows log --limit 1000 --json | jq -r .detail", "p2pflows log --follow")
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="The number of entries.")
@click.option("--follow", is_flag=True, help="Show new entries as they are added, until Ctrl-C.")
@json_option
def log(limit: int, follow: bool, as_json: bool) -> None:
    """Show what was refused, what failed, and whom you met.

    The newest entry is the last. An event that repeats has one entry per minute. --json prints one object per line.
    """
    with p2pflows.connect() as me:
        entries = me.request("log", limit=limit)["entries"]
        if not entries and not follow and not as_json:
            say("Nothing was refused, and nothing failed.")
        _show(entries, as_json)
        while follow:
            time.sleep(_POLL_INTERVAL_S)
            more = me.request("log", limit=10_000, after=entries[-1]["n"] if entries else 0)["entries"]
            _show(more, as_json)
            entries = more or entries


def _show(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for entry in entries:
            print_json(entry)
    elif entries:
        print_table(
            ["WHEN", "WHAT", "WHO", "ENDPOINT", "WHY"],
            [
                [ago(each["at"]), each["what"], _peer(each), escape(each["endpoint"]), each["detail"]]
                for each in entries
            ],
        )


def _peer(entry: dict[str, Any]) -> str:
    return display_name(entry["name"], entry["peer"]) if entry["peer"] else ""
