"""Commands for contacts: `contacts add`, `list`, `rename`, `verify`, `remove` and `group`; they need no daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from p2pflows.cli.input.arguments import Contact, examples, is_agreed, json_option
from p2pflows.cli.printing.output import clock_text, display_name, print_json, print_result, print_table, say
from p2pflows.errors import Cancelled, P2pflowsError, UnknownUser
from p2pflows.foreign_text import escape
from p2pflows.home import home

if TYPE_CHECKING:
    from p2pflows.contacts import Book

_STATUS_TIMEOUT_S = 1.0


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
    from p2pflows.protocol.identity import check_user_id

    user = check_user_id(normal_user_id(user_id))
    name = Contacts(home().contacts).add(name, user)
    print_result({"name": name, "user": user}, f"{name} is {user}. Try: p2pflows ls {name}", as_json)


@contacts.command(name="list", epilog=examples("p2pflows contacts list", "p2pflows contacts list --json"))
@json_option
def list_all(as_json: bool) -> None:
    """List your contacts.

    If your daemon runs, it says whose clock differs from yours; --json has it as clock_ahead_ms.
    """
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    clocks = {user: clock for user, clock in _clocks().items() if user in book.by_user}
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "user": user,
                    "verified": user in book.verified,
                    "introduced_by": book.introduced_by.get(user),
                    "clock_ahead_ms": clocks[user]["ahead_ms"] if user in clocks else None,
                }
                for name, user in sorted(book.by_name.items())
            ]
        )
    elif book.by_name:
        print_table(
            ["NAME", "USER ID", "KNOWN"],
            [[name, user, _how_known(user, book)] for name, user in sorted(book.by_name.items())],
        )
    else:
        say("You have no contacts. Meet somebody with: p2pflows invite --for NAME")
    if clocks and not as_json:
        say(f"Clocks, compared with yours: {', '.join(map(clock_text, clocks.values()))}.")
    if book.blocked and not as_json:
        say(f"You denied: {', '.join(escape(user) for user in sorted(book.blocked))}")


@contacts.command(epilog=examples("p2pflows contacts rename bob robert"))
@click.argument("name", type=Contact())
@click.argument("new_name")
@json_option
def rename(name: str, new_name: str, as_json: bool) -> None:
    """Give a contact another petname."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts)
    user = book.rename(name, new_name)
    new_name = book.book().by_user[user]
    print_result({"name": new_name, "user": user}, f"{new_name} is {user}.", as_json)


@contacts.command(epilog=examples("p2pflows contacts verify bob"))
@click.argument("name", type=Contact())
@click.option("--yes", is_flag=True, help="You have compared the words already: ask nothing.")
@json_option
def verify(name: str, yes: bool, as_json: bool) -> None:
    """Compare five words with a contact, and mark them as verified.

    Let them run the same command, and compare the words by voice or face to face. If somebody has swapped a key on the
    way, the words differ.
    """
    from p2pflows.contacts import Contacts, resolve
    from p2pflows.protocol.identity import load
    from p2pflows.protocol.words import words_of

    contacts = Contacts(home().contacts)
    book, me = contacts.book(), load(home().key).user_id
    user = resolve(name, book, me)
    if user not in book.by_user:
        raise UnknownUser(f"No contact is named {name!r}.", "See: p2pflows contacts list")
    name, words = book.by_user[user], words_of(me, user)
    if not as_json:
        say(f"The words of you and {escape(name)}:")
        click.echo(words)
    if not yes and not is_agreed("Do they see the same words?", "Say that you have compared them: --yes"):
        raise Cancelled(
            f"{escape(name)} is not verified.",
            "If the words differ, trust nothing that comes in their name: remove them, and meet in another way.",
        )
    contacts.verify(user)
    print_result(
        {"name": name, "user": user, "words": words, "verified": True}, f"{escape(name)} is verified.", as_json
    )


@contacts.command(epilog=examples("p2pflows contacts remove bob"))
@click.argument("name", type=Contact())
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove a contact."""
    from p2pflows.contacts import Contacts

    user = Contacts(home().contacts).remove(name)
    print_result({"name": name, "user": user}, f"{escape(name)} ({user}) is no longer a contact.", as_json)


@contacts.group(
    invoke_without_command=True,
    epilog=examples(
        "p2pflows contacts group add team bob carol",
        "p2pflows contacts group list",
        "p2pflows contacts group remove team carol",
    ),
)
@json_option
@click.pass_context
def group(ctx: click.Context, as_json: bool) -> None:
    """Put contacts into groups, to ask them together: p2pflows ask @team."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_groups, as_json=as_json)


@group.command(name="add", epilog=examples("p2pflows contacts group add team bob carol"))
@click.argument("name", metavar="GROUP")
@click.argument("who", nargs=-1, required=True, type=Contact(), metavar="CONTACT...")
@json_option
def add_members(name: str, who: tuple[str, ...], as_json: bool) -> None:
    """Add contacts to a group; a new group is made."""
    from p2pflows.contacts import Contacts

    name = name.removeprefix("@")
    _print_group(name, Contacts(home().contacts).add_to_group(name, who), as_json)


@group.command(name="list", epilog=examples("p2pflows contacts group list"))
@json_option
def list_groups(as_json: bool) -> None:
    """List your groups and their members."""
    from p2pflows.contacts import Contacts

    book = Contacts(home().contacts).book()
    found = {name: [book.by_user[user] for user in users] for name, users in sorted(book.groups.items())}
    if as_json:
        print_json([{"name": name, "members": members} for name, members in found.items()])
    elif found:
        print_table(["GROUP", "MEMBERS"], [[f"@{name}", ", ".join(members)] for name, members in found.items()])
    else:
        say("You have no groups. Make one with: p2pflows contacts group add GROUP CONTACT...")


@group.command(
    name="remove",
    epilog=examples("p2pflows contacts group remove team carol", "p2pflows contacts group remove team"),
)
@click.argument("name", metavar="GROUP")
@click.argument("who", nargs=-1, type=Contact(), metavar="[CONTACT...]")
@json_option
def remove_members(name: str, who: tuple[str, ...], as_json: bool) -> None:
    """Remove contacts from a group; without a CONTACT, the group itself. They stay your contacts."""
    from p2pflows.contacts import Contacts

    name = name.removeprefix("@")
    _print_group(name, Contacts(home().contacts).remove_from_group(name, who), as_json)


def _print_group(name: str, members: list[str], as_json: bool) -> None:
    sentence = f"In @{escape(name)}: {', '.join(map(escape, members))}." if members else f"@{escape(name)} is gone."
    print_result({"name": name, "members": members}, sentence, as_json)


def _clocks() -> dict[str, dict[str, Any]]:
    """Return the users whose clock differs, as a running daemon knows it, by user id."""
    from p2pflows.client import Client

    try:
        with Client(timeout=_STATUS_TIMEOUT_S) as me:
            return {clock["user"]: clock for clock in me.request("status").get("clocks", [])}
    except P2pflowsError:
        return {}


def _how_known(user: str, book: Book) -> str:
    """Return what speaks for a contact being the person whose name they have."""
    by = book.introduced_by.get(user)
    introduced = "" if by is None else f"introduced by {display_name(book.by_user.get(by), by)}"
    return ", ".join(filter(None, ["verified" if user in book.verified else "", introduced]))
