"""Humans in flows, between real daemons: each is asked in turn, until somebody ends the conversation."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from support.processes import wait_until
from support.scripted_daemon import command, run

from p2pflows import (
    Declined,
    FlowFailed,
    FlowFuture,
    FlowProxy,
    NotAllowed,
    run_dispatch_worker_thread,
    serving,
    start_local,
)
from p2pflows.local import LocalUser, LocalUsers

WAIT = 20.0
ASSISTANT = '''
"""An assistant that needs no model."""

from p2pflows import AtomicFlow, CallError


class Echo(AtomicFlow):
    """Says again what it hears, and remembers how often."""

    default_config = {"name": "Echo", "description": "Says it again."}

    def set_up_flow_state(self):
        super().set_up_flow_state()
        self.flow_state["heard"] = 0

    def run(self, input_message):
        if input_message.data["query"] == "fail":
            raise RuntimeError("out of words")
        self.flow_state["heard"] += 1
        return {"api_output": f"{self.flow_state['heard']}. {input_message.data['query']}!"}
'''
# The tutorial's own, as it is written there but for the imports.
TUTORIAL = """
from p2pflows import CompositeFlow
from p2pflows import FlowMessage
from p2pflows.interfaces import KeyInterface


class HumanToHuman(CompositeFlow):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_interface = KeyInterface(
            keys_to_rename={"human_input": "api_output"}
        )
        self.flow_state["last_state"] = None

    def call_user(self, user, input_message: FlowMessage):
        message = self.input_interface(input_message)
        message = self.package_input_message(data=message.data)

        self.subflows[user].get_reply(message)

    def run(self, input_message: FlowMessage):
        last_state = self.flow_state["last_state"]

        if last_state is None or last_state == "User2":
            self.call_user(user="User1", input_message=input_message)
            self.flow_state["last_state"] = "User1"

        elif last_state == "User1":
            self.call_user(user="User2", input_message=input_message)
            self.flow_state["last_state"] = "User2"
"""
TUTORIAL_CONFIG = """
name: Human2HumanInteractiveFlow
description: Flow that enables chatting between two Human users.
_target_: HumanToHumanFlowModule.HumanToHuman.HumanToHuman.instantiate_from_default_config
subflows_config:
  User1:
    name: User1
    description: A flow that represents the first user.
    flow_endpoint: User
    user_id: local
  User2:
    name: User2
    description: A flow that represents the second user.
    flow_endpoint: User
    user_id: "???"
"""


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUsers]:
    """Alice, who serves all flows, and bob, who is only a human."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "echo_of_humans.py").write_text(ASSISTANT)
    (folder / "HumanToHumanFlowModule").mkdir()
    (folder / "HumanToHumanFlowModule" / "HumanToHuman.py").write_text(TUTORIAL)
    (folder / "HumanToHumanFlowModule" / "HumanToHuman.yaml").write_text(TUTORIAL_CONFIG)
    with contextlib.chdir(folder), start_local(2) as users:
        alice = users[0]
        for class_name, endpoint in (
            ("echo_of_humans.Echo", "Assistant"),
            ("p2pflows.humans.ChatHumanFlowModule", "InteractiveChat"),
            ("p2pflows.humans.HumanToHuman", "HumanToHuman"),
            ("HumanToHumanFlowModule.HumanToHuman.HumanToHuman", "Human2Human"),
        ):
            serving.serve_flow(alice, flow_class_name=class_name, flow_endpoint=endpoint)
        serving.serve_flow(alice, "p2pflows.humans.HumanFlow", "Planner", parallel_dispatch=True)
        yield users


@pytest.fixture
def alice(users: LocalUsers) -> Iterator[LocalUser]:
    """The user who serves and calls, with a worker."""
    with run_dispatch_worker_thread(users[0]):
        yield users[0]
        for prompt in users[0].inbox():
            users[0].request("decline_all", user=prompt["from"])


@pytest.fixture
def bob(users: LocalUsers) -> Iterator[LocalUser]:
    """The neighbour."""
    yield users[1]
    for prompt in users[1].inbox():
        users[1].request("decline_all", user=prompt["from"])


def wait_for_prompt(user: LocalUser, text: str) -> dict[str, Any]:
    """Wait for the open prompt with this text."""
    wait_until(lambda: any(prompt["text"] == text for prompt in user.inbox()), WAIT)
    (prompt,) = [prompt for prompt in user.inbox() if prompt["text"] == text]
    return prompt


def has_open_prompt(user: LocalUser, conversation: str) -> bool:
    """Whether a prompt of a conversation is open."""
    return any(prompt["conversation"] == conversation for prompt in user.inbox())


def answer(user: LocalUser, text: str, *, to: str) -> dict[str, Any]:
    """Answer the prompt with this text; returns the prompt."""
    prompt = wait_for_prompt(user, to)
    user.answer(prompt["id"], text)
    return prompt


def kick_off(proxy: FlowProxy, **data: Any) -> FlowFuture:
    """Start an interaction."""
    return proxy.get_reply_future(proxy.package_input_message(data))


def chat(user: LocalUser, **config: Any) -> FlowProxy:
    """An instance of the chat between a human and an assistant."""
    return serving.get_flow_instance(user, flow_endpoint="InteractiveChat", config_overrides=config)


def pair(alice: LocalUser, bob: LocalUser, endpoint: str = "HumanToHuman", **config: Any) -> FlowProxy:
    """An instance of a conversation between alice and bob, with bob's id set as in the tutorial."""
    overrides = {"subflows_config": {"User2": {"user_id": bob.user_id}}, **config}
    return serving.get_flow_instance(cl=alice, flow_endpoint=endpoint, config_overrides=overrides)


def test_a_human_chats_with_an_assistant(alice: LocalUser) -> None:
    """Questions and answers alternate until the end word, the assistant keeps its state, and the first call ends."""
    ended = kick_off(chat(alice), id=0, query="I want to ask you a few questions")
    prompt = answer(alice, "What is a flow?", to="1. I want to ask you a few questions!")
    assert (prompt["label"], prompt["name"], prompt["wants_answer"]) == ("User", "me", True)
    answer(alice, "Thanks <end>", to="2. What is a flow?!")
    assert ended.get_data(WAIT) == {
        "end_of_interaction": True,
        "reason": "end_word",
        "explanation": "User ended the chat.",
        "user_inputs": ["What is a flow?", "Thanks <end>"],
        "assistant_outputs": ["1. I want to ask you a few questions!", "2. What is a flow?!"],
        "rounds": 2,
    }


def test_a_chat_kicked_off_as_in_the_tutorial(alice: LocalUser) -> None:
    """After `send_message`, with nobody who waits for the end, the human is asked all the same."""
    proxy = chat(alice)
    proxy.send_message(proxy.package_input_message({"id": 0, "query": "Nobody waits"}))
    answer(alice, "<END>", to="1. Nobody waits!")
    ended = kick_off(proxy, query="Now somebody does")
    answer(alice, "<END>", to="2. Now somebody does!")
    assert ended.get_data(WAIT)["rounds"] == 1


def test_a_neighbours_human_is_the_user_of_a_chat(alice: LocalUser, bob: LocalUser) -> None:
    """An override can make any user the human of a chat."""
    ended = kick_off(chat(alice, subflows_config={"User": {"user_id": bob.user_id}}), query="Bob?")
    prompt = answer(bob, "<END>", to="1. Bob?!")
    assert (prompt["name"], prompt["label"]) == ("alice", "User")
    assert ended.get_data(WAIT)["end_of_interaction"] is True


def test_rounds_are_counted(alice: LocalUser) -> None:
    """After `max_rounds` the chat ends, and nobody is asked again."""
    ended = kick_off(chat(alice, max_rounds=2), query="Twice")
    answer(alice, "once", to="1. Twice!")
    conversation = answer(alice, "twice", to="2. once!")["conversation"]
    result = ended.get_data(WAIT)
    assert (result["end_of_interaction"], result["reason"], result["rounds"]) == (False, "max_rounds", 2)
    assert not has_open_prompt(alice, conversation)


def test_a_human_declines_or_is_late(alice: LocalUser) -> None:
    """A human who declines or is late ends the chat with a reason; then the instance takes another first call."""
    proxy = chat(alice, human_timeout=0.5)
    late = kick_off(proxy, query="Quick")
    assert late.get_data(WAIT)["reason"] == "deadline"
    proxy = chat(alice)
    declined = kick_off(proxy, query="Well")
    alice.decline(wait_for_prompt(alice, "1. Well!")["id"], "Not now.")
    result = declined.get_data(WAIT)
    assert (result["end_of_interaction"], result["reason"]) == (True, "declined")
    assert "Not now." in result["explanation"]
    again = kick_off(proxy, query="And now")
    answer(alice, "<END>", to="2. And now!")
    assert again.get_data(WAIT)["reason"] == "end_word"


def test_an_assistant_that_fails_ends_the_chat(alice: LocalUser) -> None:
    """The error of an assistant ends the chat with its kind; then the instance takes another first call."""
    proxy = chat(alice)
    with pytest.raises(FlowFailed, match="out of words"):
        kick_off(proxy, query="fail").get_data(WAIT)
    ended = kick_off(proxy, query="Go on")
    answer(alice, "fail", to="1. Go on!")
    with pytest.raises(FlowFailed, match="out of words"):
        ended.get_data(WAIT)


def test_a_second_kick_off_is_refused(alice: LocalUser) -> None:
    """A second first call gets a clear error, and the first chat goes on."""
    proxy = chat(alice)
    first = kick_off(proxy, query="First")
    wait_for_prompt(alice, "1. First!")
    with pytest.raises(FlowFailed, match="in an interaction already"):
        kick_off(proxy, query="Second").get_data(WAIT)
    answer(alice, "<END>", to="1. First!")
    assert first.get_data(WAIT)["rounds"] == 1


def test_a_caller_sets_the_end_word_and_never_the_humans(alice: LocalUser, bob: LocalUser) -> None:
    """A caller who is not the owner may set the end word, but not who is asked."""
    get = partial(serving.get_flow_instance, bob, "InteractiveChat", alice.user_id)
    with pytest.raises(NotAllowed, match="subflows_config"):
        get({"subflows_config": {"User": {"user_id": "local"}}})
    proxy = get({"end_of_interaction_string": "bye"})
    ended = kick_off(proxy, query="Hi alice")
    answer(alice, "Bye bob", to="1. Hi alice!")
    assert ended.get_data(WAIT)["user_inputs"] == ["Bye bob"]


def test_two_humans_talk_until_one_ends_it(alice: LocalUser, bob: LocalUser) -> None:
    """Each human is asked what the other said; the last words arrive as a note, and the caller gets the transcript."""
    ended = kick_off(pair(alice, bob), id=0, api_output="Let's start chatting.")
    assert answer(alice, "Hi bob", to="Let's start chatting.")["label"] == "User1"
    assert answer(bob, "Hi alice", to="Hi bob")["label"] == "User2"
    answer(alice, "See you <END>", to="Hi alice")
    result = ended.get_data(WAIT)
    assert result["reason"] == "end_word"
    assert [(line["user"], line["text"]) for line in result["transcript"]] == [
        ("User1", "Hi bob"),
        ("User2", "Hi alice"),
        ("User1", "See you <END>"),
    ]
    note = wait_for_prompt(bob, "See you <END>\n\n(This is the end. User1 ended the talk.)")
    assert (note["wants_answer"], note["data"]["end_of_interaction"]) == (False, True)
    assert not has_open_prompt(alice, note["conversation"])


def test_two_humans_and_one_declines(alice: LocalUser, bob: LocalUser) -> None:
    """When one human declines, the other gets a note, and the caller gets the reason."""
    ended = kick_off(pair(alice, bob, max_rounds=5), api_output="Shall we?")
    answer(alice, "I would", to="Shall we?")
    bob.decline(wait_for_prompt(bob, "I would")["id"], "I am out.")
    result = ended.get_data(WAIT)
    assert (result["end_of_interaction"], result["reason"], result["rounds"]) == (True, "declined", 0)
    note = wait_for_prompt(alice, f"(This is the end. {result['explanation']})")
    assert note["wants_answer"] is False
    assert not has_open_prompt(bob, note["conversation"])


def test_the_tutorials_composite_works_unchanged(alice: LocalUser, bob: LocalUser) -> None:
    """The tutorial's HumanToHuman passes on what each human says, for as long as they like."""
    human2human_chat = pair(alice, bob, "Human2Human")
    input_message = human2human_chat.package_input_message({"id": 0, "api_output": "Let's start."})
    human2human_chat.send_message(input_message)
    answer(alice, "one", to="Let's start.")
    answer(bob, "two", to="one")
    answer(alice, "three <END>", to="two")
    assert wait_for_prompt(bob, "three <END>")["label"] == "User2"


def test_a_human_is_asked_by_a_template(alice: LocalUser) -> None:
    """HumanFlow words its questions, even several at once, and returns what the human says or that they declined."""
    template = {"template": "Plan for {{goal}}, please.", "input_variables": ["goal"]}
    serving.serve_flow(
        alice,
        "p2pflows.humans.HumanFlow",
        "Planner",
        parallel_dispatch=True,
        config={"query_message_prompt_template": template},
    )
    planner = serving.get_flow_instance(alice, "Planner")
    futures = {goal: kick_off(planner, goal=goal) for goal in ("tea", "war", "cake")}
    wait_until(lambda: len(alice.inbox()) == len(futures), WAIT)
    prompts = {prompt["text"]: prompt["id"] for prompt in alice.inbox()}
    alice.decline(prompts["Plan for war, please."])
    alice.answer(prompts["Plan for cake, please."], "Bake it.")
    alice.answer(prompts["Plan for tea, please."], "Boil water.")
    assert futures["tea"].get_data(WAIT) == {"human_input": "Boil water."}
    assert futures["cake"].get_data(WAIT) == {"human_input": "Bake it."}
    with pytest.raises(Declined):
        futures["war"].get_data(WAIT)


def test_a_talk_goes_on_with_another_worker(users: LocalUsers, bob: LocalUser) -> None:
    """The next worker takes answers that come while no worker runs; nobody is asked twice."""
    alice = users[0]
    with run_dispatch_worker_thread(alice):
        ended = kick_off(pair(alice, bob), api_output="Restart?")
        wait_for_prompt(alice, "Restart?")
    answer(alice, "I stay", to="Restart?")
    with run_dispatch_worker_thread(alice):
        conversation = wait_for_prompt(bob, "I stay")["conversation"]
    answer(bob, "Me too <END>", to="I stay")
    with run_dispatch_worker_thread(alice):
        result = ended.get_data(WAIT)
    assert [line["text"] for line in result["transcript"]] == ["I stay", "Me too <END>"]
    for user, questions in ((alice, 2), (bob, 1)):
        prompts = [prompt for prompt in user.inbox(all=True) if prompt["conversation"] == conversation]
        assert len(prompts) == questions, prompts
    for prompt in alice.inbox():
        alice.dismiss(prompt["id"])


def test_conversations_are_remembered(alice: LocalUser, bob: LocalUser) -> None:
    """The list of conversations shows who asked whom, the label, the last text and what waits, but no inner calls."""
    ended = kick_off(pair(alice, bob), api_output="Remember?")
    answer(alice, "I do", to="Remember?")
    open_one = conversation_of(bob, wait_for_prompt(bob, "I do")["conversation"])
    assert open_one["open"] == 1
    assert (open_one["way"], open_one["name"], open_one["label"]) == ("asked", "alice", "User2")
    assert (open_one["text"], open_one["by"]) == ("I do", "them")
    answer(bob, "Forget it <END>", to="I do")
    ended.get_data(WAIT)
    wait_for_prompt(alice, "Forget it <END>\n\n(This is the end. User2 ended the talk.)")
    answered = conversation_of(bob, open_one["conversation"])
    assert (answered["open"], answered["text"], answered["by"]) == (0, "Forget it <END>", "me")
    known = alice.request("conversations")["conversations"]
    ways = {(each["way"], each["endpoint"]) for each in known if each["conversation"] == open_one["conversation"]}
    assert ways == {("asking", "HumanToHuman"), ("asked", "User")}
    assert not any(each["endpoint"].startswith("_") for each in known)
    assert len(alice.request("conversations", limit=1)["conversations"]) == 1


def conversation_of(user: LocalUser, conversation: str) -> dict[str, Any]:
    """The listed conversation with this id."""
    (found,) = [each for each in user.request("conversations")["conversations"] if each["conversation"] == conversation]
    return dict(found)


def test_a_chat_is_resumed(alice: LocalUser, bob: LocalUser) -> None:
    """`chat --resume` continues a conversation for the neighbour, and first shows what came meanwhile."""
    with in_background(lambda: answer(bob, "Fine", to="How are you?")):
        assert run(alice.home, "chat", "bob", "--timeout", "60", stdin="How are you?\n").out == "bob: Fine\n"
    (first,) = [prompt for prompt in bob.inbox(all=True) if prompt["text"] == "How are you?"]
    meanwhile = {"address": "bob/User", "data": {"text": "Still fine?"}, "conversation": first["conversation"]}
    alice.request("submit", **meanwhile)
    answer(bob, "Still fine", to="Still fine?")
    wait_until(lambda: conversation_of(alice, first["conversation"])["text"] == "Still fine", WAIT)
    with in_background(lambda: answer(bob, "Bye", to="Good.")):
        resumed = run(alice.home, "chat", "bob/User", "--resume", stdin="Good.\n")
    assert resumed.out == "bob: Still fine\nbob: Bye\n"
    assert {prompt["conversation"] for prompt in bob.inbox(all=True) if prompt["text"] in ("Good.", "Still fine?")} == {
        first["conversation"]
    }
    listed = run(bob.home, "chat", "--list", "--json").document
    assert listed[0]["text"] == "Bye"


@contextlib.contextmanager
def in_background(act: Callable[[], object]) -> Iterator[None]:
    """Run a function in a thread while the block runs."""
    thread = threading.Thread(target=act)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_a_human_answers_a_whole_talk_in_one_terminal(alice: LocalUser, bob: LocalUser) -> None:
    """`chat --answer` shows each question and who asks, takes a line as its answer, and ends with its input."""
    arguments, environment = command(bob.home, "chat", "--answer")
    ended = kick_off(pair(alice, bob, max_rounds=2), api_output="In one terminal?")
    with subprocess.Popen(
        arguments, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sys.stderr
    ) as answering:
        assert answering.stdin is not None
        answering.stdin.write(b"Bob says one\nBob says two\n")
        answering.stdin.close()
        answer(alice, "Alice says one", to="In one terminal?")
        answer(alice, "Alice says two", to="Bob says one")
        assert ended.get_data(WAIT)["rounds"] == 2
        assert answering.wait(WAIT) == 0
        assert answering.stdout is not None
        shown = answering.stdout.read().decode()
    who = "alice, flow HumanToHuman (User2)"
    assert shown.startswith(f"{who}: Alice says one\n{who}: Alice says two\n")
