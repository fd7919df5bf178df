"""Commands for additional workers: `worker`, and `worker-token` with `list` and `revoke`."""

from __future__ import annotations

import json
import os
import re
import sys

import click
from click.shell_completion import CompletionItem

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import DispatchPoint, Duration, examples, json_option, read_stdin
from p2pflows.cli.printing.output import ago, print_json, print_result, print_table, say, stdout_is_terminal, time_left
from p2pflows.errors import UsageError
from p2pflows.foreign_text import escape
from p2pflows.home import home
from p2pflows.terminal import hold_interrupts

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
@click.option(
    "--ca-file",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True),
    help="With --api-base: the certificate of the authority that the server has its own from.",
)
def worker(
    *,
    dispatch_point: str | None,
    concurrency: int,
    max_waiting: int,
    token: str | None,
    api_key_env: str | None,
    api_base: str | None,
    ca_file: str | None,
) -> None:
    """Run a worker here, until Ctrl-C.

    It works for the daemon of this home or, with a token, for a daemon on another machine. It never gets the key
    of the daemon's user. On Ctrl-C, it first finishes the tasks that it runs.
    """
    key_arguments = _key_arguments(api_key_env, api_base, ca_file)
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
    hold_interrupts()
    os.execv(sys.executable, command)  # noqa: S606 - the worker replaces this process, so signals reach it


class _TokenCommands(click.Group):
    """Makes a token where the first word is no command but a dispatch point."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `make` before a dispatch point, and before options of `make`."""
        first = next((word for word in args if word != "--json"), None)
        if first is not None and first not in self.commands and first not in ctx.help_option_names:
            args = ["make", *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete a command, or the dispatch point of a new token."""
        param = next(param for param in self.commands["make"].params if param.name == "dispatch_point")
        return [*super().shell_complete(ctx, incomplete), *candidates.points(ctx, param, incomplete)]


@click.group(
    cls=_TokenCommands,
    name="worker-token",
    invoke_without_command=True,
    epilog=examples(
        "p2pflows worker-token gpu",
        "p2pflows worker-token gpu --expires 30d --name big",
        "p2pflows worker-token gpu | ssh big p2pflows worker --token -",
        "p2pflows worker-token list",
        "p2pflows worker-token revoke 3f9a02c1",
    ),
)
@json_option
@click.pass_context
def worker_token(ctx: click.Context, as_json: bool) -> None:
    """Make, list and revoke tokens for workers on any machine.

    `worker-token POINT` prints a token for a worker of the dispatch point POINT.

    Keep it secret: anyone who has it can see and run all tasks of that point, until you revoke it. It
    also holds the password for the broker.
    """
    del as_json  # read by the commands below
    if ctx.invoked_subcommand is None:
        raise UsageError("Which dispatch point is the token for?", "Give its name: p2pflows worker-token default")


@worker_token.command(
    name="make", epilog=examples("p2pflows worker-token make gpu", "p2pflows worker-token make list --expires 1h")
)
@click.argument("dispatch_point", type=DispatchPoint(), metavar="POINT")
@click.option("--expires", type=Duration(max_days=366), help="How long the token is good.  [default: until revoked]")
@click.option("--name", help="What you call it, to tell it from others in the list.")
@json_option
def make_token(dispatch_point: str, expires: float | None, name: str | None, as_json: bool) -> None:
    """Print a token for a worker of the dispatch point POINT. The word `make` may be left out."""
    with p2pflows.connect() as me:
        result = me.request("worker_token", dispatch_point=dispatch_point, name=name, expires_in=expires)
    if as_json:
        print_json(result)
        return
    click.echo(result["token"])
    if stdout_is_terminal():
        until = f" It expires in {time_left(result['expires'])}." if result["expires"] else ""
        say(f"Its id is {result['id']}.{until} To revoke it: p2pflows worker-token revoke {result['id']}")


@worker_token.command(name="list", epilog=examples("p2pflows worker-token list", "p2pflows worker-token list --json"))
@json_option
def list_tokens(as_json: bool) -> None:
    """List your worker tokens.

    Those with an id that begins with old- were made by an earlier release: all of one dispatch point are one entry.
    """
    with p2pflows.connect() as me:
        tokens = me.request("worker_tokens")["tokens"]
    if as_json:
        print_json(tokens)
    elif tokens:
        print_table(
            ["ID", "POINT", "MADE", "LEFT", "STATE", "WORKERS", "NAME"],
            [
                [
                    token["id"],
                    token["dispatch_point"],
                    ago(token["created"]) if token["created"] else "earlier",
                    time_left(token["expires"]) if token["expires"] else "no end",
                    token["state"],
                    token["workers"],
                    token["name"],
                ]
                for token in tokens
            ],
        )
    else:
        say("There are no worker tokens. Make one with: p2pflows worker-token POINT")


@worker_token.command(name="revoke", epilog=examples("p2pflows worker-token revoke 3f9a02c1"))
@click.argument("token_id", metavar="ID")
@json_option
def revoke_token(token_id: str, as_json: bool) -> None:
    """Revoke a token: its workers end at once, and others get their tasks.

    ID is the id that the list shows, or how it begins.
    """
    with p2pflows.connect() as me:
        result = me.request("revoke_worker_token", id=token_id)
    ended = "" if not result["workers"] else f" Disconnected: {result['workers']}."
    sentence = f"Revoked {escape(result['id'])} for the dispatch point {escape(result['dispatch_point'])}.{ended}"
    print_result(result, sentence, as_json)
    if not as_json:
        say("Whoever has the token still has the broker's password, if it has one: change that, too.")


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
            token = str(me.request("worker_token", dispatch_point=dispatch_point or "default", local=True)["token"])
    enrolment = read_token(token)
    if dispatch_point not in (None, enrolment.point):
        raise UsageError(
            f"The token is for the dispatch point {enrolment.point!r}, not {dispatch_point!r}.",
            f"Leave out --dispatch-point, or get another token: p2pflows worker-token {dispatch_point}",
        )
    say(f"Working for {enrolment.user} at the dispatch point {enrolment.point!r}; Ctrl-C stops it.")
    return token.strip()


def _key_arguments(api_key_env: str | None, api_base: str | None, ca_file: str | None) -> list[str]:
    """Return the worker's arguments that say where its key is, without the key itself.

    Raises:
        UsageError: there is no key there. The error does not quote an invalid name, which may be the key itself.
    """
    if ca_file is not None and api_base is None:
        raise UsageError("--ca-file is for the server of --api-base.", "Add --api-base URL.")
    if api_key_env is None and api_base is None:
        return []
    if api_key_env is not None and not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", api_key_env):
        raise UsageError(
            "--api-key-env takes the NAME of a variable, not the key.",
            "Set a variable to the key, then give its name: --api-key-env OPENAI_API_KEY",
        )
    if api_key_env is not None and not os.environ.get(api_key_env):
        raise UsageError(f"The environment variable {api_key_env} is not set.", "Set it to the key.")
    api_info = {"api_key_env": api_key_env, "api_base": api_base, "ca_file": ca_file}
    return ["--api-info", json.dumps({name: value for name, value in api_info.items() if value is not None})]
