"""Commands for messages: `call`, `send`, `wait` and `cancel`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

import p2pflows
from p2pflows import short_ids
from p2pflows.cli.asking.question_outcome import print_answer, raise_for_outcome
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Address, examples, json_option, timeout_option
from p2pflows.cli.input.message_data import read_data
from p2pflows.cli.input.whole_ids import whole_conversation, whole_instance
from p2pflows.cli.messages.interruption import saying_how_to_go_on
from p2pflows.cli.printing import fields
from p2pflows.cli.printing.fetched_files import fetch_files
from p2pflows.cli.printing.output import print_json, print_result, short_id
from p2pflows.cli.printing.progress import waiting
from p2pflows.errors import UsageError

_lines_option = click.option("--lines", is_flag=True, help="Send one message for each line of JSON on stdin.")
_instance_option = click.option(
    "--instance", metavar="ID", shell_complete=candidates.instances, help="Use this mounted instance of the flow."
)
_conversation_option = click.option(
    "--conversation", metavar="ID", shell_complete=candidates.conversations, help="Continue this conversation."
)

_save_option = click.option(
    "--save", type=click.Path(path_type=Path), metavar="DIR", help="Copy the files in the answer to this folder."
)


@click.command(
    epilog=examples(
        "p2pflows call bob/User 'Neighbor, are you there?'",
        "p2pflows call bob/translate text=Hello to=fr",
        "p2pflows call bob/summary text=@report.txt words=100",
        "p2pflows call bob/scan image=@photo.png --save .",
        "p2pflows call bob/translate text=Hello -o result",
        "p2pflows call bob/sum --timeout 5s < numbers.json",
        "p2pflows call bob/translate --lines < texts.jsonl > answers.jsonl",
        "p2pflows call bob/Assistant query='Tell me a story' --stream",
    )
)
@click.argument("address", type=Address())
@click.argument("data", nargs=-1)
@timeout_option("How long to wait for the answer (by default 10m).")
@_conversation_option
@_instance_option
@click.option("--stream", is_flag=True, help="Print the answer to stderr while it grows.")
@_save_option
@_lines_option
@json_option
def call(
    *,
    address: str,
    data: tuple[str, ...],
    timeout: float | None,
    conversation: str | None,
    instance: str | None,
    stream: bool,
    save: Path | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Call a flow or a human, and print the answer as JSON.

    \b
    DATA is key=VALUE pairs, one JSON object, or a text for a human:
      key=VALUE   a text; or the number, list, true, ... that VALUE says, if
                  the flow's schema for this key takes that and no text
      key:=JSON   JSON, whatever the schema says
      key=@FILE   the text in a file (key:=@FILE: the JSON in it); a file
                  that holds no text, or a long one, is sent beside the
                  message, and so is any file with key@=FILE
      key=-       all of stdin as a text (key:=-: as JSON)
      key=@@TEXT  a text that begins with '@'
      '{...}'     one JSON object; '-' reads it from stdin, as no DATA does
      TEXT        anything else: short for text=TEXT

    Files in the answer are fetched, and shown with the path where they lie; --save copies them to a folder.

    --stream prints to stderr what the flow reports before its answer: the text of the first answer as it grows, or
    each report as a line of JSON with --json.

    --lines makes many calls at the same time, one for each line of stdin, and prints the answers in the order of
    the lines. For a call that fails, it prints an object with the "error".
    """  # noqa: D301 - the \\b of click keeps the lines apart
    params = {"address": address, "timeout": timeout, **_whole_ids(address, conversation, instance)}
    if lines:
        if stream:
            raise UsageError(
                "--stream shows the progress of one call, but --lines makes many calls.",
                "Leave out one of the two.",
            )
        _run_lines("call", params, data, as_json=True)
        return
    content = read_data(data)
    if stream:
        from p2pflows.cli.messages.streaming import stream_call

        answer = stream_call(params, content, as_json=as_json)
        with p2pflows.connect() as me:
            print_json(fetch_files(me, answer, save))
        return
    with p2pflows.connect() as me:
        with waiting(f"Waiting for {address}"):
            answer = wait_for(me, me.request("submit", **params, **content.as_params())["id"])
        print_json(fetch_files(me, answer, save))


@click.command(
    epilog=examples(
        "p2pflows send bob/log text='Back at six'",
        "p2pflows send bob/log --timeout 1h < event.json",
        "p2pflows send bob/log --lines < events.jsonl > ids.txt",
    )
)
@click.argument("address", type=Address())
@click.argument("data", nargs=-1)
@timeout_option("How long the message is valid (by default 7d).")
@_conversation_option
@_instance_option
@_lines_option
@json_option
def send(
    *,
    address: str,
    data: tuple[str, ...],
    timeout: float | None,
    conversation: str | None,
    instance: str | None,
    lines: bool,
    as_json: bool,
) -> None:
    """Send a message that needs no answer, and print its id.

    Once the id is printed, your daemon keeps the message, also after a restart, until the recipient is online and
    has it.

    Give DATA as for call. --lines prints one id for each line of stdin, in order; with --json, it prints an object
    with the "id".
    """
    params = {"address": address, "timeout": timeout, **_whole_ids(address, conversation, instance)}
    if lines:
        _run_lines("send", params, data, as_json=as_json)
        return
    content = read_data(data)
    with p2pflows.connect() as me:
        sent = me.request("send", **params, **content.as_params())
    if as_json:
        print_json(sent)
    else:
        click.echo(sent["id"])


@click.command(
    epilog=examples(
        "p2pflows wait 0197f6a0c3de7b0e9a5d0f0e4f1c22d9",
        'p2pflows wait "$(p2pflows send bob/log text=Hello)" --timeout 1m',
    )
)
@click.argument("message_id", metavar="ID", shell_complete=candidates.sent)
@timeout_option("How long to wait (by default until the message's deadline).")
@_save_option
@json_option
def wait(message_id: str, timeout: float | None, save: Path | None, as_json: bool) -> None:
    """Wait for an answer, or the delivery of a message.

    The answer to a question is printed as ask prints it, that of a call as call does.
    """
    with p2pflows.connect() as me:
        with waiting(f"Waiting for the end of {message_id}"):
            found = _wait_for_end(me, message_id, timeout)
        if "outcome" not in found:
            print_json(fetch_files(me, found.get("data", found), save))
            return
    if as_json:
        print_json(found)
    else:
        print_answer(found)
    raise_for_outcome(found, quietly=as_json)


@click.command(epilog=examples("p2pflows cancel 0197f6a0c3de7b0e9a5d0f0e4f1c22d9"))
@click.argument("message_id", metavar="ID", shell_complete=candidates.sent)
@json_option
def cancel(message_id: str, as_json: bool) -> None:
    """Cancel a message; a call ends with the error 'cancelled'."""
    with p2pflows.connect() as me:
        result = me.request("cancel", id=message_id)
    print_result(result, f"Cancelled {short_id(message_id)}.", as_json)


def _whole_ids(address: str, conversation: str | None, instance: str | None) -> dict[str, str | None]:
    """Return the ids of a conversation and an instance, whole, as parameters of a method."""
    short = [given for given in (conversation, instance) if given and not short_ids.is_whole(given)]
    if short:
        with p2pflows.connect() as me:
            conversation = whole_conversation(me, conversation) if conversation else None
            instance = whole_instance(me, address.partition("/")[0] or None, instance) if instance else None
    return {"conversation": conversation, "instance": instance}


def wait_for(me: p2pflows.Client, message_id: str, timeout: float | None = None) -> dict[str, Any]:
    """Wait for the result of a message; if the wait ends early, the error says how to continue it.

    Raises:
        P2pflowsError: the message failed, or the wait ended early.
    """
    found = _wait_for_end(me, message_id, timeout)
    return dict(found.get("data", found))


def _wait_for_end(me: p2pflows.Client, message_id: str, timeout: float | None) -> dict[str, Any]:
    """Return the result of the method `wait`."""
    with saying_how_to_go_on(lambda: message_id):
        return dict(me.request("wait", id=message_id, timeout=timeout))


def _run_lines(method: str, params: dict[str, Any], data: tuple[str, ...], *, as_json: bool) -> None:
    if data:
        raise UsageError("--lines reads the data from stdin.", "Leave out DATA, or leave out --lines.")
    if fields.META in click.get_current_context().meta:
        raise UsageError("--lines prints a whole result for each line.", "Leave out -o, or use: jq -r .FIELD")
    from p2pflows.cli.messages.lines import run

    run(method, params, as_json=as_json)
