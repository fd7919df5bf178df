"""Two people with only the shell: one asks, and the other answers, declines, or does nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from support.commands import Command
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import free_port, wait_until

QUESTION = '{"api_output":"Neighbor, are you there?"}'
ANSWER = '{"human_input":"Hey there neighbor!!"}\n'
MOSQUITTO_PASSWD = shutil.which("mosquitto_passwd")


def start_call(alice: Person, bob: Person, address: str = "bob/User", *words: str) -> tuple[Command, str]:
    """Start a call to bob, and wait for its prompt; returns the call and the prompt's id."""
    before = {prompt["id"] for prompt in bob.prompts()}
    call = alice.start_command("call", address, QUESTION, *words)
    prompts = bob.wait_for_prompts(len(before) + 1)
    return call, next(prompt["id"] for prompt in prompts if prompt["id"] not in before)


def answer_and_check(call: Command, bob: Person, prompt: str) -> bool:
    """Answer a prompt, and check that the caller's stdout is exactly the answer."""
    bob.cli("answer", prompt, "Hey there neighbor!!").ok()
    result = call.wait()
    return (result.code, result.out, result.err) == (0, ANSWER, "")


@pytest.fixture
def team_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of an ordinary mosquitto with one user, as an operator runs it."""
    if MOSQUITTO is None or MOSQUITTO_PASSWD is None:
        pytest.skip("mosquitto is not installed")
    folder, port = tmp_path_factory.mktemp("broker"), free_port()
    words = [MOSQUITTO_PASSWD, "-b", "-c", str(folder / "passwords"), "team", "p@ss/w:rd%"]
    subprocess.run(words, check=True, capture_output=True)
    root = "user root\n" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(
        f"{root}allow_anonymous false\npassword_file {folder}/passwords\nlistener {port} 127.0.0.1\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", folder / "conf"], stderr=subprocess.DEVNULL)
    yield f"mqtt://team:p%40ss%2Fw%3Ard%25@127.0.0.1:{port}"
    process.terminate()
    process.wait()


def test_the_first_scenario_as_a_new_user_types_it(network_on_each_broker: Network) -> None:
    """Two people who added each other ask and answer; the caller's stdout is exactly the answer."""
    alice, bob = (
        network_on_each_broker.person("alice").start(wait=False),
        network_on_each_broker.person("bob").start(wait=False),
    )
    alice.cli("contacts", "add", "bob", bob.cli("id").ok().out.strip()).ok()
    bob.cli("contacts", "add", "alice", alice.cli("id").ok().out.strip()).ok()
    bob.ready()
    alice.ready()
    call = alice.start_command("call", "bob/User", QUESTION)
    bob.wait_for_prompts()
    (prompt,) = bob.cli("inbox", "--json").ok().document
    assert prompt["text"] == "Neighbor, are you there?"
    assert prompt["data"] == {"api_output": "Neighbor, are you there?"}
    assert (prompt["from"], prompt["name"], prompt["endpoint"]) == (alice.user_id, "alice", "User")
    assert prompt["status"] == "open"
    assert abs((datetime.now(UTC) - datetime.fromisoformat(prompt["received"])).total_seconds()) < 15
    assert datetime.fromisoformat(prompt["expires"]) > datetime.now(UTC)
    assert answer_and_check(call, bob, prompt["id"])
    assert bob.cli("inbox", "--json").ok().document == []
    (past,) = bob.cli("inbox", "--json", "--all").ok().document
    assert past["status"] == "answered"


def test_a_team_broker_with_a_password(team_broker: str) -> None:
    """An external mosquitto with a password works like the embedded broker, and no output shows the password."""
    network = Network(program=None, broker=team_broker)
    try:
        alice, bob = network.pair(workers=False)
        call, prompt = start_call(alice, bob)
        assert answer_and_check(call, bob, prompt)
        status = alice.cli("status", "--json").ok()
        assert status.document["broker"]["connected"] is True
        shown = status.out + alice.cli("status").ok().out + alice.log_text() + bob.log_text()
        assert "p@ss" not in shown
        assert "p%40ss" not in shown
        assert not network.broker_folder.exists()
    finally:
        network.close()


def test_a_call_needs_only_the_end_of_an_id(alice: Person, bob: Person) -> None:
    """The inbox shows the end of an id, and that is enough to answer."""
    call, prompt = start_call(alice, bob)
    assert prompt[-8:] in bob.cli("inbox").ok().out
    assert answer_and_check(call, bob, prompt[-8:])


def test_a_prompt_has_its_text_under_one_of_three_names(alice: Person, bob: Person) -> None:
    """A request to a human with a text under one of three keys is a prompt, and its other data is kept."""
    for key in ("api_output", "prompt"):
        alice.request("send", address="bob/User", data={key: key, "n": 3})
    call = alice.start_command("call", "bob/User", "text=Snö? 😀", "n:=3")
    prompts = bob.wait_for_prompts(3)
    assert [prompt["text"] for prompt in prompts[1:]] == ["api_output", "prompt"]
    assert prompts[0]["data"] == {"text": "Snö? 😀", "n": 3}
    bob.cli("answer", prompts[0]["id"], "Já 😀").ok()
    assert call.wait().ok().out == '{"human_input":"Já 😀"}\n'


def test_a_request_without_a_text_is_bad_input(alice: Person, bob: Person) -> None:
    """A request to a human without a text fails at once, and makes no prompt."""
    result = alice.cli("call", "bob/User", "{}", "--json")
    assert result.code == 2
    assert result.error["code"] == "bad_input"
    assert bob.prompts() == []


def test_declined(alice: Person, bob: Person) -> None:
    """A declined call fails with its own kind of error and the human's reason."""
    call, prompt = start_call(alice, bob, "bob/User", "--json")
    bob.cli("decline", prompt, "--reason", "Not before tea.").ok()
    result = call.wait()
    assert (result.code, result.out) == (1, "")
    assert result.error["code"] == "declined"
    assert "Not before tea." in result.error["message"]


def test_unanswered(alice: Person, bob: Person) -> None:
    """A call that nobody answers fails at its deadline, and its prompt closes on both sides."""
    call, prompt = start_call(alice, bob, "bob/User", "--timeout", "2s")
    result = call.wait()
    assert (result.code, result.out) == (5, "")
    assert 2 <= result.seconds < 10
    assert "deadline" in result.err
    bob.wait_for_status(lambda now: now["prompts_open"] == 0, 3)
    late = bob.cli("answer", prompt, "Sorry, I was out.", "--json")
    assert late.code == 5
    assert "expired" in late.error["message"]


def test_a_second_answer_is_refused(alice: Person, bob: Person) -> None:
    """The first answer counts; a second answer or decline is refused."""
    call, prompt = start_call(alice, bob)
    assert answer_and_check(call, bob, prompt)
    for words in (["answer", prompt, "Or rather not."], ["decline", prompt]):
        result = bob.cli(*words, "--json")
        assert result.code == 2
        assert "already answered" in result.error["message"]


def test_two_answers_at_once(alice: Person, bob: Person) -> None:
    """Of several simultaneous answers one counts, and the caller gets that one."""
    call, prompt = start_call(alice, bob)
    answers = [bob.start_command("answer", prompt, f"answer {number}") for number in range(4)]
    codes = [answer.wait().code for answer in answers]
    assert sorted(codes) == [0, 2, 2, 2]
    assert call.wait().ok().document == {"human_input": f"answer {codes.index(0)}"}


def test_user_ids_and_me_are_addresses_too(alice: Person, bob: Person) -> None:
    """A user id can stand for a petname, and `me` for oneself."""
    call, prompt = start_call(alice, bob, f"{bob.user_id}/User")
    assert answer_and_check(call, bob, prompt)
    for address in ("me/User", f"{bob.user_id.upper()}/User"):
        call, prompt = start_call(bob, bob, address)
        (shown,) = bob.prompts()
        assert (shown["from"], shown["name"]) == (bob.user_id, "me")
        assert answer_and_check(call, bob, prompt)


def test_id_is_what_others_add(alice: Person, bob: Person) -> None:
    """`id` prints only the user id, and `contacts list` shows it for the contact."""
    assert bob.cli("id").ok().out == bob.user_id + "\n"
    assert bob.cli("id", "--json").ok().document["user_id"] == bob.user_id
    contacts = alice.cli("contacts", "list", "--json").ok().document
    assert ("bob", bob.user_id) in [(contact["name"], contact["user"]) for contact in contacts]


def test_wait_takes_up_a_call_again(alice: Person, bob: Person) -> None:
    """After a caller stops waiting, `wait` fetches the answer by the call's id."""
    message = alice.request("submit", address="bob/User", data=json.loads(QUESTION))["id"]
    short = alice.cli("wait", message, "--timeout", "1s")
    assert short.code == 5
    (prompt,) = bob.wait_for_prompts()
    bob.cli("answer", prompt["id"], "Hey there neighbor!!").ok()
    assert alice.cli("wait", message).ok().out == ANSWER
    assert alice.cli("wait", message).ok().out == ANSWER


def test_a_cancelled_call(alice: Person, bob: Person) -> None:
    """A call that its sender cancels ends as cancelled, and its prompt closes."""
    call, prompt = start_call(alice, bob, "bob/User", "--json")
    alice.cli("cancel", prompt).ok()
    result = call.wait()
    assert result.code == 1
    assert result.error["code"] == "cancelled"
    bob.wait_for_status(lambda now: now["prompts_open"] == 0, 3)
    states = {past["id"]: past["status"] for past in bob.prompts(everything=True)}
    assert states[prompt] == "cancelled"


def test_a_note_wants_no_answer(alice: Person, bob: Person) -> None:
    """A post to a human is shown once, and its sender does not wait."""
    message = alice.cli("send", "bob/User", "text=Back at six").ok().out.strip()
    (prompt,) = bob.wait_for_prompts()
    assert (prompt["id"], prompt["text"]) == (message, "Back at six")
    assert alice.cli("wait", message).ok().document["state"] == "delivered"
    assert bob.cli("answer", message, "Fine", "--json").code == 2
    bob.cli("dismiss", message).ok()
    assert bob.prompts() == []


def test_control_characters_reach_no_terminal(alice: Person, bob: Person) -> None:
    """Control characters from a neighbour reach no terminal, neither in text nor in JSON."""
    alice.cli("send", "bob/User", '{"text":"\\u001b]0;owned\\u0007 \\u009b31m \\u202egnp.exe"}').ok()
    (prompt,) = bob.wait_for_prompts()
    shown = bob.cli("inbox").ok().out + bob.cli("inbox", "--json").ok().out
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)
    bob.cli("dismiss", prompt["id"]).ok()


def test_the_inbox_can_be_watched(alice: Person, bob: Person) -> None:
    """`inbox --watch --json` prints a line for each new or changed prompt, until Ctrl-C."""
    seen = bob.folder / "watched"
    with seen.open("wb") as output:
        watching = bob.start_command_into("inbox", "--watch", "--json", output=output)
    call, first = start_call(alice, bob)
    wait_until(lambda: seen.read_text().count("\n") == 1)
    assert answer_and_check(call, bob, first)
    call, second = start_call(alice, bob)
    bob.cli("decline", second).ok()
    call.wait()
    wait_until(lambda: seen.read_text().count("\n") == 4)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    shown = [json.loads(line) for line in seen.read_text().splitlines()]
    assert [(prompt["id"], prompt["status"]) for prompt in shown] == [
        (first, "open"),
        (first, "answered"),
        (second, "open"),
        (second, "declined"),
    ]


def test_a_watch_outlives_the_daemon(pair_without_workers: tuple[Person, Person]) -> None:
    """When the daemon restarts, `inbox --watch` waits for it and goes on; it shows no question twice."""
    alice, bob = pair_without_workers
    seen = bob.folder / "watched"
    with seen.open("wb") as output:
        watching = bob.start_command_into("inbox", "--watch", "--json", output=output)
    first, second = (
        alice.request("submit", address="bob/User", data={"text": "?"}, timeout=60)["id"] for _ in range(2)
    )
    wait_until(lambda: seen.read_text().count("\n") == 2)
    bob.kill_daemon()
    bob.start()
    bob.request("answer", id=second, text="Yes")
    wait_until(lambda: seen.read_text().count("\n") == 3)
    watching.send_signal(signal.SIGINT)
    assert watching.wait(10) == 130
    shown = [json.loads(line) for line in seen.read_text().splitlines()]
    assert [(each["id"], each["status"]) for each in shown[:2]] == [(first, "open"), (second, "open")]
    assert (shown[2]["id"], shown[2]["status"]) == (second, "answered")


def test_a_chat(alice: Person, bob: Person) -> None:
    """`chat --timeout` asks the neighbour with each line, and prints each answer."""
    chat = alice.start_command("chat", "bob/User", "--timeout", "60", piped=True)
    assert chat.process.stdin is not None
    chat.process.stdin.write("Hello?\n")
    chat.process.stdin.flush()
    (first,) = bob.wait_for_prompts()
    bob.request("answer", id=first["id"], text="Hi!")
    chat.process.stdin.write("Tea?\n")
    chat.process.stdin.flush()
    (second,) = bob.wait_for_prompts()
    assert (first["text"], second["text"]) == ("Hello?", "Tea?")
    assert first["conversation"] == second["conversation"]
    bob.request("answer", id=second["id"], text="Gladly.")
    assert chat.wait().ok().out == "bob: Hi!\nbob: Gladly.\n"


def test_an_answer_after_a_restart_of_the_daemons(network: Network) -> None:
    """A prompt survives the end of its daemon, is asked once, and its answer reaches a caller who came back."""
    alice, bob = network.pair(workers=False)
    message = alice.request("submit", address="bob/User", data=json.loads(QUESTION))["id"]
    bob.wait_for_prompts()
    assert bob.stop() == 0
    bob.start()
    assert [prompt["id"] for prompt in bob.prompts()] == [message]
    bob.kill_daemon()
    bob.start()
    alice.kill_daemon()
    bob.cli("answer", message[-8:], "Hey there neighbor!!").ok()
    alice.start()
    assert alice.cli("wait", message).ok().out == ANSWER
    assert [prompt["status"] for prompt in bob.prompts(everything=True)] == ["answered"]


def test_a_daemon_killed_while_it_asks(network: Network) -> None:
    """However often a daemon is killed around the moment of asking, the human is asked once."""
    alice, bob = network.pair(workers=False)
    messages = []
    for number in range(3):
        messages.append(alice.request("submit", address="bob/User", data={"text": f"question {number}"})["id"])
        time.sleep(0.01 * number)
        bob.kill_daemon()
        bob.start(wait=False)
        bob.wait_for_prompts(number + 1)
    time.sleep(1)
    assert [prompt["id"] for prompt in bob.prompts(everything=True)] == messages
    for message in messages:
        bob.request("answer", id=message, text=f"answer to {message}")
        assert alice.request("wait", id=message)["data"] == {"human_input": f"answer to {message}"}
