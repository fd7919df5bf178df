"""Commands for instances of flows: `mount`, `unmount`, `reset` and `instances`."""

from __future__ import annotations

import click

import p2pflows
from p2pflows.cli.arguments import (
    Address,
    Contact,
    Point,
    examples,
    json_option,
    parse_object,
    read_settings,
    settings_option,
    timeout_option,
)
from p2pflows.cli.output import ago, document, done, plain, say, table, who

_owner_option = click.option(
    "--of", "owner", type=Contact(), metavar="CONTACT", help="Whose flow it is.  [default: yours]"
)


@click.command(
    epilog=examples(
        "p2pflows mount bob/Assistant",
        "p2pflows mount bob/Assistant --set previous_messages.last_k=4",
        'id=$(p2pflows mount me/Human2Human --set \'{"subflows_config": {"User2": {"user_id": "\'$BOB\'"}}}\')',
        'p2pflows call bob/Assistant --instance "$id" query=Hello',
    )
)
@click.argument("address", type=Address())
@settings_option
@click.option("--state", metavar="JSON", help="The state that it begins with.")
@click.option("--dispatch-point", type=Point(), metavar="POINT", help="Which of your workers run it.")
@timeout_option("How long it may take (by default 1m).")
@json_option
def mount(
    *,
    address: str,
    settings: tuple[str, ...],
    state: str | None,
    dispatch_point: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Get an instance of a flow for yourself, and print its id.

    An instance has a config and a state of its own, and so have its subflows. Humans, functions and shell
    commands need none. What may be set of a neighbour's flow, its owner says.
    """
    with p2pflows.connect() as me:
        mounted = me.request(
            "mount",
            address=address,
            config_overrides=read_settings(settings) if settings else None,
            initial_state=None if state is None else parse_object(state, "Give one JSON object in single quotes."),
            dispatch_point=dispatch_point,
            timeout=timeout,
        )
    if as_json:
        document(mounted)
    elif mounted["instance"] is None:
        say(f"{plain(address)} has no instances. Call it as it is: p2pflows call {plain(address)}")
    else:
        click.echo(mounted["instance"])


@click.command(epilog=examples("p2pflows unmount 46ea674daf8e5450c2f58fca8af075ee --of bob"))
@click.argument("instance")
@_owner_option
@json_option
def unmount(instance: str, owner: str | None, as_json: bool) -> None:
    """Delete an instance and its subflows' own.

    What waits for it fails.
    """
    with p2pflows.connect() as me:
        result = me.request("delete_instance", instance=instance, user=owner)
    done(result, f"{plain(instance)} is deleted.", as_json)


@click.command(
    epilog=examples("p2pflows reset 46ea674daf8e5450c2f58fca8af075ee", "p2pflows reset ID --of bob --recursive")
)
@click.argument("instance")
@_owner_option
@click.option("--recursive", is_flag=True, help="Its subflows, too.")
@json_option
def reset(instance: str, owner: str | None, recursive: bool, as_json: bool) -> None:
    """Let an instance forget its state."""
    with p2pflows.connect() as me:
        result = me.request("reset_instance", instance=instance, user=owner, recursive=recursive)
    done(result, f"{plain(instance)} begins anew.", as_json)


@click.command(epilog=examples("p2pflows instances", "p2pflows instances bob", "p2pflows instances --json | jq length"))
@click.argument("contact", required=False, type=Contact())
@json_option
def instances(contact: str | None, as_json: bool) -> None:
    """List instances of your flows, or a CONTACT's for you."""
    with p2pflows.connect() as me:
        found = me.request("instances", user=contact)["instances"]
    if as_json:
        document(found)
    elif not found:
        say(f"{contact} has no instances for you." if contact else "There are none. See: p2pflows mount --help")
    else:
        table(
            ["INSTANCE", "ENDPOINT", "FOR", "OPEN", "USED", "SUBFLOWS"],
            [
                [
                    each["instance"],
                    each["endpoint"],
                    "me" if contact else who(each.get("name"), each["client"]),
                    each["open"],
                    ago(each["used"]),
                    ", ".join(each["subflows"]),
                ]
                for each in found
            ],
        )
