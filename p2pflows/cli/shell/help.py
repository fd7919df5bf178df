"""The commands `help` and `version`."""

from __future__ import annotations

import platform

import click
from click.shell_completion import CompletionItem

from p2pflows import __version__
from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_json
from p2pflows.errors import UsageError


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the name of a command, or of one inside the group that was named before."""
    del param
    group, _ = _find(ctx.find_root(), ctx.params.get("words") or ())
    return group.command.shell_complete(group, incomplete) if isinstance(group.command, click.Group) else []


@click.command(name="help", epilog=examples("p2pflows help", "p2pflows help call", "p2pflows help contacts add"))
@click.argument("words", metavar="[COMMAND]...", nargs=-1, shell_complete=_names)
@click.pass_context
def show_help(ctx: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command, as its --help does."""
    found, unknown = _find(ctx.find_root(), words)
    if unknown:
        raise UsageError(f"{found.command_path} has no command {unknown!r}.", f"See: {found.command_path} --help")
    click.echo(found.get_help())


@click.command(epilog=examples("p2pflows version", "p2pflows version --json"))
@json_option
def version(as_json: bool) -> None:
    """Print the version of p2pflows."""
    if as_json:
        print_json({"version": __version__, "python": platform.python_version()})
    else:
        click.echo(__version__)


def _find(root: click.Context, words: tuple[str, ...]) -> tuple[click.Context, str | None]:
    """Return the context of the command that words name, and the first word that names none."""
    context = root
    for word in words:
        command = context.command.get_command(context, word) if isinstance(context.command, click.Group) else None
        if command is None:
            return context, word
        context = click.Context(command, info_name=word, parent=context)
    return context, None
