"""Commands for who you are: `init` and `id`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from p2pflows.cli.arguments import examples, json_option
from p2pflows.cli.output import document, say
from p2pflows.errors import UsageError
from p2pflows.home import Home, home

if TYPE_CHECKING:
    from p2pflows.protocol.identity import Identity


@click.command(epilog=examples("p2pflows init", "P2PFLOWS_HOME=~/alice p2pflows init"))
@json_option
def init(as_json: bool) -> None:
    """Make your identity, and print your user id.

    The key is made once and never replaced; run again, it is found. Keep a copy of it: who has it is you.
    """
    identity, made = find_or_make(home())
    if as_json:
        document({"user_id": identity.user_id, "home": str(home().path), "made": made})
        return
    say(f"Made your identity: {home().key}" if made else f"You have an identity already: {home().key}")
    click.echo(identity.user_id)
    if made:
        say("Start your daemon with: p2pflows up")


@click.command(name="id", epilog=examples("p2pflows id", "p2pflows id --qr"))
@click.option("--qr", is_flag=True, help="Show it as a QR code too.")
@json_option
def show_id(qr: bool, as_json: bool) -> None:
    """Print your user id, for others to add as a contact."""
    from p2pflows.protocol.identity import load

    user = load(home().key).user_id
    if as_json:
        document({"user_id": user, "home": str(home().path)})
        return
    if qr:
        _show_code(user)
    click.echo(user)


def find_or_make(where: Home) -> tuple[Identity, bool]:
    """The identity of a home, and whether it had to be made.

    Raises:
        UsageError: there is one that cannot be used, or none can be made.
    """
    from p2pflows.protocol.identity import create, load

    if not where.key.exists():
        try:
            return create(where.key), True
        except FileExistsError:
            pass  # another process was faster
        except OSError as error:
            raise UsageError(
                f"No key can be written to {where.path}: {error.strerror}.",
                "Set P2PFLOWS_HOME to a folder of yours.",
            ) from error
    return load(where.key), False


def _show_code(user: str) -> None:
    import io

    import segno

    drawn = io.StringIO()
    # Upper case is a smaller code, and `contacts add` takes either.
    segno.make(user.upper(), micro=False).terminal(drawn, border=2, compact=True)
    click.echo(drawn.getvalue())
