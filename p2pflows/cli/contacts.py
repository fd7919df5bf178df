"""Commands for whom you know: `contacts add`, `list` and `remove`; they need no daemon."""

from __future__ import annotations

import click

from p2pflows.cli.arguments import Contact, examples, json_option
from p2pflows.cli.output import document, done, plain, say, table
from p2pflows.home import home


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows contacts", "p2pflows contacts add bob USER_ID", "p2pflows contacts remove bob"),
)
@json_option
@click.pass_context
def contacts(ctx: click.Context, as_json: bool) -> None:
    """Name your neighbours; a petname stands wherever a user id may."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all, as_json=as_json)


@contacts.command(
    epilog=examples(
        "p2pflows contacts add bob 3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        'p2pflows contacts add bob "$(P2PFLOWS_HOME=~/bob p2pflows id)"',
    )
)
@click.argument("name")
@click.argument("user_id")
@json_option
def add(name: str, user_id: str, as_json: bool) -> None:
    """Give a user id a petname; from then on they reach what you serve to contacts."""
    from p2pflows.contacts import Contacts, normal_user_id

    Contacts(home().contacts).add(name, user_id)
    user = normal_user_id(user_id)
    done({"name": name, "user": user}, f"{name} is {user}. Try: p2pflows ls {name}", as_json)


@contacts.command(name="list", epilog=examples("p2pflows contacts list", "p2pflows contacts list --json"))
@json_option
def list_all(as_json: bool) -> None:
    """List your contacts."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    if as_json:
        document([{"name": name, "user": user} for name, user in sorted(book.by_name.items())])
    elif book.by_name:
        table(["NAME", "USER ID"], sorted(book.by_name.items()))
    else:
        say("You have no contacts. Add one with: p2pflows contacts add NAME USER_ID")
    if book.blocked and not as_json:
        say(f"Denied, until you allow them: {', '.join(plain(user) for user in sorted(book.blocked))}")


@contacts.command(epilog=examples("p2pflows contacts remove bob"))
@click.argument("name", type=Contact())
@json_option
def remove(name: str, as_json: bool) -> None:
    """Forget a contact."""
    from p2pflows.contacts import Contacts

    user = Contacts(home().contacts).remove(name)
    done({"name": name, "user": user}, f"{plain(name)} ({user}) is no contact any more.", as_json)
