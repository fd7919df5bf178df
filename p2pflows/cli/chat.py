"""The command `chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import Address, decode, examples, json_option, no_stdin, timeout_option
from p2pflows.cli.conversations import find, show_all, show_last
from p2pflows.cli.flows import fields
from p2pflows.cli.messages import wait_for
from p2pflows.cli.output import Interrupted, compact, complain, document, is_terminal
from p2pflows.cli.speech import speech
from p2pflows.errors import DaemonNotRunning, P2pflowsError, UsageError

_QUIT = "/quit"
_TEXTS = ("human_input", "api_output", "text", "result")
_KEYS = {"human": "api_output", "class": "query"}


@click.command(
    epilog=examples(
        "p2pflows chat bob/User",
        "p2pflows chat bob/translate --timeout 30s",
        "p2pflows chat bob/User < questions.txt",
        "p2pflows chat --list",
        "p2pflows chat bob/User --resume",
        "p2pflows chat --answer",
    )
)
@click.argument("address", type=Address(), required=False)
@click.option("--list", "listed", is_flag=True, help="List earlier conversations, and what waits for you.")
@click.option(
    "--resume",
    metavar="[ID]",
    is_flag=False,
    flag_value="",
    help="Go on with an earlier conversation, by default the latest with ADDRESS.",
)
@click.option("--answer", "answers", is_flag=True, help="Answer what others ask you, as it comes.")
@timeout_option("How long to wait for each answer (by default 10m).")
@json_option
def chat(
    *, address: str | None, listed: bool, resume: str | None, answers: bool, timeout: float | None, as_json: bool
) -> None:
    """Talk with a human or a flow, line by line.

    It is one conversation; /quit or Ctrl-D ends it. When lines are piped in and none is answered, the exit
    code is that of the last error. With --answer it is you who is asked: what you type
    answers the question shown last, /skip leaves it open, and /decline REASON refuses it. With --list and
    --json, conversations are printed as one list.
    """
    if [address is not None, listed, answers].count(True) != 1 or (resume is not None and address is None):
        raise UsageError(
            "A chat is with one ADDRESS, or --list, or --answer.", "With --resume, the ADDRESS comes before it."
        )
    if as_json and not listed:
        raise UsageError("Only --list prints JSON.", "For programs: p2pflows call ADDRESS --conversation ID")
    if answers:
        from p2pflows.cli.answering import answer_all

        answer_all()
        return
    with p2pflows.connect() as me:
        if listed:
            found = me.request("conversations")["conversations"]
            document(found) if as_json else show_all(found)
            return
        failure = _talk(me, str(address), resume, timeout)
    if failure is not None and not no_stdin():
        click.get_current_context().exit(failure.exit_code)


def _talk(me: p2pflows.Client, address: str, resume: str | None, timeout: float | None) -> P2pflowsError | None:
    """Talk until the input ends; gives the last error if nothing was answered."""
    answered, failure = False, None
    name = address.partition("/")[0] or "me"
    flow = me.request("describe", address=address)
    key, conversation = _key(flow), None
    if resume is not None:
        earlier = find(me, flow, address, resume)
        conversation = earlier["conversation"]
        show_last(earlier, name)
        if earlier.get("waiting"):
            failure = _hear(me, earlier["waiting"], name)
            answered = failure is None
    for line in _lines():
        given = {
            "address": address,
            "data": {key: line},
            "timeout": timeout,
            "conversation": conversation,
        }
        try:
            message_id = me.request("submit", **given)["id"]
        except DaemonNotRunning:
            raise
        except P2pflowsError as error:
            complain(error)
            failure = error
        else:
            conversation = conversation or message_id  # a conversation has the id of its first message
            failure = _hear(me, message_id, name)
            answered = answered or failure is None
    return None if answered else failure


def _hear(me: p2pflows.Client, message_id: str, name: str) -> P2pflowsError | None:
    """Wait for an answer, and show it; an error does not end the talk, and is given back."""
    try:
        reply = wait_for(me, message_id)
    except (DaemonNotRunning, Interrupted):
        raise
    except P2pflowsError as error:
        complain(error)
        return error
    speech(name, _text(reply))
    return None


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
    kind = str(flow.get("kind"))
    if kind in _KEYS:
        return _KEYS[kind]
    texts = [name for name, kind, needed, _ in fields(flow) if kind == "string" and needed == "yes"]
    return texts[0] if len(texts) == 1 else "text"


def _text(data: dict[str, Any]) -> str:
    """What a reply says: its text if it has one, else all of it."""
    for key in _TEXTS:
        if key in data:
            return data[key] if isinstance(data[key], str) else compact(data[key])
    return compact(data)
