"""Commands for strangers who sent you messages: `requests`, `allow` and `deny`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.input.arguments import Stranger, examples, json_option
from p2pflows.cli.printing.output import ago, display_name, print_json, print_result, say, style
from p2pflows.foreign_text import escape
from p2pflows.home import home


@click.command(epilog=examples("p2pflows requests", "p2pflows requests --json | jq -r '.[].user'"))
@json_option
def requests(as_json: bool) -> None:
    """List strangers who sent you messages or were introduced.

    Until you allow them, no flow runs for their messages, and no question of theirs is shown.
    """
    with p2pflows.connect() as me:
        waiting = me.request("requests")["requests"]
    if as_json:
        print_json(waiting)
        return
    for request in waiting:
        click.echo(style(escape(request["user"]), bold=True))
        for line in _story(request):
            click.echo(f"  {line}")
    if waiting:
        say("Decide with: p2pflows allow USER_ID --name NAME, or p2pflows deny USER_ID")
    else:
        say("No stranger has sent you a message.")


def _story(request: dict[str, Any]) -> list[str]:
    """Return what is known of a stranger, in lines."""
    endpoints, count = escape(", ".join(request["endpoints"])), request["messages"]
    lines = []
    if count:
        first, last = ago(request["first"]), ago(request["last"])
        lines = [f"{count} message{'' if count == 1 else 's'} to {endpoints}; first {first}, last {last}"]
    elif endpoints:
        lines = [f"asked for {endpoints} {ago(request['last'])}, and waits no more; if you allow them, they are told"]
    for by in request.get("introduced_by", ()):
        called = f" as {escape(by['as'])}" if by["as"] else ""
        lines.append(f"introduced by {display_name(by['name'], by['user'])}{called}")
        if by["as"]:
            lines.append(f"allow them with: p2pflows allow {escape(request['user'])} --name {escape(by['as'])}")
    return lines


@click.command(epilog=examples("p2pflows allow USER_ID --name carol"))
@click.argument("user", type=Stranger())
@click.option("--name", help="A petname for the user.")
@json_option
def allow(user: str, name: str | None, as_json: bool) -> None:
    """Make a stranger a contact, and accept their messages."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    user = book.by_name.get(user, user)
    known = book.by_user.get(user)
    with p2pflows.connect() as me:
        result = me.request("allow", user=user, name=name)
    since = "already" if result["name"] == known else "now"
    sentence = f"{escape(result['name'])} is a contact {since}; waiting messages accepted: {result['released']}."
    if result.get("told"):
        sentence += " The time of theirs has passed, so they are told that they may call you now."
    print_result(result, sentence, as_json)


@click.command(epilog=examples("p2pflows deny USER_ID"))
@click.argument("user", type=Stranger())
@json_option
def deny(user: str, as_json: bool) -> None:
    """Drop a stranger's messages, and refuse all later ones."""
    from p2pflows.contacts import Contacts

    user = (
        Contacts(home().contacts).book().by_name.get(user, user)
    )  # so that the daemon recognises a contact, and refuses
    with p2pflows.connect() as me:
        result = me.request("deny", user=user)
    print_result(result, f"Denied; waiting messages dropped: {result['dropped']}.", as_json)
