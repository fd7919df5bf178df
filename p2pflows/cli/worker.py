"""Commands for more workers: `worker` and `worker-token`."""

from __future__ import annotations

import json
import os
import re
import sys

import click

import p2pflows
from p2pflows.cli.arguments import Point, examples, json_option, read_stdin
from p2pflows.cli.output import document, say
from p2pflows.errors import UsageError
from p2pflows.home import home

_TOKEN = "P2PFLOWS_WORKER_TOKEN"  # noqa: S105 - the name of a variable, no secret


@click.command(
    epilog=examples(
        "p2pflows worker",
        "p2pflows worker --dispatch-point gpu --concurrency 1",
        "p2pflows worker --dispatch-point assistant --api-key-env OPENAI_API_KEY",
        f"{_TOKEN}=... p2pflows worker",
        "p2pflows worker --token - < token.txt",
    )
)
@click.option("--dispatch-point", type=Point(), help="Which flows it runs.  [default: the token's, or 'default']")
@click.option("--concurrency", type=click.IntRange(1, 256), default=4, show_default=True, help="How many at once.")
@click.option(
    "--token",
    envvar=_TOKEN,
    show_envvar=True,
    help="From p2pflows worker-token; '-' reads it from stdin, unseen by others.",
)
@click.option(
    "--api-key-env",
    metavar="NAME",
    help="The environment variable with the key of a model server; it stays in this worker.",
)
@click.option("--api-base", metavar="URL", help="The only server that the key is sent to.  [default: OpenAI's]")
def worker(
    *,
    dispatch_point: str | None,
    concurrency: int,
    token: str | None,
    api_key_env: str | None,
    api_base: str | None,
) -> None:
    """Run a worker here, until Ctrl-C.

    It finishes what it has begun. It works for the daemon of this home or, with a token, for a daemon on
    another machine, without its user's key.
    """
    key_arguments = _key_arguments(api_key_env, api_base)
    given = token is not None
    token = _token(token, dispatch_point)
    # The token goes through a pipe, which nobody else can read; flows must not find it in their environment.
    os.environ.pop(_TOKEN, None)
    reader, writer = os.pipe()
    os.write(writer, f"{token}\n".encode())
    os.close(writer)
    os.dup2(reader, 0)
    # -P: files in the current folder must not stand in for modules of the worker.
    command = [
        sys.executable,
        "-P",
        "-m",
        "p2pflows.worker",
        "--no-parent",
        "--concurrency",
        str(concurrency),
        *([] if given else ["--socket", str(home().worker_socket)]),
        *key_arguments,
    ]
    os.execv(sys.executable, command)  # noqa: S606 - the worker replaces this process, so signals reach it


@click.command(
    name="worker-token",
    epilog=examples("p2pflows worker-token gpu", "p2pflows worker-token gpu | ssh big p2pflows worker --token -"),
)
@click.argument("dispatch_point", type=Point(), metavar="POINT")
@json_option
def worker_token(dispatch_point: str, as_json: bool) -> None:
    """Print a token for a worker on any machine.

    Who has it can run, and see, what is sent to that dispatch point: it is a secret.
    """
    with p2pflows.connect() as me:
        result = me.request("worker_token", dispatch_point=dispatch_point)
    if as_json:
        document(result)
    else:
        click.echo(result["token"])


def _token(token: str | None, dispatch_point: str | None) -> str:
    """The token given, or one from the daemon of this home.

    Raises:
        UsageError: it is no token, or one of another dispatch point.
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
            f"Leave out --dispatch-point, or get another: p2pflows worker-token {dispatch_point}",
        )
    say(f"Working for {enrolment.user} at the dispatch point {enrolment.point!r}; Ctrl-C stops it.")
    return token.strip()


def _key_arguments(api_key_env: str | None, api_base: str | None) -> list[str]:
    """How the worker is told where its key is; the key itself stands on no command line.

    Raises:
        UsageError: there is no key there. What was given may be the key itself, so an unfit word is not repeated.
    """
    if api_key_env is None and api_base is None:
        return []
    if api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise UsageError(
            "--api-key-env takes the NAME of a variable, not the key.",
            "Set a variable to the key, and name it: --api-key-env OPENAI_API_KEY",
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise UsageError(f"The environment variable {api_key_env} is not set.", "Set it to the key.")
    place = {"api_key_env": api_key_env, "api_base": api_base}
    return ["--api-info", json.dumps({name: value for name, value in place.items() if value is not None})]
