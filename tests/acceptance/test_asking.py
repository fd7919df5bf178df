"""Asking a person from the shell: `confirm` is an `if`, and a question outlives whoever waits for it."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

QUESTION = "Drop the table?"


def asked(bob: Person, text: str = QUESTION) -> str:
    """Wait until a question is in bob's inbox, and return its id."""
    found: list[dict[str, Any]] = []

    def arrives() -> bool:
        found[:] = [prompt for prompt in bob.prompts() if prompt["text"] == text]
        return bool(found)

    wait_until(arrives, 20)
    return str(found[-1]["id"])


@pytest.mark.parametrize(("typed", "code"), [("yes", 0), ("no", 11)])
def test_confirm_is_an_if(alice: Person, bob: Person, typed: str, code: int) -> None:
    """Only a signed yes is exit code 0, and a signed no is 11; nothing is printed on stdout."""
    asking = alice.start_command("confirm", "bob", QUESTION)
    bob.cli("answer", asked(bob), typed, "-m", "after 18:00").ok()
    ended = asking.wait()
    assert (ended.code, ended.out) == (code, "")
    assert ended.err == f"bob says: {typed}\nbob adds: after 18:00\n"


def test_a_refusal_is_no_yes(alice: Person, bob: Person) -> None:
    """Declined is exit code 1; a wrong answer is refused at the one who types it, and then nothing was answered."""
    asking = alice.start_command("confirm", "bob", QUESTION)
    question = asked(bob)
    wrong = bob.cli("answer", question, "perhaps")
    assert (wrong.code, wrong.err.splitlines()[0]) == (2, "Error [bad_input]: The answer must be yes or no.")
    bob.cli("decline", question, "--reason", "Not me.").ok()
    ended = asking.wait()
    assert (ended.code, ended.err) == (1, "Error [declined]: bob says: Not me.\n")


def test_silence_is_no_yes_and_a_late_yes_is_none(alice: Person, bob: Person) -> None:
    """Nobody answered is exit code 5; who answers too late reads that, and it changes nothing."""
    asking = alice.start_command("confirm", "bob", QUESTION, "--timeout", "1s")
    question = asked(bob)
    assert asking.wait().code == 5
    late = bob.cli("answer", question, "yes")
    assert (late.code, late.err.splitlines()[0]) == (
        5,
        f"Error [deadline]: Too late: prompt {question[-8:]} has expired, so nothing was sent.",
    )
    found = alice.request("question", id=question)
    assert (found["outcome"], found["value"]) == ("expired", None)


def test_who_cannot_be_reached_or_does_not_allow_it_is_no_yes(alice: Person, bob: Person) -> None:
    """Unreachable is exit code 3, not allowed 4; both are said as such."""
    nobody = "f51af239b130f210d4bf422132c8204614ddf0b0ec7e0121e88106e089f2ed4a"
    asking = alice.start_command("confirm", f"{nobody}/User", QUESTION, "--timeout", "1s")
    bob.request("serve", endpoint="Boss", kind="human", allow="me")
    try:
        refused = alice.cli("confirm", "bob/Boss", QUESTION)
    finally:
        bob.request("delete_endpoint", endpoint="Boss")
    assert refused.code == 4
    assert refused.err.startswith("Error [not_allowed]: bob says: ")
    assert asking.wait().code == 3
    assert alice.cli("confirm", "nobody", QUESTION).code == 3


def test_the_answer_is_plain_text_or_json(alice: Person, bob: Person) -> None:
    """A choice by its number is the choice; JSON has who gave it and when."""
    choices = ("--choice", "staging", "--choice", "production")
    asking = alice.start_command("ask", "bob", "Deploy where?", *choices)
    bob.cli("answer", asked(bob, "Deploy where?"), "2").ok()
    assert asking.wait().ok().out == "production\n"
    asking = alice.start_command("ask", "bob", "Deploy where?", *choices, "--json")
    bob.cli("answer", asked(bob, "Deploy where?"), "STAGING", "-m", "soon").ok()
    found = asking.wait().ok().document
    assert (found["outcome"], found["value"], found["answer"]) == ("answered", "staging", "staging")
    assert (found["by"], found["name"], found["remark"]) == (bob.user_id, "bob", "soon")
    assert found["at"] > found["created"]


def test_a_default_holds_when_nobody_answers(alice: Person, bob: Person) -> None:
    """The command says that it was one, and so does the outcome."""
    del bob
    ended = alice.cli("ask", "bob", "Which port?", "--default", "8080", "--timeout", "1s")
    assert (ended.code, ended.out) == (0, "8080\n")
    assert ended.err == "Nobody answered in time; this is your default.\n"


def test_a_nested_form_is_filled_in_and_a_document_edited(alice: Person, bob: Person) -> None:
    """The one who types reads which field is wrong; the asker gets JSON."""
    port = {"type": "integer", "maximum": 65535}
    schema = {
        "type": "object",
        "properties": {"name": {"type": "string"}, "at": {"type": "object", "properties": {"port": port}}},
        "required": ["name", "at"],
    }
    alice.write_file("form.json", json.dumps(schema))
    alice.write_file("config.json", '{"size": 5, "on": true}')
    asking = alice.start_command("ask", "bob", "Which server?", "--form", "form.json")
    question = asked(bob, "Which server?")
    wrong = bob.cli("answer", question, "name=db", "at.port=70000")
    assert wrong.err.splitlines()[0] == "Error [bad_input]: The field 'at.port' must be at most 65535."
    bob.cli("answer", question, "name=data base", "at.port=5432").ok()
    assert asking.wait().ok().document == {"name": "data base", "at": {"port": 5432}}
    asking = alice.start_command("ask", "bob", "Right?", "--edit", "config.json")
    bob.cli("answer", asked(bob, "Right?"), "size=6").ok()
    assert asking.wait().ok().document == {"size": 6, "on": True}


def test_ctrl_c_withdraws_the_question(alice: Person, bob: Person) -> None:
    """It leaves the other's inbox, and an answer comes too late."""
    asking = alice.start_command("ask", "bob", QUESTION)
    question = asked(bob)
    asking.process.send_signal(signal.SIGINT)
    ended = asking.wait()
    assert ended.code == 130
    assert f"You withdrew the question {question[-8:]}." in ended.err
    wait_until(lambda: bob.prompts() == [], 20)
    assert bob.cli("answer", question, "yes").code == 2
    assert alice.request("question", id=question)["outcome"] == "cancelled"


def test_what_is_not_waited_for_is_collected_later(alice: Person, bob: Person) -> None:
    """`asked` lists it, `wait` prints it from any terminal, as often as wanted, until `asked clear`."""
    question = alice.cli("ask", "bob", "And now?", "--detach").ok().out.strip()
    assert asked(bob, "And now?") == question
    wait_until(lambda: alice.request("question", id=question)["where"] == "shown to them", 20)
    (entry,) = [each for each in alice.cli("asked", "--open", "--json").ok().document if each["id"] == question]
    assert (entry["outcome"], entry["where"], entry["to_name"]) == ("open", "shown to them", "bob")
    waiting = alice.start_command("wait", question[-8:])
    bob.cli("answer", question, "Lunch.").ok()
    assert waiting.wait().ok().out == "Lunch.\n"
    assert alice.cli("wait", question).ok().out == "Lunch.\n"
    assert "Lunch." in alice.cli("asked").ok().out
    alice.cli("asked", "clear").ok()
    assert question not in alice.cli("asked", "--json").ok().out
    assert alice.request("outbox") == {"pending": [], "dead": [], "count": {"pending": 0, "dead": 0}}


def test_a_note_is_left_and_an_empty_one_is_refused_now(alice: Person, bob: Person) -> None:
    """What can be refused at once is not accepted first and lost later."""
    alice.cli("tell", "bob", "-", stdin="Back at six\n").ok()
    note = asked(bob, "Back at six")
    assert bob.request("prompt", id=note)["wants_answer"] is False
    bob.cli("dismiss", note).ok()
    for words in (("tell", "bob", " "), ("ask", "bob", ""), ("send", "bob/User", "text="), ("call", "bob/User", "")):
        assert alice.cli(*words).code == 2, words


@pytest.fixture(scope="module")
def couple() -> Iterator[tuple[Person, Person]]:
    """Alice and bob, whose daemons may be killed; a test leaves them running, and their inboxes empty."""
    network = Network()
    try:
        yield network.pair(workers=False)
    finally:
        network.close()


def test_a_question_survives_every_daemon(couple: tuple[Person, Person]) -> None:
    """Both daemons are killed while a command waits; it goes on waiting, and gets the one answer."""
    alice, bob = couple
    asking = alice.start_command("confirm", "bob", QUESTION, "--timeout", "2m")
    question = asked(bob)
    bob.kill_daemon()
    alice.kill_daemon()
    alice.ready()
    bob.ready()
    assert [prompt["id"] for prompt in bob.prompts()] == [question]
    alice.kill_daemon()
    bob.cli("answer", question, "yes").ok()
    assert bob.cli("answer", question, "no").code == 2
    bob.kill_daemon()
    alice.ready()
    bob.ready()
    ended = asking.wait()
    assert ended.code == 0
    assert "Your daemon went away" in ended.err
    assert alice.request("question", id=question)["value"] is True


def test_a_daemon_that_is_killed_while_it_takes_a_question_is_asked_again(couple: tuple[Person, Person]) -> None:
    """The command waits for it, asks under the same id, and the question is there once."""
    alice, bob = couple
    alice.kill_daemon()
    alice.environment["P2PFLOWS_CRASH_AT"] = "questions.asked:1"
    alice.ready()
    asking = alice.start_command("confirm", "bob", "Are you there?", "--timeout", "2m")
    assert alice.daemon is not None
    alice.daemon.wait(20)
    del alice.environment["P2PFLOWS_CRASH_AT"]
    alice.ready()
    bob.cli("answer", asked(bob, "Are you there?"), "yes").ok()
    ended = asking.wait()
    assert ended.code == 0
    assert "Your daemon went away while it took the question." in ended.err
    questions = alice.request("asked")["asked"]
    assert [each["text"] for each in questions].count("Are you there?") == 1


@pytest.fixture(scope="module")
def trio() -> Iterator[tuple[Person, Person, Person]]:
    """Alice, and two whom she asks; their daemons may be killed; a test leaves them running, and inboxes empty."""
    network = Network()
    try:
        carol = network.person("carol").without_workers()
        carol.start(wait=False)
        alice, bob = network.pair(workers=False)
        alice.add_contact(carol)
        bob.add_contact(carol)
        carol.add_contact(alice)
        yield alice, bob, carol.ready()
    finally:
        network.close()


def test_a_group_is_asked(trio: tuple[Person, Person, Person]) -> None:
    """One no is a no; the first answer settles it, and the others read that; others are asked after a restart."""
    alice, bob, carol = trio
    alice.cli("contacts", "group", "add", "team", "bob", "carol").ok()
    asking = alice.start_command("confirm", "@team", "All?", "--all")
    bob.cli("answer", asked(bob, "All?"), "yes").ok()
    carol.cli("answer", asked(carol, "All?"), "no").ok()
    assert asking.wait().code == 11
    asking = alice.start_command("ask", "bob", "carol", "Who?", "--first")
    question = asked(carol, "Who?")
    bob.cli("answer", asked(bob, "Who?"), "I.").ok()
    assert asking.wait().ok().out == "I.\n"
    wait_until(lambda: carol.prompts() == [], 20)
    assert "is already cancelled: It is settled." in carol.cli("answer", question, "I!").err
    later = alice.cli("ask", "bob", "Later?", "--then", "carol", "--after", "3s", "--detach").ok().out.strip()
    alice.kill_daemon()
    alice.ready()
    carol.cli("answer", asked(carol, "Later?"), "Here.").ok()
    assert alice.cli("wait", later).ok().out == "Here.\n"
    wait_until(lambda: bob.prompts() == [], 20)


def test_a_question_is_passed_on(trio: tuple[Person, Person, Person]) -> None:
    """The asker sees each hop, and gets the answer of the other one, signed by them; also over a restart."""
    alice, bob, carol = trio
    asking = alice.start_command("ask", "bob", "Where is the key?", "--json")
    question = asked(bob, "Where is the key?")
    bob.cli("delegate", question, "carol", "-m", "She has it.").ok()
    passed_on = asked(carol, "Where is the key?")
    (open_one,) = alice.cli("asked", "--open", "--json").ok().document
    assert open_one["where"].startswith("passed on to carol: ")
    assert open_one["people"][0]["hops"] == [{"by": bob.user_id, "to": carol.user_id, "why": "She has it."}]
    alice.kill_daemon()
    carol.cli("answer", passed_on, "Under the mat.").ok()
    alice.ready()
    ended = asking.wait().ok().document
    assert (ended["outcome"], ended["answer"], ended["by"]) == ("answered", "Under the mat.", carol.user_id)
    assert "bob passes it on to carol: She has it." in alice.cli("chat", "bob", stdin="").ok().out
    assert bob.prompts(everything=True)[-1]["status"] == "delegated"


def test_one_of_a_group_says_that_they_are_on_it(trio: tuple[Person, Person, Person]) -> None:
    """The asker and the others see it, over a restart of theirs; another one answers all the same."""
    alice, bob, carol = trio
    asking = alice.start_command("ask", "bob", "carol", "Who is on it?", "--first")
    claimed = asked(carol, "Who is on it?")
    assert carol.cli("claim", claimed, "--for", "2h").ok().err.startswith(f"You are on {claimed[-8:]} until ")
    question = asked(bob, "Who is on it?")
    wait_until(lambda: "(claimed by carol, " in bob.cli("inbox").ok().out, 20)
    bob.kill_daemon()
    bob.ready()
    refused = bob.cli("claim", question)
    assert (refused.code, refused.err.splitlines()[0]) == (2, "Error [usage]: carol is on it for 10 minutes more.")
    (open_one,) = alice.cli("asked", "--open", "--json").ok().document
    assert open_one["where"] == "claimed by carol; 0 of 2 have answered"
    carol.cli("claim", claimed, "--release").ok()
    wait_until(lambda: "claimed" not in bob.cli("inbox").ok().out, 20)
    bob.cli("claim", question).ok()
    carol.cli("answer", claimed, "I am.").ok()
    assert asking.wait().ok().out == "I am.\n"
    wait_until(lambda: bob.prompts() == [], 20)
    assert "is already cancelled: It is settled." in bob.cli("claim", question).err
