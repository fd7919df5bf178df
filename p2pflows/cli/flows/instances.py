"""Commands for instances of flows: `mount`, `unmount`, `reset` and `instances`."""

from __future__ import annotations

import click

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import (
    Address,
    Contact,
    DispatchPoint,
    examples,
    json_option,
    parse_object,
    read_settings,
    settings_option,
    timeout_option,
)
from p2pflows.cli.input.whole_ids import whole_instance
from p2pflows.cli.printing.output import ago, display_name, print_json, print_result, print_table, say
from p2pflows.cli.printing.progress import waiting
from p2pflows.foreign_text import escape

_owner_option = click.option(
    "--of", "owner", type=Contact(), metavar="CONTACT", help="The user who serves the flow.  [default: you]"
)


@click.command(
    epilog=examples(
        "p2pflows mount bob/Assistant",
        "p2pflows mount bob/Assistant --set previous_messages.last_k=4",
        'id=$(p2pflows mount bob/Assistant --set \'{"greeting": "Good day"}\')',
        'p2pflows call bob/Assistant --instance "$id" query=Hello',
    )
)
@click.argument("address", type=Address())
@settings_option
@click.option("--state", metavar="JSON", help="The initial state.")
@click.option(
    "--dispatch-point", type=DispatchPoint(), metavar="POINT", help="The workers that run it, if it is yours."
)
@timeout_option("How long to wait (by default 1m).")
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

    An instance has its own config, state and subflows. Humans, functions and shell commands have no instances.
    The owner of a flow decides which keys other users may --set.
    """
    with p2pflows.connect() as me, waiting(f"Waiting for an instance of {address}"):
        mounted = me.request(
            "mount",
            address=address,
            config_overrides=read_settings(settings) if settings else None,
            initial_state=None if state is None else parse_object(state, "Give one JSON object in single quotes."),
            dispatch_point=dispatch_point,
            timeout=timeout,
        )
    if as_json:
        print_json(mounted)
    elif mounted["instance"] is None:
        say(f"{escape(address)} has no instances. Call it directly: p2pflows call {escape(address)}")
    else:
        click.echo(mounted["instance"])


@click.command(epilog=examples("p2pflows unmount 46ea674daf8e5450c2f58fca8af075ee --of bob"))
@click.argument("instance", shell_complete=candidates.instances)
@_owner_option
@json_option
def unmount(instance: str, owner: str | None, as_json: bool) -> None:
    """Delete an instance, and the instances of its subflows.

    Calls that wait for it fail.
    """
    with p2pflows.connect() as me, waiting(f"Asking {owner or 'your daemon'}"):
        whole = whole_instance(me, owner, instance)
        result = me.request("delete_instance", instance=whole, user=owner)
    print_result(result, f"{escape(whole)} is deleted.", as_json)


@click.command(
    epilog=examples("p2pflows reset 46ea674daf8e5450c2f58fca8af075ee", "p2pflows reset ID --of bob --recursive")
)
@click.argument("instance", shell_complete=candidates.instances)
@_owner_option
@click.option("--recursive", is_flag=True, help="Also reset the instances of its subflows.")
@json_option
def reset(instance: str, owner: str | None, recursive: bool, as_json: bool) -> None:
    """Reset an instance to its initial state."""
    with p2pflows.connect() as me, waiting(f"Asking {owner or 'your daemon'}"):
        whole = whole_instance(me, owner, instance)
        result = me.request("reset_instance", instance=whole, user=owner, recursive=recursive)
    print_result(result, f"{escape(whole)} is reset to its initial state.", as_json)


@click.command(epilog=examples("p2pflows instances", "p2pflows instances bob", "p2pflows instances --json | jq length"))
@click.argument("contact", required=False, type=Contact())
@json_option
def instances(contact: str | None, as_json: bool) -> None:
    """List the instances of your flows, or yours at a CONTACT."""
    with p2pflows.connect() as me, waiting(f"Asking {contact or 'your daemon'}"):
        found = me.request("instances", user=contact)["instances"]
    if as_json:
        print_json(found)
    elif not found:
        say(f"{contact} has no instances for you." if contact else "There are no instances. See: p2pflows mount --help")
    else:
        print_table(
            ["INSTANCE", "ENDPOINT", *([] if contact else ["RELEASE"]), "FOR", "OPEN", "USED", "SUBFLOWS"],
            [
                [
                    each["instance"],
                    each["endpoint"],
                    *([] if contact else [each.get("release") or "-"]),
                    "me" if contact else display_name(each.get("name"), each["client"]),
                    each["open"],
                    ago(each["used"]),
                    ", ".join(each["subflows"]),
                ]
                for each in found
            ],
        )
