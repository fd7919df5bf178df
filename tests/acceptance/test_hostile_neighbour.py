"""A hostile contact who knows the whole protocol runs nothing forbidden, learns nothing, and stops no honest call."""

from __future__ import annotations

import base64
import contextlib
import json
import pickle
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flow_classes
import pytest
from support.broker_spy import Forger, Spy
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows.errors import CallError, DeadlinePassed, UsageError
from p2pflows.protocol import identity, topics
from p2pflows.protocol.channel import Channel, read_token
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Message
from p2pflows.protocol.notice import Notice

ESC = "\x1b]0;mine\x07\x1b[2J\u202e\u2066"
"""What a terminal would obey."""
ORDERS = {"\x1b", "\x07", "\u202e", "\u2066"}
"""The characters by which it would."""


class Mallory(Forger):
    """A neighbour who writes her messages by hand.

    Args:
        key: her identity.
        spy: her client of the broker.
    """

    def __init__(self, key: identity.Identity, spy: Spy) -> None:
        super().__init__(key)
        self._spy = spy
        self._read = 0
        self._messages: list[Message] = []

    def send_call(self, to: Person, endpoint: str, data: dict[str, Any], **changes: Any) -> str:
        """Send a call, correct but for the changes; returns its id."""
        message = self.message(to.user_id, endpoint, **{"type": "call", "data": data, **changes})
        self.publish_bodies(to, endpoint, message.to_bytes())
        return message.id

    def publish_bodies(self, to: Person, endpoint: str, *bodies: bytes, kind: BundleKind = BundleKind.MESSAGES) -> None:
        """Publish a bundle of any bodies."""
        self._spy.publish(topics.inbox(to.user_id, endpoint), self.seal(to.user_id, *bodies, kind=kind))

    def answer_to(self, call: str) -> dict[str, Any]:
        """Wait for the answer to a call; returns its data."""
        wait_until(lambda: any(message.in_reply_to == call for message in self._received()))
        return next(message.data for message in self._received() if message.in_reply_to == call)

    def call(self, to: Person, endpoint: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """Send a call, and wait for its answer."""
        return self.answer_to(self.send_call(to, endpoint, data, **changes))

    def wait_for_call(self, endpoint: str) -> Message:
        """Wait for calls to one of her endpoints; returns the newest, and forgets the others."""
        waiting: list[Message] = []

        def is_there() -> bool:
            waiting[:] = [each for each in self._received() if (each.endpoint, each.type) == (endpoint, "call")]
            return bool(waiting)

        wait_until(is_there)
        self._messages = [each for each in self._messages if each not in waiting]
        return waiting[-1]

    def send_answer(self, call: Message, data: dict[str, Any], kind: str = "reply", **changes: Any) -> bytes:
        """Answer a call; returns the body."""
        about = {"type": kind, "cause": call.id, "conversation": call.conversation}
        body = self.message(call.sender, topics.REPLY, **{**about, "data": data, **changes}).to_bytes()
        self._spy.publish(topics.inbox(call.sender, topics.REPLY), self.seal(call.sender, body))
        return body

    def _received(self) -> list[Message]:
        packets = self._spy.seen[self._read :]
        self._read += len(packets)
        mine = f"{topics.PREFIX}/{self.user_id}/in/"
        for packet in packets:
            if packet.topic.startswith(mine) and not packet.topic.endswith(topics.NOTICE):
                bodies = self.envelope.open(packet.payload).bodies
                self._messages += [Message.from_bytes(body) for body in bodies]
        return self._messages


class Scene:
    """Alice, who calls bob's flows; mallory, whom both know; and the stranger eve. The latter two have no daemons."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.alice, self.bob = network.person("alice").without_workers(), network.person("bob")
        for person in (self.alice, self.bob):
            person.start(wait=False)
        self.alice.add_contact(self.bob)
        self.bob.add_contact(self.alice)
        self.alice.ready()
        self.bob.ready()
        self.spy = Spy(network.port, network.broker_folder)
        self.mallory = self._forger("mallory")
        self.eve = self._forger("eve")
        for person in (self.alice, self.bob):
            person.request("allow", user=self.mallory.user_id, name="mallory")
        for name in ("Counter", "Keeper", "Forger", "Careless"):
            self.serve(name, f"flow_classes:{name}")
        self.serve("Shared", "flow_classes:Keeper", singleton=True)
        self.serve("Chat", "p2pflows.models.flow:ChatAtomicFlow")
        far = {"flow_endpoint": "far", "user_id": self.mallory.user_id}
        self.serve("Relay", "flow_classes:Relay", config={"subflows_config": {"far": far}})
        near = {"flow_endpoint": "Counter"}
        self.serve("Tree", "flow_classes:Relay", config={"subflows_config": {"near": near}})
        self._before: dict[str, Any] = {}

    def _forger(self, name: str) -> Mallory:
        return Mallory(identity.create(self.network.folder / name / "identity.key"), self.spy)

    def serve(self, endpoint: str, target: str, **settings: Any) -> None:
        """Let bob serve a class."""
        folder = str(Path(flow_classes.__file__).parent)
        self.bob.request("serve", endpoint=endpoint, kind="class", target=target, cwd=folder, **settings)

    def mount_for(self, who: Mallory, endpoint: str, **order: Any) -> dict[str, Any]:
        """Let somebody ask bob for an instance; returns the answer."""
        return who.call(self.bob, topics.INSTANCES, {"op": "mount", "endpoint": endpoint, **order})

    def instances(self, who: str) -> list[dict[str, Any]]:
        """The instances of a user at bob."""
        found: list[dict[str, Any]] = self.bob.request("instances")["instances"]
        return [each for each in found if each["client"] == who]

    def has_open_request(self, who: str, endpoint: str) -> bool:
        """Whether a user's instance holds a request without an answer."""
        return any(each["open"] == 1 for each in self.instances(who) if each["endpoint"] == endpoint)

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """The entries of bob's log."""
        entries: list[dict[str, Any]] = self.bob.request("log", limit=1000, after=after)["entries"]
        return entries

    def answers_honest_call(self) -> bool:
        """Whether an honest call is answered soon."""
        started = time.monotonic()
        answer = self.alice.request("call", address="bob/Counter", data={}, timeout=30)["data"]
        return bool(answer["count"] == 1 and time.monotonic() - started < 10)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """The scene; all tests of this module share it, because it takes seconds to build."""
    network = Network()
    try:
        scene = Scene(network)
        with scene.spy:
            yield scene
    finally:
        network.close()


@pytest.fixture(autouse=True)
def _honest_calls_are_answered(scene: Scene) -> Iterator[None]:
    """After each attack the same daemons answer an honest call, and mallory's new instances are deleted."""
    daemons = [person.daemon for person in (scene.alice, scene.bob)]
    before = scene.instances(scene.mallory.user_id)
    yield
    assert scene.answers_honest_call()
    assert [person.daemon for person in (scene.alice, scene.bob)] == daemons
    for each in scene.instances(scene.mallory.user_id):
        if each not in before:
            with contextlib.suppress(UsageError, CallError):
                scene.bob.request("delete_instance", instance=each["instance"])


POWER: list[tuple[str, dict[str, Any]]] = [
    ("Chat", {"_target_": "os.system"}),
    ("Chat", {"backend": {"api_base": "http://mallory.example/v1"}}),
    ("Chat", {"backend.api_base": "http://mallory.example/v1"}),
    ("Chat", {"BackEnd": {"Api_Base": "http://mallory.example/v1"}}),
    ("Chat", {"backend": {"api_infos": [{"api_key": "sk-mine"}]}}),
    ("Chat", {"backend": None}),
    ("Chat", {"human_message_prompt_template": {"template": "{{ ''.__class__.__mro__ }}"}}),
    ("Chat", {"system_message_prompt_template": {"partial_variables": {"x": "y"}}}),
    ("Chat", {"overridable": ["backend"]}),
    ("Chat", {"n_api_retries": 10**9}),
    ("Chat", {"previous_messages": {"first_k": 1, "_target_": "os.system"}}),
    ("Chat", {"previous_messages": {"first_k": {"api_base": "x"}}}),
    ("Chat", {"prev\u0456ous_messages": 1}),
    ("Counter", {"__class__": {"__init__": {"__globals__": {}}}}),
    ("Counter", {"constructor": {"prototype": {"step": 9}}}),
    ("Counter", {"step": {"_target_": "os.system"}}),
    ("Counter", {"step": [[{"user_id": "mallory"}]]}),
    ("Counter", {"ste\u0440": 2}),
    ("Counter", {"": 1}),
    ("Counter", {"step.": 1}),
    ("Counter", {"owner_note": "mine"}),
    ("Counter", {"self": 1, "flow_config": {}}),
    ("Counter", {"step": "x" * 200_000}),
    ("Counter", json.loads('{"step": ' + "[" * 60 + "]" * 60 + "}")),
    ("Tree", {"subflows_config": {"near": {"user_id": "MALLORY"}}}),
    ("Tree", {"subflows_config": {"near": {"flow_id": "0" * 32}}}),
    ("Tree", {"subflows_config": {"other": {"flow_endpoint": "User"}}}),
    ("Tree", {"subflows_config.near.user_id": "MALLORY"}),
    ("Tree", {"regex": "(a+)+$", "additional_transformations": []}),
]


def test_overrides_that_reach_for_power(scene: Scene) -> None:
    """No override sets code, a server for the key, a template, a user or a secret, in any spelling or depth."""
    last = scene.log()[-1:]
    asked = []
    for endpoint, overrides in POWER:
        meant = json.loads(json.dumps(overrides).replace("MALLORY", scene.mallory.user_id))
        order = {"op": "mount", "endpoint": endpoint, "config_overrides": meant}
        asked.append(scene.mallory.send_call(scene.bob, topics.INSTANCES, order))
    kinds = {
        json.dumps(what)[:80]: scene.mallory.answer_to(each).get("kind")
        for each, what in zip(asked, POWER, strict=True)
    }
    assert {what: kind for what, kind in kinds.items() if kind not in ("not_allowed", "bad_input", "too_large")} == {}
    assert scene.instances(scene.mallory.user_id) == []
    noted = {entry["what"] for entry in scene.log(last[0]["n"] if last else 0) if entry["name"] == "mallory"}
    assert noted >= {"not_allowed", "too_large", "bad_input"}
    assert "instance" in scene.mount_for(scene.mallory, "Counter", config_overrides={"step": 3})


def test_a_state_with_traps(scene: Scene, tmp_path: Path) -> None:
    """An initial state is data only: it answers nobody's request, makes no class, and unpickles nothing."""
    trace = tmp_path / "ran"
    call = scene.alice.request("submit", address="bob/Keeper", data={"secret": "alice"}, timeout=60)["id"]
    wait_until(lambda: scene.has_open_request(scene.alice.user_id, "Keeper"))

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path(trace).touch, ())

    tag = "$p2pflows"
    bomb = base64.b64encode(pickle.dumps(Bomb())).decode()
    kept = {"data": {"forged": True}, "reply_data": {"mode": "reply", "message": call}, "user_id": scene.alice.user_id}
    state = {
        "kept": {tag: "message", "fields": kept},
        "model": {tag: "model", "class": "pathlib.Path", "data": [str(trace)]},
        "bomb": {tag: "bytes", "base64": bomb},
        "__class__": {tag: "dict", "items": {tag: "bytes"}},
    }
    instance = scene.mount_for(scene.mallory, "Keeper", initial_state=state)["instance"]
    answer = scene.mallory.call(scene.bob, "Keeper", {"answer": ["forged", "again"]}, instance=instance)
    assert answer == {"kept": {"forged": True}}
    for wrong in (
        {tag: "model", "class": ["os.system"], "data": {}},
        {tag: "os.system"},
        {tag: ["message"]},
        {tag: "message", "fields": {"reply_data": "x"}},
        {tag: "message", "fields": {"error": {"kind": "usage"}, "data": []}},
        {tag: "bytes", "base64": "%"},
        {tag: "datetime", "iso": "yesterday"},
        {tag: "dict"},
    ):
        assert scene.mount_for(scene.mallory, "Keeper", initial_state={"kept": wrong})["kind"] == "flow_failed"
    assert scene.mount_for(scene.mallory, "Careless", initial_state={"count": 7})["kind"] == "not_allowed"
    assert not trace.exists()
    assert [each for each in scene.alice.request("asked")["asked"] if each["outcome"] == "failed"] == []
    scene.alice.request("cancel", id=call)


def test_instances_of_others(scene: Scene) -> None:
    """Mallory cannot use alice's instances, nor those that bob made for a tree, even with their ids."""
    mine = scene.alice.request("mount", address="bob/Tree")["instance"]
    assert scene.alice.request("call", address="bob/Tree", instance=mine, data={"path": ["near"]})["data"]["count"] == 1
    (below,) = [each["instance"] for each in scene.instances(scene.bob.user_id) if each["endpoint"] == "Counter"]
    guessed = derived_id("singleton", scene.bob.user_id, "Counter")
    for instance in (mine, below, guessed):
        asked = [
            scene.mallory.send_call(scene.bob, endpoint, data, instance=named)
            for endpoint, data, named in (
                ("Tree", {"path": ["near"]}, instance),
                ("Counter", {}, instance),
                (topics.INSTANCES, {"op": "delete", "instance": instance}, None),
                (topics.INSTANCES, {"op": "reset", "instance": instance, "recursive": True}, None),
            )
        ]
        assert [scene.mallory.answer_to(call)["kind"] for call in asked] == ["not_allowed"] * 4
    shown = scene.mallory.call(scene.bob, topics.INSTANCES, {"op": "list"})["instances"]
    assert {each["client"] for each in shown} <= {scene.mallory.user_id}
    assert scene.alice.request("call", address="bob/Tree", instance=mine, data={"path": ["near"]})["data"]["count"] == 2
    assert ("not_allowed", "mallory") in {(entry["what"], entry["name"]) for entry in scene.log()}
    scene.alice.request("delete_instance", instance=mine, user="bob")


def test_answers_for_others(scene: Scene) -> None:
    """Only bob can answer his prompts; a flow that tries to answer alice's request answers its own caller."""
    call = scene.alice.request("submit", address="bob/User", data={"text": "Who are you?"}, timeout=60)["id"]
    (prompt,) = scene.bob.wait_for_prompts()
    replayed = scene.alice.refused("replayed")
    for kind, data in (("reply", {"human_input": "Mallory."}), ("error", {"kind": "declined", "message": "No."})):
        body = scene.mallory.message(scene.alice.user_id, topics.REPLY, type=kind, cause=call, data=data).to_bytes()
        scene.mallory.publish_bodies(scene.alice, topics.REPLY, body)
    answer = Notice(to=scene.alice.user_id, progress=[(call, {"delta": "Mallory."})], received=[call])
    scene.mallory.publish_bodies(scene.alice, topics.NOTICE, answer.to_bytes(), kind=BundleKind.NOTICE)
    assert scene.mallory.call(scene.bob, "Forger", {"request": call}) == {"done": True}
    wait_until(lambda: scene.alice.refused("replayed") == replayed + 2)
    scene.bob.request("answer", id=prompt["id"], text="Bob.")
    assert scene.alice.request("wait", id=call)["data"] == {"human_input": "Bob."}


def test_the_id_of_anothers_request(scene: Scene) -> None:
    """In a shared flow, mallory's request with the id of alice's request gets neither her answer nor her place."""
    call = scene.alice.request("submit", address="bob/Shared", data={"question": "Why?"}, timeout=60)["id"]
    wait_until(lambda: scene.has_open_request(scene.bob.user_id, "Shared"))
    assert scene.mallory.call(scene.bob, "Shared", {"mine": True}, id=call)["kind"] == "bad_input"
    assert scene.mallory.call(scene.bob, "Shared", {"answer": ["Because."]}) == {"kept": {"question": "Why?"}}
    assert scene.alice.request("wait", id=call)["data"] == {"answer": "Because."}
    assert scene.mount_for(scene.mallory, "Shared", initial_state={})["kind"] == "not_allowed"


def test_withdrawing_what_others_asked_for(scene: Scene) -> None:
    """A cancel from mallory ends no mount, no question and no run of alice."""
    mount = scene.alice.request("mount", address="bob/Counter")["instance"]
    question = scene.alice.request("submit", address="bob/User", data={"text": "Still there?"}, timeout=60)["id"]
    (prompt,) = scene.bob.wait_for_prompts()
    for cause in (question, mount, derived_id("mount", scene.alice.user_id, question)):
        for endpoint in ("User", "Counter", topics.INSTANCES):
            scene.mallory.send_call(scene.bob, endpoint, {}, type="cancel", cause=cause)
    assert scene.mallory.call(scene.bob, "Counter", {})["count"] == 1
    assert scene.alice.request("call", address="bob/Counter", instance=mount, timeout=30)["data"]["count"] == 1
    scene.bob.request("answer", id=prompt["id"], text="Still here.")
    assert scene.alice.request("wait", id=question)["data"] == {"human_input": "Still here."}


def test_a_flood_of_mounts_and_calls(scene: Scene) -> None:
    """While mallory sends hundreds of requests at once, alice is served; every request of mallory ends."""
    order = {"op": "mount", "endpoint": "Counter"}
    bodies = [scene.mallory.message(scene.bob.user_id, topics.INSTANCES, type="call", data=order) for _ in range(150)]
    scene.mallory.publish_bodies(scene.bob, topics.INSTANCES, *(body.to_bytes() for body in bodies))
    calls = [scene.mallory.message(scene.bob.user_id, "Counter", type="call", data={}) for _ in range(150)]
    scene.mallory.publish_bodies(scene.bob, "Counter", *(body.to_bytes() for body in calls))
    assert scene.answers_honest_call()
    assert all("instance" in scene.mallory.answer_to(body.id) for body in bodies)
    assert all(scene.mallory.answer_to(call.id)["count"] == 1 for call in calls)
    scene.bob.request("delete_endpoint", endpoint="Counter")
    scene.serve("Counter", "flow_classes:Counter")


def test_a_template_in_a_message(scene: Scene) -> None:
    """A text from mallory fills a place in a prompt as she wrote it, and is never rendered as a template."""
    template = {"template": "She asks: {{ query }}", "input_variables": ["query"]}
    scene.serve("Ask", "p2pflows.humans.human:HumanFlow", config={"query_message_prompt_template": template})
    text = "{{ 7 * 7 }} {{ self.__init__.__globals__ }} {% for x in range(10**9) %}{% endfor %}"
    call = scene.mallory.send_call(scene.bob, "Ask", {"query": text})
    (prompt,) = scene.bob.wait_for_prompts()
    assert prompt["text"] == f"She asks: {text}"
    scene.bob.request("answer", id=prompt["id"], text="No.")
    assert scene.mallory.answer_to(call) == {"human_input": "No."}
    overrides = {"query_message_prompt_template": {"template": "{{ query }}"}}
    assert scene.mount_for(scene.mallory, "Ask", config_overrides=overrides)["kind"] == "not_allowed"


def test_orders_for_a_terminal(scene: Scene) -> None:
    """No text of mallory in bob's log or lists sends control characters to his terminal."""
    answer = scene.mallory.call(scene.bob, "Careless", {"text": "", "raise": f"Oh {ESC} no"})
    assert answer["kind"] == "flow_failed"
    for endpoint, data in (("Counter", {}), (topics.INSTANCES, {"op": ESC})):
        scene.mallory.send_call(scene.bob, endpoint, data, source=ESC, instance="0" * 32)
    scene.mallory.call(scene.bob, "User", {"text": " "}, source=ESC)
    scene.mount_for(scene.mallory, "Counter", config_overrides={f"step{ESC}": 1})
    shown = [scene.bob.start_command(*words) for words in (["log"], ["log", "--json"], ["instances"], ["requests"])]
    texts = [command.wait().ok() for command in shown]
    assert "mallory" in texts[0].out
    assert "\\x1b" in texts[0].out
    for text in texts:
        assert not ORDERS & set(text.out + text.err)


GRANTS: list[dict[str, Any]] = [
    {},
    {"instance": ESC, "endpoint": "far"},
    {"instance": {"a": 1}, "endpoint": "far"},
    {"instance": "0" * 31, "shared": "yes"},
    {"instance": "0" * 32, "endpoint": "far", "kind": ESC, "config": {"text": "x" * 600_000}},
    {"instances": [{"instance": "0" * 32, "endpoint": ESC, "client": "me"}]},
    {"instances": [{"instance": "0" * 32, "endpoint": "x", "client": "0" * 64, "used": 10**30}]},
    {"instances": [{"instance": "0" * 32, "endpoint": "x", "client": "0" * 64, "subflows": {ESC: {ESC: ESC}}}]},
    {"flows": [{"endpoint": "x", "description": ESC}], "instances": [{}] * 10_000},
]


def test_forged_answers_to_commands(scene: Scene) -> None:
    """`mount`, `instances` and `ls` survive any answer of mallory's daemon, and print no control characters of it."""
    for grants in GRANTS:
        about = "instances" if "instances" in grants else "mount"
        commands = {
            topics.INSTANCES: scene.alice.start_command(about, "mallory" if about == "instances" else "mallory/far")
        }
        if "flows" in grants:
            commands[topics.FLOWS] = scene.alice.start_command("ls", "mallory")
        for endpoint in commands:
            scene.mallory.send_answer(scene.mallory.wait_for_call(endpoint), grants)
        for command in commands.values():
            result = command.wait()
            assert not ORDERS & set(result.out + result.err), (grants, result)
            assert "bug" not in result.err, (grants, result)


@pytest.mark.parametrize("grant", [{}, *GRANTS[1:4], {"instance": "0" * 32}], ids=range(5))
def test_a_subflow_that_is_granted_in_no_form(scene: Scene, grant: dict[str, Any]) -> None:
    """If a neighbour grants a malformed instance, the composite is not mounted, and its caller gets the reason."""
    call = scene.alice.request("submit", address="bob/Relay", data={"path": ["far"]}, timeout=60)["id"]
    scene.mallory.send_answer(scene.mallory.wait_for_call(topics.INSTANCES), grant)
    if grant.get("instance") not in ("0" * 32, None):
        with pytest.raises(CallError, match="the daemon of its owner sent an answer of a wrong form"):
            scene.alice.request("wait", id=call)
        return
    asked = scene.mallory.wait_for_call("far")
    assert asked.instance == grant.get("instance")
    scene.mallory.send_answer(asked, {"fine": True})
    assert scene.alice.request("wait", id=call)["data"] == {"fine": True, "levels": 1}


def test_a_subflow_that_lies(scene: Scene) -> None:
    """Whatever a neighbour's flow answers, once, twice, malformed or never, the call to the composite ends."""
    mount = scene.alice.start_command("mount", "bob/Relay")
    scene.mallory.send_answer(scene.mallory.wait_for_call(topics.INSTANCES), {"instance": "7" * 32})
    instance = mount.wait().ok().out.strip()
    deep = json.loads("[" * 140 + "]" * 140)

    def asks() -> tuple[str, Message]:
        order = {"path": ["far"]}
        call = scene.alice.request("submit", address="bob/Relay", instance=instance, data=order, timeout=60)["id"]
        return call, scene.mallory.wait_for_call("far")

    lies: list[dict[str, Any]] = [
        {},
        {"text": "語" * 230_000},
        {"deep": deep},
        {"text": ESC},
        {"error": {"kind": "usage"}},
        {"levels": -1},
    ]
    for data in lies:
        call, asked = asks()
        scene.mallory.send_answer(asked, data)
        scene.mallory.send_answer(asked, {"second": True})
        assert scene.alice.request("wait", id=call)["data"] == {**data, "levels": data.get("levels", 0) + 1}
    for kind in ("usage", "daemon_not_running", "disk", "not_allowed", "made_up", ESC, 7, None):
        call, asked = asks()
        scene.mallory.send_answer(
            asked, {"kind": kind, "message": f"You have no key. {ESC}", "hint": ["x"] * 9}, "error"
        )
        with pytest.raises(CallError) as failed:
            scene.alice.request("wait", id=call)
        assert failed.value.kind in ("flow_failed", "not_allowed")
    call, asked = asks()
    malformed = scene.bob.refused("malformed")
    honest = scene.mallory.message(scene.bob.user_id, topics.REPLY, type="reply", cause=asked.id, data={"x": 0})
    for number in (b"1e999", b"NaN", b"-Infinity", b"[" * 160 + b"]" * 160, b'"\\ud800"'):
        body = honest.to_bytes().replace(b'"x":0', b'"x":' + number)
        scene.mallory.publish_bodies(scene.bob, topics.REPLY, body)
    wait_until(lambda: scene.bob.refused("malformed") == malformed + 5)
    scene.mallory.publish_bodies(scene.bob, topics.REPLY, honest.to_bytes())
    assert scene.alice.request("wait", id=call)["data"] == {"x": 0, "levels": 1}
    with pytest.raises(DeadlinePassed):
        scene.alice.request("call", address="bob/Relay", instance=instance, data={"path": ["far"]}, timeout=0.5)
    scene.mallory.wait_for_call("far")


def test_progress_that_nobody_asked_for(scene: Scene) -> None:
    """Floods of progress, for one's own call and for others', are dropped above a limit, and stop nothing."""
    call = scene.alice.start_command("call", "mallory/far", "--stream", "--json")
    asked = scene.mallory.wait_for_call("far")
    alice = scene.alice.user_id
    floods: list[list[tuple[str, dict[str, Any]]]] = [
        [(asked.id, {"delta": ESC})],
        [(asked.id, {"text": "x" * 600_000})],
        [(asked.id, {"n": number}) for number in range(5_000)],
        [(f"{number:032x}", {"delta": "x"}) for number in range(5_000)],
    ]
    for progress in floods:
        body = Notice(to=alice, progress=progress).to_bytes()
        scene.mallory.publish_bodies(scene.alice, topics.NOTICE, body, kind=BundleKind.NOTICE)
    wrong = f'{{"to": "{alice}", "progress": [["{asked.id}", {{"n": 1e999}}], ["{asked.id}", [1]]]}}'
    scene.mallory.publish_bodies(scene.alice, topics.NOTICE, wrong.encode(), kind=BundleKind.NOTICE)
    scene.mallory.send_answer(asked, {"done": True})
    result = call.wait().ok()
    assert result.document == {"done": True}
    assert "xxx" not in result.err
    assert "Infinity" not in result.err
    assert "\x1b" not in result.err


def test_a_stranger_wants_an_instance(scene: Scene) -> None:
    """A stranger's mount waits in `requests` under its endpoint; it is granted once allowed, and never once denied."""
    order = {"op": "mount", "endpoint": "Counter", "config_overrides": {"step": 5}}
    call = scene.eve.send_call(scene.bob, topics.INSTANCES, order)
    scene.bob.wait_for_status(lambda now: now["requests"] == 1)
    (request,) = scene.bob.request("requests")["requests"]
    assert (request["user"], request["endpoints"]) == (scene.eve.user_id, ["Counter"])
    assert scene.eve.call(scene.bob, topics.INSTANCES, {"op": "list"}) == {"instances": []}
    wrong = {"op": "delete", "instance": "0" * 32}
    assert scene.eve.call(scene.bob, topics.INSTANCES, wrong)["kind"] == "not_allowed"
    assert scene.instances(scene.eve.user_id) == []
    scene.bob.request("allow", user=scene.eve.user_id, name="eve")
    instance = scene.eve.answer_to(call)["instance"]
    assert scene.eve.call(scene.bob, "Counter", {}, instance=instance)["count"] == 5
    scene.bob.cli("contacts", "remove", "eve").ok()
    scene.eve.send_call(scene.bob, "Counter", {}, instance=instance)
    scene.bob.wait_for_status(lambda now: now["requests"] == 1)
    scene.bob.request("deny", user=scene.eve.user_id)


def test_a_worker_with_the_key_of_another_point(scene: Scene) -> None:
    """A worker with the key of one dispatch point reaches no task of another, whatever frames it sends."""
    bob = scene.bob.user_id
    call = scene.alice.request("submit", address="bob/Keeper", data={"question": "Why?"}, timeout=60)["id"]
    wait_until(lambda: scene.has_open_request(scene.alice.user_id, "Keeper"))
    enrolment = read_token(scene.bob.request("worker_token", dispatch_point="attic")["token"])
    topic, channel = topics.results(bob, enrolment.queue), Channel(enrolment.key)
    scene.spy.publish(topic, channel.seal(topic, _frame("w-rogue", 0, 1)))
    answer = scene.spy.first(lambda packet: packet.topic == topics.dispatch(bob, enrolment.queue, "w-rogue"))
    boot = channel.open(answer.topic, answer.payload)[0]["boot"]
    name = re.findall(r"as (w-\w+)\.", scene.bob.log_text())[-1]
    tasks = [f"{n}-{call}" for n in range(300)]
    turn = json.dumps({"out": [{"op": "reply", "request": call, "data": {"forged": True}}], "state": {}}).encode()
    ask = {"k": 0, "op": "call", "mark": "m", "user": scene.mallory.user_id, "endpoint": "stolen", "data": {}}
    for number, (worker, more) in enumerate(
        (worker, more)
        for worker in ("w-rogue", name)
        for more in (
            {"seen": 10**9},
            {"held": tasks, "parked": tasks, "slots": 10**9},
            {"asks": [{"task": task, **ask} for task in tasks]},
            {"asks": [{"task": 7, "k": 10**30}], "waits": [[tasks[0], 10**30]], "progress": [[1]]},
            {"waits": [[task, 0] for task in tasks], "progress": [{"task": task, "data": {"x": 1}} for task in tasks]},
            {"bye": True, "draining": True},
        )
    ):
        scene.spy.publish(topic, channel.seal(topic, {**_frame(worker, boot, number + 2), **more}))
    results = {"results": [{"task": task, "error": None} for task in tasks]}
    scene.spy.publish(topic, channel.seal(topic, {**_frame("w-last", boot, 1), **results}, [turn] * len(tasks)))
    scene.spy.publish(topics.results(bob, "default"), channel.seal(topic, _frame(name, boot, 10**9)))
    assert scene.answers_honest_call()
    assert scene.alice.request("call", address="bob/Keeper", data={"answer": ["x"]}, conversation=call, timeout=20)
    assert scene.alice.request("wait", id=call)["data"] == {"answer": "x"}
    assert not any(packet.topic.endswith("/in/stolen") for packet in scene.spy.seen)
    assert scene.bob.refused("bad_frame") > 0


def _frame(worker: str, boot: int, number: int) -> dict[str, Any]:
    return {
        "worker": worker, "boot": boot, "n": number, "seen": 0, "slots": 1, "held": [], "results": [],
        "draining": False, "bye": False,
    }  # fmt: skip
