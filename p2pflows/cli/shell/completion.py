"""Commands for completion in shells: `completion install` and `completion show`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_json, say
from p2pflows.errors import UsageError

_MARK = "# completion of p2pflows"
_SHELL = click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), required=False)


@click.group(epilog=examples("p2pflows completion install", "p2pflows completion show zsh"))
def completion() -> None:
    """Let your shell complete contacts, endpoints and ids."""


@completion.command(epilog=examples("p2pflows completion install", "p2pflows completion install fish"))
@_SHELL
@json_option
def install(shell: str | None, as_json: bool) -> None:
    """Install the completion for a shell, by default yours.

    It writes a script, and for bash and zsh a line into the shell's start file. Run it again after an upgrade.
    """
    from p2pflows import files
    from p2pflows.cli import cli
    from p2pflows.cli.shell import shells

    shell = shell or _own_shell()
    path, start = shells.script_path(shell), shells.start_file(shell)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.replace(path, shells.script(cli, shell), mode=0o644)
    added = start is not None and _add_line(*start)
    if as_json:
        print_json({"shell": shell, "script": str(path), "start_file": str(start[0]) if start else None})
        return
    say(f"Wrote {path}")
    if start is not None:
        say(f"{'Added a line to' if added else 'The line is already in'} {start[0]}")
    say(f"Open a new {shell}, or run: exec {shell}")


@completion.command(epilog=examples("p2pflows completion show", "p2pflows completion show fish > p2pflows.fish"))
@_SHELL
@json_option
def show(shell: str | None, as_json: bool) -> None:
    """Print the script for a shell, by default yours."""
    from p2pflows.cli import cli
    from p2pflows.cli.shell import shells

    shell = shell or _own_shell()
    script = shells.script(cli, shell)
    print_json({"shell": shell, "script": script}) if as_json else click.echo(script, nl=False)


def _own_shell() -> str:
    """Return the name of the user's shell.

    Raises:
        UsageError: it is not known, or another one.
    """
    name = Path(os.environ.get("SHELL", "")).name
    if name not in ("bash", "zsh", "fish"):
        known = f"Your shell is {name!r}." if name else "Your shell is not known."
        raise UsageError(known, "Name one of bash, zsh and fish: p2pflows completion install bash")
    return name


def _add_line(path: Path, line: str) -> bool:
    """Add a line at the end of a start file, unless it is there; return whether it was added."""
    text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.exists() else ""
    if line in text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write(("" if text.endswith("\n") or not text else "\n") + f"{line}  {_MARK}\n")
    return True
