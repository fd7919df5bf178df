"""Commands for strangers who want something: `requests`, `allow` and `deny`."""

from __future__ import annotations

import click

import p2pflows
from p2pflows.cli.arguments import Stranger, examples, json_option
from p2pflows.cli.output import ago, document, done, plain, say, style
from p2pflows.home import home


@click.command(epilog=examples("p2pflows requests", "p2pflows requests --json | jq -r '.[].user'"))
@json_option
def requests(as_json: bool) -> None:
    """List the strangers who sent you something.

    Nothing of it runs or shows until you allow them.
    """
    with p2pflows.connect() as me:
        waiting = me.request("requests")["requests"]
    if as_json:
        document(waiting)
        return
    for request in waiting:
        count = request["messages"]
        click.echo(style(plain(request["user"]), bold=True))
        click.echo(
            f"  {count} message{'' if count == 1 else 's'} to {plain(', '.join(request['endpoints']))};"
            f" first {ago(request['first'])}, last {ago(request['last'])}"
        )
    say(
        "Decide with: p2pflows allow USER_ID --name NAME, or p2pflows deny USER_ID" if waiting else "No stranger waits."
    )


@click.command(epilog=examples("p2pflows allow USER_ID --name carol"))
@click.argument("user", type=Stranger())
@click.option("--name", help="The petname to give them.")
@json_option
def allow(user: str, name: str | None, as_json: bool) -> None:
    """Make a stranger a contact, and let in what they have sent."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    user = book.by_name.get(user, user)
    known = book.by_user.get(user)
    with p2pflows.connect() as me:
        result = me.request("allow", user=user, name=name)
    since = "already" if result["name"] == known else "now"
    sentence = f"{plain(result['name'])} is a contact {since}; waiting messages let in: {result['released']}."
    done(result, sentence, as_json)


@click.command(epilog=examples("p2pflows deny USER_ID"))
@click.argument("user", type=Stranger())
@json_option
def deny(user: str, as_json: bool) -> None:
    """Drop what a stranger has sent, and all they will send."""
    from p2pflows.contacts import Contacts

    user = Contacts(home().contacts).book().by_name.get(user, user)  # so that a contact is told to be one
    with p2pflows.connect() as me:
        result = me.request("deny", user=user)
    done(result, f"Denied; waiting messages dropped: {result['dropped']}.", as_json)
