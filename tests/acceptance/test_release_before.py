"""This release and the one before it work side by side, and this one goes on with the other's journal.

Alice's programs run the code of the release before, taken from the git history; bob's run the code at hand.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import flow_classes
import pytest
from support.model_server import ModelServer
from support.network import Network
from support.people import Person

from p2pflows.errors import BadInput, NotAllowed

ROOT = Path(__file__).parents[2]
RELEASE_BEFORE = "263023b3eb11239cdbfccb561285e8e49d04bcb1"
"""The last commit of the release before: all modules of a package lay in one folder."""
ONLY_BEFORE = "p2pflowsd.wire"
"""A module that this release does not have."""
FLOWS = """
import os

def double(n: int) -> int:
    return 2 * n

def process() -> int:
    return os.getpid()
"""


class Pair(NamedTuple):
    """Who asks, and who is asked."""

    caller: Person
    owner: Person


@pytest.fixture(scope="module")
def code_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the packages of the release before."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    archive = subprocess.run(
        ["git", "archive", RELEASE_BEFORE, "p2pflows", "daemon"], cwd=ROOT, capture_output=True, check=False
    )
    if archive.returncode != 0:
        pytest.skip(f"the git history here does not reach back to {RELEASE_BEFORE[:10]} (git fetch --unshallow)")
    folder = tmp_path_factory.mktemp("release-before")
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(folder)  # noqa: S202 - the archive is of our own history
    return folder


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """One broker for all tests of this module."""
    network = Network()
    try:
        yield network
    finally:
        network.close()


@pytest.fixture(scope="module")
def alice_and_bob(network: Network, code_before: Path) -> tuple[Person, Person]:
    """Alice with the release before and bob with this one; they know each other and serve the same flows."""
    alice, bob = network.person("alice"), network.person("bob")
    run_code_of(alice, code_before)
    for person, other in ((alice, bob), (bob, alice)):
        person.start(wait=False)
        person.add_contact(other)
    for person in (alice, bob):
        person.ready()
        serve_flows(person)
    return alice, bob


@pytest.fixture(params=["before calls now", "now calls before"])
def pair(request: pytest.FixtureRequest, alice_and_bob: tuple[Person, Person]) -> Pair:
    """Both directions."""
    alice, bob = alice_and_bob
    return Pair(alice, bob) if request.param == "before calls now" else Pair(bob, alice)


def run_code_of(person: Person, folder: Path) -> None:
    """Let all programs of a person that start from now on import the packages in a folder."""
    person.environment["PYTHONPATH"] = os.pathsep.join([str(folder), str(folder / "daemon")])


def run_code_at_hand(person: Person) -> None:
    """Let all programs of a person that start from now on import the packages of this release."""
    del person.environment["PYTHONPATH"]


def serve_flows(person: Person) -> None:
    """Serve a function and a class."""
    person.write_file("flows.py", FLOWS)
    shutil.copy(flow_classes.__file__, person.folder)
    serve(person, "double", "python", "flows.py:double")
    serve(person, "Counter", "class", "flow_classes:Counter")


def serve(person: Person, endpoint: str, kind: str, target: str, **settings: Any) -> None:
    """Serve a flow from a person's folder."""
    person.request("serve", endpoint=endpoint, kind=kind, target=target, cwd=str(person.folder), **settings)


def python_of(person: Person, code: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in the environment of a person's daemon."""
    return subprocess.run(
        [sys.executable, "-P", "-c", code], env=person.environment, capture_output=True, text=True, check=False
    )


def test_each_runs_its_own_release(alice_and_bob: tuple[Person, Person], code_before: Path) -> None:
    """Alice's programs import both packages from the release before; bob's do not find its modules."""
    alice, bob = alice_and_bob
    where = f"import p2pflows, {ONLY_BEFORE} as m; print(p2pflows.__file__, m.__file__)"
    assert python_of(alice, where).stdout.split() == [
        str(code_before / "p2pflows" / "__init__.py"),
        str(code_before / "daemon" / "p2pflowsd" / "wire.py"),
    ]
    assert f"No module named '{ONLY_BEFORE}'" in python_of(bob, where).stderr


def test_a_call(pair: Pair) -> None:
    """A function is called from the shell, and its answer comes back."""
    called = pair.caller.cli("call", f"{pair.owner.name}/double", "n=21").ok()
    assert called.document == {"result": 42}


def test_an_error(pair: Pair) -> None:
    """A call with bad input ends with the error of the one who was called."""
    with pytest.raises(BadInput, match="'n' should be a valid integer"):
        pair.caller.request("call", address=f"{pair.owner.name}/double", data={"n": "many"})


def test_a_human_answers(pair: Pair) -> None:
    """A human is asked, and the answer comes back."""
    call = pair.caller.request("submit", address=f"{pair.owner.name}/User", data={"api_output": "Well?"})["id"]
    (prompt,) = pair.owner.wait_for_prompts()
    pair.owner.request("answer", id=prompt["id"], text="Very well.")
    assert pair.caller.request("wait", id=call)["data"] == {"human_input": "Very well."}


def test_an_instance(pair: Pair) -> None:
    """A class of flows is mounted with an override, keeps its state from call to call, and is deleted."""
    address = f"{pair.owner.name}/Counter"
    instance = pair.caller.request("mount", address=address, config_overrides={"step": 3})["instance"]
    for count in (3, 6):
        assert pair.caller.request("call", address=address, instance=instance)["data"]["count"] == count
    pair.caller.request("delete_instance", instance=instance, user=pair.owner.user_id)
    with pytest.raises(NotAllowed, match="no instance"):
        pair.caller.request("call", address=address, instance=instance)


def test_a_subflow_of_the_other(pair: Pair) -> None:
    """A composite mounts its subflow at the other user, and waits for its answer inside a run."""
    subflow = {"user_id": pair.owner.user_id, "flow_endpoint": "Counter"}
    serve(pair.caller, "Relay", "class", "flow_classes:Relay", config={"subflows_config": {"far": subflow}})
    answer = pair.caller.request("call", address="me/Relay", data={"path": ["far"]})["data"]
    assert (answer["count"], answer["levels"], answer["user"]) == (1, 1, pair.owner.user_id)


def test_a_worker_with_a_token(pair: Pair, tmp_path: Path) -> None:
    """A worker of the caller's release serves the owner's daemon with nothing but a token."""
    environment = {
        **pair.caller.environment,
        "HOME": str(tmp_path),
        "P2PFLOWS_HOME": str(tmp_path / "home"),
        "P2PFLOWS_WORKER_TOKEN": pair.owner.request("worker_token", dispatch_point="far")["token"],
    }
    worker = pair.owner.start_worker(environment=environment)
    pair.owner.wait_for_status(lambda now: any(point["dispatch_point"] == "far" for point in now["workers"]))
    serve(pair.owner, "process", "python", "flows.py:process", dispatch_point="far")
    assert pair.caller.request("call", address=f"{pair.owner.name}/process")["data"] == {"result": worker.pid}
    worker.terminate()
    assert worker.wait(15) == 0


def test_a_journal(network: Network, alice_and_bob: tuple[Person, Person], code_before: Path) -> None:
    """This release goes on with what the one before has written: flows, states, questions, and what waits to leave."""
    _, bob = alice_and_bob
    carol, dave = network.person("carol"), network.person("dave").without_workers()
    for other in (bob, dave):
        carol.add_contact(other)
        other.add_contact(carol)
    run_code_of(carol, code_before)
    with ModelServer() as model:
        keys = [{"api_key_env": "MODEL_KEY", "api_base": model.url}]
        (carol.home / "config.yaml").write_text(json.dumps({"workers": [{"api_infos": keys}]}))
        carol.environment["MODEL_KEY"] = "sk-0123456789"
        carol.start()
        serve_flows(carol)
        carol.cli("serve", "Assistant", "--chat", "--model", "m", "--api-base", model.url).ok()
        talk = {"address": "me/Assistant", "conversation": "a" * 32}
        assert carol.request("call", **talk, data={"query": "One"})["data"]["api_output"] == "You said: One"
        counter = carol.request("mount", address="me/Counter")["instance"]
        assert carol.request("call", address="me/Counter", instance=counter)["data"]["count"] == 1
        question = bob.request("submit", address="carol/User", data={"api_output": "Still there?"})["id"]
        (prompt,) = carol.wait_for_prompts()
        note = carol.request("send", address="dave/User", data={"text": "For later"})["id"]
        assert carol.stop() == 0

        run_code_at_hand(carol)
        for person in (carol, dave):
            person.start(wait=False)
        carol.ready()
        assert f"No module named '{ONLY_BEFORE}'" in python_of(carol, f"import {ONLY_BEFORE}").stderr
        (assistant,) = [flow for flow in carol.request("ls")["flows"] if flow["endpoint"] == "Assistant"]
        assert assistant["target"] == "p2pflows.chat.flow:ChatAtomicFlow"
        assert carol.request("call", **talk, data={"query": "Two"})["data"]["api_output"] == "You said: Two"
        messages = [message["content"] for message in model.requests[-1].body["messages"]]
        assert messages[-3:] == ["One", "You said: One", "Two"]
        assert carol.request("call", address="me/Counter", instance=counter)["data"]["count"] == 2
        carol.request("answer", id=prompt["id"], text="I am.")
        assert bob.request("wait", id=question)["data"] == {"human_input": "I am."}
        assert carol.request("wait", id=note)["state"] == "delivered"
        assert [prompt["text"] for prompt in dave.ready().prompts()] == ["For later"]


def test_a_question_with_a_form_to_the_release_before(alice_and_bob: tuple[Person, Person]) -> None:
    """It shows the text only, and answers with text: that is read by the form, and is no answer if it does not fit."""
    alice, bob = alice_and_bob
    outcomes = []
    for text in ("Yes", "perhaps"):
        question = bob.request("ask", who=["alice"], text="Drop the table?", schema={"type": "boolean"})["id"]
        alice.wait_for_prompts()
        alice.request("answer", id=question, text=text)
        ended = bob.request("wait", id=question, timeout=20)
        outcomes.append((ended["outcome"], ended["value"], (ended["error"] or {}).get("code")))
    assert outcomes == [("answered", True, None), ("failed", None, "bad_answer")]
