"""Two people who chat, each on a terminal: both see one conversation, and no answer goes to the wrong question."""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager

from support.people import Person
from support.processes import wait_until
from support.typing_terminal import TypingTerminal, typing


def chat(person: Person, *words: str, columns: int = 80) -> AbstractContextManager[TypingTerminal]:
    """Open a chat on a terminal."""
    return typing([sys.executable, "-P", "-m", "p2pflows", "chat", *words], person.environment, columns)


def test_two_people_see_one_conversation(alice: Person, bob: Person) -> None:
    """Whoever began; also with both typing at once, a pasted text, and a second chat of one of them."""
    with chat(alice, "bob", columns=40) as hers, chat(bob, "alice") as his, chat(alice, "bob") as her_second:
        hers.reads("You talk with bob.")
        his.reads("You talk with alice.")
        her_second.reads("You talk with bob.")
        hers.types("Hel")
        his.types("Hi")
        hers.types("lo\r")
        his.types(" there\r")
        hers.reads("you: Hello  (delivered)", "bob: Hi there")
        his.reads("alice: Hello", "you: Hi there  (delivered)")
        her_second.reads("you: Hello", "bob: Hi there")
        hers.pastes("one\ntwo\n  three")
        hers.types("\r")
        his.reads("alice: one\n       two\n         three")
        her_second.reads("you: one\n     two")
        question = bob.request("submit", address="alice/User", data={"text": "Tea?"}, timeout=60)["id"]
        hers.reads("bob asks: Tea?")
        her_second.reads("bob asks: Tea?")
        hers.types("yes\r")
        hers.reads("you answer: yes")
        her_second.reads("you answer: yes")
        his.reads("alice answers: yes")
        assert bob.request("wait", id=question)["data"] == {"human_input": "yes"}
        assert (hers.ends(), his.ends(), her_second.ends()) == (0, 0, 0)
    assert "Hi there" not in {prompt["text"] for prompt in alice.prompts()}
    with chat(alice, "bob", "--history", "3") as again:
        again.reads("bob asks: Tea?  (answered)")
        again.reads("you answer: yes")
        again.types("/end\r")
        assert again.waits() == 0


def test_a_question_expires_under_the_fingers(alice: Person, bob: Person) -> None:
    """What was begun as its answer is discarded, and answers nothing else."""
    with chat(bob, "alice") as his:
        his.reads("You talk with alice.")
        alice.request("submit", address="bob/User", data={"text": "Tea?"}, timeout=2)
        his.reads("alice asks: Tea?")
        his.types("ye")
        second = alice.request("submit", address="bob/User", data={"text": "Delete PRODUCTION?"}, timeout=60)["id"]
        his.reads("Discarded, because the question is over: ye")
        his.types("\rno\r")  # the first Enter ends the pause in which no keys are taken
        his.reads("you answer: no")
        assert his.ends() == 0
    assert alice.request("wait", id=second)["data"] == {"human_input": "no"}


def test_commands_stay_here(alice: Person, bob: Person) -> None:
    """Unknown ones are refused, and a text may begin with two slashes."""
    with chat(bob, "alice") as his:
        his.reads("You talk with alice.")
        his.types("/delcine no\r")
        his.reads("Not sent: there is no /delcine, but /decline, /skip, /who, /end, /help")
        his.types("\x15//usr/bin\r")
        his.reads("you: /usr/bin  (delivered)")
        declined, skipped = (
            alice.request("submit", address="bob/User", data={"text": text}, timeout=60)["id"] for text in ("a?", "b?")
        )
        his.reads("alice asks: b?")
        his.types("/decline not now\r")
        his.reads("you decline: not now")
        his.types("/skip\r/who\r")
        his.reads(f"alice, user id {alice.user_id}")
        his.reads(f"{skipped[-8:]}  ")
        assert his.ends() == 0
    assert ("/usr/bin", False) in {(prompt["text"], prompt["wants_answer"]) for prompt in alice.prompts()}
    lines = alice.request("chat", user="bob")["lines"]
    assert [line["state"] for line in lines if line["message"] == declined] == ["declined", "answered"]
    assert [line["text"] for line in lines if line["kind"] == "declined"][-1] == "not now"


def test_a_chat_outlives_the_daemon(pair_without_workers: tuple[Person, Person]) -> None:
    """It says that the daemon is away, keeps what is typed, and shows what came meanwhile."""
    alice, bob = pair_without_workers
    with chat(alice, "bob") as hers:
        hers.reads("You talk with bob.")
        hers.types("Are you")
        alice.kill_daemon()
        hers.reads("The daemon went away.")
        hers.types(" there?\r")
        hers.reads("Not sent, as the daemon is away: Are you there?")
        bob.request("send", address="alice/User", data={"text": "I was here."})
        alice.start()
        hers.reads("The daemon is back.")
        hers.reads("bob: I was here.")
        hers.types("\r")
        hers.reads("you: Are you there?  (delivered)")
        assert hers.ends() == 0
    wait_until(lambda: [prompt["text"] for prompt in bob.prompts()] == ["Are you there?"])


def test_piped_lines_are_messages(alice: Person, bob: Person) -> None:
    """Each line is one; what is in the pipe from the beginning answers no question. They can be searched later."""
    alice.request("submit", address="bob/User", data={"text": "Delete PRODUCTION?"}, timeout=60)
    bob.wait_for_prompts()
    ended = bob.cli("chat", "alice", "--topic", "Our trip", stdin="yes\nTo the 😀 sea\n").ok()
    assert ended.err == ""
    assert [prompt["text"] for prompt in bob.prompts()] == ["Delete PRODUCTION?"]
    sent = ["yes", "To the 😀 sea"]
    wait_until(lambda: [prompt["text"] for prompt in alice.prompts() if prompt["text"] in sent] == sent)
    assert len({prompt["conversation"] for prompt in alice.prompts() if prompt["text"] in sent}) == 1
    alice.request("decline_all", user="bob")
    found = bob.cli("chat", "alice", "--search", "THE 😀", "--json").ok().document
    assert [(line["text"], line["title"], line["by"]) for line in found] == [("To the 😀 sea", "Our trip", "me")]
    assert "you: To the 😀 sea" in bob.cli("chat", "--search", "sea").ok().out
    shown = bob.cli("chat", "alice", "--topic", "Our trip", stdin="").ok().out
    assert "you: yes" in shown
    assert "PRODUCTION" not in shown
