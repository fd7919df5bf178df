"""Commands for the daemon itself: `up` and `status`."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.people.identity import load_or_create
from p2pflows.cli.printing.output import ago, clock_text, display_name, print_facts, print_json, print_table, say, style
from p2pflows.cli.printing.sizes import as_size
from p2pflows.foreign_text import escape
from p2pflows.home import home
from p2pflows.terminal import hold_interrupts

_USUAL_PACKET_BYTES = 1_000_000
"""Brokers that take packets of this size take every message."""


@click.command(
    epilog=examples(
        "p2pflows up",
        "p2pflows up --detach",
        "p2pflows up --broker mqtts://broker.example.org",
        "P2PFLOWS_HOME=~/alice p2pflows up",
    )
)
@click.option("--take-over", is_flag=True, help="End another daemon that runs with your identity, as in a copied home.")
@click.option("--broker", metavar="URL", help="The MQTT broker: embedded, mqtt://HOST or mqtts://HOST.")
@click.option("--compact", is_flag=True, help="First write the journal anew, as small as it can be.")
@click.option("--detach", is_flag=True, help="Run it in the background, with a log file; end it with p2pflows down.")
def up(broker: str | None, take_over: bool, compact: bool, detach: bool) -> None:
    """Run your daemon here, until Ctrl-C.

    The first run makes your identity; each later run resumes where the last one stopped. By default, one of your
    daemons on this machine runs a broker for all of them. Select another broker with --broker, or in config.yaml
    if its URL holds a password.
    """
    if broker:
        from p2pflows.links import broker_url

        broker_url.parse(broker)
        os.environ["P2PFLOWS_BROKER"] = broker
    identity, made = load_or_create(home())
    if made:
        say(f"Made your identity {identity.user_id} in {home().path}.")
    words = [name for name, is_set in (("--take-over", take_over), ("--compact", compact)) if is_set]
    if detach:
        _start_in_background(words)
        return
    # -P: a file in the current folder must not be imported in place of a module.
    hold_interrupts()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "p2pflowsd", *words])  # noqa: S606 - the daemon replaces this process, so signals reach it


@click.command(
    epilog=examples(
        "p2pflows status",
        "p2pflows status --json | jq .pending",
        "p2pflows status >/dev/null 2>&1 || p2pflows up",
    )
)
@json_option
def status(as_json: bool) -> None:
    """Show the state of your daemon.

    The exit code is 0 if it runs, and 3 if not.
    """
    from p2pflows.client import Client

    with Client(timeout=10) as me:
        now = me.request("status")
    if as_json:
        print_json(now)
        return
    running = ago(now["since"]).removesuffix(" ago")
    click.echo(f"Running for {running} (process {now['pid']}, version {escape(now['version'])}).\n")
    print_facts(
        [
            ("user id", escape(now["user_id"])),
            ("home", escape(now["home"])),
            ("problem", style(escape(now["problem"]), fg="red") if now.get("problem") else ""),
            ("broker", _broker(now["broker"])),
            ("largest", _largest_packet(now["broker"])),
            ("WARNING", style(escape(warning), fg="red") if (warning := now["broker"].get("warning")) else ""),
            (
                "out",
                f"{now['accepted']:,} accepted, {now['delivered']:,} delivered, {now['pending']:,} pending",
            ),
            ("in", f"{now['received']:,} received, {now['dead']:,} dead letters"),
            ("refused", _counts_by_reason(now["refused"])),
            ("inbox", _count(now["prompts_open"], "open question", "p2pflows inbox")),
            ("requests", _count(now["requests"], "stranger", "p2pflows requests")),
            *(("nearly full", line) for line in _nearly_full(now.get("quotas", {}))),
            ("files", _files(now.get("files"))),
            ("page", _page(now.get("page"))),
            *(("told", style(line, fg="red")) for line in _failing_notices()),
            ("serving", _count(now["served"], "endpoint", "p2pflows ls")),
            ("restored", _restored(now.get("restored", []))),
            ("clocks", ", ".join(map(clock_text, now.get("clocks", [])))),
        ]
    )
    if now["workers"]:
        click.echo()
        print_table(
            ["WORKERS", "SLOTS", "FREE", "QUEUED", "WAITING", "DISPATCH POINT"],
            [
                [w["workers"], w["slots"], w["free"], w["queued"], w.get("waiting", 0), w["dispatch_point"]]
                for w in now["workers"]
            ],
        )
    for point in now["workers"]:
        for run in point.get("overdue", ()):
            say(
                f"A slot of {point['dispatch_point']} is occupied by a run of {escape(run['endpoint'])} that nobody "
                f"waits for. A worker without other slots is replaced if this daemon has started it; else restart it."
            )


def _start_in_background(words: list[str]) -> None:
    from p2pflows.cli.printing.progress import waiting
    from p2pflows.service import running

    with waiting("Starting the daemon"):
        pid = running.start(home(), *words)
    say(f"Your daemon runs as process {pid}. Its log is {running.log_file(home())}.")
    say("End it with: p2pflows down")


def _broker(broker: dict[str, Any]) -> str:
    state = style("connected", fg="green") if broker["connected"] else style("not connected", fg="red")
    round_trip_ms = broker.get("round_trip_ms")
    name = f", {escape(broker['name'])}" if broker.get("name") not in (None, "", broker["url"]) else ""
    took = "" if round_trip_ms is None else f", round trip {round_trip_ms:.1f} ms"
    reason = "" if not broker.get("reason") else f": {escape(broker['reason'])}"
    return f"{escape(broker['url'])}{name}, {state}{took}{reason}"


def _restored(journals: list[dict[str, Any]]) -> str:
    """Whose journals were replaced by older copies, and how long ago that was noticed."""
    if not journals:
        return ""
    names = [f"{display_name(each['name'], each['user'])} {ago(each['at'])}" for each in journals]
    return f"older journals of {', '.join(names)} (see: p2pflows log)"


def _largest_packet(broker: dict[str, Any]) -> str:
    """Return the line about a broker that takes small messages only; empty if it takes those of the usual size."""
    most = broker.get("max_packet", _USUAL_PACKET_BYTES)
    if most >= _USUAL_PACKET_BYTES:
        return ""
    why = "it hangs up on larger ones" if broker.get("hangs_up") else "it says so"
    return f"the broker takes messages of up to {as_size(most)} ({why}); larger ones fail as too_large"


def _failing_notices() -> list[str]:
    """Return a line for each service or command that does not take what it should tell the user."""
    from p2pflows.notifying.state import failing

    return [f"{escape(name)} fails: {escape(why)}" for name, why in failing(home()).items()]


def _page(page: dict[str, Any] | None) -> str:
    """Return where the page for browsers is, or why it does not run; empty if the daemon does not run it."""
    if page is None:
        return ""
    if page["problem"]:
        return f"{style(escape(page['problem']), fg='red')} {escape(page['next'])}"
    return f"{escape(page['url'])} (to log in: p2pflows web --link)" if page["url"] else "starts"


def _files(files: dict[str, Any] | None) -> str:
    """Return how much room the files beside messages take; empty if there are none."""
    if not files or not files["files"]:
        return ""
    return f"{as_size(files['bytes'])} of {as_size(files['limits']['bytes'])} (see: p2pflows files list)"


def _nearly_full(quotas: dict[str, Any]) -> list[str]:
    """Return a line for each limit that a user has nearly reached: who, what, and how to clear it."""
    lines = []
    for peer in quotas.get("peers", ()):
        who = display_name(peer["name"], peer["user"])
        for fill in peer["near"]:
            is_size = fill["what"] == "bytes"
            used, most = (as_size(fill[name]) if is_size else f"{fill[name]:,}" for name in ("used", "most"))
            what = "" if is_size else f" {fill['what']}"
            lines.append(f"{who} has {used} of {most}{what} ({fill['limit']}). {_how_to_clear(peer, fill, who)}")
    return lines


def _how_to_clear(peer: dict[str, Any], fill: dict[str, Any], who: str) -> str:
    """Return what the owner can do about a limit."""
    if peer["name"] is None:
        return f"To clear: p2pflows deny {escape(peer['user'])}"
    if peer["name"] == "me":
        return "Raise it in config.yaml, or look at p2pflows outbox."
    if fill["what"] == "questions" or peer["questions"]:
        return f"To clear: p2pflows decline --from {who} --all"
    if fill["what"] == "bytes" and not any(peer[name] for name in ("blocked", "tasks", "dead", "answers")):
        return "Questions that have ended give way by themselves."
    return f"Raise it in config.yaml, or end all of theirs: p2pflows contacts remove {who}"


def _counts_by_reason(refused: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {escape(reason)}" for reason, count in sorted(refused.items()) if count) or "none"


def _count(number: int, noun: str, command: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}" + (f" (see: {command})" if number else "")
