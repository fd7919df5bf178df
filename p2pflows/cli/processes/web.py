"""The command `web`: the page for browsers."""

from __future__ import annotations

import click

from p2pflows.cli.input.arguments import examples
from p2pflows.cli.printing.output import number_of, say
from p2pflows.errors import UsageError
from p2pflows.home import home
from p2pflows.terminal import run_interruptible


@click.command(
    epilog=examples(
        "p2pflows web",
        "p2pflows web --link",
        "p2pflows web --listen 192.168.1.5:8643 --cert pi.pem --key pi.key",
        "p2pflows web --log-out",
    )
)
@click.option("--listen", metavar="HOST:PORT", help="Where browsers find it (by default 127.0.0.1:8643).")
@click.option("--cert", type=click.Path(), help="A PEM file with the certificate; other machines need one.")
@click.option("--key", type=click.Path(), help="A PEM file with the key of the certificate.")
@click.option(
    "--host", "hosts", multiple=True, metavar="NAME", help="A name under which you open the page; may be repeated."
)
@click.option("--link", is_flag=True, help="Print another link to log in, and end.")
@click.option("--log-out", is_flag=True, help="Log out all browsers, and end.")
def web(
    listen: str | None, cert: str | None, key: str | None, hosts: tuple[str, ...], *, link: bool, log_out: bool
) -> None:
    """Answer, talk and decide in a browser, also on your phone.

    It prints a link, which logs one browser in, once, within ten minutes; the browser stays logged in for 30 days. The
    page runs until Ctrl-C, or with your daemon if config.yaml has web. Options here count before those of config.yaml.
    """
    from p2pflows import config
    from p2pflows.settings.web import WebSettings
    from p2pflows.web.logins import Logins

    where = home()
    logins = Logins(where)
    if log_out:
        say(f"{number_of(logins.log_out_all(), 'browser')} logged out.")
        return
    if link:
        url = logins.server_url()
        if not url:
            raise UsageError("Your page does not run.", "Start it with: p2pflows web")
        _print_link(url, logins.new_link())
        return
    from p2pflows.web.place import Place
    from p2pflows.web.server import serve

    given = {"listen": listen, "cert": cert, "key": key, "hosts": list(hosts) or None}
    configured = config.load(where).web or WebSettings()
    settings = configured.model_copy(update={name: value for name, value in given.items() if value is not None})
    place = Place.of(settings)
    if not where.path.is_dir():
        raise UsageError("You have no daemon yet.", "Start one with: p2pflows up")

    def on_start(url: str) -> None:
        say("Your page is ready; Ctrl-C stops it. This link logs one browser in, within ten minutes:")
        _print_link(url, logins.new_link())

    run_interruptible(serve(place, where, on_start))


def _print_link(url: str, token: str) -> None:
    # What follows # stays in the browser: no log, proxy or other page gets to see it.
    click.echo(f"{url}/#login={token}")
