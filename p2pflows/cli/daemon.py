"""Commands for the daemon itself: `up` and `status`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from p2pflows.cli.arguments import examples, json_option
from p2pflows.cli.identity import find_or_make
from p2pflows.cli.output import ago, document, facts, plain, say, style, table
from p2pflows.home import home


@click.command(
    epilog=examples(
        "p2pflows up", "p2pflows up --broker mqtts://broker.example.org", "P2PFLOWS_HOME=~/alice p2pflows up"
    )
)
@click.option("--broker", metavar="URL", help="The MQTT broker: embedded, mqtt://host or mqtts://host.")
def up(broker: str | None) -> None:
    """Run your daemon here, until Ctrl-C.

    It makes your identity on first use, and goes on where it was when run again. By default the daemons of
    this machine share a broker that they run themselves; name another one with --broker or, better when the
    URL holds a password, in config.yaml.
    """
    if broker:
        from p2pflows.links import broker_url

        broker_url.parse(broker)
        os.environ["P2PFLOWS_BROKER"] = broker
    identity, made = find_or_make(home())
    if made:
        say(f"Made your identity {identity.user_id} in {home().path}.")
    # -P: files in the current folder must not stand in for modules of the daemon.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "p2pflowsd"])  # noqa: S606 - the daemon replaces this process


@click.command(
    epilog=examples(
        "p2pflows status",
        "p2pflows status --json | jq .pending",
        "p2pflows status >/dev/null 2>&1 || p2pflows up",
    )
)
@json_option
def status(as_json: bool) -> None:
    """Show how your daemon is.

    The exit code is 0 when it runs and 3 when not.
    """
    from p2pflows.client import Client

    with Client(timeout=10) as me:
        now = me.request("status")
    if as_json:
        document(now)
        return
    running = ago(now["since"]).removesuffix(" ago")
    click.echo(f"Running for {running} (process {now['pid']}, version {plain(now['version'])}).\n")
    facts(
        [
            ("user id", plain(now["user_id"])),
            ("home", plain(now["home"])),
            ("problem", style(plain(now["problem"]), fg="red") if now.get("problem") else ""),
            ("broker", _broker(now["broker"])),
            (
                "out",
                f"{now['accepted']:,} accepted, {now['delivered']:,} delivered, {now['pending']:,} pending",
            ),
            ("in", f"{now['received']:,} received, {now['dead']:,} dead letters"),
            ("refused", _reasons(now["refused"])),
            ("inbox", _count(now["prompts_open"], "open prompt", "p2pflows inbox")),
            ("requests", _count(now["requests"], "stranger", "p2pflows requests")),
            ("serving", _count(now["served"], "endpoint", "p2pflows ls")),
        ]
    )
    if now["workers"]:
        click.echo()
        table(
            ["WORKERS", "SLOTS", "FREE", "QUEUED", "DISPATCH POINT"],
            [[w["workers"], w["slots"], w["free"], w["queued"], w["dispatch_point"]] for w in now["workers"]],
        )


def _broker(broker: dict[str, Any]) -> str:
    state = style("connected", fg="green") if broker["connected"] else style("not connected", fg="red")
    trip = broker.get("round_trip_ms")
    name = f", {plain(broker['name'])}" if broker.get("name") not in (None, "", broker["url"]) else ""
    return f"{plain(broker['url'])}{name}, {state}" + (f", round trip {trip:.1f} ms" if trip is not None else "")


def _reasons(refused: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {plain(reason)}" for reason, count in sorted(refused.items()) if count) or "none"


def _count(number: int, noun: str, command: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}" + (f" (see: {command})" if number else "")
