"""Commands for messages: `call`, `send`, `wait` and `cancel`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.arguments import Address, examples, json_option, read_data, timeout_option
from p2pflows.cli.output import Interrupted, block, compact, document, done, short
from p2pflows.errors import DaemonNotRunning, UsageError

_lines_option = click.option("--lines", is_flag=True, help="One message for each line of JSON on stdin.")
_instance_option = click.option("--instance", metavar="ID", help="One mounted instance of the flow.")
_conversation_option = click.option("--conversation", metavar="ID", help="Go on with a conversation.")


@click.command(
    epilog=examples(
        r"""p2pflows call bob/User '{"api_output": "Neighbor, are you there?"}'""",
        "p2pflows call bob/translate text=Hello to=fr",
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
@click.option("--stream", is_flag=True, help="Print what the flow tells before its answer, on stderr.")
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
    lines: bool,
    as_json: bool,
) -> None:
    """Invoke a flow or a human, and print the answer as JSON.

    What is printed is the data of the answer, one JSON document on one line.

    DATA is one JSON object, or '-' for stdin, or key=value pairs (a value is JSON, or else text). Without
    DATA, stdin is read if something is piped in. With --lines, many calls are under way at once and their
    answers come in the order of the input; a line that fails has an object with its "error" in its place.
    """
    del as_json  # the answer is JSON either way; how errors look is decided where they are printed
    given = {"address": address, "timeout": timeout, "conversation": conversation, "instance": instance}
    if lines:
        if stream:
            raise UsageError(
                "--stream shows one call as it goes on, and --lines makes many at once.",
                "Leave out the one or the other.",
            )
        _run_lines("call", given, data, as_json=True)
        return
    content = read_data(data)
    if stream:
        import asyncio

        document(asyncio.run(_stream(given, content)))
        return
    with p2pflows.connect() as me:
        document(wait_for(me, me.request("submit", **given, data=content)["id"]))


@click.command(
    epilog=examples(
        "p2pflows send bob/log text='Back at six'",
        "p2pflows send bob/log --timeout 1h < event.json",
        "p2pflows send bob/log --lines < events.jsonl > ids.txt",
    )
)
@click.argument("address", type=Address())
@click.argument("data", nargs=-1)
@timeout_option("How long it may take to be delivered and done (by default 7d).")
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
    """Send a message that wants no answer, and print its id.

    DATA and --lines are as for call; with --lines one id is printed for each line, in order (with --json an
    object with the "id"). Once it has an
    id, the message survives restarts, and is delivered when its recipient comes online.
    """
    given = {"address": address, "timeout": timeout, "conversation": conversation, "instance": instance}
    if lines:
        _run_lines("send", given, data, as_json=as_json)
        return
    content = read_data(data)
    with p2pflows.connect() as me:
        sent = me.request("send", **given, data=content)
    if as_json:
        document(sent)
    else:
        click.echo(sent["id"])


@click.command(
    epilog=examples(
        "p2pflows wait 0197f6a0c3de7b0e9a5d0f0e4f1c22d9",
        'p2pflows wait "$(p2pflows send bob/log text=Hello)" --timeout 1m',
    )
)
@click.argument("message_id", metavar="ID")
@timeout_option("How long to wait (by default until the message's own deadline).")
@json_option
def wait(message_id: str, timeout: float | None, as_json: bool) -> None:
    """Wait for the answer to a call, or the delivery of a post."""
    del as_json  # as in call
    with p2pflows.connect() as me:
        document(wait_for(me, message_id, timeout))


@click.command(epilog=examples("p2pflows cancel 0197f6a0c3de7b0e9a5d0f0e4f1c22d9"))
@click.argument("message_id", metavar="ID")
@json_option
def cancel(message_id: str, as_json: bool) -> None:
    """Withdraw a message; its call ends as cancelled."""
    with p2pflows.connect() as me:
        result = me.request("cancel", id=message_id)
    done(result, f"Cancelled {short(message_id)}.", as_json)


def wait_for(me: p2pflows.Client, message_id: str, timeout: float | None = None) -> dict[str, Any]:
    """What comes of a message; who stops waiting, or loses the daemon, is told how to go on.

    Raises:
        P2pflowsError: it failed, or the wait was cut short.
    """
    how = f"p2pflows wait {message_id}"
    try:
        return me.wait(message_id, timeout=timeout)
    except KeyboardInterrupt:
        raise Interrupted("You stopped waiting, but the message goes on.", f"Wait for it again with: {how}") from None
    except DaemonNotRunning as error:
        raise DaemonNotRunning(
            error.message, f"The message is kept. Start the daemon (p2pflows up), then: {how}"
        ) from error


async def _stream(given: dict[str, Any], content: dict[str, Any]) -> dict[str, Any]:
    """The answer to a call, once what comes before it was printed: text as it is, anything else a line of JSON."""
    ended_line = True

    def tell(data: dict[str, Any]) -> None:
        nonlocal ended_line
        text = data.get("delta")
        if isinstance(text, str):
            click.echo(block(text), err=True, nl=False)
            ended_line = text.endswith("\n")
        else:
            click.echo(compact(data), err=True)

    async with p2pflows.connect_async() as me:
        try:
            return await me.call(data=content, on_progress=tell, **given)
        finally:
            if not ended_line:
                click.echo(err=True)


def _run_lines(method: str, given: dict[str, Any], data: tuple[str, ...], *, as_json: bool) -> None:
    if data:
        raise UsageError("With --lines the data comes from stdin.", "Leave out the data, or leave out --lines.")
    from p2pflows.cli.lines import run

    run(method, given, as_json=as_json)
