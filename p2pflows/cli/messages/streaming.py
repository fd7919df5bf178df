"""Prints an answer while it grows."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.input.message_data import MessageData
from p2pflows.cli.messages.interruption import saying_how_to_go_on
from p2pflows.cli.printing.output import say, style, to_json
from p2pflows.cli.printing.speech import print_speech
from p2pflows.foreign_text import escape_lines
from p2pflows.protocol.progress import Piece

BEGINS_AGAIN = "The answer begins again."
_LOST = " [...] "
"""Stands for a part of the text that was lost on its way."""


def stream_call(params: dict[str, Any], content: MessageData, *, as_json: bool) -> dict[str, Any]:
    """Make a call, print what it reports to stderr, and return the data of the reply.

    Args:
        params: the parameters of the call but its data.
        content: the data.
        as_json: whether to print each report as a line of JSON; otherwise the text of the first answer is printed as it
            grows, and other reports as lines of JSON.

    Raises:
        P2pflowsError: the call failed, or the wait ended early; the error says how to go on.
    """
    with p2pflows.connect() as me:
        call = me.stream(**content._asdict(), **params)
        printer = StreamPrinter()
        try:
            with saying_how_to_go_on(lambda: call.id):
                for piece in call:
                    if as_json:
                        click.echo(to_json(piece.data), err=True)
                    else:
                        printer.print(piece)
                return call.answer()
        finally:
            printer.end_line()


class StreamPrinter:
    """Prints the text of the first of several answers to stderr as it grows, and other reports as lines of JSON."""

    def __init__(self) -> None:
        self._is_in_line = False

    def print(self, piece: Piece) -> None:
        """Print a piece; those of further answers come with the whole answer."""
        if piece.choice:
            return
        if piece.restarts:
            self.end_line()
            say(BEGINS_AGAIN)
        if piece.text:
            text = _LOST * piece.skips + escape_lines(piece.text)
            click.echo(text, err=True, nl=False)
            self._is_in_line = not text.endswith("\n")
        elif "delta" not in piece.data and "restart" not in piece.data:
            self.end_line()
            click.echo(to_json(piece.data), err=True)

    def end_line(self) -> None:
        """End the line in which the last piece ended."""
        if self._is_in_line:
            click.echo(err=True)
        self._is_in_line = False


class GrowingSpeech:
    """Prints to stdout what somebody says while it grows: the first of several answers.

    Args:
        name: who speaks.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._shown = ""
        self._is_in_line = False

    def add(self, piece: Piece) -> None:
        """Print the next piece."""
        if piece.choice:
            return
        if piece.restarts:
            self.end_line()
            say(BEGINS_AGAIN)
            self._shown = ""
        if piece.text:
            self._print(_LOST * piece.skips + piece.text)

    def end(self, text: str) -> None:
        """Print what is missing of the whole text, or all of it if what was shown is no beginning of it."""
        if text.startswith(self._shown):
            self._print(text[len(self._shown) :])
            self.end_line()
        else:
            self.end_line()
            print_speech(self._name, text)

    def end_line(self) -> None:
        """End the line in which the last piece ended."""
        if self._is_in_line:
            click.echo()
        self._is_in_line = False

    def _print(self, text: str) -> None:
        if not self._is_in_line:
            click.echo(f"{style(f'{self._name}:', bold=True)} ", nl=False)
            self._is_in_line = True
        # Later lines are indented, so that none looks like another speaker's.
        click.echo(escape_lines(text).replace("\n", "\n" + " " * (len(self._name) + 2)), nl=False)
        self._shown += text
