"""Commands for contacts: `contacts add`, `list` and `remove`; they need no daemon."""

from __future__ import annotations

import click

from p2pflows.cli.arguments import Contact, examples, json_option
from p2pflows.cli.output import print_json, print_result, print_table, say
from p2pflows.foreign_text import escape
from p2pflows.home import home


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows contacts", "p2pflows contacts add bob USER_ID", "p2pflows contacts remove bob"),
)
@json_option
@click.pass_context
def contacts(ctx: click.Context, as_json: bool) -> None:
    """Give other users petnames, which stand for their user ids."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all, as_json=as_json)


@contacts.command(
    epilog=examples(
        "p2pflows contacts add bob USER_ID",
        'p2pflows contacts add bob "$(P2PFLOWS_HOME=~/bob p2pflows id)"',
    )
)
@click.argument("name")
@click.argument("user_id")
@json_option
def add(name: str, user_id: str, as_json: bool) -> None:
    """Add a contact.

    NAME is a petname of your choice for the user. From now on they may call what you serve to contacts.
    """
    from p2pflows.contacts import Contacts, normal_user_id

    Contacts(home().contacts).add(name, user_id)
    user = normal_user_id(user_id)
    print_result({"name": name, "user": user}, f"{name} is {user}. Try: p2pflows ls {name}", as_json)


@contacts.command(name="list", epilog=examples("p2pflows contacts list", "p2pflows contacts list --json"))
@json_option
def list_all(as_json: bool) -> None:
    """List your contacts."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    if as_json:
        print_json([{"name": name, "user": user} for name, user in sorted(book.by_name.items())])
    elif book.by_name:
        print_table(["NAME", "USER ID"], sorted(book.by_name.items()))
    else:
        say("You have no contacts. Add one with: p2pflows contacts add NAME USER_ID")
    if book.blocked and not as_json:
        say(f"You denied: {', '.join(escape(user) for user in sorted(book.blocked))}")


@contacts.command(epilog=examples("p2pflows contacts remove bob"))
@click.argument("name", type=Contact())
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a contact."""
    from p2pflows.contacts import Contacts

    user = Contacts(home().contacts).remove(name)
    print_result({"name": name, "user": user}, f"{escape(name)} ({user}) is no longer a contact.", as_json)
