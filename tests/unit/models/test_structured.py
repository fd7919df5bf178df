"""Answers as data: the schema that a model is told, the check, and what happens to an answer that does not fit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field
from support.model_server import Fails, ModelServer, Says
from support.scripted_run import Memory, ScriptedRun, incoming

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.flows.config import effective_config
from p2pflows.flows.flow import build, dump_state, invoke
from p2pflows.models.api_info import ApiInfo
from p2pflows.models.flow import ChatAtomicFlow
from p2pflows.models.keyring import Keyring
from p2pflows.models.structured import NoFit, OutputSchema

PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "people": {"type": "integer", "minimum": 0}},
    "required": ["city", "people"],
    "additionalProperties": False,
}
GOOD = '{"city": "Bern", "people": 140000}'
BERN = {"city": "Bern", "people": 140000}


class Place(BaseModel):
    """A place."""

    city: str
    people: int = Field(ge=0)


class Guide(ChatAtomicFlow):
    """Answers a place."""

    output_model = Place
    default_config = {"name": "guide"}  # noqa: RUF012 - as authors write it


class Chat:
    """A chat whose answers are data."""

    def __init__(self, server: ModelServer, flow_class: type[ChatAtomicFlow] = ChatAtomicFlow, **config: Any) -> None:
        self.keyring = Keyring([ApiInfo(api_key="k", api_base=server.url)])
        self.flow_class = flow_class
        given = {"name": "tester", **({} if flow_class is Guide else {"output_schema": PLACE}), **config}
        self.config = effective_config(flow_class, given)
        flow_class.check_config(self.config)
        self.state: bytes | None = None
        self.run = ScriptedRun()

    def say(self, query: str, memory: Memory | None = None) -> dict[str, Any]:
        """Ask, and return the whole answer."""
        self.run = ScriptedRun(memory=memory)
        flow = build(self.flow_class, self.config, subflows={}, run=self.run, state=self.state)
        flow.set_api_infos(self.keyring)
        invoke(flow, incoming({"query": query}))
        self.state = dump_state(flow)
        return self.run.replies[0][1]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server."""
    with ModelServer() as running:
        yield running


@pytest.fixture
def chat(server: ModelServer) -> Iterator[Chat]:
    """A chat whose answers are places."""
    chat = Chat(server)
    with contextlib.closing(chat.keyring):
        yield chat


@pytest.mark.parametrize("flow_class", [ChatAtomicFlow, Guide])
def test_an_answer_arrives_as_data(server: ModelServer, flow_class: type[ChatAtomicFlow]) -> None:
    """The server is given the schema, the model is told it, and the caller gets an object."""
    chat = Chat(server, flow_class)
    server.script(GOOD)
    answer = chat.say("Where?")
    assert answer["api_output"] == BERN
    body = server.requests[0].body
    assert body["response_format"]["type"] == "json_schema"
    assert set(body["response_format"]["json_schema"]["schema"]["properties"]) == {"city", "people"}
    assert body["messages"][-1]["content"].startswith("Where?\n\nAnswer with JSON only")
    kept = json.loads(chat.state or b"")["previous_messages"]
    assert [message["content"] for message in kept] == ["", "Where?", GOOD]  # without what the model was told
    chat.keyring.close()


def test_strict_mode_is_asked_for_where_the_schema_allows_it() -> None:
    """OpenAI refuses it for objects with fields that may be missing, or others than are named."""
    assert OutputSchema(PLACE).response_format["json_schema"]["strict"] is True
    loose = {**PLACE, "required": ["city"]}
    assert "strict" not in OutputSchema({"type": "array", "items": loose}).response_format["json_schema"]
    assert "strict" not in OutputSchema.of_model(Place).response_format["json_schema"]


FORMS = [
    GOOD,
    f"\n {GOOD}\n",
    f"```json\n{GOOD}\n```",
    f"Here you are:\n```\n{GOOD}\n```\nAnything else?",
    f"<think>Is it {{Bern}}?</think>{GOOD}",
    f"Sure! {GOOD} Bye.",
]


@pytest.mark.parametrize("text", FORMS)
def test_json_is_found_in_what_models_write_around_it(text: str) -> None:
    """Code blocks, thoughts and politeness are no fault."""
    assert OutputSchema(PLACE).read(text) == BERN


BAD = [
    ("Bern.", "It is no JSON"),
    ('{"city": "Bern"}', "The field 'people' is missing"),
    ('{"city": "Bern", "people": -1}', "The field 'people' must be at least 0"),
    ('{"city": "Bern", "people": "many"}', "The field 'people' must be a whole number"),
    ('{"city": "Bern", "people": 1, "sea": true}', "The field 'sea' is not a field"),
    ("[1, 2", "It is no JSON"),
    ('{"city": "Bern", "people": NaN}', "The field 'people' is no number"),
]


@pytest.mark.parametrize(("text", "problem"), BAD)
def test_an_answer_that_does_not_fit_is_asked_for_again(
    chat: Chat, server: ModelServer, text: str, problem: str
) -> None:
    """The model reads what was wrong; the answer says how many requests it took, and only the last answer is kept."""
    server.script(text, GOOD)
    answer = chat.say("Where?")
    assert (answer["api_output"], answer["attempts"]) == (BERN, 2)
    *_, asked, wrong, told = server.requests[1].body["messages"]
    assert asked["content"].startswith("Where?")
    assert wrong == {"role": "assistant", "content": text}
    assert problem in told["content"]
    assert json.loads(chat.state or b"")["previous_messages"][1:] == [
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": GOOD},
    ]


def test_answers_that_never_fit_have_an_end(chat: Chat, server: ModelServer) -> None:
    """After as many answers as the config says it is an error, and the conversation is as before."""
    server.script(*["Bern."] * 3)
    with pytest.raises(FlowFailed, match=r"does not fit the output_schema, after 3 answers: It is no JSON\.") as failed:
        chat.say("Where?")
    assert failed.value.details.endswith("The last answer was: Bern.")
    assert (len(server.requests), chat.state) == (3, None)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_knows_no_response_format_is_asked_without(chat: Chat, server: ModelServer, status: int) -> None:
    """The instructions do without; the server is remembered, so that the next question is asked once."""
    server.script(Fails(status, "Unknown parameter: response_format"), GOOD, GOOD)
    assert chat.say("Where?")["api_output"] == BERN
    assert chat.say("And now?")["attempts"] == 1
    assert ["response_format" in asked.body for asked in server.requests] == [True, False, False]
    assert all("It must fit this JSON Schema" in asked.body["messages"][-1]["content"] for asked in server.requests)


def test_several_answers_are_a_list_of_data(server: ModelServer) -> None:
    """With n over 1, each is checked."""
    chat = Chat(server, backend={"n": 2})
    server.script(Says((GOOD, "Bern.")), Says((GOOD,)))
    assert chat.say("Where?")["api_output"] == [BERN, BERN]
    chat.keyring.close()


def test_a_run_that_starts_over_asks_only_what_it_has_not_asked(chat: Chat, server: ModelServer) -> None:
    """Each answer is recorded, also one that did not fit."""
    memory = Memory()
    server.script("Bern.", "Bern.", "Bern.")
    with pytest.raises(FlowFailed):
        chat.say("Where?", memory)
    memory.steps.pop()
    server.script(GOOD)
    assert chat.say("Where?", memory)["api_output"] == BERN
    assert len(server.requests) == 4


def test_a_listener_hears_that_an_answer_begins_again(chat: Chat, server: ModelServer) -> None:
    """The pieces of an answer that did not fit count for nothing."""
    server.script("Not this", GOOD)
    chat.say("Where?")
    restarts = [report.get("restart", False) for report in chat.run.told]
    assert restarts.count(True) == 1
    assert restarts.index(True) == 2


def test_the_schema_is_described() -> None:
    """`describe` shows it in the place of the text."""
    shown = Guide.describe_output(effective_config(Guide, {}))
    assert shown["properties"]["api_output"]["properties"]["people"] == {
        "type": "integer",
        "minimum": 0,
        "title": "People",
    }


@pytest.mark.parametrize(
    "schema", ["text", [], {"type": "thing"}, {"$ref": "https://a.example/x"}, {"type": "string", "pattern": "("}]
)
def test_schemas_that_cannot_be_used_are_refused(schema: Any) -> None:
    """When the flow is served or mounted, with the part that is wrong."""
    with pytest.raises(UsageError, match="output_schema"):
        ChatAtomicFlow.check_config(effective_config(ChatAtomicFlow, {"output_schema": schema}))


def test_two_formats_are_refused() -> None:
    """An own response_format beside the schema means nothing."""
    config = {"output_schema": PLACE, "backend": {"response_format": {"type": "json_object"}}}
    with pytest.raises(UsageError, match="both output_schema and"):
        ChatAtomicFlow.check_config(effective_config(ChatAtomicFlow, config))


def test_a_pydantic_class_checks_what_its_schema_cannot_say() -> None:
    """Its validators run, too."""

    class Even(BaseModel):
        number: int = Field(multiple_of=2)

    schema = OutputSchema.of_model(Even)
    assert schema.read('{"number": 4}') == {"number": 4}
    with pytest.raises(NoFit):
        schema.read('{"number": 3}')
