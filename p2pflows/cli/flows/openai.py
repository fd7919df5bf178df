"""The command `openai`: flows as models of an OpenAI-compatible server."""

from __future__ import annotations

import shlex

import click

from p2pflows.cli.input.arguments import examples, timeout_option
from p2pflows.cli.printing.output import say
from p2pflows.errors import UsageError
from p2pflows.home import home
from p2pflows.terminal import run_interruptible

DEFAULT_ADDRESS = "127.0.0.1:8642"
DEFAULT_TIMEOUT_S = 600.0


@click.command(
    epilog=examples(
        "p2pflows openai",
        "p2pflows openai --listen 127.0.0.1:9000 --at-once 4",
        "export OPENAI_API_KEY=$(cat ~/.p2pflows/openai.key)",
    )
)
@click.option(
    "--listen", metavar="HOST:PORT", default=DEFAULT_ADDRESS, show_default=True, help="Where clients find it."
)
@click.option("--allow-network", is_flag=True, help="Listen where other machines reach it, without encryption.")
@click.option(
    "--at-once",
    type=click.IntRange(1, 1_000),
    default=16,
    show_default=True,
    help="How many questions may be open at the same time; more get status 429.",
)
@timeout_option("How long each question may take (by default 10m).")
def openai(listen: str, at_once: int, timeout: float | None, *, allow_network: bool) -> None:
    """Offer flows as models of an OpenAI-compatible server.

    Each flow that takes a query, of yours (me/Assistant) and of your contacts (bob/Assistant), is a model. The first
    start makes a key, which is kept in your home folder. The server runs until Ctrl-C.
    """
    import p2pflows
    from p2pflows.links.http_address import is_loopback, read_address
    from p2pflows.openai_server import key, server

    host, port = read_address(listen, DEFAULT_ADDRESS)
    if not is_loopback(host) and not allow_network:
        raise UsageError(
            f"{host} is not of this machine alone, and this server does not encrypt: whoever listens in gets your key,"
            " and asks in your name.",
            "Reach it through ssh -L, or a proxy with TLS; or add --allow-network.",
        )
    place = home()
    with p2pflows.connect() as me:
        me.request("id")  # says so if no daemon runs
    path = place.openai_key
    secret, is_new = key.load_or_create(path)
    settings = server.Settings(host, port, secret, timeout or DEFAULT_TIMEOUT_S, at_once)

    def on_start(found: int) -> None:
        name = f"[{host}]" if ":" in host else host
        shown = secret if is_new else f'"$(cat {shlex.quote(str(path))})"'
        say(f"Your flows and those of your contacts are models at http://{name}:{found}/v1; Ctrl-C stops it.")
        say(f"  export OPENAI_BASE_URL=http://{name}:{found}/v1 OPENAI_API_KEY={shown}")
        if is_new:
            say(f"This key was made just now. It is kept in {path} and not shown again.")

    run_interruptible(server.serve(settings, place.path, place.contacts, on_start))
