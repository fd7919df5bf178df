"""The ways to chat: earlier conversations are listed and gone on with, and a human answers question after question."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, ScriptedInbox, moment, prompt, run_here

from p2pflows.errors import CallError, Declined, NotAllowed, UsageError

BOB, CAROL = "b0" * 32, "ca" * 32
FIRST, SECOND, THIRD = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9", "1197f6a0c3de7b0e9a5d0f0e4f1c0000", "2" * 32


def _conversation(number: str = FIRST, **more: Any) -> dict[str, Any]:
    return {
        "conversation": number, "way": "asking", "user": BOB, "name": "bob", "endpoint": "User", "label": "",
        "text": "Hey!", "by": "them", "at": moment(-185), "open": 0, "waiting": None, **more,
    }  # fmt: skip


# Earlier conversations.


def test_conversations_are_listed(daemon: ScriptedDaemon) -> None:
    """People see with whom, under which label, when, what waits and what was said last; programs get it as it is."""
    asked = _conversation(SECOND, way="asked", label="User1\x1b", open=2, by="me", text="Fine,\nthanks")
    daemon.script["conversations"] = {"conversations": [asked, _conversation(name=None)]}
    ended = run_here(daemon.home, "chat", "--list")
    assert ended.out.splitlines() == [
        "ID        WITH             AT              WHEN    OPEN  LAST",
        "4f1c0000  bob (User1\\x1b)  me/User         3m ago     2  you: Fine,\\nthanks",
        "4f1c22d9  b0b0b0b0…        b0b0b0b0…/User  3m ago     0  Hey!",
    ]
    assert "p2pflows chat --answer" in ended.err
    assert run_here(daemon.home, "chat", "--list", "--json").json[0] == asked
    daemon.script["conversations"] = {"conversations": []}
    assert run_here(daemon.home, "chat", "--list").err == "There were no conversations in the last day.\n"
    assert run_here(daemon.home, "chat", "--list", "--json").out == "[]\n"


def _can_chat(daemon: ScriptedDaemon, *conversations: dict[str, Any]) -> None:
    daemon.script.update(
        describe={"kind": "human", "user": BOB, "endpoint": "User", "schema": None},
        conversations={"conversations": list(conversations)},
        submit={"id": THIRD},
        wait=lambda params: {"id": params["id"], "data": {"human_input": f"answer to {params['id'][-4:]}"}},
    )


def _submitted(daemon: ScriptedDaemon) -> list[str | None]:
    return [params.get("conversation") for method, params in daemon.asked if method == "submit"]


def test_the_latest_conversation_goes_on(daemon: ScriptedDaemon) -> None:
    """`--resume` alone takes the newest one with that address, shows what was said last, and stays in it."""
    _can_chat(
        daemon,
        _conversation("3" * 32, endpoint="other"),
        _conversation("4" * 32, way="asked"),
        _conversation("5" * 32, user=CAROL),
        _conversation(SECOND, text="See you\nsoon"),
        _conversation(FIRST),
    )
    ended = run_here(daemon.home, "chat", "bob/User", "--resume", stdin="hello\n")
    assert (ended.code, ended.err) == (0, "Continuing 4f1c0000.\n")
    assert ended.out == "bob: See you\n     soon\nbob: answer to 2222\n"
    assert _submitted(daemon) == [SECOND]


def test_a_conversation_goes_on_by_its_id(daemon: ScriptedDaemon) -> None:
    """A part of an id is enough, as long as it is the part of one; a whole id may be older than what is remembered."""
    _can_chat(daemon, _conversation(SECOND), _conversation(FIRST, by="me", text="Hey bob"))
    ended = run_here(daemon.home, "chat", "bob/User", "--resume", "4F1C22D9", stdin="hello\n")
    assert ended.out == "you: Hey bob\nbob: answer to 2222\n"
    run_here(daemon.home, "chat", "bob/User", "--resume", THIRD, stdin="hello\n")
    assert _submitted(daemon) == [FIRST, THIRD]


def test_an_answer_that_is_still_due_is_waited_for_first(daemon: ScriptedDaemon) -> None:
    """Who left while bob was thinking hears his answer on coming back, an error too, before saying more."""
    _can_chat(daemon, _conversation(waiting=SECOND, by="me", text="Well?"))
    ended = run_here(daemon.home, "chat", "bob/User", "--resume", stdin="hello\n")
    assert ended.out == "you: Well?\nbob: answer to 0000\nbob: answer to 2222\n"
    daemon.script["wait"] = Declined("No.")
    ended = run_here(daemon.home, "chat", "bob/User", "--resume", stdin="")
    assert (ended.code, ended.err) == (1, "Continuing 4f1c22d9.\nError [declined]: No.\n")


def test_a_piped_chat_in_which_every_message_failed_is_no_success(daemon: ScriptedDaemon) -> None:
    """Its exit code is that of the last error; one answer makes it a success."""
    _can_chat(daemon)
    errors = iter([NotAllowed("No."), Declined("No.")])
    daemon.script["wait"] = lambda _: next(errors)
    assert run_here(daemon.home, "chat", "bob/User", stdin="one\ntwo\n").code == 1
    daemon.script["submit"] = NotAllowed("No.")
    assert run_here(daemon.home, "chat", "bob/User", stdin="one\n").code == 4
    answers = iter([{"id": THIRD, "data": {}}, Declined("No.")])
    daemon.script.update(submit={"id": THIRD}, wait=lambda _: next(answers))
    assert run_here(daemon.home, "chat", "bob/User", stdin="one\ntwo\n").code == 0
    assert run_here(daemon.home, "chat", "bob/User", stdin="").code == 0


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["bob/User", "--resume"], "There is no earlier conversation with bob/User."),
        (["bob/User", "--resume", "abcdef"], "whose id begins or ends with 'abcdef'"),
        (["bob/User", "--resume", "abc"], "is not an id"),
        (["--resume", "bob/User"], "put the ADDRESS before it"),
        (["--resume"], "put the ADDRESS before it"),
        ([], "A chat needs one of ADDRESS"),
        (["bob/User", "--list"], "A chat needs one of ADDRESS"),
        (["--answer", "--list"], "A chat needs one of ADDRESS"),
        (["--answer", "--json"], "Only --list prints JSON"),
        (["bob/User", "--json"], "Only --list prints JSON"),
    ],
)
def test_what_cannot_be_chatted_is_told(daemon: ScriptedDaemon, words: list[str], told: str) -> None:
    """A conversation that is not there, or a mix of modes, is refused with what to do instead."""
    _can_chat(daemon)
    ended = run_here(daemon.home, "chat", *words)
    assert ended.code == 2
    assert told in ended.err


def test_several_conversations_like_that_are_told(daemon: ScriptedDaemon) -> None:
    """An id that could be two is no choice."""
    _can_chat(daemon, _conversation("abcd" + "0" * 28), _conversation("abcd" + "1" * 28))
    assert "There are several conversations" in run_here(daemon.home, "chat", "bob/User", "--resume", "abcd").err


def test_a_class_is_asked_a_query(daemon: ScriptedDaemon) -> None:
    """What is typed goes to a class of flows as its query, and its output is what it says."""
    _can_chat(daemon)
    daemon.script["describe"] = {"kind": "class", "schema": {"type": "object"}}
    daemon.script["wait"] = {"id": THIRD, "data": {"api_output": "Hello."}}
    assert run_here(daemon.home, "chat", "bob/Assistant", stdin="hi\n").out == "bob: Hello.\n"
    assert daemon.asked[1][1]["data"] == {"query": "hi"}


# Being asked.


def test_piped_lines_answer_in_order(daemon: ScriptedDaemon) -> None:
    """/skip leaves a question open, /decline says no, and what is left when the input ends is told."""
    inbox = ScriptedInbox(daemon, *(prompt(number, "?") for number in (FIRST, SECOND, THIRD)), prompt("3" * 32, "?"))
    ended = run_here(daemon.home, "chat", "--answer", stdin="/skip\n/decline not now\n/decline\n")
    assert ended.code == 0
    assert inbox.taken == [("decline", SECOND, "not now"), ("decline", THIRD, None)]
    assert ended.err.endswith("Still open: 2. See: p2pflows inbox\n")
    assert run_here(daemon.home, "chat", "--answer", stdin="/quit\nnever\n").code == 0
    assert len(inbox.taken) == 2


def test_notes_are_shown_and_cleared(daemon: ScriptedDaemon) -> None:
    """A message that wants no answer takes none, and is not shown again."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "This is the end.", wants_answer=False), prompt(SECOND, "Tea?"))
    ended = run_here(daemon.home, "chat", "--answer", stdin="yes\n")
    assert ended.out == "bob: This is the end.\nbob: Tea?\n"
    assert inbox.taken == [("decline", FIRST, None), ("answer", SECOND, "yes")]


def test_an_answer_that_is_refused_can_be_given_again(daemon: ScriptedDaemon) -> None:
    """An error is told, and the question is still the one that the next line answers."""
    inbox = ScriptedInbox(daemon, prompt(FIRST, "Tea?"))
    take = daemon.script["answer"]
    daemon.script["answer"] = lambda params: CallError("Too long.") if params["text"] == "long" else take(params)
    ended = run_here(daemon.home, "chat", "--answer", stdin="long\nshort\n")
    assert "Error [error]: Too long." in ended.err
    assert inbox.taken == [("answer", FIRST, "short")]


def test_an_inbox_shows_labels(daemon: ScriptedDaemon) -> None:
    """Under which name a flow knows the human stands behind who asks."""
    daemon.script["inbox"] = {"prompts": [prompt(FIRST, "Tea?", label="Proxy_User")]}
    assert "4f1c22d9  bob (Proxy_User)  User" in run_here(daemon.home, "inbox").out


def test_a_daemon_that_cannot_list_is_told(daemon: ScriptedDaemon) -> None:
    """An error of the daemon's is an error of the command."""
    daemon.script["conversations"] = UsageError("There is no method 'conversations'.")
    assert run_here(daemon.home, "chat", "--list").code == 2
