"""Commands for a daemon that runs by itself: `service`, `down` and `uninstall`."""

from __future__ import annotations

import os
import shlex
import sys

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_facts, print_json, say
from p2pflows.foreign_text import escape
from p2pflows.home import home
from p2pflows.service.managers import Manager, manager_of
from p2pflows.service.units import Service


@click.group(epilog=examples("p2pflows service install", "p2pflows service status", "p2pflows service remove"))
def service() -> None:
    """Let the system run your daemon."""


@service.command(epilog=examples("p2pflows service install", "p2pflows service install --sandbox"))
@click.option("--sandbox", is_flag=True, help="Let flows write in the home of p2pflows only (systemd).")
@json_option
def install(sandbox: bool, as_json: bool) -> None:
    """Install the service, and start it now and at each login.

    It is a unit of your own systemd, or an agent of launchd. Run it again after you have moved or upgraded Python.
    A daemon that runs already is ended first: everything that it has accepted is kept.
    """
    from p2pflows.cli.people.identity import load_or_create
    from p2pflows.service import running

    manager = _manager()
    load_or_create(home())
    ended = None if manager.file.exists() else running.stop(home())
    hints = manager.install(sandbox=sandbox)
    if as_json:
        print_json({"service": manager.service.name, "file": str(manager.file), "hints": hints})
        return
    if ended:
        say(f"Ended the daemon that ran as process {ended}.")
    say(f"Wrote {manager.file}, and started it.")
    for hint in hints:
        say(hint)
    say("See: p2pflows service status")


@service.command("status", epilog=examples("p2pflows service status", "p2pflows service status --json"))
@json_option
def show_status(as_json: bool) -> None:
    """Show what the system says of the service."""
    manager = _manager()
    state = {"service": manager.service.name, "file": str(manager.file), **manager.state()}
    if as_json:
        print_json(state)
    else:
        print_facts([(name, escape(value)) for name, value in state.items()])


@service.command(epilog=examples("p2pflows service restart"))
@json_option
def restart(as_json: bool) -> None:
    """End the daemon, and start it again, as after an upgrade."""
    manager = _manager()
    manager.restart()
    print_json({"service": manager.service.name}) if as_json else say(f"Started {manager.service.name} again.")


@service.command(epilog=examples("p2pflows service remove"))
@json_option
def remove(as_json: bool) -> None:
    """End the service, and remove it; your identity and messages stay."""
    manager = _manager()
    removed = manager.remove()
    if as_json:
        print_json({"service": manager.service.name, "removed": removed})
    else:
        say(f"Removed {manager.file}." if removed else "There is no service to remove.")


@click.command(epilog=examples("p2pflows down", "p2pflows down && p2pflows up --detach"))
@json_option
def down(as_json: bool) -> None:
    """End your daemon, wherever it runs on this machine.

    Everything that it has accepted is kept.
    """
    from p2pflows.service import running

    pid = running.stop(home())
    if as_json:
        print_json({"process": pid})
    else:
        say("No daemon runs." if pid is None else f"Ended the daemon (process {pid}). Start it again with: p2pflows up")


@click.command(epilog=examples("p2pflows uninstall"))
@json_option
def uninstall(as_json: bool) -> None:
    """End your daemon and remove its service.

    It says what stays, and how to remove that. Your identity, contacts and messages are never removed by a command.
    """
    from p2pflows.errors import P2pflowsError
    from p2pflows.service import running

    removed: list[str] = []
    try:
        manager = _manager()
        if manager.remove():
            removed.append(str(manager.file))
    except P2pflowsError as error:
        say(error.message)
    pid = running.stop(home())
    stays = str(home().path) if home().path.exists() else None
    if as_json:
        print_json({"ended": pid, "removed": removed, "stays": stays})
        return
    if pid:
        say(f"Ended the daemon (process {pid}).")
    for path in removed:
        say(f"Removed {path}.")
    if stays:
        say(f"Your identity, contacts and messages stay in {stays}. Keep a copy of identity.key: nobody else has it.")
        say(f"To remove them, so that nobody can be you any more: rm -r {shlex.quote(stays)}")
    say(f"To remove the program: {shlex.quote(sys.executable)} -m pip uninstall p2pflows")
    say("A line for completion may be left in the start file of your shell; it is marked with p2pflows.")


def _manager() -> Manager:
    where = home()
    usual = not os.environ.get("P2PFLOWS_HOME")
    return manager_of(Service(where.path, usual, sys.executable, os.environ.get("PATH", "/usr/bin:/bin")))
