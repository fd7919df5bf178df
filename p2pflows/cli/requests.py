"""Commands for strangers who sent you messages: `requests`, `allow` and `deny`."""

from __future__ import annotations

import click

import p2pflows
from p2pflows.cli.arguments import Stranger, examples, json_option
from p2pflows.cli.output import ago, print_json, print_result, say, style
from p2pflows.foreign_text import escape
from p2pflows.home import home


@click.command(epilog=examples("p2pflows requests", "p2pflows requests --json | jq -r '.[].user'"))
@json_option
def requests(as_json: bool) -> None:
    """List the strangers who sent you messages.

    Until you allow them, no flow runs for their messages, and no question of theirs is shown.
    """
    with p2pflows.connect() as me:
        waiting = me.request("requests")["requests"]
    if as_json:
        print_json(waiting)
        return
    for request in waiting:
        count = request["messages"]
        click.echo(style(escape(request["user"]), bold=True))
        click.echo(
            f"  {count} message{'' if count == 1 else 's'} to {escape(', '.join(request['endpoints']))};"
            f" first {ago(request['first'])}, last {ago(request['last'])}"
        )
    if waiting:
        say("Decide with: p2pflows allow USER_ID --name NAME, or p2pflows deny USER_ID")
    else:
        say("No stranger has sent you a message.")


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
