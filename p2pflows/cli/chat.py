"""The command `chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import Address, decode, examples, no_stdin, timeout_option
from p2pflows.cli.flows import fields
from p2pflows.cli.messages import wait_for
from p2pflows.cli.output import Interrupted, block, compact, is_terminal, say, style
from p2pflows.errors import DaemonNotRunning, P2pflowsError

_QUIT = "/quit"
_TEXTS = ("human_input", "text", "result")


@click.command(
    epilog=examples(
        "p2pflows chat bob/User",
        "p2pflows chat bob/translate --timeout 30s",
        "p2pflows chat bob/User < questions.txt",
    )
)
@click.argument("address", type=Address())
@timeout_option("How long to wait for each answer (by default 10m).")
def chat(address: str, timeout: float | None) -> None:
    """Talk with a human or a flow, line by line.

    It is one conversation; /quit or Ctrl-D ends it.
    """
    name = address.partition("/")[0] or "me"
    conversation = None
    with p2pflows.connect() as me:
        key = _key(me.request("describe", address=address))
        for line in _lines():
            given = {
                "address": address,
                "data": {key: line},
                "timeout": timeout,
                "conversation": conversation,
            }
            try:
                message_id = me.request("submit", **given)["id"]
                conversation = conversation or message_id  # a conversation has the id of its first message
                reply = wait_for(me, message_id)
            except (DaemonNotRunning, Interrupted):
                raise
            except P2pflowsError as error:
                say(block(f"Error [{error.kind}]: {error.message} {error.hint}".rstrip()))
            else:
                # Later lines are indented: no neighbour can write one that looks like another speaker.
                indented = block(_text(reply)).replace("\n", "\n" + " " * (len(name) + 2))
                click.echo(f"{style(f'{name}:', bold=True)} {indented}")


def _lines() -> Iterator[str]:
    """What is typed or piped in, without empty lines, until /quit or the end."""
    for line in _typed() if no_stdin() else (decode(line) for line in sys.stdin.buffer):
        if line.strip() == _QUIT:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def _typed() -> Iterator[str]:
    """What a person types, with the line editing they are used to."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() finds it by itself
    while sys.stdin is not None:
        try:
            line = input("you: " if is_terminal() else "")
        except EOFError:
            click.echo()
            return
        yield line


def _key(flow: dict[str, Any]) -> str:
    """Under which name an endpoint takes a line of text."""
    if flow.get("kind") == "human":
        return "api_output"
    texts = [name for name, kind, needed, _ in fields(flow) if kind == "string" and needed == "yes"]
    return texts[0] if len(texts) == 1 else "text"


def _text(data: dict[str, Any]) -> str:
    """What a reply says: its text if it has one, else all of it."""
    for key in _TEXTS:
        if key in data:
            return data[key] if isinstance(data[key], str) else compact(data[key])
    return compact(data)
