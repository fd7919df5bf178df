"""The command `log`: who was refused what, and what failed."""

from __future__ import annotations

import time
from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import examples, json_option
from p2pflows.cli.output import ago, document, plain, say, table, who

_POLL_INTERVAL_S = 1.0


@click.command(
    epilog=examples("p2pflows log", "p2pflows log --limit 1000 --json | jq -r .detail", "p2pflows log --follow")
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="How many of the newest.")
@click.option("--follow", is_flag=True, help="Go on as more comes, until Ctrl-C.")
@json_option
def log(limit: int, follow: bool, as_json: bool) -> None:
    """Show who was refused what, and what failed, the newest last.

    With --json one object a line. What repeats itself is written once a minute.
    """
    with p2pflows.connect() as me:
        entries = me.request("log", limit=limit)["entries"]
        if not entries and not follow and not as_json:
            say("Nothing was refused, and nothing has failed.")
        _show(entries, as_json)
        while follow:
            time.sleep(_POLL_INTERVAL_S)
            more = me.request("log", limit=10_000, after=entries[-1]["n"] if entries else 0)["entries"]
            _show(more, as_json)
            entries = more or entries


def _show(entries: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        for entry in entries:
            document(entry)
    elif entries:
        table(
            ["WHEN", "WHAT", "WHO", "ENDPOINT", "WHY"],
            [[ago(each["at"]), each["what"], _whom(each), plain(each["endpoint"]), each["detail"]] for each in entries],
        )


def _whom(entry: dict[str, Any]) -> str:
    return who(entry["name"], entry["peer"]) if entry["peer"] else ""
