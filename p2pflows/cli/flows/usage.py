"""The command `usage`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_json, print_table, say
from p2pflows.foreign_text import escape


@click.command(
    epilog=examples("p2pflows usage", "p2pflows usage --by model --days 7", "p2pflows usage --by day --json")
)
@click.option(
    "--by",
    type=click.Choice(["caller", "endpoint", "model", "day"]),
    default="caller",
    show_default=True,
    help="What each line is about.",
)
@click.option("--days", type=click.IntRange(1, 400), default=30, show_default=True, help="How many days, with today.")
@json_option
def usage(by: str, days: int, as_json: bool) -> None:
    """Show what your flows have spent at models, and for whom.

    Days begin at midnight, UTC. The cost follows the "prices" in config.yaml.
    """
    with p2pflows.connect() as me:
        result = me.request("usage", by=by, days=days)
    if as_json:
        print_json(result["entries"])
    elif not result["entries"]:
        say(f"Nothing was spent at models since {result['since']}.")
    else:
        print_table(
            [by.upper(), "REQUESTS", "TOKENS IN", "CACHED", "TOKENS OUT", "COST"],
            [[escape(str(entry[by])), *_numbers(entry)] for entry in result["entries"]],
        )


def _numbers(entry: dict[str, Any]) -> list[str]:
    counts = [f"{entry[name]:,}" for name in ("calls", "tokens_in", "cached", "tokens_out")]
    return [*counts, "" if entry["cost"] is None else f"{entry['cost']:,.4f}"]
