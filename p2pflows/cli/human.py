"""Commands for the human: `inbox`, `answer` and `decline`."""

from __future__ import annotations

import shutil
from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import examples, json_option, read_stdin
from p2pflows.cli.output import ago, document, done, fold, left, plain, say, short, style, table, who
from p2pflows.cli.speech import labelled


@click.command(epilog=examples("p2pflows inbox", "p2pflows inbox --json | jq -r '.[0].id'", "p2pflows inbox --watch"))
@click.option("--all", "everything", is_flag=True, help="Show past prompts too.")
@click.option("--watch", is_flag=True, help="Stay, and show each prompt as it comes or changes.")
@json_option
def inbox(everything: bool, watch: bool, as_json: bool) -> None:
    """List what others ask you.

    With --json it is one list; with --watch and --json it is one object a line.
    """
    if watch:
        import asyncio

        asyncio.run(_watch(as_json))
        return
    with p2pflows.connect() as me:
        prompts = me.inbox(all=everything)
    if as_json:
        document(prompts)
        return
    if not prompts:
        say("Nobody asks you anything.")
        return
    table(
        ["ID", "FROM", "ENDPOINT", "ASKED", "LEFT", "TEXT"],
        [
            [
                short(p["id"]),
                labelled(who(p["name"], p["from"]), p.get("label", "")),
                p["endpoint"],
                ago(p["received"]),
                _state(p),
                p["text"],
            ]
            for p in prompts
        ],
    )
    states = {_state(prompt) for prompt in prompts}
    say("Answer with: p2pflows answer ID TEXT" + (", or clear a note: p2pflows decline ID" if "note" in states else ""))


@click.command(
    epilog=examples("p2pflows answer 4f1c22d9 'Hey there neighbor!!'", "fortune | p2pflows answer 4f1c22d9 -")
)
@click.argument("prompt_id", metavar="ID")
@click.argument("text", nargs=-1, required=True)
@json_option
def answer(prompt_id: str, text: tuple[str, ...], as_json: bool) -> None:
    """Answer a prompt.

    ID is its id or the end of it, as the inbox shows it; TEXT may be '-' for stdin.
    """
    words = read_stdin().removesuffix("\n") if text == ("-",) else " ".join(text)
    with p2pflows.connect() as me:
        result = me.request("answer", id=prompt_id, text=words)
    done(result, f"Answered {short(result['id'])}.", as_json)


@click.command(epilog=examples("p2pflows decline 4f1c22d9", "p2pflows decline 4f1c22d9 --reason 'Ask me tomorrow.'"))
@click.argument("prompt_id", metavar="ID")
@click.option("--reason", help="What to tell them.")
@json_option
def decline(prompt_id: str, reason: str | None, as_json: bool) -> None:
    """Decline a prompt.

    ID is its id or the end of it. Who asked gets the error 'declined'.
    """
    with p2pflows.connect() as me:
        result = me.request("decline", id=prompt_id, reason=reason)
    done(result, f"Declined {short(result['id'])}.", as_json)


async def _watch(as_json: bool) -> None:
    async with p2pflows.connect_async() as me:
        if not as_json:
            say("Watching; Ctrl-C ends it. Answer from another terminal with: p2pflows answer ID TEXT")
        async for prompt in me.watch():
            if as_json:
                document(prompt)
            else:
                _show(prompt)


def _show(prompt: dict[str, Any]) -> None:
    asker = labelled(who(prompt["name"], prompt["from"]), prompt.get("label", ""))
    title = f"{short(prompt['id'])}  {asker} to {plain(prompt['endpoint'])}"
    if prompt["status"] != "open":
        click.echo(f"{title}: {plain(prompt['status'])}")
        return
    click.echo(f"{style(title, bold=True)}, {left(prompt['expires'])} left")
    for line in fold(prompt["text"], shutil.get_terminal_size().columns - 2):
        click.echo(f"  {line}")


def _state(prompt: dict[str, Any]) -> str:
    if prompt["status"] != "open":
        return str(prompt["status"])
    return left(prompt["expires"]) if prompt.get("wants_answer", True) else "note"
