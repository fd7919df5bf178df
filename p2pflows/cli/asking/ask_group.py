"""Options of `ask` and `confirm`: several people, whose answer decides, who is asked later, and when to begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, time, timedelta
from typing import Any, TypeVar

import click

from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Duration
from p2pflows.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])


class Moment(click.ParamType[float]):
    """A time of day, or a date and time; converted to the seconds until then."""

    name = "moment"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds until then."""
        now = datetime.now().astimezone()
        try:
            if len(str(value)) <= len("18:30:00"):
                then = datetime.combine(now.date(), time.fromisoformat(str(value))).astimezone()
                then = then if then > now else then + timedelta(days=1)
            else:
                then = datetime.fromisoformat(str(value)).astimezone()
        except ValueError:
            self.fail(f"{value!r} is not a time: give 18:30, or 2026-12-24T18:30.", param, ctx)
        if then <= now:
            self.fail(f"{value!r} has passed already.", param, ctx)
        return (then - now).total_seconds()


def group_options(function: _F) -> _F:
    """Add the options."""
    for option in reversed(
        (
            click.option("--first", is_flag=True, help="Of several people, the first answer counts."),
            click.option("--all", "everybody", is_flag=True, help="Of several people, all are to answer."),
            click.option("--quorum", type=click.IntRange(1), metavar="N", help="N people must give the same answer."),
            click.option(
                "--then",
                multiple=True,
                metavar="WHO",
                shell_complete=candidates.people,
                help="Whom else to ask if nobody answers.",
            ),
            click.option("--after", multiple=True, type=Duration(), metavar="TIME", help="When, for each --then."),
            click.option("--at", "at", type=Moment(), metavar="TIME", help="Ask then: 18:30, 2026-12-24T18:30."),
            click.option("--in", "delay", type=Duration(), metavar="TIME", help="Ask in this time, such as 1h."),
        )
    ):
        function = option(function)
    return function


def group_params(who: list[str], options: Mapping[str, Any], *, all_means: str) -> dict[str, Any]:
    """Return the parameters of the method `ask` for the options.

    Args:
        who: the people.
        options: the values of the options.
        all_means: the need that stands for --all.

    Raises:
        UsageError: the options contradict each other, or the people need one of them.
    """
    first, everybody, quorum = options["first"], options["everybody"], options["quorum"]
    if [first, everybody, quorum is not None].count(True) > 1:
        raise UsageError("Answers count in one way only.", "Give --first, --all or --quorum N.")
    if (len(who) > 1 or any(name.startswith("@") for name in who)) and not (first or everybody or quorum):
        raise UsageError("Whose answer counts is not clear.", "Give --first, --all or --quorum N.")
    if len(options["then"]) != len(options["after"]):
        raise UsageError("Each --then needs an --after TIME.", "For example: --then carol --after 20m")
    if options["at"] is not None and options["delay"] is not None:
        raise UsageError("--at and --in both say when to begin.", "Give one of the two.")
    params: dict[str, Any] = {}
    if everybody:
        params["need"] = all_means
    if quorum:
        params |= {"need": "quorum", "quorum": quorum}
    if options["then"]:
        params["then"] = [
            {"who": [name], "after": after} for name, after in zip(options["then"], options["after"], strict=True)
        ]
    delay = options["at"] or options["delay"]
    return {**params, "delay": delay} if delay else params
