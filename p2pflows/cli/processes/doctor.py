"""The command `doctor`."""

from __future__ import annotations

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_json, say, style
from p2pflows.cli.printing.progress import waiting
from p2pflows.foreign_text import escape
from p2pflows.home import home

_COLOURS = {"fine": "green", "note": "yellow", "problem": "red"}


@click.command(epilog=examples("p2pflows doctor", "p2pflows doctor --json | jq '.[] | select(.level == \"problem\")'"))
@json_option
def doctor(as_json: bool) -> None:
    """Find out why something does not work.

    It looks at home, disk, journal, daemon, broker, rights, workers and clock. Each problem comes with what to do next.
    Nothing is changed. The exit code is 1 if there is a problem.
    """
    from p2pflows.doctor.finding import Level
    from p2pflows.doctor.visit import visit

    with waiting("Looking at everything"):
        found = list(visit(home()))
    problems = sum(finding.level is Level.PROBLEM for finding in found)
    if as_json:
        print_json([finding._asdict() for finding in found])
    else:
        longest = max(len(finding.what) for finding in found)
        for finding in found:
            level = style(finding.level.ljust(len(Level.PROBLEM)), fg=_COLOURS[finding.level])
            click.echo(f"{level}  {finding.what.ljust(longest)}  {escape(finding.text)}")
            if finding.next:
                click.echo(f"{' ' * (len(Level.PROBLEM) + longest + 4)}{escape(finding.next)}")
        say(f"\n{problems} problem{'' if problems == 1 else 's'}." if problems else "\nNo problem was found.")
    if problems:
        click.get_current_context().exit(1)
