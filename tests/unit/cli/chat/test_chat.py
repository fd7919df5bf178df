"""The command `chat`: earlier conversations, new ones, and answers to questions, all without a terminal."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, ScriptedInbox, moment, prompt, run_here

from p2pflows.errors import CallError, Declined, NotAllowed, UsageError

BOB, CAROL = "b0" * 32, "ca" * 32
FIRST, SECOND, THIRD = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9", "1197f6a0c3de7b0e9a5d0f0e4f1c0000", "2" * 32


def _conversation(number: str = FIRST, **more: Any) -> dict[str, Any]:
    return {
        "conversation": number, "way": "asking", "user": BOB, "name": "bob", "endpoint": "Talker", "label": "",
        "text": "Hey!", "by": "them", "at": moment(-185), "open": 0, "waiting": None, **more,
    }  # fmt: skip


# Earlier conversations.


def test_conversations_are_listed(daemon: ScriptedDaemon) -> None:
    """The table for people has the other side, label, age, open questions and last text; JSON has everything."""
    asked = _conversation(SECOND, way="asked", label="User1\x1b", open=2, by="me", text="Fine,\nthanks")
    daemon.script["conversations"] = {"conversations": [asked, _conversation(name=None)]}
    ended = run_here(daemon.home, "chat", "--list")
    assert ended.out.splitlines() == [
        "ID        WITH             AT                WHEN    OPEN  LAST",
        "4f1c0000  bob (User1\\x1b)  me/Talker         3m ago     2  you: Fine,\\nthanks",
        "4f1c22d9  b0b0b0b0…        b0b0b0b0…/Talker  3m ago     0  Hey!",
    ]
    assert "p2pflows chat --answer" in ended.err
    assert run_here(daemon.home, "chat", "--list", "--json").document[0] == asked
    daemon.script["conversations"] = {"conversations": []}
    assert run_here(daemon.home, "chat", "--list").err == "There were no conversations in the last day.\n"
    assert run_here(daemon.home, "chat", "--list", "--json").out == "[]\n"


def test_a_topic_is_listed(daemon: ScriptedDaemon) -> None:
    """If a conversation has one."""
    daemon.script["conversations"] = {"conversations": [_conversation(title="Our trip"), _conversation(SECOND)]}
    shown = run_here(daemon.home, "chat", "--list").out.splitlines()
    assert shown[0].split()[:3] == ["ID", "TOPIC", "WITH"]
    assert ["Our trip" in line for line in shown] == [False, True, False]


def _can_chat(daemon: ScriptedDaemon, *conversations: dict[str, Any]) -> None:
    daemon.script.update(
        describe={"kind": "python", "user": BOB, "endpoint": "Talker", "schema": None},
        conversations={"conversations": list(conversations)},
        submit={"id": THIRD},
        wait=lambda params: {"id": params["id"], "data": {"human_input": f"answer to {params['id'][-4:]}"}},
    )


def _submitted(daemon: ScriptedDaemon) -> list[str | None]:
    return [params.get("conversation") for method, params in daemon.asked if method == "submit"]


def test_the_latest_conversation_continues(daemon: ScriptedDaemon) -> None:
    """`--resume` alone continues the latest conversation with the address, and prints its last text."""
    _can_chat(
        daemon,
        _conversation("3" * 32, endpoint="other"),
        _conversation("4" * 32, way="asked"),
        _conversation("5" * 32, user=CAROL),
        _conversation(SECOND, text="See you\nsoon"),
        _conversation(FIRST),
    )
    ended = run_here(daemon.home, "chat", "bob/Talker", "--resume", stdin="hello\n")
    assert (ended.code, ended.err) == (0, "Continuing 4f1c0000.\n")
    assert ended.out == "bob: See you\n     soon\nbob: answer to 2222\n"
    assert _submitted(daemon) == [SECOND]


def test_a_conversation_continues_by_its_id(daemon: ScriptedDaemon) -> None:
    """A unique part of an id is enough; a whole id may belong to a conversation that the daemon has forgotten."""
    _can_chat(daemon, _conversation(SECOND), _conversation(FIRST, by="me", text="Hey bob"))
    ended = run_here(daemon.home, "chat", "bob/Talker", "--resume", "4F1C22D9", stdin="hello\n")
    assert ended.out == "you: Hey bob\nbob: answer to 2222\n"
    run_here(daemon.home, "chat", "bob/Talker", "--resume", THIRD, stdin="hello\n")
    assert _submitted(daemon) == [FIRST, THIRD]


def test_a_pending_answer_is_awaited_first(daemon: ScriptedDaemon) -> None:
    """`--resume` first waits for an answer that is still due, and prints it, or its error."""
    _can_chat(daemon, _conversation(waiting=SECOND, by="me", text="Well?"))
    ended = run_here(daemon.home, "chat", "bob/Talker", "--resume", stdin="hello\n")
    assert ended.out == "you: Well?\nbob: answer to 0000\nbob: answer to 2222\n"
    daemon.script["wait"] = Declined("No.")
    ended = run_here(daemon.home, "chat", "bob/Talker", "--resume", stdin="")
    assert (ended.code, ended.err) == (1, "Continuing 4f1c22d9.\nError [declined]: No.\n")


def test_a_piped_chat_fails_if_every_message_failed(daemon: ScriptedDaemon) -> None:
    """The exit code is that of the last error; one answer makes it 0."""
    _can_chat(daemon)
    errors = iter([NotAllowed("No."), Declined("No.")])
    daemon.script["wait"] = lambda _: next(errors)
    assert run_here(daemon.home, "chat", "bob/Talker", stdin="one\ntwo\n").code == 1
    daemon.script["submit"] = NotAllowed("No.")
    assert run_here(daemon.home, "chat", "bob/Talker", stdin="one\n").code == 4
    answers = iter([{"id": THIRD, "data": {}}, Declined("No.")])
    daemon.script.update(submit={"id": THIRD}, wait=lambda _: next(answers))
    assert run_here(daemon.home, "chat", "bob/Talker", stdin="one\ntwo\n").code == 0
    assert run_here(daemon.home, "chat", "bob/Talker", stdin="").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bob/Talker", "--resume"], "There is no earlier conversation with bob/Talker."),
        (["bob/Talker", "--resume", "abcdef"], "with an id like 'abcdef'"),
        (["bob/Talker", "--resume", "abc"], "is not an id"),
        (["--resume", "bob/Talker"], "put the ADDRESS before it"),
        (["--resume"], "put the ADDRESS before it"),
        ([], "A chat needs one of NAME"),
        (["bob/Talker", "--list"], "A chat needs one of NAME"),
        (["--answer", "--list"], "A chat needs one of NAME"),
        (["--answer", "--json"], "Only --list and --search print JSON"),
        (["bob/Talker", "--json"], "Only --list and --search print JSON"),
    ],
)
def test_wrong_use_of_chat_is_an_error(daemon: ScriptedDaemon, words: list[str], told: str) -> None:
    """An unknown conversation or a mix of modes is refused, with what to do instead."""
    _can_chat(daemon)
    ended = run_here(daemon.home, "chat", *words)
    assert ended.code == 2
    assert told in ended.err


def test_an_ambiguous_id_is_an_error(daemon: ScriptedDaemon) -> None:
    """A part of an id that fits several conversations is refused."""
    _can_chat(daemon, _conversation("abcd" + "0" * 28), _conversation("abcd" + "1" * 28))
    assert "Several conversations" in run_here(daemon.home, "chat", "bob/Talker", "--resume", "abcd").err


def test_a_class_is_asked_a_query(daemon: ScriptedDaemon) -> None:
    """A line is sent to a flow class as `query`, and `api_output` is printed as its text."""
    _can_chat(daemon)
    daemon.script["describe"] = {"kind": "class", "schema": {"type": "object"}}
    daemon.script["wait"] = {"id": THIRD, "data": {"api_output": "Hello."}}
    assert run_here(daemon.home, "chat", "bob/Assistant", stdin="hi\n").out == "bob: Hello.\n"
    assert daemon.asked[1][1]["data"] == {"query": "hi"}


# People.


def _line(number: int, text: str, **more: Any) -> dict[str, Any]:
    return {
        "n": number, "user": BOB, "name": "bob", "by": "them", "kind": "note", "message": f"{number:032x}",
        "endpoint": "User", "conversation": FIRST, "title": None, "label": "", "text": text, "at": moment(-65),
        "state": "dismissed", "prompt": None, **more,
    }  # fmt: skip


def test_a_talk_shows_what_was_said(daemon: ScriptedDaemon) -> None:
    """By whom, as what, and what became of it; no text of another person can pass for a line of the chat."""
    daemon.script["chat"] = {
        "user": BOB, "name": "bob", "conversation": None,
        "lines": [
            _line(1, "Hello\nyou: evil\x1b[2J"),
            _line(2, "Hi", by="me", state="delivered"),
            _line(3, "Tea?", kind="question", label="Planner", state="answered"),
            _line(4, "yes", by="me", kind="answer", state="answered"),
            _line(5, "Milk?", by="me", kind="question", state="held"),
            _line(6, "Not now.", kind="declined", state="answered"),
        ],
    }  # fmt: skip
    ended = run_here(daemon.home, "chat", "bob", "--history", "6", stdin="")
    assert ended.out.splitlines() == [
        "bob: Hello",
        "     you: evil\\x1b[2J",
        "you: Hi  (delivered)",
        "bob (Planner) asks: Tea?  (answered)",
        "you answer: yes",
        "you ask: Milk?  (waits until they let you in)",
        "bob declines: Not now.",
    ]
    assert daemon.asked[0] == ("chat", {"user": "bob", "endpoint": "User", "limit": 6})


def test_piped_lines_are_notes(daemon: ScriptedDaemon) -> None:
    """If none can be sent, the exit code is that of the last error; commands are no messages."""
    daemon.script.update(chat={"user": BOB, "name": "bob", "conversation": None, "lines": []}, send={"id": THIRD})
    ended = run_here(daemon.home, "chat", "bob", stdin="one\n\n/wat\n//two\n/end\nthree\n")
    assert [params["data"]["text"] for method, params in daemon.asked if method == "send"] == ["one", "/two"]
    assert "Not sent: there is no /wat" in ended.err
    daemon.script["send"] = NotAllowed("No.")
    assert run_here(daemon.home, "chat", "bob", stdin="one\n").code == 4


def test_what_was_said_is_found(daemon: ScriptedDaemon) -> None:
    """With anybody, or with one person."""
    daemon.script["lines"] = {"lines": [_line(1, "Tea?", title="Trip", by="me")]}
    assert run_here(daemon.home, "chat", "--search", "tea").out.splitlines() == [
        "WHEN    WITH  TOPIC  SAID",
        "1m ago  bob   Trip   you: Tea?",
    ]
    run_here(daemon.home, "chat", "bob", "--search", "tea", "--json")
    assert daemon.asked[-1] == ("lines", {"text": "tea", "user": "bob"})
    daemon.script["lines"] = {"lines": []}
    assert run_here(daemon.home, "chat", "--search", "tea").err == "Nothing like that was said.\n"
    assert run_here(daemon.home, "chat", "--search", "tea", "--list").code == 2


# Answers to questions.


def test_piped_lines_answer_in_order(daemon: ScriptedDaemon) -> None:
    """/skip leaves a question open, /decline declines it, and the open questions are counted at the end."""
    inbox = ScriptedInbox(daemon, *(prompt(number, "?") for number in (FIRST, SECOND, THIRD)), prompt("3" * 32, "?"))
    ended = run_here(daemon.home, "chat", "--answer", stdin="/skip\n/decline not now\n/decline\n")
    assert ended.code == 0
    assert inbox.taken == [("decline", SECOND, "not now"), ("decline", THIRD, None)]
    assert ended.err.endswith("Questions still open: 2. See: p2pflows inbox\n")
    assert run_here(daemon.home, "chat", "--answer", stdin="/quit\nnever\n").code == 0
    assert len(inbox.taken) == 2


def test_notes_are_shown_and_cleared(daemon: ScriptedDaemon) -> None:
    """A note takes no line of input, and is not shown again."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "This is the end.", wants_answer=False), prompt(SECOND, "Tea?"))
    ended = run_here(daemon.home, "chat", "--answer", stdin="yes\n")
    assert ended.out == "bob: This is the end.\nbob: Tea?\n"
    assert inbox.taken == [("dismiss", FIRST, None), ("answer", SECOND, "yes")]


def test_a_refused_answer_can_be_repeated(daemon: ScriptedDaemon) -> None:
    """The error is printed, and the next line answers the same question."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"))
    take = daemon.script["answer"]
    daemon.script["answer"] = lambda params: CallError("Too long.") if params["text"] == "long" else take(params)
    ended = run_here(daemon.home, "chat", "--answer", stdin="long\nshort\n")
    assert "Error [error]: Too long." in ended.err
    assert inbox.taken == [("answer", FIRST, "short")]


def test_an_inbox_shows_labels(daemon: ScriptedDaemon) -> None:
    """The label under which a flow knows the human is shown behind the asking user."""
    daemon.script["inbox"] = {"prompts": [prompt(FIRST, "Tea?", label="Proxy_User")]}
    assert "4f1c22d9  bob (Proxy_User)  User" in run_here(daemon.home, "inbox").out


def test_an_error_of_the_daemon_ends_the_command(daemon: ScriptedDaemon) -> None:
    """An error of the daemon becomes an error of the command."""
    daemon.script["conversations"] = UsageError("There is no method 'conversations'.")
    assert run_here(daemon.home, "chat", "--list").code == 2
