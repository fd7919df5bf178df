"""What became of a question, for people and as an exit code."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.printing.fetched_files import fetch
from p2pflows.cli.printing.output import display_name, say, stdout_is_terminal
from p2pflows.errors import from_kind
from p2pflows.foreign_text import escape, escape_lines, quote, shorten
from p2pflows.protocol.file_reference import MARK

_NO_ANSWER = {
    "declined": "declined",
    "delegated": "passed it on",
    "unreachable": "could not be reached",
    "not_allowed": "does not let you ask",
}


def print_answer(question: dict[str, Any], *, to_stderr: bool = False) -> None:
    """Print the answer as text; to a terminal with its controls escaped, and elsewhere exactly as it was given.

    Args:
        question: a question that has ended.
        to_stderr: print it for the person who looks on, with who gave it.
    """
    if question["need"] == "all" and len(question["people"]) > 1:
        for person in question["people"]:
            if person["outcome"] == "answered":
                _print_line(f"{display_name(person['name'], person['by'])}: {person['answer']}", to_stderr=to_stderr)
        return
    if question["outcome"] not in ("answered", "defaulted"):
        return
    who = display_name(question["name"], question["by"])
    if question["outcome"] == "defaulted":
        say("Nobody answered in time; this is your default.")
    _print_line(quote(who, question["answer"]) if to_stderr else question["answer"], to_stderr=to_stderr)
    if question["remark"]:
        say(f"{who} adds: {shorten(question['remark'])}")


def print_files(question: dict[str, Any]) -> None:
    """Fetch the files that came with answers, and say where they lie."""
    for answer in question["people"] if question["need"] == "all" else [question]:
        for reference in answer.get("files") or []:
            with p2pflows.connect() as me:
                say(f"{escape(reference[MARK]['name'])}: {fetch(me, reference[MARK]['id'])}")


def _print_line(text: str, *, to_stderr: bool) -> None:
    if to_stderr:
        say(escape_lines(text))
    elif stdout_is_terminal():
        click.echo(escape_lines(text))
    else:
        click.echo(text.encode(errors="backslashreplace"))


def raise_for_outcome(question: dict[str, Any], *, quietly: bool) -> None:
    """End the command with the error of a question that has no answer.

    Args:
        question: a question that has ended.
        quietly: set the exit code only, because the outcome is printed already.

    Raises:
        P2pflowsError: there is no answer, and nothing was printed yet.
    """
    content = question["error"]
    if content is None or question["outcome"] in ("answered", "defaulted"):
        return
    error = from_kind(content["code"], content["message"], content["hint"])
    if content.get("from"):
        error.said_by(content["from"], content.get("name"))
    if quietly:
        click.get_current_context().exit(error.exit_code)
    if len(question["people"]) > 1:
        _print_people(question)
    raise error


def _print_people(question: dict[str, Any]) -> None:
    """Say what each of several people has done, except for answers that are printed as the result."""
    for person in question["people"]:
        who = display_name(person["to_name"], person["user"])
        if person["outcome"] != "answered":
            kind = (person["error"] or {}).get("code", person["outcome"])
            say(f"{who}: {_NO_ANSWER.get(kind, 'no answer')}")
        elif question["need"] != "all":
            say(quote(display_name(person["name"], person["by"]), person["answer"]))
