"""An answer is read while it grows: at the terminal, from Python, through other flows, when a worker dies."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from support.model_server import ModelServer, Says, Trickles
from support.network import Network
from support.people import Person
from support.processes import kill_process

import p2pflows
from p2pflows.protocol.progress import Piece

FLOWS = """
import time
from pathlib import Path

from p2pflows import AtomicFlow, CompositeFlow


class Teller(AtomicFlow):
    default_config = {"name": "Teller", "description": "Tells a story, and waits for a file after the first word."}

    def run(self, input_message):
        self.progress({"delta": "Once"})
        while not Path(input_message.data["go"]).exists():
            time.sleep(0.02)
        self.progress({"delta": " upon"})
        return {"text": "Once upon", "heard": self.wants_progress}


class Wrapped(CompositeFlow):
    default_config = {
        "name": "Wrapped",
        "description": "Asks an assistant, and passes on what it says while it speaks.",
        "subflows_config": {
            "assistant": {"user_id": "bob", "flow_endpoint": "Assistant", "name": "a", "description": "d"},
        },
    }

    def run(self, input_message):
        if input_message.subflow:
            kept = self.flow_state.pop("asked")
            self.send_message(self.package_output_message(kept, input_message.data))
        elif input_message.data.get("later"):
            self.flow_state["asked"] = input_message
            message = self.package_input_message({"query": input_message.data["query"]})
            self.subflows["assistant"].get_reply(message, progress=True)
        else:
            return self.subflows["assistant"].call({"query": input_message.data["query"]}, progress=True)
"""


@dataclass(frozen=True)
class Scene:
    """Bob serves an assistant with a model, and alice a flow that asks it."""

    alice: Person
    bob: Person
    model: ModelServer


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Start both."""
    network = Network()
    with ModelServer() as model:
        try:
            alice, bob = network.person("alice"), network.person("bob")
            for one, other in ((alice, bob), (bob, alice)):
                one.add_contact(other)
            keys = [{"api_key_env": "MODEL_KEY", "api_base": model.url}]
            (bob.home / "config.yaml").write_text(json.dumps({"workers": [{"api_infos": keys}]}))
            bob.environment["MODEL_KEY"] = "sk-0123456789"
            for person in (alice, bob):
                person.write_file("stories.py", FLOWS)
                person.start(wait=False)
            alice.ready()
            bob.ready()
            bob.cli("serve", "Assistant", "--chat", "--model", "m", "--api-base", model.url).ok()
            bob.cli("serve", "Teller", "--class", "stories.py:Teller").ok()
            alice.cli("serve", "Wrapped", "--class", "stories.py:Wrapped").ok()
            yield Scene(alice, bob, model)
        finally:
            network.close()


def text_of(pieces: list[Piece]) -> str:
    """The text of the first answer."""
    return "".join(piece.text for piece in pieces if not piece.choice)


def test_of_several_answers_the_terminal_shows_one_as_it_grows(scene: Scene) -> None:
    """The others come with the whole answer."""
    twice = scene.bob.cli(
        "serve", "Twice", "--chat", "--model", "m", "--api-base", scene.model.url, "--set", "backend.n=2"
    )
    twice.ok()
    scene.model.script(Says(("one two three", "uno dos tres")))
    result = scene.alice.cli("call", "bob/Twice", "query=Count", "--stream").ok()
    assert result.err == "one two three\n"
    assert result.document["api_output"] == ["one two three", "uno dos tres"]


def test_an_answer_begins_again_when_its_worker_dies(scene: Scene) -> None:
    """A reader hears of it at once, and not two beginnings glued together."""
    go = scene.bob.folder / "go"
    with p2pflows.connect(scene.alice.home) as me, me.stream("bob/Teller", {"go": str(go)}) as story:
        assert next(story).text == "Once"
        for pid in scene.bob.workers():
            kill_process(pid)
        voided = next(story)
        assert (voided.restarts, voided.text) == (True, "")
        go.touch()
        assert text_of(list(story)) == "Once upon"
        assert story.answer() == {"text": "Once upon", "heard": True}


def test_nothing_is_reported_when_nobody_listens(scene: Scene) -> None:
    """The flow itself knows, so it need not compute anything."""
    go = scene.bob.write_file("gone", "")
    assert scene.alice.request("call", address="bob/Teller", data={"go": str(go)})["data"]["heard"] is False


@pytest.mark.parametrize(
    "data", [{"query": "Hello"}, {"query": "Hello", "later": True}], ids=["waits", "goes on later"]
)
def test_progress_passes_through_a_flow_that_asks_a_neighbours(scene: Scene, data: dict[str, object]) -> None:
    """In both ways to call a subflow, and only when the flow says so."""
    scene.model.script("A long story")
    with p2pflows.connect(scene.alice.home) as me:
        call = me.stream("me/Wrapped", data)
        pieces = list(call)
    assert text_of(pieces) == "A long story"
    assert not any(piece.skips or piece.restarts for piece in pieces)
    assert call.answer()["api_output"] == "A long story"


async def test_leaving_an_asynchronous_stream_withdraws_the_call(scene: Scene) -> None:
    """The model's server is left, too."""
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m"}
    chunk["choices"] = [{"index": 0, "delta": {"content": "ha "}, "finish_reason": None}]
    scene.model.client_gone.clear()
    scene.model.script(Trickles(f"data: {json.dumps(chunk)}\n\n"))
    async with p2pflows.connect_async(scene.alice.home) as me:
        async with me.stream("bob/Assistant", {"query": "Laugh"}) as laughter:
            async for piece in laughter:
                assert piece.text.startswith("ha ")
                break
        assert scene.model.client_gone.wait(10)
        with pytest.raises(p2pflows.errors.Cancelled):
            await me.wait(laughter.id)
