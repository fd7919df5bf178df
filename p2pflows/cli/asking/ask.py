"""Commands that ask humans: `tell`, `ask` and `confirm`."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

import p2pflows
from p2pflows.cli.asking.ask_group import group_options, group_params
from p2pflows.cli.asking.question_outcome import print_answer, print_files, raise_for_outcome
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import examples, json_option, parse_json, timeout_option
from p2pflows.cli.input.message_data import read_content
from p2pflows.cli.input.sent_file import attach, attach_option, put_attached
from p2pflows.cli.printing.output import display_name, print_json, say, short_id
from p2pflows.errors import BadInput, UsageError

NO = 11
"""The exit code of `confirm` for a signed no."""
DETACHED_TIMEOUT_S = 7 * 86_400.0
"""How long a question stays open that nobody waits for."""
_HUMAN = "User"
_WORDS_HINT = "Put the text in quotes: p2pflows {command} bob 'Are you there?'"

_F = TypeVar("_F", bound=Callable[..., Any])


def _asking(command: str) -> Callable[[_F], _F]:
    """Return the argument and the options that `ask` and `confirm` share."""

    def decorate(function: _F) -> _F:
        function = json_option(attach_option(group_options(function)))
        function = click.option(
            "--detach", is_flag=True, help="Print the id and do not wait; see: p2pflows asked, p2pflows wait ID."
        )(function)
        function = timeout_option("How long the question is open (by default 10m; with --detach, 7d).")(function)
        return click.argument(
            "words",
            nargs=-1,
            shell_complete=candidates.people,
            metavar="WHO 'QUESTION'",
            callback=_split_for(command),
        )(function)

    return decorate


def _split_for(command: str) -> Callable[[click.Context, click.Parameter, tuple[str, ...]], tuple[list[str], str]]:
    def split(_: click.Context, __: click.Parameter, words: tuple[str, ...]) -> tuple[list[str], str]:
        *who, text = words or ("",)
        if not who:
            what = "tell" if command == "tell" else "ask"
            raise UsageError(f"Whom to {what}, or what, is missing.", _WORDS_HINT.format(command=command))
        return who, read_content("the text", text).removesuffix("\n")

    return split


@click.command(
    epilog=examples(
        "p2pflows tell bob 'Back at six'",
        "p2pflows tell bob @letter.txt",
        "p2pflows tell bob 'Look at this' --attach photo.png",
        "date | p2pflows tell bob -",
        "p2pflows tell @team carol 'Lunch at one'",
    )
)
@click.argument("words", nargs=-1, shell_complete=candidates.people, metavar="WHO 'TEXT'", callback=_split_for("tell"))
@timeout_option("How long your daemon tries to deliver it (by default 7d).")
@attach_option
@json_option
def tell(*, words: tuple[list[str], str], timeout: float | None, attached: tuple[str, ...], as_json: bool) -> None:
    """Leave a note for a person, who need not answer.

    WHO is a contact, CONTACT/ENDPOINT, or a group of contacts such as @team; there may be several. Either all of them
    get the note, or nobody does. TEXT is one argument; '-' reads it from stdin, @FILE from a file, and @@ begins a text
    with @.
    """
    who, text = words
    if not text.strip():
        raise BadInput("The note is empty.", _WORDS_HINT.format(command="tell"))
    files = put_attached(attached)
    with p2pflows.connect() as me:
        sent = me.request("tell", who=who, text=text, timeout=timeout, files=files or None)["sent"]
    for each in sent:
        if as_json:
            print_json({"id": each["id"]})
        else:
            name = display_name(each["name"], each["user"])
            to = name if each["endpoint"] == _HUMAN else f"{name}/{each['endpoint']}"
            say(f"Left a note for {to} ({short_id(each['id'])}).")


@click.command(
    epilog=examples(
        "p2pflows ask bob 'Where is the key?'",
        "p2pflows ask bob 'Deploy where?' --choice staging --choice production",
        "p2pflows ask bob 'Which port?' --form port.json --default 8080",
        "p2pflows ask bob 'Is this right?' --edit config.json > new.json",
        "p2pflows ask bob 'What do you think?' --detach",
        "p2pflows ask bob carol 'Who is in?' --first --then @team --after 20m",
    )
)
@_asking("ask")
@click.option("--yes-no", is_flag=True, help="The answer is yes or no.")
@click.option("--choice", "choices", multiple=True, metavar="TEXT", help="The answer is one of these.")
@click.option("--form", metavar="FILE", help="The answer fits the JSON Schema in this file.")
@click.option("--edit", metavar="FILE", help="The answer is an edited copy of the JSON in this file.")
@click.option("--default", metavar="VALUE", help="What holds if nobody answers in time.")
def ask(
    *,
    words: tuple[list[str], str],
    timeout: float | None,
    detach: bool,
    as_json: bool,
    yes_no: bool,
    choices: tuple[str, ...],
    form: str | None,
    edit: str | None,
    default: str | None,
    attached: tuple[str, ...],
    **group: Any,
) -> None:
    """Ask a person, wait, and print the answer as text.

    WHO is a contact, CONTACT/ENDPOINT, or a group of contacts such as @team; there may be several. QUESTION is the last
    argument; '-' reads it from stdin, @FILE from a file, and @@ begins a text with @. Ctrl-C withdraws the question.

    The exit code is 0 for an answer, and for a --default that took its place; else that of the error. --json prints
    the outcome, whatever it is, with the answer's value and who gave it.
    """
    who, text = words
    if group["quorum"] and not (yes_no or choices or form):
        raise UsageError("People seldom give the same text.", "With --quorum, give --yes-no, --choice or --form.")
    asked = {
        "who": who,
        "text": text,
        **_form(yes_no=yes_no, choices=choices, form=form, edit=edit),
        **group_params(who, group, all_means="all"),
    }
    if default is not None:
        asked["default"] = _parse_default(asked, default)
    asked |= attach(attached)
    ended = _ask(asked, timeout, detach=detach, as_json=as_json)
    if ended is None:
        return
    if as_json:
        print_json(ended)
    else:
        print_answer(ended)
        print_files(ended)
    raise_for_outcome(ended, quietly=as_json)


@click.command(
    epilog=examples(
        "p2pflows confirm bob 'Drop the table?' && echo dropped",
        "p2pflows confirm bob 'Drop the table?' --timeout 1h --json",
        "p2pflows confirm @team 'Deploy?' --quorum 2 --in 1h",
    )
)
@_asking("confirm")
def confirm(
    *,
    words: tuple[list[str], str],
    timeout: float | None,
    detach: bool,
    as_json: bool,
    attached: tuple[str, ...],
    **group: Any,
) -> None:
    """Ask a person for a yes or no, as exit code.

    Only a yes that they have signed is 0. Other exit codes: 11 no, 1 declined, 5 nobody answered, 3 unreachable,
    4 not allowed. No answer is no yes.

    WHO and QUESTION are those of ask. With --all, one no is a no, and only all together are a yes.
    """
    who, text = words
    asked = {
        "who": who,
        "text": text,
        "schema": {"type": "boolean"},
        **group_params(who, group, all_means="unanimous"),
        **attach(attached),
    }
    ended = _ask(asked, timeout, detach=detach, as_json=as_json)
    if ended is None:
        return
    if as_json:
        print_json(ended)
    raise_for_outcome(ended, quietly=as_json)
    if not as_json:
        print_answer(ended, to_stderr=True)
    if ended["value"] is not True:
        click.get_current_context().exit(NO)


def _ask(asked: dict[str, Any], timeout: float | None, *, detach: bool, as_json: bool) -> dict[str, Any] | None:
    """Ask, and return the question when it has ended; None if nobody waits for that.

    Raises:
        Interrupted: the user pressed Ctrl-C, and the question is withdrawn.
    """
    from p2pflows.cli.asking.question_wait import begin, wait_for_answer, withdraw  # they import asyncio
    from p2pflows.protocol.ids import new_id

    lifetime = DETACHED_TIMEOUT_S if detach and timeout is None else timeout
    question_id = new_id(int(time.time() * 1000), os.urandom(10))
    try:
        question_id = begin({"id": question_id, "timeout": lifetime, **asked})
        if detach:
            print_json({"id": question_id}) if as_json else click.echo(question_id)
            return None
        return wait_for_answer(question_id, shows_progress=not as_json)
    except KeyboardInterrupt:
        raise withdraw(question_id) from None


def _form(*, yes_no: bool, choices: tuple[str, ...], form: str | None, edit: str | None) -> dict[str, Any]:
    """Return what the answer must be, as parameters of the method `ask`."""
    if [yes_no, bool(choices), form is not None or edit is not None].count(True) > 1:
        raise UsageError("The answer can be only one thing.", "Give one of --yes-no, --choice, and --form or --edit.")
    if yes_no:
        return {"schema": {"type": "boolean"}}
    if choices:
        if len(choices) == 1:
            raise UsageError("One choice is none.", "Give --choice twice or more.")
        return {"schema": {"enum": list(choices)}}
    found: dict[str, Any] = {}
    if form is not None:
        found["schema"] = _read_json_file(form, "the schema")
        if not isinstance(found["schema"], dict):
            raise UsageError(f"The schema in {form} is not a JSON object.", 'For example: {"type": "integer"}')
    if edit is not None:
        found["draft"] = _read_json_file(edit, "the document")
    return found


def _parse_default(asked: dict[str, Any], text: str) -> Any:
    from p2pflows.forms import Form

    form = Form.read(asked.get("schema"), asked.get("draft"))
    if form is None:
        return text
    try:
        return form.parse(text)
    except BadInput as error:
        raise UsageError(f"The default does not fit: {error.message}", error.hint) from None


def _read_json_file(path: str, what: str) -> Any:
    return parse_json(read_content(what, f"@{path}"), path, "Check it, for example with: python -m json.tool")
