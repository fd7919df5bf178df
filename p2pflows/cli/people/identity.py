"""Commands for your identity: `init` and `id`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import draw_qr_code, print_json, say
from p2pflows.errors import UsageError
from p2pflows.home import Home, home

if TYPE_CHECKING:
    from p2pflows.protocol.identity import Identity


@click.command(epilog=examples("p2pflows init", "P2PFLOWS_HOME=~/alice p2pflows init"))
@json_option
def init(as_json: bool) -> None:
    """Make your identity, and print your user id.

    If you already have an identity, it stays as it is. Keep a copy of the key file, and keep it secret. Anyone who
    has this key can act as you.
    """
    identity, made = load_or_create(home())
    if as_json:
        print_json({"user_id": identity.user_id, "home": str(home().path), "made": made})
        return
    say(f"Made your identity: {home().key}" if made else f"You already have an identity: {home().key}")
    click.echo(identity.user_id)
    if made:
        say("Start your daemon with: p2pflows up")


@click.command(name="id", epilog=examples("p2pflows id", "p2pflows id --qr"))
@click.option("--qr", is_flag=True, help="Also draw it as a QR code.")
@json_option
def show_id(qr: bool, as_json: bool) -> None:
    """Print your user id, which others need to add you as a contact."""
    from p2pflows.protocol.identity import load

    user = load(home().key).user_id
    if as_json:
        print_json({"user_id": user, "home": str(home().path)})
        return
    if qr:
        draw_qr_code(user)
    click.echo(user)


def load_or_create(where: Home) -> tuple[Identity, bool]:
    """Load the identity of a home, or make one.

    Returns:
        The identity, and whether it was made now.

    Raises:
        UsageError: the key file cannot be used, or none can be written.
    """
    from p2pflows.protocol.identity import create, load

    if not where.key.exists():
        try:
            return create(where.key), True
        except FileExistsError:
            pass  # another process made it first
        except OSError as error:
            raise UsageError(
                f"Cannot write a key file to {where.path}: {error.strerror}.",
                "Set P2PFLOWS_HOME to a folder that you can write.",
            ) from error
    return load(where.key), False
