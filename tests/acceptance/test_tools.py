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


@pytest.fixture(scope="module")
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
    assert [prompt["text"] for prompt in scene.alice.prompts(everything=True)].count("Is Friday fine?") == 1
    told = [message["content"] for message in scene.model.requests[-1].body["messages"] if message["role"] == "tool"]
    assert told == ["booked is done", "informed is done", "Friday is fine"]


@pytest.mark.parametrize("is_allowed", [True, False])
def test_the_owner_is_asked_before_a_tool_runs(scene: Scene, *, is_allowed: bool) -> None:
    """With the arguments, and for whom; without a yes nothing happens, and the model is told so."""
    options = ("--chat", "--model", "m", "--api-base", scene.model.url, "--dispatch-point", "chat")
    scene.bob.cli("serve", "Careful", *options, "--confirm", "alice/inform").ok()
    path = scene.alice.folder / f"asked-{is_allowed}"
    Path(f"{path}.go").touch()
    scene.model.script(wants("inform", path=str(path), text="told"), "So be it.")
    call = scene.alice.request("submit", address="bob/Careful", data={"query": "Tell them"})["id"]
    (question,) = scene.bob.wait_for_prompts()
    assert "inform with" in question["text"]
    assert f"for user {scene.alice.user_id[:8]}" in question["text"]
    scene.bob.request("answer", id=question["id"], text="yes" if is_allowed else "no")
    assert scene.alice.request("wait", id=call)["data"]["api_output"] == "So be it."
    told = scene.model.requests[-1].body["messages"][-1]["content"]
    assert (told, path.exists()) == (
        ("told is done", True) if is_allowed else ("Error: the owner of this assistant does not want it to run.", False)
    )
