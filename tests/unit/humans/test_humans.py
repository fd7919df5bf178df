"""Flows with humans: turns, ends, what the kick-off is answered, and messages that change nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.scripted_run import ALICE, BOB, ScriptedRun, Sent, answer_to, incoming

from p2pflows import humans
from p2pflows.errors import BadInput, CallError, Declined, FlowFailed, NotServed, Unreachable, UsageError, from_kind
from p2pflows.flows.config import effective_config
from p2pflows.flows.flow import Flow, build, dump_state, invoke
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import Target
from p2pflows.humans import ChatHumanFlow, HumanFlow, HumanToHuman
from p2pflows.humans.interaction import MAX_HISTORY_BYTES, Interaction

CHAT = {"Assistant": Target(BOB, "Assistant"), "User": Target(ALICE, "User")}
PAIR = {"User1": Target(ALICE, "User"), "User2": Target(BOB, "User")}
TALKING = {"subflows_config": {"User2": {"user_id": BOB}}}


class Talk:
    """One instance over many messages: each message runs a new object, and only the stored state remains between them.

    Attributes:
        asked: the questions of the last run that ended well.
        posts: all messages that want no answer.
        replies: all answers.
    """

    def __init__(self, flow_class: type[Interaction], **config: Any) -> None:
        self._class = flow_class
        self._config = effective_config(flow_class, {**(TALKING if flow_class is HumanToHuman else {}), **config})
        self._targets = PAIR if flow_class is HumanToHuman else CHAT
        self.state: bytes | None = None
        self.asked: list[Sent] = []
        self.posts: list[Sent] = []
        self.replies: list[tuple[str, dict[str, Any]]] = []
        self.errors: list[tuple[str, CallError]] = []

    def takes(self, message: FlowMessage) -> None:
        """Run on a message; an error leaves everything unchanged."""
        run = ScriptedRun()
        flow = build(self._class, self._config, subflows=self._targets, run=run, state=self.state)
        invoke(flow, message)
        self.state = dump_state(flow)
        self.asked = run.call_backs
        self.posts += run.posts
        self.replies += run.replies
        self.errors += run.errors

    def hears(self, subflow: str, **data: Any) -> None:
        """Let the one who was asked answer."""
        (sent,) = self.asked
        assert sent.subflow == subflow
        self.takes(answer_to(sent, data))

    def fails(self, error: CallError) -> None:
        """Let the one who was asked give no answer."""
        (sent,) = self.asked
        self.takes(answer_to(sent, {}, error))

    @property
    def question(self) -> tuple[str, dict[str, Any]]:
        """Return who is asked what."""
        (sent,) = self.asked
        return sent.subflow, sent.message.data

    @property
    def end(self) -> dict[str, Any]:
        """Return what the kick-off was answered."""
        ((request, data),) = self.replies
        assert request == "request"
        return data

    @property
    def error(self) -> CallError:
        """Return the error that the kick-off was answered."""
        ((request, error),) = self.errors
        assert request == "request"
        return error


# A human and an assistant.


def test_a_chat_goes_back_and_forth_until_the_end_word() -> None:
    """Query, answer and human input are passed on in turns until the end words; then the kick-off is answered."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"id": 0, "query": "I want to ask you a few questions"}))
    assert talk.question == ("Assistant", {"id": 0, "query": "I want to ask you a few questions"})
    talk.hears("Assistant", api_output="Go ahead.", tokens=3)
    assert talk.question == ("User", {"api_output": "Go ahead.", "tokens": 3})
    talk.hears("User", human_input="What is 2 + 2?")
    assert talk.question == ("Assistant", {"query": "What is 2 + 2?"})
    talk.hears("Assistant", api_output="4")
    talk.hears("User", human_input="Thanks. <end>")
    assert talk.asked == []
    assert talk.end == {
        "end_of_interaction": True,
        "reason": "end_word",
        "explanation": "User ended the chat.",
        "user_inputs": ["What is 2 + 2?", "Thanks. <end>"],
        "assistant_outputs": ["Go ahead.", "4"],
        "rounds": 2,
    }


def test_a_chat_may_be_kicked_off_by_an_output_and_again_after_its_end() -> None:
    """`api_output` counts as the query; a second interaction starts without anything of the first."""
    talk = Talk(ChatHumanFlow, end_of_interaction_string="bye")
    for number in range(2):
        talk.takes(incoming({"api_output": "Hello"}, request=f"request {number}"))
        assert talk.question == ("Assistant", {"query": "Hello"})
        talk.hears("Assistant", api_output="Yes?")
        talk.hears("User", human_input="Good BYE")
    assert [(request, data["user_inputs"]) for request, data in talk.replies] == [
        ("request 0", ["Good BYE"]),
        ("request 1", ["Good BYE"]),
    ]


def test_several_answers_of_an_assistant_are_put_as_one_question() -> None:
    """The human reads all answers of a model that sends several."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    talk.hears("Assistant", api_output=["One.", "Two."])
    assert talk.question == ("User", {"api_output": "One.\n\nTwo."})


def test_a_human_reads_what_the_assistant_says_and_not_what_it_cost() -> None:
    """What the model's server says of its answer is no part of the question; what else the assistant sends is."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "Hello"}))
    facts = {"finish_reason": "stop", "model": "m", "usage": {"tokens_in": 3}, "attempts": 2, "trimmed": 0}
    talk.hears("Assistant", api_output="Hi.", form={"type": "boolean"}, **facts)
    assert talk.question == ("User", {"api_output": "Hi.", "form": {"type": "boolean"}})


def test_a_chat_that_nobody_waits_for_goes_on_all_the_same() -> None:
    """A chat that a post has kicked off, as in the tutorial, runs to its end and sends no answer."""
    talk = Talk(ChatHumanFlow, max_rounds=1)
    talk.takes(incoming({"query": "?"}, request=None))
    talk.hears("Assistant", api_output="!")
    talk.hears("User", human_input="<END>")
    assert talk.replies == []
    talk.takes(incoming({"query": "again"}))


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_chat_ends_after_its_rounds(rounds: int) -> None:
    """The human has the last word, and the answer does not say that the human ended the chat."""
    talk = Talk(ChatHumanFlow, max_rounds=rounds)
    talk.takes(incoming({"query": "?"}))
    for _ in range(rounds):
        talk.hears("Assistant", api_output="!")
        talk.hears("User", human_input="?")
    assert (talk.end["end_of_interaction"], talk.end["reason"], talk.end["rounds"]) == (False, "max_rounds", rounds)
    assert talk.asked == []


@pytest.mark.parametrize("kind", ["declined", "deadline", "unreachable", "cancelled"])
def test_a_human_who_gives_no_answer_ends_the_chat(kind: str) -> None:
    """A human who declines or is late ends the chat, and the reason says so."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    talk.hears("Assistant", api_output="!")
    error = from_kind(kind, "Not today.")
    assert isinstance(error, CallError)
    talk.fails(error)
    assert (talk.end["end_of_interaction"], talk.end["reason"]) == (True, kind)
    assert talk.end["explanation"].endswith(": Not today.")
    assert talk.end["assistant_outputs"] == ["!"]
    assert talk.errors == []
    talk.takes(incoming({"query": "again"}))


def test_an_error_of_the_assistant_answers_the_kick_off() -> None:
    """The kick-off is answered with the kind and hint of the error, and the instance takes another kick-off."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    talk.fails(FlowFailed("It has no key.", "Give it one."))
    assert (talk.error.kind, talk.error.message) == ("flow_failed", "Assistant failed: It has no key.")
    assert talk.error.hint == "Give it one."
    talk.takes(incoming({"query": "again"}))


def test_a_human_who_cannot_be_asked_is_an_error() -> None:
    """A `User` that is not served is a mistake in the set-up, and not a human's decision."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    talk.hears("Assistant", api_output="!")
    talk.fails(NotServed("They do not serve 'User'."))
    assert talk.error.kind == "not_served"


@pytest.mark.parametrize("data", [{}, {"api_output": None}, {"api_output": []}, {"api_output": ["a", 1]}, {"x": "y"}])
def test_an_answer_without_a_text_is_an_error(data: dict[str, Any]) -> None:
    """A human is never asked a value that is not a text."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    talk.hears("Assistant", **data)
    assert talk.error.kind == "flow_failed"
    assert "'api_output'" in talk.error.message


def test_a_chat_too_long_to_be_kept_ends() -> None:
    """Before the state is too large to be stored, the chat ends with everything said so far."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "x" * 600_000}))
    long = "ä" * (MAX_HISTORY_BYTES // 5)
    while not talk.replies:
        talk.hears("Assistant", api_output=long)
        if not talk.replies:
            talk.hears("User", human_input=long)
    assert (talk.end["end_of_interaction"], talk.end["reason"]) == (False, "too_long")
    assert len(json.dumps(talk.end, ensure_ascii=False).encode()) < MAX_HISTORY_BYTES + 1_000


# What changes nothing.


def test_a_second_kick_off_is_refused_while_one_is_under_way() -> None:
    """The second kick-off is an error, and the interaction continues unchanged."""
    talk = Talk(ChatHumanFlow)
    talk.takes(incoming({"query": "?"}))
    with pytest.raises(FlowFailed, match="in an interaction already"):
        talk.takes(incoming({"query": "me too"}, request="other"))
    talk.hears("Assistant", api_output="!")
    with pytest.raises(FlowFailed, match="in an interaction already"):
        talk.takes(incoming({"query": "me too"}, request=None))
    talk.hears("User", human_input="<END>")
    assert talk.end["assistant_outputs"] == ["!"]


def test_an_answer_to_another_question_is_an_error() -> None:
    """An answer to an earlier question, of another subflow, or after a reset, changes no turn."""
    talk = Talk(HumanToHuman)
    talk.takes(incoming({"api_output": "Talk!"}))
    (first,) = talk.asked
    talk.hears("User1", human_input="Hi")
    (second,) = talk.asked
    for stray in (first, Sent(PAIR["User1"], second.message, "User1"), Sent(PAIR["User2"], first.message, "User2")):
        with pytest.raises(FlowFailed, match="It is the turn of User2"):
            talk.takes(answer_to(stray, {"human_input": "Hi again"}))
    with pytest.raises(FlowFailed, match="It is the turn of User2"):
        talk.takes(answer_to(first, {}, Declined("No.")))
    talk.state = None
    with pytest.raises(FlowFailed, match="Nobody is being asked"):
        talk.takes(answer_to(second, {"human_input": "Hi"}))


@given(st.data())
def test_a_talk_holds_what_was_said_in_turns_whatever_else_arrives(data: st.DataObject) -> None:
    """Stray answers, repeats and second kick-offs change neither whose turn it is nor the transcript."""
    talk = Talk(HumanToHuman)
    talk.takes(incoming({"api_output": "Talk!"}))
    old: list[Sent] = []
    said = data.draw(st.lists(st.text(st.characters(codec="ascii", exclude_characters="<"), min_size=1), max_size=6))
    for turn, text in enumerate(said):
        for stray in data.draw(st.lists(st.sampled_from(["kick-off", "repeat", "error"]), max_size=3)):
            before = talk.state, list(talk.asked)
            message = incoming({"api_output": "?"}) if stray == "kick-off" or not old else None
            message = message or answer_to(old[-1], {"human_input": "?"}, Declined("?") if stray == "error" else None)
            with pytest.raises(FlowFailed):
                talk.takes(message)
            assert (talk.state, talk.asked) == before
        old += talk.asked
        talk.hears(("User1", "User2")[turn % 2], human_input=text)
        assert talk.question == (("User2", "User1")[turn % 2], {"api_output": text})
    talk.hears(("User1", "User2")[len(said) % 2], human_input="<END>")
    assert [line["text"] for line in talk.end["transcript"]] == [*said, "<END>"]
    assert [line["user"] for line in talk.end["transcript"]] == (["User1", "User2"] * 4)[: len(said) + 1]


# Two humans.


def test_two_humans_talk_until_one_ends_it() -> None:
    """Each is asked what the other said; the other receives the last words with a note that needs no answer."""
    talk = Talk(HumanToHuman)
    talk.takes(incoming({"id": 0, "api_output": "Let's start chatting."}))
    assert talk.question == ("User1", {"api_output": "Let's start chatting."})
    talk.hears("User1", human_input="Hi, I am Alice.")
    assert talk.question == ("User2", {"api_output": "Hi, I am Alice."})
    talk.hears("User2", human_input="Bob here. I must go <End>")
    (note,) = talk.posts
    assert note.target == PAIR["User1"]
    assert note.message.data == {
        "api_output": "Bob here. I must go <End>\n\n(This is the end. User2 ended the talk.)",
        "end_of_interaction": True,
        "reason": "end_word",
    }
    assert talk.end == {
        "end_of_interaction": True,
        "reason": "end_word",
        "explanation": "User2 ended the talk.",
        "transcript": [
            {"user": "User1", "text": "Hi, I am Alice."},
            {"user": "User2", "text": "Bob here. I must go <End>"},
        ],
        "rounds": 1,
    }


def told(talk: Talk) -> list[str]:
    """Return who received a last message."""
    return sorted(sent.message.src_flow for sent in talk.posts)


def test_a_talk_ends_after_its_rounds_with_a_last_message_to_both() -> None:
    """Both receive a last message, as neither ended the talk; the last words go to the one who did not say them."""
    talk = Talk(HumanToHuman, max_rounds=1)
    talk.takes(incoming({"query": "Talk!"}))
    talk.hears("User1", human_input="One.")
    talk.hears("User2", human_input="Two.")
    assert (talk.end["end_of_interaction"], talk.end["reason"], talk.end["rounds"]) == (False, "max_rounds", 1)
    texts = {sent.message.src_flow: sent.message.data["api_output"] for sent in talk.posts}
    assert texts["User1"].startswith("Two.\n\n(This is the end.")
    assert texts["User2"].startswith("(This is the end.")


@pytest.mark.parametrize(
    ("error", "turns", "hear_of_it"),
    [
        (Declined("No."), 0, []),
        (Declined("No."), 1, ["User1"]),
        (from_kind("deadline", "Too late."), 1, ["User1", "User2"]),
        (Unreachable("He is offline."), 2, ["User1", "User2"]),
    ],
)
def test_a_talk_ends_when_one_gives_no_answer(error: CallError, turns: int, hear_of_it: list[str]) -> None:
    """All who took part receive a last message, except one who declined."""
    talk = Talk(HumanToHuman)
    talk.takes(incoming({"api_output": "Talk!"}))
    for turn in range(turns):
        talk.hears(("User1", "User2")[turn], human_input="Yes.")
    talk.fails(error)
    assert (talk.end["end_of_interaction"], talk.end["reason"]) == (True, error.kind)
    assert len(talk.end["transcript"]) == turns
    assert told(talk) == hear_of_it


def test_a_talk_begins_with_a_text() -> None:
    """A kick-off without a text is refused, and the next one is accepted."""
    talk = Talk(HumanToHuman)
    for data in ({}, {"api_output": " "}, {"api_output": 3}):
        with pytest.raises(BadInput):
            talk.takes(incoming(data))
    talk.takes(incoming({"text": "Talk!"}))
    assert talk.question == ("User1", {"api_output": "Talk!"})


# Settings.


@pytest.mark.parametrize(
    "config",
    [
        *({"max_rounds": value} for value in (0, -1, True, 1.5, "3")),
        *({"human_timeout": value} for value in (0, -1, True, "1m")),
        *({"end_of_interaction_string": value} for value in ("", " ", None, 3)),
    ],
)
def test_settings_that_mean_nothing_are_refused(config: dict[str, Any]) -> None:
    """An instance with such a config is never created; the error names the key."""
    with pytest.raises(UsageError, match=next(iter(config))):
        Talk(ChatHumanFlow, **config).takes(incoming({"query": "?"}))


def test_only_humans_have_a_human_timeout() -> None:
    """The config's timeout applies to a human's answer only."""
    talk = Talk(ChatHumanFlow, human_timeout=30)
    talk.takes(incoming({"query": "?"}))
    assert talk.asked[0].timeout is None
    talk.hears("Assistant", api_output="!")
    assert talk.asked[0].timeout == 30


def test_the_tutorials_name_is_the_same_class() -> None:
    """`ChatHumanFlowModule` is the tutorial's name for the class."""
    assert humans.ChatHumanFlowModule is ChatHumanFlow


# A human alone.


def asked_by(run: ScriptedRun, data: dict[str, Any], **config: Any) -> Any:
    """Run a HumanFlow on some data, and return what is to be awaited."""
    flow: Flow = build(
        HumanFlow, effective_config(HumanFlow, config), subflows={"User": CHAT["User"]}, run=run, state=None
    )
    return invoke(flow, incoming(data))


@pytest.mark.parametrize(
    ("data", "question"),
    [
        ({"query": "Tea?", "n": 1}, {"api_output": "Tea?", "n": 1}),
        ({"api_output": "Tea?", "query": "x"}, {"api_output": "Tea?", "query": "x"}),
        ({"prompt": "Tea?"}, {"prompt": "Tea?"}),
    ],
)
async def test_a_human_is_asked_and_answers(data: dict[str, Any], question: dict[str, Any]) -> None:
    """Without a template the input is the question, and the human's text is the answer."""
    run = ScriptedRun()
    going_on = asyncio.ensure_future(asked_by(run, data))
    await asyncio.sleep(0)
    run.answer(0, {"human_input": "Yes."})
    await going_on
    assert run.memory.calls[0][0].message.data == question
    assert run.replies == [("request", {"human_input": "Yes."})]


async def test_a_template_words_the_question() -> None:
    """The template renders the input; a missing variable is an error before anybody is asked."""
    template = {
        "template": "Plan for: {{goal}}{{mood}}",
        "input_variables": ["goal"],
        "partial_variables": {"mood": "!"},
    }
    run = ScriptedRun()
    going_on = asyncio.ensure_future(
        asked_by(run, {"goal": "tea"}, query_message_prompt_template=template, human_timeout=5)
    )
    await asyncio.sleep(0)
    run.fail(0, Declined("No."))
    with pytest.raises(Declined):
        await going_on
    (sent, _) = run.memory.calls[0]
    assert (sent.message.data, sent.timeout) == ({"api_output": "Plan for: tea!"}, 5)
    with pytest.raises(BadInput):
        await asked_by(ScriptedRun(), {}, query_message_prompt_template=template)


@pytest.mark.parametrize(
    "config",
    [{"query_message_prompt_template": "text"}, {"query_message_prompt_template": {"template": "{{ 7 ** 7 }}"}}],
)
def test_a_template_that_cannot_be_used_is_refused(config: dict[str, Any]) -> None:
    """The error comes when the instance is created."""
    with pytest.raises(UsageError):
        asked_by(ScriptedRun(), {}, **config)
