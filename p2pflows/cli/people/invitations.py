"""Commands for meeting people: `invite`, `accept` and `introduce`."""

from __future__ import annotations

import sys
from typing import Any

import click

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Contact, Duration, examples, is_agreed, json_option, read_stdin, stdin_is_piped
from p2pflows.cli.printing.output import (
    ago,
    display_name,
    draw_qr_code,
    is_over,
    local_time,
    print_json,
    print_result,
    print_table,
    say,
    short_id,
    style,
    time_left,
)
from p2pflows.cli.printing.progress import waiting
from p2pflows.errors import Cancelled, P2pflowsError, Unreachable, UsageError
from p2pflows.foreign_text import escape
from p2pflows.home import home

_MAX_LINES = 100
"""How many lines a pasted invitation may have."""
_SHARE_HINT = (
    "Use a broker that both of you reach: name it as `broker` in {config}, start your daemon again, and invite again."
)


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "p2pflows invite --for bob",
        "p2pflows invite --for bob --expires 2d --allow translate --wait",
        "p2pflows invite list",
        "p2pflows invite revoke 4f1c22d9",
    ),
)
@click.option("--for", "name", metavar="NAME", help="What you will call the person who uses it.")
@click.option(
    "--expires", type=Duration(), metavar="TIME", help="How long it can be used, such as 10m or 2d; 1h if not given."
)
@click.option("--uses", type=click.IntRange(1), metavar="N", help="How many people may use it; 1 if not given.")
@click.option(
    "--allow",
    metavar="ENDPOINT,...",
    shell_complete=candidates.endpoints,
    help="What they may call, beside what you serve to contacts.",
)
@click.option("--my-name", metavar="NAME", help="What you suggest to call you.")
@click.option("--qr", is_flag=True, help="Also draw it as a QR code.")
@click.option("--wait", is_flag=True, help="Wait until it is used.")
@json_option
@click.pass_context
def invite(ctx: click.Context, /, qr: bool, wait: bool, as_json: bool, **options: Any) -> None:
    """Print a line with which somebody becomes your contact.

    Send them the line in any way: it is a command for them to run. Whoever has it can use it, once, until it expires.
    """
    if ctx.invoked_subcommand is not None:
        return
    with p2pflows.connect() as me:
        result = me.request(
            "invite",
            name=options["name"],
            expires=options["expires"],
            uses=options["uses"],
            allow=options["allow"],
            own_name=options["my_name"],
        )
        if as_json:
            print_json(result)
        else:
            _show_invitation(result, options["name"], qr=qr)
        if wait:
            _wait(me, result["id"], as_json)


@invite.command(name="list", epilog=examples("p2pflows invite list", "p2pflows invite list --json"))
@json_option
def list_all(as_json: bool) -> None:
    """List your invitations, and who has used them."""
    with p2pflows.connect() as me:
        found = me.request("invitations")["invitations"]
    if as_json:
        print_json(found)
        return
    if not found:
        say("You have made no invitation lately. Make one with: p2pflows invite --for NAME")
        return
    print_table(
        ["ID", "FOR", "STATE", "LEFT", "USED", "BY"],
        [
            [
                short_id(row["id"]),
                row["name"],
                row["state"],
                time_left(row["expires"]) if row["state"] == "open" else "",
                f"{row['used']} of {row['uses']}",
                ", ".join(display_name(user["name"], user["user"]) for user in row["users"]),
            ]
            for row in found
        ],
    )


@invite.command(epilog=examples("p2pflows invite revoke 4f1c22d9"))
@click.argument("invitation_id", metavar="ID", shell_complete=candidates.invitations)
@json_option
def revoke(invitation_id: str, as_json: bool) -> None:
    """Revoke an invitation.

    ID is the id that `invite list` shows. Who has used it before stays your contact.
    """
    with p2pflows.connect() as me:
        result = me.request("revoke_invitation", id=invitation_id)
    print_result(result, f"Revoked {short_id(result['id'])}.", as_json)


@click.command(
    epilog=examples("p2pflows accept p2pf1...", "p2pflows accept p2pf1... --as alice", "p2pflows accept - < mail.txt")
)
@click.argument("line", nargs=-1)
@click.option("--as", "name", metavar="NAME", help="What you will call the person who invites you.")
@click.option("--my-name", metavar="NAME", help="What you suggest to call you.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.option("--timeout", type=Duration(), metavar="TIME", help="How long to wait for their daemon; 15s if not given.")
@json_option
def accept(line: tuple[str, ...], name: str | None, yes: bool, as_json: bool, **options: Any) -> None:
    """Become contacts with the person who made an invitation.

    LINE is what `p2pflows invite` printed. Without it, or with '-', it is read from stdin: paste it, with its line
    breaks if it came in a mail. If their daemon is away, yours goes on until the invitation expires.
    """
    text = _read_line(line)
    with p2pflows.connect() as me:
        found = me.request("read_invitation", line=text, name=name)
        if not as_json:
            _show_reading(found, name)
        _check_broker(found)
        if not yes and not is_agreed("Do you want to become contacts?", "To accept without being asked: --yes"):
            raise Cancelled("You did not accept the invitation.", "Nothing was sent.")
        with waiting(f"Waiting for {found['name']} to confirm it"):
            result = me.request(
                "accept_invitation", line=text, name=name, own_name=options["my_name"], timeout=options["timeout"]
            )
    called = escape(result["name"])
    if result["state"] == "met":
        sentence = (
            f"{called} is your contact now, and you are theirs. Compare the words with them, by voice or face to face;"
            f" then run: p2pflows contacts verify {called}"
        )
    else:
        sentence = (
            f"{called} has not confirmed it yet; your daemon goes on until the invitation expires. See p2pflows log, or"
            f" wait with: p2pflows wait {result['id']}"
        )
    print_result({**result, "words": found["words"]}, sentence, as_json)


@click.command(epilog=examples("p2pflows introduce bob carol"))
@click.argument("first", type=Contact())
@click.argument("second", type=Contact())
@json_option
def introduce(first: str, second: str, as_json: bool) -> None:
    """Introduce two contacts to each other.

    Each gets the user id of the other, and your name for them, and decides whether to allow the other.
    """
    with p2pflows.connect() as me:
        result = me.request("introduce", first=first, second=second)
    print_result(result, f"Told {escape(first)} and {escape(second)}. `p2pflows requests` shows it to each.", as_json)


def _show_invitation(result: dict[str, Any], name: str | None, *, qr: bool) -> None:
    say(f"Send this line to {escape(name) if name else 'the person whom you invite'}, and to nobody else:")
    if qr:
        draw_qr_code(result["line"])
    click.echo(result["command"])
    say(f"It can be used until {local_time(result['expires'])}. See: p2pflows invite list")
    if result["one_machine"]:
        say(f"Your broker, {escape(result['broker'])}, serves this machine only. To invite somebody on another one:")
        say(_SHARE_HINT.format(config=home().config))


def _show_reading(found: dict[str, Any], name: str | None) -> None:
    """Show who invites, before anything is sent."""
    called, suggested = escape(found["name"]), escape(found["suggested"])
    if found["known"]:
        called += ", your contact already"
    elif name:
        called += f"; they suggest {suggested}" if suggested else ""
    else:
        called += ", as they suggest" if suggested == called else ""
        called += "; choose another with --as"
    same = ", as yours" if found["same_broker"] else ""
    for title, value in (
        ("from", escape(found["user"])),
        ("name", called),
        ("ended", ago(found["expires"])) if is_over(found["expires"]) else ("ends in", time_left(found["expires"])),
        ("broker", escape(found["broker"]) + same),
        ("words", found["words"]),
    ):
        say(f"{style(title.ljust(7), bold=True)}  {value}")


def _check_broker(found: dict[str, Any]) -> None:
    """Warn if they may be at another broker.

    Raises:
        Unreachable: they certainly are.
    """
    theirs, own = escape(found["broker"]), escape(found["own_broker"])
    difference = f"Their daemon uses the broker {theirs}, and yours uses {own}"
    if found["same_broker"] is None:
        say(f"{difference}. Unless both are the same one, your message will not reach them.")
    elif not found["same_broker"]:
        if found["one_machine"]:
            raise Unreachable(
                f"{difference}; theirs serves one machine only.",
                "Ask them to use a broker that both of you reach, and to invite you again.",
            )
        raise Unreachable(
            f"{difference}.",
            f"Ask them for a user and password there, write broker: {theirs.replace('://', '://USER:PASSWORD@')} into"
            f" {home().config}, start your daemon again, and accept again.",
        )


def _read_line(words: tuple[str, ...]) -> str:
    """Return the invitation from the arguments, from stdin, or from the terminal, line by line until it is complete."""
    if words and words != ("-",):
        return " ".join(words)
    if words or stdin_is_piped():
        return read_stdin()
    from p2pflows.protocol.invitation import parse

    say("Paste the invitation, and press Enter:")
    text = ""
    for _ in range(_MAX_LINES):
        line = sys.stdin.readline()
        text += line
        try:
            parse(text)
        except P2pflowsError:
            if not line.strip():
                break
        else:
            break
    return text


def _wait(me: Any, invitation_id: str, as_json: bool) -> None:
    """Show each user who uses an invitation, until it cannot be used any more."""
    if not as_json:
        say("Waiting; Ctrl-C stops waiting, and the invitation stays.")
    seen = 0
    while True:
        with waiting("Waiting for somebody to accept it"):
            found = me.request("wait_invitation", id=invitation_id, after=seen)
        for user in found["users"][seen:]:
            if as_json:
                print_json(user)
                continue
            called = display_name(user["name"], user["user"])
            say(f"{called} has accepted, and is your contact now. The words to compare:")
            click.echo(user["words"])
            say(f"If they see the same words, run: p2pflows contacts verify {called}")
        seen = len(found["users"])
        if found["state"] != "open":
            break
    if not seen:
        raise UsageError(
            f"The invitation is {found['state']}; nobody has used it.", "Make another one: p2pflows invite"
        )
