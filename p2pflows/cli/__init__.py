"""The command `p2pflows`: its subcommands, and the only place where errors are printed and become exit codes.

To start fast, a command's module is imported only when the command is used. It imports click and the standard
library; heavier libraries are imported inside the command.
"""

from __future__ import annotations

import errno
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from p2pflows import __version__
from p2pflows.cli.printing.output import Interrupted, colour, error_lines, say, style, to_json
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.hints import in_shell
from p2pflows.terminal import open_closed_streams

COMPLETE = "_P2PFLOWS_COMPLETE"
"""Set by the script of a shell that asks for candidates (`p2pflows/cli/shell/shells.py`)."""
DEBUG = "P2PFLOWS_DEBUG"

_SECTIONS = {
    "Your daemon": {
        "up": "processes.daemon:up",
        "down": "processes.service:down",
        "status": "processes.daemon:status",
        "web": "processes.web:web",
        "doctor": "processes.doctor:doctor",
        "service": "processes.service:service",
        "uninstall": "processes.service:uninstall",
        "init": "people.identity:init",
        "id": "people.identity:show_id",
    },
    "People": {
        "invite": "people.invitations:invite",
        "accept": "people.invitations:accept",
        "contacts": "people.contacts:contacts",
        "introduce": "people.invitations:introduce",
        "requests": "people.requests:requests",
        "allow": "people.requests:allow",
        "deny": "people.requests:deny",
    },
    "Ask people": {
        "ask": "asking.ask:ask",
        "confirm": "asking.ask:confirm",
        "tell": "asking.ask:tell",
        "asked": "asking.asked:asked",
    },
    "Calls and messages": {
        "call": "messages.messages:call",
        "send": "messages.messages:send",
        "wait": "messages.messages:wait",
        "cancel": "messages.messages:cancel",
        "chat": "chat.chat:chat",
        "outbox": "messages.outbox:outbox",
        "files": "files.files:files",
        "log": "messages.log:log",
    },
    "Questions to you": {
        "inbox": "inbox.inbox:inbox",
        "show": "inbox.human:show",
        "answer": "inbox.human:answer",
        "decline": "inbox.human:decline",
        "delegate": "inbox.human:delegate",
        "claim": "inbox.human:claim",
        "dismiss": "inbox.inbox:dismiss",
        "hook": "people.hooks:hook",
        "notify": "people.hooks:notify",
        "snooze": "inbox.inbox:snooze",
    },
    "Flows": {
        "serve": "flows.flows:serve",
        "unserve": "flows.flows:unserve",
        "ls": "flows.flows:ls",
        "describe": "flows.flows:describe",
        "mount": "flows.instances:mount",
        "unmount": "flows.instances:unmount",
        "reset": "flows.instances:reset",
        "instances": "flows.instances:instances",
        "usage": "flows.usage:usage",
        "modules": "flows.modules:modules",
        "openai": "flows.openai:openai",
    },
    "Workers": {
        "worker": "processes.worker:worker",
        "worker-token": "processes.worker:worker_token",
    },
    "Help": {
        "help": "shell.help:show_help",
        "version": "shell.help:version",
        "completion": "shell.completion:completion",
    },
}


class _Commands(click.Group):
    """Commands in sections, each imported when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [name for section in _SECTIONS.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        del ctx
        for section in _SECTIONS.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name].partition(":")
                command: click.Command = getattr(importlib.import_module(f"p2pflows.cli.{module}"), attribute)
                return command
        return None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("You pressed Ctrl-C.") from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            import difflib

            similar = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            ctx.fail(f"There is no command {args[0]!r}." + (f" Did you mean {similar[0]!r}?" if similar else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        longest = max(map(len, self.list_commands(ctx)))
        for title, section in _SECTIONS.items():
            with formatter.section(title):
                rows = []
                for name in section:
                    command = self.get_command(ctx, name)
                    rows.append((name.ljust(longest), command.get_short_help_str(100) if command else ""))
                formatter.write_dl(rows)


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="""\b
Examples:
  p2pflows up                            run your daemon
  p2pflows invite --for bob              print a line for him
  p2pflows ask bob 'Hello?'              ask him, and wait
  p2pflows call bob/translate text=Yes   call what he serves
  p2pflows inbox                         list questions to you

\b
An address is CONTACT/ENDPOINT, such as bob/User; your own is me/ENDPOINT.
Data goes to stdout, everything else to stderr; with --json both are JSON.
Your files are in ~/.p2pflows, or in the folder that P2PFLOWS_HOME names.
Exit codes: 0 done, 1 failed, 2 wrong use, 3 unreachable, 4 not allowed,
5 deadline passed, 130 interrupted.

\b
Complete contacts and ids with Tab: p2pflows completion install""",
)
@click.version_option(__version__, prog_name="p2pflows")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Call what other users serve, by their user id: flows, and the users in person. Let them call what you serve."""
    ctx.color = colour()
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command, print its error if it fails, and exit with its exit code."""
    open_closed_streams()
    if COMPLETE in os.environ:
        _complete()
    words = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    sys.exit(_run(words))


def _complete() -> NoReturn:
    """Print candidates for the shell that asks; an error would be printed into the line that a person types."""
    from click.shell_completion import add_completion_class

    from p2pflows.cli.input import candidates
    from p2pflows.cli.shell.shells import SHELLS

    candidates.begin()
    for shell in SHELLS.values():
        add_completion_class(shell)
    try:
        cli.main([], prog_name="p2pflows", standalone_mode=False)
    except Exception:
        if os.environ.get(DEBUG):
            raise
    sys.exit(0)


def _run(words: list[str]) -> int:
    as_json = "--json" in (words[: words.index("--")] if "--" in words else words)
    try:
        with in_shell():
            code = cli.main(words, prog_name="p2pflows", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()
    except P2pflowsError as error:
        return _fail(error, as_json)
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        hint = f"See: {context.command_path if context else 'p2pflows'} --help"
        return _fail(UsageError(error.format_message(), hint), as_json)
    except (click.Abort, KeyboardInterrupt):
        return _fail(Interrupted("You pressed Ctrl-C."), as_json)
    except (OSError, SystemExit) as error:
        # So click ends when the program that reads our output has ended.
        return _fail_system(error if isinstance(error, OSError) else BrokenPipeError(), as_json)
    except Exception as error:
        if os.environ.get(DEBUG):
            raise
        return _fail(_Bug(error), as_json)
    return code if isinstance(code, int) else 0


def _fail_system(error: OSError, as_json: bool) -> int:
    """Report an error of the operating system, about stdout or about a file."""
    can_write = _can_write_output()
    if isinstance(error, BrokenPipeError) or not can_write:
        # Python flushes stdout again at exit, which must not fail a second time.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if isinstance(error, BrokenPipeError):
        return 128 + signal.SIGPIPE  # the program that reads our output has ended
    reason = error.strerror or error
    if not can_write or (error.errno == errno.ENOSPC and error.filename is None):
        failure = P2pflowsError(f"Cannot write the output: {reason}.", "Send it elsewhere, or free some disk space.")
    elif error.filename is not None:
        failure = P2pflowsError(f"Cannot use {error.filename}: {reason}.", "Check its permissions and disk space.")
    else:
        failure = P2pflowsError(f"The operating system reports an error: {reason}.", "Try again.")
    return _fail(failure, as_json)


def _can_write_output() -> bool:
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError:
        return False
    return True


class _Bug(P2pflowsError):
    """A bug in p2pflows: an exception that no command expects."""

    kind = "bug"

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"Unexpected {type(error).__name__}: {error}. This is a bug in p2pflows.",
            f"To see more, run the command again with {DEBUG}=1. Please report what it prints.",
        )


def _fail(error: P2pflowsError, as_json: bool) -> int:
    if as_json:
        say(to_json(error.as_json()))
    else:
        if isinstance(error, Interrupted) and sys.stderr is not None and sys.stderr.isatty():
            say("")  # ends the line on which the terminal shows ^C
        first, *advice = error_lines(error) or [""]
        say(f"{style('Error', fg='red', bold=True)} [{error.kind}]: {first}")
        for line in advice:
            say(line)
    return error.exit_code
