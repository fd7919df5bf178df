"""A model that calls other flows and people before it answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest
from support.model_server import Answers, ModelServer, Says
from support.scripted_run import BOB, Memory, ScriptedRun, Sent, incoming

from p2pflows.errors import CallError, Cancelled, DeadlinePassed, Declined, FlowFailed, UsageError
from p2pflows.flows.config import effective_config
from p2pflows.flows.flow import build, dump_state, invoke
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Target
from p2pflows.models.api_info import ApiInfo
from p2pflows.models.flow import ChatAtomicFlow
from p2pflows.models.keyring import Keyring
from p2pflows.models.tools import MAX_CALLS_AT_ONCE, MAX_RESULT_CHARS

Reaction = dict[str, Any] | CallError
SEARCH = {"description": "Finds.", "parameters": {"type": "object", "properties": {"text": {"type": "string"}}}}


class AnsweringRun(ScriptedRun):
    """A run whose calls end at once, as a test says."""

    def __init__(self, react: Callable[[Sent], Reaction], memory: Memory | None = None) -> None:
        super().__init__(memory=memory)
        self._react = react

    def call(
        self, target: Target, message: FlowMessage, *, timeout: float | None, subflow: str, progress: bool = False
    ) -> Future[CallResult]:
        """Answer a call that is new."""
        known = len(self.memory.calls)
        pending = super().call(target, message, timeout=timeout, subflow=subflow, progress=progress)
        if len(self.memory.calls) > known:
            reaction = self._react(self.memory.calls[-1][0])
            error = reaction if isinstance(reaction, CallError) else None
            data = {} if isinstance(reaction, CallError) else reaction
            pending.set_result(CallResult("1" * 32, target.user, data, error))
        return pending


class Assistant:
    """A chat with the tool `search`, and the owner whom it can ask."""

    def __init__(self, server: ModelServer, **config: Any) -> None:
        self.server = server
        self.sent: list[tuple[str, Any]] = []
        """The calls of tools: the key of the subflow and the data."""
        self.reaction: Reaction = {"text": "found it"}
        settings = {
            "name": "tester",
            "subflows_config": {
                "search": {"user_id": BOB, "flow_endpoint": "Search"},
                "owner": {"user_id": "local", "flow_endpoint": "User"},
            },
            "tools": {"search": SEARCH},
            **config,
        }
        self.config = effective_config(ChatAtomicFlow, settings)
        ChatAtomicFlow.check_config(self.config)
        self.run = AnsweringRun(self._react)
        self.state: dict[str, Any] = {}

    def ask(self, query: str = "Where?", memory: Memory | None = None) -> dict[str, Any]:
        """Ask, and return the data of the answer."""
        self.run = AnsweringRun(self._react, memory)
        subflows = {"search": Target(BOB, "Search"), "owner": Target(self.run.user, "User")}
        flow = build(ChatAtomicFlow, self.config, subflows=subflows, run=self.run, state=None)
        flow.set_api_infos(Keyring([ApiInfo(api_key="sk-0123456789", api_base=self.server.url)]))
        assert invoke(flow, incoming({"query": query}, user=BOB)) is None
        self.state = json.loads(dump_state(flow))
        [(_, answer)] = self.run.replies
        return answer

    def _react(self, sent: Sent) -> Reaction:
        self.sent.append((sent.subflow, sent.message.data))
        return self.reaction


def wants(*calls: tuple[str, str], text: str | None = None) -> Answers:
    """A whole answer that calls tools."""
    parts = [
        {"id": f"c{number}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for number, (name, arguments) in enumerate(calls)
    ]
    message = {"role": "assistant", "content": text, "tool_calls": parts}
    usage = {"prompt_tokens": 10, "completion_tokens": 5}
    return Answers({"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": usage})


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server."""
    with ModelServer() as running:
        yield running


def results(server: ModelServer) -> list[str]:
    """What the model was told by its tools in the last request."""
    return [message["content"] for message in server.requests[-1].body["messages"] if message["role"] == "tool"]


def test_a_tool_is_called_and_its_result_goes_to_the_model(server: ModelServer) -> None:
    """The model sees what the tool takes; the conversation keeps the question and the answer only."""
    server.script(wants(("search", '{"text": "frog"}'), text="Let me see."), "In the pond.")
    assistant = Assistant(server, tool_transcript=True)
    answer = assistant.ask()
    assert (answer["api_output"], answer["attempts"]) == ("In the pond.", 2)
    assert assistant.sent == [("search", {"text": "frog"})]
    first, second = (request.body for request in server.requests)
    assert first["tools"] == [{"type": "function", "function": {"name": "search", **SEARCH}}]
    assert second["messages"][-2]["tool_calls"][0]["id"] == second["messages"][-1]["tool_call_id"] == "c0"
    assert results(server) == ["found it"]
    assert answer["tool_calls"] == [{"tool": "search", "arguments": '{"text": "frog"}', "result": "found it"}]
    assert [message["role"] for message in assistant.state["previous_messages"]] == ["system", "user", "assistant"]


def test_calls_that_come_in_pieces(server: ModelServer) -> None:
    """As streams bring them: several side by side, with ids or without, and a reason that does not name them."""

    def chunk(*calls: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}, "finish_reason": reason}]}

    pieces = (
        chunk({"index": 0, "id": "a", "function": {"name": "search", "arguments": '{"te'}}),
        chunk({"index": 1, "function": {"name": "search"}}, {"index": 0, "function": {"arguments": 'xt": "x"}'}}),
        chunk({"index": 1, "function": {"arguments": '{"text": "y"}'}}),
        chunk(reason="stop"),
    )
    server.script(Answers(chunks=pieces), "Done.")
    assistant = Assistant(server)
    assert assistant.ask()["api_output"] == "Done."
    assert [data["text"] for _, data in assistant.sent] == ["x", "y"]
    calls = server.requests[1].body["messages"][-3]["tool_calls"]
    assert [call["id"] for call in calls] == ["a", "call_1"]


def test_a_run_that_begins_again_calls_no_tool_twice(server: ModelServer) -> None:
    """Wherever its worker died: what was asked and answered is recorded."""
    server.script(wants(("search", "{}")), wants(("search", '{"text": "more"}')), "Done.")
    assistant, memory = Assistant(server), Memory()
    assert assistant.ask(memory=memory)["api_output"] == "Done."
    asked, sent = len(server.requests), list(assistant.sent)
    assert assistant.ask(memory=memory)["api_output"] == "Done."
    assert (len(server.requests), assistant.sent) == (asked, sent)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("nothing", "{}"), "there is no tool 'nothing'; there are: search"),
        (("search", "{"), "the arguments are not a JSON object"),
        (("search", "[1]"), "the arguments are not a JSON object"),
        (("search", "[" * 100_000), "the arguments are not a JSON object"),
    ],
)
def test_what_cannot_be_called_is_told_to_the_model(server: ModelServer, call: tuple[str, str], told: str) -> None:
    """It may do better the next time."""
    server.script(wants(call), "Sorry.")
    assistant = Assistant(server)
    assert assistant.ask()["api_output"] == "Sorry."
    assert results(server) == [f"Error: {told}."]
    assert assistant.sent == []


def test_a_tool_may_have_less_time_than_the_question(server: ModelServer) -> None:
    """The call itself ends then, and the model goes on without it."""
    server.script(wants(("search", "{}")), "Too slow.")
    assistant = Assistant(server, tools={"search": {"timeout": 5}})
    assistant.reaction = DeadlinePassed("No answer came in time.")
    assert assistant.ask()["api_output"] == "Too slow."
    assert [sent.timeout for sent, _ in assistant.run.memory.calls] == [5]
    assert results(server) == ["Error (deadline): No answer came in time."]


def test_the_error_of_a_tool_is_told_to_the_model(server: ModelServer) -> None:
    """And does not end the run."""
    server.script(wants(("search", "{}")), "It is broken.")
    assistant = Assistant(server)
    assistant.reaction = FlowFailed("No disk.")
    assert assistant.ask()["api_output"] == "It is broken."
    assert results(server) == ["Error (flow_failed): No disk."]


def test_a_run_that_is_withdrawn_asks_the_model_nothing_more(server: ModelServer) -> None:
    """What looks like an error of the tool is the end of the run."""
    server.script(wants(("search", "{}")), "Never.")
    assistant = Assistant(server)
    assistant.reaction = Cancelled("The run was withdrawn while it waited.")

    def time_left(_run: object) -> float:
        if assistant.sent:
            raise Cancelled("It was withdrawn.")
        return 60.0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptedRun, "time_left", time_left)
        with pytest.raises(Cancelled):
            assistant.ask()
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reaction", "told"),
    [
        ({"human_input": "yes", "value": True}, "found"),
        ({"human_input": "no", "value": False}, "does not want it to run"),
        (Declined("Not now."), "does not want it to run"),
    ],
)
def test_the_owner_is_asked_before_a_tool_runs(server: ModelServer, reaction: Reaction, told: str) -> None:
    """With what it would do, and for whom; without a yes, nothing happens."""
    server.script(wants(("search", '{"text": "frog"}')), "Done.")
    assistant = Assistant(server, tools={"search": {"confirm": "owner"}})

    def react(sent: Sent) -> Reaction:
        assistant.sent.append((sent.subflow, sent.message.data))
        return reaction if sent.subflow == "owner" else {"result": "found"}

    assistant._react = react  # type: ignore[method-assign]
    assistant.ask()
    assert told in results(server)[0]
    question = assistant.sent[0][1]["api_output"]
    assert 'search with {"text": "frog"}' in question
    assert f"for user {BOB[:8]}" in question
    assert [key for key, _ in assistant.sent] == (["owner", "search"] if told == "found" else ["owner"])


def test_rounds_and_tokens_are_bounded(server: ModelServer) -> None:
    """A model that never answers costs no more than its owner wants."""
    for limit, asked in (({"tool_rounds": 2}, 3), ({"tool_tokens": 20}, 2)):
        server.script(*[wants(("search", "{}"))] * asked)
        server.requests.clear()
        with pytest.raises(FlowFailed, match="without an answer"):
            Assistant(server, **limit).ask()
        assert len(server.requests) == asked


def test_calls_and_results_are_bounded(server: ModelServer) -> None:
    """One answer starts a limited number of calls, and each result takes limited room in the conversation."""
    server.script(wants(*[("search", "{}")] * (MAX_CALLS_AT_ONCE + 2)), "Done.")
    assistant = Assistant(server)
    assistant.reaction = {"text": "x" * (2 * MAX_RESULT_CHARS)}
    assistant.ask()
    assert len(assistant.sent) == MAX_CALLS_AT_ONCE
    told = results(server)
    assert [len(each) for each in told[:MAX_CALLS_AT_ONCE]] == [MAX_RESULT_CHARS] * MAX_CALLS_AT_ONCE
    assert all(f"only {MAX_CALLS_AT_ONCE} calls" in each for each in told[MAX_CALLS_AT_ONCE:])


@pytest.mark.parametrize(
    ("data", "read"),
    [
        ({"api_output": "Hi", "finish_reason": "stop", "usage": {}, "model": "m", "attempts": 1, "trimmed": 0}, "Hi"),
        ({"human_input": "Yes"}, "Yes"),
        ({"n": 1}, '{"n": 1}'),
        ({"text": "Grüße", "n": 1}, '{"text": "Grüße", "n": 1}'),
        ({"model": "T"}, '{"model": "T"}'),
    ],
)
def test_a_result_is_read_as_text_where_it_is_one(server: ModelServer, data: dict[str, Any], read: str) -> None:
    """Else as JSON; what another model says about itself is left out."""
    server.script(wants(("search", "{}")), "Done.")
    assistant = Assistant(server)
    assistant.reaction = data
    assistant.ask()
    assert results(server) == [read]


def test_an_answer_after_tools_may_have_to_be_data(server: ModelServer) -> None:
    """It is asked for again after a wrong one, with what the tools have said."""
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    server.script(wants(("search", "{}")), "two", '{"n": 2}')
    assert Assistant(server, output_schema=schema).ask()["api_output"] == {"n": 2}
    assert results(server) == ["found it"]


def test_a_server_that_knows_no_tools_answers_in_words(server: ModelServer) -> None:
    """That is all that it can do."""
    server.script(Says(("I cannot look.",)))
    assistant = Assistant(server)
    assert assistant.ask()["api_output"] == "I cannot look."
    assert assistant.sent == []


@pytest.mark.parametrize(
    ("config", "wrong"),
    [
        ({"tools": {"other": {}}}, "has no flow"),
        ({"tools": {"search": {"confirm": "bob"}}}, "tools"),
        ({"tools": {"search": {"describes": "x"}}}, "tools"),
        ({"tools": ["search"]}, "tools"),
        ({"tools": {"sea rch": {}}, "subflows_config": {"sea rch": {"flow_endpoint": "X"}}}, "no name of a tool"),
        ({"backend": {"n": 2}}, "one answer"),
        ({"tool_rounds": 0}, "tool_rounds"),
    ],
)
def test_wrong_settings_are_refused_when_they_are_made(server: ModelServer, config: dict[str, Any], wrong: str) -> None:
    """Not at the first question."""
    with pytest.raises(UsageError, match=wrong):
        Assistant(server, **config)


def test_an_owner_who_cannot_be_asked_is_a_wrong_setting() -> None:
    """The error says what is missing."""
    settings = {
        "name": "tester",
        "subflows_config": {"search": {"flow_endpoint": "Search"}},
        "tools": {"search": {"confirm": "owner"}},
    }
    with pytest.raises(UsageError, match="Nobody can be asked") as refused:
        ChatAtomicFlow.check_config(effective_config(ChatAtomicFlow, settings))
    assert "flow_endpoint: User" in refused.value.hint
