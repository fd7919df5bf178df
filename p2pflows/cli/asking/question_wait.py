"""Waiting for the answer to a question, with a line on the terminal that says how far the question has got."""

from __future__ import annotations

import asyncio
import shutil
import sys
import time
from typing import Any

import click

import p2pflows
from p2pflows.cli.inbox.questions import claim_text
from p2pflows.cli.printing.output import Interrupted, display_name, say, short_id, time_left, truncate
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.terminal import run_interruptible

_POLL_S = 0.5
_RETRY_S = 0.5
_MAX_AWAY_S = 60.0
"""How long your own daemon may be away while a command waits."""


def begin(asked: dict[str, Any]) -> str:
    """Ask a question and return its id; if the daemon goes away meanwhile, ask again under the same id once it is back.

    Args:
        asked: the parameters of the method `ask`, with the id.

    Raises:
        P2pflowsError: no daemon runs, it stays away, or it refuses the question.
    """
    with p2pflows.connect() as me:
        me.open()  # so that a later failure means that a daemon was there
        away_until: float | None = None
        while True:
            try:
                return str(me.request("ask", **asked)["id"])
            except DaemonNotRunning as error:
                if away_until is None:
                    away_until = time.monotonic() + _MAX_AWAY_S
                    say("Your daemon went away while it took the question. Waiting for the daemon.")
                if time.monotonic() > away_until:
                    raise DaemonNotRunning(
                        error.message,
                        "The question may be asked. Start the daemon with: p2pflows up."
                        f" Then see: p2pflows wait {asked['id']}",
                    ) from None
                time.sleep(_RETRY_S)


def wait_for_answer(question_id: str, *, shows_progress: bool, timeout: float | None = None) -> dict[str, Any]:
    """Return a question once it has ended; a daemon that restarts meanwhile is waited for.

    Args:
        question_id: the id.
        shows_progress: whether to say on a terminal how far it has got.
        timeout: seconds to wait; by default until the question ends.

    Raises:
        P2pflowsError: the daemon stays away, or the timeout passed.
    """
    progress = _Progress(shows_progress and sys.stderr is not None and sys.stderr.isatty())
    away_since: float | None = None
    while True:
        began = time.monotonic()
        try:
            return run_interruptible(_wait(question_id, progress, timeout))
        except DaemonNotRunning as error:
            if away_since is None or time.monotonic() - began > _RETRY_S:
                if away_since is None:
                    say("Your daemon went away; the question goes on. Waiting for the daemon.")
                away_since = time.monotonic()
            if time.monotonic() - away_since > _MAX_AWAY_S:
                raise DaemonNotRunning(
                    error.message, f"Start it with: p2pflows up. Then wait again: p2pflows wait {question_id}"
                ) from None
            time.sleep(_RETRY_S)
        finally:
            progress.end()


def withdraw(question_id: str) -> P2pflowsError:
    """Withdraw a question because its asker pressed Ctrl-C, and return the error that says so."""
    try:
        with p2pflows.connect() as me:
            me.request("cancel", id=question_id)
    except P2pflowsError as error:
        return Interrupted(
            f"The question was not withdrawn: {error.message}", f"See what became of it: p2pflows wait {question_id}"
        )
    return Interrupted(f"You withdrew the question {short_id(question_id)}.")


async def _wait(question_id: str, progress: _Progress, timeout: float | None) -> dict[str, Any]:  # noqa: ASYNC109
    async with p2pflows.connect_async() as me:
        end = me.begin("wait", id=question_id, timeout=timeout)
        while True:
            done, _ = await asyncio.wait({end}, timeout=_POLL_S if progress.is_shown else None)
            if done:
                return dict(end.result())
            progress.update(await me.request("question", id=question_id))


class _Progress:
    """The line on the terminal; it is written over, and gone at the end."""

    def __init__(self, is_shown: bool) -> None:
        self.is_shown = is_shown
        self._line = ""

    def update(self, question: dict[str, Any]) -> None:
        """Say how far a question has got."""
        people = question["people"]
        states = [
            f"{display_name(each['to_name'], each['user'])}: {each['where'] or each['outcome']}" for each in people
        ]
        claimed = claim_text(question)
        states = [claimed, *states] if claimed else states
        self._write(f"{'; '.join(states)} ({time_left(question['expires'])} left)")

    def end(self) -> None:
        """Remove the line."""
        if self._line:
            self._write("")

    def _write(self, line: str) -> None:
        if self.is_shown and line != self._line:
            shown = truncate(line, shutil.get_terminal_size().columns - 1)
            click.echo(f"\r\x1b[K{shown}", err=True, nl=False)
            self._line = line
