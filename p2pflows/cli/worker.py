"""Commands for additional workers: `worker` and `worker-token`."""

from __future__ import annotations

import json
import os
import re
import sys

import click

import p2pflows
from p2pflows.cli.arguments import DispatchPoint, examples, json_option, read_stdin
from p2pflows.cli.output import print_json, say
from p2pflows.errors import UsageError
from p2pflows.home import home

_TOKEN = "P2PFLOWS_WORKER_TOKEN"  # noqa: S105 - the name of a variable, not a secret


@click.command(
    epilog=examples(
        "p2pflows worker",
        "p2pflows worker --dispatch-point gpu --concurrency 1",
        "p2pflows worker --dispatch-point assistant --api-key-env OPENAI_API_KEY",
        f"{_TOKEN}=... p2pflows worker",
        "p2pflows worker --token - < token.txt",
    )
)
@click.option(
    "--dispatch-point",
    type=DispatchPoint(),
    help="The dispatch point whose tasks it runs.  [default: the token's, or 'default']",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=4,
    show_default=True,
    help="How many tasks it runs at once.",
)
@click.option(
    "--max-waiting",
    type=click.IntRange(0, 10_000),
    default=256,
    show_default=True,
    help="How many runs that wait for answers it keeps at hand. Beyond that, a run begins again from its records"
    " when its answer comes.",
)
@click.option(
    "--token",
    envvar=_TOKEN,
    show_envvar=True,
    help="A token from `p2pflows worker-token`; '-' reads it from stdin, where no other user can see it.",
)
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="The environment variable that holds the key of a model server. The key stays in this worker.",
)
@click.option("--api-base", metavar="URL", help="The only server that gets the key.  [default: OpenAI's]")
def worker(
    *,
    dispatch_point: str | None,
    concurrency: int,
    max_waiting: int,
    token: str | None,
    api_key_env: str | None,
    api_base: str | None,
) -> None:
    """Run a worker here, until Ctrl-C.

    It works for the daemon of this home or, with a token, for a daemon on another machine. It never gets the key
    of the daemon's user. On Ctrl-C, it first finishes the tasks that it runs.
    """
    key_arguments = _key_arguments(api_key_env, api_base)
    is_token_given = token is not None
    token = _token(token, dispatch_point)
    # Token and key are passed through a pipe, which no other process can read, and not in the environment of flows.
    os.environ.pop(_TOKEN, None)
    key = {api_key_env: os.environ.pop(api_key_env)} if api_key_env else {}
    reader, writer = os.pipe()
    os.write(writer, f"{token}\n{json.dumps(key)}\n".encode())
    os.close(writer)
    os.dup2(reader, 0)
    # -P: a file in the current folder must not be imported in place of a module.
    command = [
        sys.executable,
        "-P",
        "-m",
        "p2pflows.worker",
        "--no-parent",
        "--keys-on-stdin",
        "--concurrency",
        str(concurrency),
        "--max-waiting",
        str(max_waiting),
        *([] if is_token_given else ["--socket", str(home().worker_socket)]),
        *key_arguments,
    ]
    os.execv(sys.executable, command)  # noqa: S606 - the worker replaces this process, so signals reach it


@click.command(
    name="worker-token",
    epilog=examples("p2pflows worker-token gpu", "p2pflows worker-token gpu | ssh big p2pflows worker --token -"),
)
@click.argument("dispatch_point", type=DispatchPoint(), metavar="POINT")
@json_option
def worker_token(dispatch_point: str, as_json: bool) -> None:
    """Print a token for a worker on any machine.

    Keep it secret: anyone who has it can see and run all tasks of the dispatch point POINT.
    """
    with p2pflows.connect() as me:
        result = me.request("worker_token", dispatch_point=dispatch_point)
    if as_json:
        print_json(result)
    else:
        click.echo(result["token"])


def _token(token: str | None, dispatch_point: str | None) -> str:
    """Return the token that was given, or else get one from the daemon of this home.

    Raises:
        UsageError: it is not a token, or is for another dispatch point.
    """
    from p2pflows.protocol.channel import read_token

    if token == "-":  # noqa: S105 - stands for stdin
        token = read_stdin()
    if token is None:
        with p2pflows.connect() as me:
            token = str(me.request("worker_token", dispatch_point=dispatch_point or "default")["token"])
    enrolment = read_token(token)
    if dispatch_point not in (None, enrolment.point):
        raise UsageError(
            f"The token is for the dispatch point {enrolment.point!r}, not {dispatch_point!r}.",
            f"Leave out --dispatch-point, or get another token: p2pflows worker-token {dispatch_point}",
        )
    say(f"Working for {enrolment.user} at the dispatch point {enrolment.point!r}; Ctrl-C stops it.")
    return token.strip()


def _key_arguments(api_key_env: str | None, api_base: str | None) -> list[str]:
    """Return the worker's arguments that say where its key is, without the key itself.

    Raises:
        UsageError: there is no key there. The error does not quote an invalid name, which may be the key itself.
    """
    if api_key_env is None and api_base is None:
        return []
    if api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise UsageError(
            "--api-key-env takes the NAME of a variable, not the key.",
            "Set a variable to the key, then give its name: --api-key-env OPENAI_API_KEY",
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise UsageError(f"The environment variable {api_key_env} is not set.", "Set it to the key.")
    api_info = {"api_key_env": api_key_env, "api_base": api_base}
    return ["--api-info", json.dumps({name: value for name, value in api_info.items() if value is not None})]
