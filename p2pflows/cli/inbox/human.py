"""Commands that answer questions to you, or say who does: `answer`, `decline`, `delegate` and `claim`."""

from __future__ import annotations

from typing import Any

import click

import p2pflows
from p2pflows.cli.inbox.questions import print_prompt
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Contact, Duration, examples, json_option, read_stdin
from p2pflows.cli.input.sent_file import attach, attach_option
from p2pflows.cli.printing.output import local_time, number_of, print_json, print_result, say, short_id
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.foreign_text import escape


@click.command(epilog=examples("p2pflows show 4f1c22d9", "p2pflows show 4f1c22d9 --json"))
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts)
@json_option
def show(prompt_id: str, as_json: bool) -> None:
    """Show a question in full.

    It shows what the answer must be, and everything that its sender says, with every field of a form.
    """
    with p2pflows.connect() as me:
        prompt = me.request("prompt", id=prompt_id)
    if as_json:
        print_json(prompt)
    else:
        print_prompt(prompt)


@click.command(
    epilog=examples(
        "p2pflows answer 4f1c22d9 'Hey there neighbor!!'",
        "p2pflows answer 4f1c22d9 yes -m 'after 18:00'",
        "p2pflows answer 4f1c22d9 env=staging replicas=3",
        "p2pflows answer 4f1c22d9 'Here it is' --attach photo.png",
        "p2pflows answer 4f1c22d9 --edit",
        "fortune | p2pflows answer 4f1c22d9 -",
    )
)
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts)
@click.argument("text", nargs=-1)
@click.option("-m", "--remark", metavar="TEXT", help="What you want to add to the answer.")
@click.option("--edit", "edits", is_flag=True, help="Write the answer in your editor ($EDITOR).")
@attach_option
@json_option
def answer(
    *,
    prompt_id: str,
    text: tuple[str, ...],
    remark: str | None,
    edits: bool,
    attached: tuple[str, ...],
    as_json: bool,
) -> None:
    """Answer a question.

    ID is the id that the inbox shows; p2pflows show ID says what the answer must be. To answer with one of several
    choices, give its text or number; with fields, give field=value pairs (field:=JSON for JSON) or one JSON object.
    TEXT '-' reads the answer from stdin.
    """
    text = text or (("",) if attached and not edits else ())
    if bool(text) == edits:
        raise UsageError("An answer is TEXT or --edit.", "Give one of the two.")
    with p2pflows.connect() as me:
        if edits:
            answered: dict[str, Any] = {"text": _edit(me.request("prompt", id=prompt_id))}
        elif text == ("-",):
            answered = {"text": read_stdin().removesuffix("\n")}
        else:
            answered = {"words": list(text)}
        try:
            result = me.request("answer", id=prompt_id, **answered, remark=remark, **attach(attached))
        except P2pflowsError:
            if edits and not as_json:  # the editor's file is gone
                say(f"What you have written:\n{answered['text']}")
            raise
    print_result(result, f"Answered {short_id(result['id'])}.", as_json)


def _edit(prompt: dict[str, Any]) -> str:
    """Return what the user makes of the document, or of an empty text, in the editor.

    Raises:
        UsageError: there is no editor, or the user saved nothing.
    """
    import json

    draft = (prompt["form"] or {}).get("draft")
    begin = "" if draft is None else json.dumps(draft, ensure_ascii=False, indent=2) + "\n"
    try:
        edited = click.edit(begin, extension=".txt" if draft is None else ".json", require_save=False)
    except click.ClickException as error:
        raise UsageError(f"The editor failed: {error.message}", "Set EDITOR, or give the answer as TEXT.") from None
    if edited is None or not edited.strip():
        raise UsageError("You saved an empty answer, so nothing was sent.", "Answer again.")
    return edited.removesuffix("\n")


@click.command(
    epilog=examples(
        "p2pflows decline 4f1c22d9",
        "p2pflows decline 4f1c22d9 --reason 'Ask me tomorrow.'",
        "p2pflows decline --from bob --all",
    )
)
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts, required=False)
@click.option("--reason", help="The reason, for the user who asks.")
@click.option("--from", "asker", type=Contact(), metavar="CONTACT", help="With --all: whose questions to decline.")
@click.option("--all", "everything", is_flag=True, help="All open questions of the --from contact.")
@json_option
def decline(prompt_id: str | None, reason: str | None, asker: str | None, everything: bool, as_json: bool) -> None:
    """Decline a question.

    ID is the id that the inbox shows. The user who asks gets the error 'declined'. With --from and --all, the
    notes of that contact are put away, too.
    """
    if (prompt_id is None) != everything or everything != (asker is not None):
        raise UsageError("What to decline is not clear.", "Give one ID, or: p2pflows decline --from CONTACT --all")
    with p2pflows.connect() as me:
        if prompt_id is not None:
            result = me.request("decline", id=prompt_id, reason=reason)
            print_result(result, f"Declined {short_id(result['id'])}.", as_json)
            return
        result = me.request("decline_all", user=asker, reason=reason)
    done = (
        f"Declined {number_of(result['declined'], 'question')}, and put away {number_of(result['dismissed'], 'note')}."
    )
    print_result(result, done, as_json)


@click.command(epilog=examples("p2pflows delegate 4f1c22d9 carol", "p2pflows delegate 4f1c22d9 carol -m 'She knows.'"))
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts)
@click.argument("contact", type=Contact())
@click.option("-m", "--reason", metavar="TEXT", help="The reason, for the user who asks.")
@json_option
def delegate(prompt_id: str, contact: str, reason: str | None, as_json: bool) -> None:
    """Pass a question on to a contact.

    ID is the id that the inbox shows. The user who asks is told, and their daemon asks your contact instead if they
    know each other; the answer goes to the user who asks, and not to you.
    """
    with p2pflows.connect() as me:
        result = me.request("delegate", id=prompt_id, user=contact, reason=reason)
    print_result(result, f"Passed {short_id(result['id'])} on to {escape(contact)}.", as_json)


@click.command(
    epilog=examples("p2pflows claim 4f1c22d9", "p2pflows claim 4f1c22d9 --for 2h", "p2pflows claim 4f1c22d9 --release")
)
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts)
@click.option("--for", "time", type=Duration(), metavar="TIME", help="For how long (by default 30m, at most 24h).")
@click.option("--release", is_flag=True, help="Say that you are not on it any more.")
@json_option
def claim(prompt_id: str, time: float | None, release: bool, as_json: bool) -> None:
    """Say that you are on it, when several people are asked.

    ID is the id that the inbox shows. The user who asks and the others see it for that time. They may answer all the
    same, and the first answer still counts.
    """
    if release and time is not None:
        raise UsageError("A claim that you release has no time.", "Give --for or --release.")
    with p2pflows.connect() as me:
        result = me.request("claim", id=prompt_id, seconds=0 if release else time)
    what = short_id(result["id"])
    done = f"You are not on {what} any more." if release else f"You are on {what} until {local_time(result['until'])}."
    print_result(result, done, as_json)
