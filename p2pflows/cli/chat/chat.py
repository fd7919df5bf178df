"""The command `chat`: a conversation in the terminal."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import click

import p2pflows
from p2pflows.cli.chat.conversations import find_conversation, print_conversations, print_last
from p2pflows.cli.flows.flows import input_fields
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import NameOrAddress, decode, examples, json_option, stdin_is_piped, timeout_option
from p2pflows.cli.messages.interruption import saying_how_to_go_on
from p2pflows.cli.messages.messages import wait_for
from p2pflows.cli.printing.output import (
    Interrupted,
    ago,
    display_name,
    print_json,
    print_table,
    say,
    say_error,
    stdout_is_terminal,
    to_json,
)
from p2pflows.cli.printing.speech import print_speech
from p2pflows.errors import DaemonNotRunning, P2pflowsError, UsageError

_QUIT = "/quit"
_HUMAN_ENDPOINT = "User"
"""Where people are, unless they say otherwise."""
_REPLY_KEYS = ("human_input", "api_output", "text", "result")
"""Where a reply may have its text; the first key present counts."""
_INPUT_KEYS = {"human": "api_output", "class": "query"}
"""Under which key a flow of a kind takes a line of text."""


@click.command(
    epilog=examples(
        "p2pflows chat bob",
        "p2pflows chat bob --topic 'Our trip'",
        "p2pflows chat bob/translate --timeout 30s",
        "p2pflows chat --search tea",
        "p2pflows chat --list",
        "p2pflows chat --answer",
    )
)
@click.argument("address", metavar="[NAME|ADDRESS]", type=NameOrAddress(), required=False)
@click.option("--topic", metavar="TITLE", help="With a person: a conversation of this name, begun if there is none.")
@click.option("--history", type=click.IntRange(1, 500), default=20, help="With a person: past lines to show (20).")
@click.option("--list", "listed", is_flag=True, help="List earlier conversations, and how many questions are open.")
@click.option("--search", metavar="TEXT", help="Find what was said; with NAME, by you and that person.")
@click.option(
    "--resume",
    metavar="[ID]",
    shell_complete=candidates.conversations,
    is_flag=False,
    flag_value="",
    help="Ask on in an earlier conversation, by default the latest.",
)
@click.option("--answer", "answers", is_flag=True, help="Answer the questions that all others ask you, as they arrive.")
@timeout_option("Ask, and wait so long for each answer (a flow's by default 10m).")
@json_option
def chat(
    *,
    address: str | None,
    topic: str | None,
    history: int,
    listed: bool,
    search: str | None,
    resume: str | None,
    answers: bool,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Talk with a person or a flow, line by line.

    With a person, both sides are shown as they come, whoever began. A line answers the question under which you
    began it; without a question it is a note. /help shows what else you can type. Pasted lines are one message. If
    lines are piped in, each is a message, and the chat ends with them.

    With a flow, each line is a call, and its answer is printed; /quit or Ctrl-D ends. If lines are piped in and none
    of them is answered, the exit code is that of the last error. --timeout and --resume ask a person in this way, too:
    each line is a question.

    With --answer, all others ask and you answer.
    """
    if search is not None:
        if listed or answers or topic or resume is not None:
            raise UsageError("--search stands alone, or with a NAME.", "For example: p2pflows chat bob --search tea")
        _search(search, address, as_json)
        return
    _check(address, listed=listed, resume=resume, answers=answers, as_json=as_json)
    if answers:
        from p2pflows.cli.chat.answering import answer_questions

        answer_questions()
    elif listed:
        with p2pflows.connect() as me:
            found = me.request("conversations")["conversations"]
        print_json(found) if as_json else print_conversations(found)
    else:
        failure = _talk(str(address), topic, history, resume, timeout)
        if failure is not None and stdin_is_piped():
            click.get_current_context().exit(failure.exit_code)


def _check(address: str | None, *, listed: bool, resume: str | None, answers: bool, as_json: bool) -> None:
    if [address is not None, listed, answers].count(True) != 1 or (resume is not None and address is None):
        raise UsageError(
            "A chat needs one of NAME, ADDRESS, --list, --search and --answer.",
            "With --resume, put the ADDRESS before it.",
        )
    if as_json and not listed:
        raise UsageError(
            "Only --list and --search print JSON.", "A program can use: p2pflows call ADDRESS --conversation ID"
        )


def _talk(
    address: str, topic: str | None, history: int, resume: str | None, timeout: float | None
) -> P2pflowsError | None:
    user, _, endpoint = address.partition("/")
    asks = resume is not None or timeout is not None
    with p2pflows.connect() as me:
        if asks or endpoint not in ("", _HUMAN_ENDPOINT):
            address = address if endpoint else f"{user}/{_HUMAN_ENDPOINT}"
            flow = me.request("describe", address=address)
            if asks or flow.get("kind") != "human":
                if topic is not None:
                    raise UsageError("Only a talk with a person has a topic.", "Leave out --resume and --timeout.")
                return _converse(me, flow, address, resume, timeout)
    from p2pflows.cli.chat.talking import talk

    return talk(user, endpoint or _HUMAN_ENDPOINT, history, topic)


def _search(text: str, address: str | None, as_json: bool) -> None:
    user = None if address is None else address.partition("/")[0]
    with p2pflows.connect() as me:
        lines = me.request("lines", text=text, user=user)["lines"]
    if as_json:
        print_json(lines)
    elif lines:
        print_table(
            ["WHEN", "WITH", "TOPIC", "SAID"],
            [
                [ago(line["at"]), display_name(line["name"], line["user"]), line["title"] or "", _said(line)]
                for line in lines
            ],
        )
    else:
        say("Nothing like that was said.")


def _said(line: dict[str, Any]) -> str:
    return f"{'you: ' if line['by'] == 'me' else ''}{line['text']}"


def _converse(
    me: p2pflows.Client, flow: dict[str, Any], address: str, resume: str | None, timeout: float | None
) -> P2pflowsError | None:
    """Send lines and print answers until the input ends; return the last error if nothing was answered."""
    answered, failure = False, None
    name = address.partition("/")[0] or "me"
    key, conversation = _input_key(flow), None
    if resume is not None:
        earlier = find_conversation(me, flow, address, resume)
        conversation = earlier["conversation"]
        print_last(earlier, name)
        if earlier.get("waiting"):
            failure = _print_reply(me, earlier["waiting"], name)
            answered = failure is None
    for line in _read_lines():
        given = {
            "address": address,
            "data": {key: line},
            "timeout": timeout,
            "conversation": conversation,
        }
        # A person sees the answer grow; a program that reads it gets it once.
        message_id, failure = (_grow_reply if stdout_is_terminal() else _send_line)(me, given, name)
        conversation = conversation or message_id or None  # the id of a conversation is that of its first message
        answered = answered or failure is None
    return None if answered else failure


def _send_line(me: p2pflows.Client, given: dict[str, Any], name: str) -> tuple[str, P2pflowsError | None]:
    """Send a line, and print the answer or the error.

    Returns:
        The id of the call, empty if it was not accepted; and the error.
    """
    try:
        message_id = me.request("submit", **given)["id"]
    except DaemonNotRunning:
        raise
    except P2pflowsError as error:
        say_error(error)
        return "", error
    return message_id, _print_reply(me, message_id, name)


def _grow_reply(me: p2pflows.Client, given: dict[str, Any], name: str) -> tuple[str, P2pflowsError | None]:
    """Send a line, and print the answer as it grows, or the error; returns what `_send_line` does."""
    from p2pflows.cli.messages.streaming import GrowingSpeech

    call, speech = me.stream(**given), GrowingSpeech(name)
    try:
        with saying_how_to_go_on(lambda: call.id):
            for piece in call:
                speech.add(piece)
            reply = call.answer()
    except P2pflowsError as error:
        speech.end_line()
        if isinstance(error, (DaemonNotRunning, Interrupted)):
            raise
        say_error(error)
        return call.id, error
    speech.end(_reply_text(reply))
    return call.id, None


def _print_reply(me: p2pflows.Client, message_id: str, name: str) -> P2pflowsError | None:
    """Wait for an answer and print it; print and return an error, which does not end the conversation."""
    try:
        reply = wait_for(me, message_id)
    except (DaemonNotRunning, Interrupted):
        raise
    except P2pflowsError as error:
        say_error(error)
        return error
    print_speech(name, _reply_text(reply))
    return None


def _read_lines() -> Iterator[str]:
    """Yield the lines that are typed or piped in, without empty ones, until /quit or the end of the input."""
    for line in (decode(piped) for piped in sys.stdin.buffer) if stdin_is_piped() else _type_lines():
        if line.strip() == _QUIT:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def _type_lines() -> Iterator[str]:
    """Yield the lines that a person types, with line editing where readline is installed."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - input() uses it once imported
    while sys.stdin is not None:
        try:
            line = input("you: " if stdout_is_terminal() else "")
        except EOFError:
            click.echo()
            return
        yield line


def _input_key(flow: dict[str, Any]) -> str:
    """Return the key under which a flow takes a line: that of its kind, or its one required text, or `text`."""
    kind = str(flow.get("kind"))
    if kind in _INPUT_KEYS:
        return _INPUT_KEYS[kind]
    texts = [name for name, kind, needed, _ in input_fields(flow) if kind == "string" and needed == "yes"]
    return texts[0] if len(texts) == 1 else "text"


def _reply_text(data: dict[str, Any]) -> str:
    """Return the text of a reply if it has one, else all its data as JSON."""
    for key in _REPLY_KEYS:
        if key in data:
            return data[key] if isinstance(data[key], str) else to_json(data[key])
    return to_json(data)
