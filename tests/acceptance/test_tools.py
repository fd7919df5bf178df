"""An assistant with three tools, its owner's, a neighbour's and a human, over the death of its worker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.model_server import Answers, ModelServer
from support.network import Network
from support.people import Person
from support.processes import kill_process, wait_until

TOOLS = """
import os
import time


def note(path: str, text: str) -> dict:
    with open(path, "a") as file:
        file.write(text + "\\n")
    go = path + ".go"
    while not os.path.exists(go):
        time.sleep(0.02)
    os.unlink(go)
    return {"text": f"{text} is done"}
"""


@dataclass(frozen=True)
class Scene:
    """Bob's assistant may use his own `note`, alice's, and alice herself."""

    alice: Person
    bob: Person
    model: ModelServer


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Start all of it."""
    network = Network()
    with ModelServer() as model:
        try:
            alice, bob = network.person("alice"), network.person("bob")
            for one, other in ((alice, bob), (bob, alice)):
                one.add_contact(other)
            keys = [{"api_key_env": "MODEL_KEY", "api_base": model.url}]
            workers = [{"dispatch_point": "chat", "api_infos": keys}]
            (bob.home / "config.yaml").write_text(json.dumps({"workers": workers}))
            bob.environment["MODEL_KEY"] = "sk-0123456789"
            for person in (alice, bob):
                person.write_file("tools.py", TOOLS)
                person.start(wait=False)
            alice.ready()
            bob.ready()
            bob.start_worker()  # for his tool: the daemon's own worker is that of the assistant
            for person, name in ((alice, "inform"), (bob, "note")):
                person.wait_for_status(lambda now: any(each["workers"] for each in now["workers"]))
                person.request("serve", endpoint=name, kind="python", target="tools.py:note", cwd=str(person.folder))
            tools = ("--tool", "me/note", "--tool", "alice/inform", "--tool", "alice/User")
            options = ("--chat", "--model", "m", "--api-base", model.url, "--dispatch-point", "chat", *tools)
            bob.cli("serve", "Assistant", *options, "--set", "tool_transcript=true").ok()
            yield Scene(alice, bob, model)
        finally:
            network.close()


def wants(name: str, **arguments: Any) -> Answers:
    """A streamed answer that calls a tool."""
    call = {"index": 0, "id": f"to-{name}", "function": {"name": name, "arguments": json.dumps(arguments)}}
    pieces = [{"tool_calls": [call]}, {}]
    reasons = [None, "tool_calls"]
    return Answers(
        chunks=tuple(
            {"choices": [{"index": 0, "delta": piece, "finish_reason": reason}]}
            for piece, reason in zip(pieces, reasons, strict=True)
        )
    )


def kill_assistant(bob: Person) -> None:
    """Kill the worker of the assistant, as soon as there is one; the daemon starts another."""
    wait_until(lambda: len(bob.workers()) == 1)
    kill_process(bob.workers()[0])


def test_each_tool_runs_once_though_the_worker_of_the_assistant_dies_during_each(scene: Scene) -> None:
    """The model gets all results, and the caller the answer with what was done."""
    notes, informed = scene.bob.folder / "notes", scene.alice.folder / "informed"
    scene.model.script(
        wants("note", path=str(notes), text="booked"),
        wants("inform", path=str(informed), text="informed"),
        wants("ask_alice", text="Is Friday fine?"),
        "All is settled.",
    )
    call = scene.alice.request("submit", address="bob/Assistant", data={"query": "Arrange the trip"})["id"]
    for path in (notes, informed):
        wait_until(path.exists)
        kill_assistant(scene.bob)
        Path(f"{path}.go").touch()
    (question,) = scene.alice.wait_for_prompts()
    assert (question["text"], question["flow"]) == ("Is Friday fine?", "Assistant")
    kill_assistant(scene.bob)
    scene.alice.request("answer", id=question["id"], text="Friday is fine")
    answer = scene.alice.request("wait", id=call)["data"]
    assert answer["api_output"] == "All is settled."
    done = [(each["tool"], each["result"]) for each in answer["tool_calls"]]
    assert done == [
        ("note", "booked is done"), ("inform", "informed is done"), ("ask_alice", "Friday is fine")
    ]  # fmt: skip
    assert (notes.read_text(), informed.read_text()) == ("booked\n", "informed\n")
    assert len(scene.alice.prompts(everything=True)) == 1
    told = [message["content"] for message in scene.model.requests[-1].body["messages"] if message["role"] == "tool"]
    assert told == ["booked is done", "informed is done", "Friday is fine"]
