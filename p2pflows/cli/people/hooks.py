"""Commands about being told: `hook` and `notify`."""

from __future__ import annotations

import shlex

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import number_of, print_json, print_table, say
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.foreign_text import escape
from p2pflows.home import home
from p2pflows.settings.news_kinds import KINDS
from p2pflows.terminal import run_interruptible

_CONDITIONS = {"from": "users", "endpoint": "endpoints", "form": "forms"}


@click.group(epilog=examples("p2pflows hook add asked -- notify-send 'A question'", "p2pflows hook list"))
def hook() -> None:
    """Run commands when you are asked something."""


@hook.command(
    epilog=examples(
        "p2pflows hook add asked -- notify-send 'Somebody asks you.'",
        "p2pflows hook add asked --if from=bob --if form=boolean -- ./ring.sh",
        "p2pflows hook add missed -- ./note.sh",
    )
)
@click.argument("event", type=click.Choice(KINDS))
@click.option("--if", "conditions", multiple=True, metavar="KEY=VALUE", help="Only for this from, endpoint or form.")
@click.argument("command", nargs=-1, required=True)
@json_option
def add(event: str, conditions: tuple[str, ...], command: tuple[str, ...], as_json: bool) -> None:
    """Run COMMAND at each EVENT from now on; write -- before it.

    The events are: asked (a question came), note, expiring (a question waits and is about to expire), missed (it has
    expired), wish (a stranger wants to be let in) and answered (somebody has answered you). The command gets what has
    happened as one JSON object on its stdin, and as variables: P2PFLOWS_KIND, P2PFLOWS_NAME, P2PFLOWS_TEXT,
    P2PFLOWS_ID... Others have written the text: never run it.
    """
    from p2pflows.notifying import hooks
    from p2pflows.settings.notify import Hook

    found: dict[str, list[str]] = {}
    for condition in conditions:
        key, sign, value = condition.partition("=")
        if key not in _CONDITIONS or not sign or not value:
            raise UsageError(f"{condition!r} is no condition.", f"Write one of {', '.join(_CONDITIONS)}: --if from=bob")
        found.setdefault(_CONDITIONS[key], []).append(value)
    known = hooks.read(home())
    hooks.write(home(), [*known, Hook.model_validate({"on": event, "run": list(command), **found})])
    print_json({"hook": len(known) + 1}) if as_json else say(f"Added hook {len(known) + 1}. See: p2pflows hook list")


@hook.command("list", epilog=examples("p2pflows hook list", "p2pflows hook list --json"))
@json_option
def list_hooks(as_json: bool) -> None:
    """List your hooks."""
    from p2pflows.notifying import hooks

    found = hooks.read(home())
    if as_json:
        print_json([{"hook": number, **each.model_dump()} for number, each in enumerate(found, 1)])
    elif not found:
        say("There are no hooks. See: p2pflows hook add --help")
    else:
        rows = []
        for number, each in enumerate(found, 1):
            only = [*(f"from={name}" for name in each.users), *(f"endpoint={name}" for name in each.endpoints)]
            only += [f"form={name}" for name in each.forms]
            rows.append([number, each.on, " ".join(only), shlex.join(each.run)])
        print_table(["HOOK", "EVENT", "ONLY IF", "COMMAND"], rows)


@hook.command(epilog=examples("p2pflows hook remove 2"))
@click.argument("number", type=click.IntRange(min=1))
@json_option
def remove(number: int, as_json: bool) -> None:
    """Remove the hook with this NUMBER, as `hook list` shows it."""
    from p2pflows.notifying import hooks

    found = hooks.read(home())
    if number > len(found):
        raise UsageError(f"There is no hook {number}.", "See: p2pflows hook list")
    removed = found.pop(number - 1)
    hooks.write(home(), found)
    print_json(removed.model_dump()) if as_json else say(f"Removed hook {number}: {escape(shlex.join(removed.run))}")


@click.command(epilog=examples("p2pflows notify"))
@json_option
def notify(as_json: bool) -> None:
    """Send a test to each service that tells you.

    They are named in "notify" of config.yaml. The exit code is 1 if one of them does not take it.
    """
    from p2pflows import config
    from p2pflows.notifying.channels import ChannelFailed, Service
    from p2pflows.notifying.news import Said

    services = [Service(url) for url in config.load(home()).notify.urls]
    if not services:
        raise UsageError(
            "Nothing is configured.", "Write notify: {urls: [...]} into config.yaml, or see: p2pflows hook"
        )
    failed: dict[str, str] = {}
    for service in services:
        try:
            run_interruptible(
                service.send(Said("p2pflows", "This is a test: here you will be told what waits for you."), [])
            )
        except ChannelFailed as error:
            failed[service.name] = str(error)
    if as_json:
        print_json({"sent": len(services) - len(failed), "failed": failed})
    else:
        say(f"{number_of(len(services) - len(failed), 'service')} took it.")
    if failed:
        name, why = next(iter(failed.items()))
        raise P2pflowsError(f"{name} does not take it: {why}.", "Correct its address in config.yaml.")
