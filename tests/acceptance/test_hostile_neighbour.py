"""A neighbour with full knowledge of the wire: nothing runs that may not, nothing leaks, and honest calls go on."""

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
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import wait_until

from p2pflows.errors import CallError, DeadlinePassed, UsageError
from p2pflows.protocol import identity, topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.message import Message, Notice, derived_id
from p2pflowsd.running.points import point_key

ESC = "\x1b]0;mine\x07\x1b[2J\u202e\u2066"
"""What a terminal would obey."""
ORDERS = {"\x1b", "\x07", "\u202e", "\u2066"}
"""The characters by which it would."""


class Mallory(Forger):
    """A neighbour who writes her messages by hand.

    Args:
        key: hers.
        spy: her ear at the broker.
    """

    def __init__(self, key: identity.Identity, spy: Spy) -> None:
        super().__init__(key)
        self._spy = spy
        self._read = 0
        self._messages: list[Message] = []

    def sends(self, to: Person, endpoint: str, data: dict[str, Any], **changes: Any) -> str:
        """Send a call, right but for the changes; gives its id."""
        message = self.message(to.user_id, endpoint, **{"type": "call", "data": data, **changes})
        self.publishes(to, endpoint, message.to_bytes())
        return message.id

    def publishes(self, to: Person, endpoint: str, *bodies: bytes, kind: BundleKind = BundleKind.MESSAGES) -> None:
        """Publish what need not be a message."""
        self._spy.publish(topics.inbox(to.user_id, endpoint), self.seal(to.user_id, *bodies, kind=kind))

    def hears(self, call: str) -> dict[str, Any]:
        """The data of the answer to a call."""
        wait_until(lambda: any(message.in_reply_to == call for message in self._heard()))
        return next(message.data for message in self._heard() if message.in_reply_to == call)

    def asks(self, to: Person, endpoint: str, data: dict[str, Any], **changes: Any) -> dict[str, Any]:
        """Send a call and hear its answer."""
        return self.hears(self.sends(to, endpoint, data, **changes))

    def is_asked(self, endpoint: str) -> Message:
        """The newest call to an endpoint of hers that nobody has answered, once there is one."""
        waiting: list[Message] = []

        def is_there() -> bool:
            waiting[:] = [each for each in self._heard() if (each.endpoint, each.type) == (endpoint, "call")]
            return bool(waiting)

        wait_until(is_there)
        self._messages = [each for each in self._messages if each not in waiting]
        return waiting[-1]

    def answers(self, call: Message, data: dict[str, Any], kind: str = "reply", **changes: Any) -> bytes:
        """Answer a call; gives the body."""
        about = {"type": kind, "cause": call.id, "conversation": call.conversation}
        body = self.message(call.sender, topics.REPLY, **{**about, "data": data, **changes}).to_bytes()
        self._spy.publish(topics.inbox(call.sender, topics.REPLY), self.seal(call.sender, body))
        return body

    def _heard(self) -> list[Message]:
        packets = self._spy.seen[self._read :]
        self._read += len(packets)
        mine = f"{topics.PREFIX}/{self.user_id}/in/"
        for packet in packets:
            if packet.topic.startswith(mine) and not packet.topic.endswith(topics.NOTICE):
                bodies = self.envelope.open(packet.payload).bodies
                self._messages += [Message.from_bytes(body) for body in bodies]
        return self._messages


class Yard:
    """Alice calls bob's flows; mallory, whom both know, has no daemon, and neither has the stranger eve."""

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

    def mounts(self, who: Mallory, endpoint: str, **order: Any) -> dict[str, Any]:
        """Let mallory ask bob for an instance; gives the answer."""
        return who.asks(self.bob, topics.INSTANCES, {"op": "mount", "endpoint": endpoint, **order})

    def instances(self, who: str) -> list[dict[str, Any]]:
        """The instances that somebody has at bob's."""
        found: list[dict[str, Any]] = self.bob.request("instances")["instances"]
        return [each for each in found if each["client"] == who]

    def keeps(self, who: str, endpoint: str) -> bool:
        """Whether an instance of theirs keeps a request that is still to be answered."""
        return any(each["open"] == 1 for each in self.instances(who) if each["endpoint"] == endpoint)

    def log(self, after: int = 0) -> list[dict[str, Any]]:
        """Bob's log."""
        entries: list[dict[str, Any]] = self.bob.request("log", limit=1000, after=after)["entries"]
        return entries

    def lives(self) -> bool:
        """Whether an honest call is answered at once."""
        began = time.monotonic()
        told = self.alice.request("call", address="bob/Counter", data={}, timeout=20)["data"]
        return bool(told["count"] == 1 and time.monotonic() - began < 10)


@pytest.fixture(scope="module")
def yard() -> Iterator[Yard]:
    """The scene, shared, as it takes seconds to set it up."""
    network = Network("mosquitto" if MOSQUITTO else "iotcore")
    try:
        yard = Yard(network)
        with yard.spy:
            yield yard
    finally:
        network.close()


@pytest.fixture(autouse=True)
def _honest_calls_go_on(yard: Yard) -> Iterator[None]:
    """After each attack an honest call is answered, by the same daemons, and nothing of the attack stays behind."""
    daemons = [person.daemon for person in (yard.alice, yard.bob)]
    before = yard.instances(yard.mallory.user_id)
    yield
    assert yard.lives()
    assert [person.daemon for person in (yard.alice, yard.bob)] == daemons
    for each in yard.instances(yard.mallory.user_id):
        if each not in before:
            with contextlib.suppress(UsageError, CallError):
                yard.bob.request("delete_instance", instance=each["instance"])


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


def test_overrides_that_reach_for_power(yard: Yard) -> None:
    """No override picks code, a server for the key, a template, a person or a secret, in any spelling or depth."""
    last = yard.log()[-1:]
    asked = []
    for endpoint, overrides in POWER:
        meant = json.loads(json.dumps(overrides).replace("MALLORY", yard.mallory.user_id))
        order = {"op": "mount", "endpoint": endpoint, "config_overrides": meant}
        asked.append(yard.mallory.sends(yard.bob, topics.INSTANCES, order))
    kinds = {
        json.dumps(what)[:80]: yard.mallory.hears(each).get("kind") for each, what in zip(asked, POWER, strict=True)
    }
    assert {what: kind for what, kind in kinds.items() if kind not in ("not_allowed", "bad_input", "too_large")} == {}
    assert yard.instances(yard.mallory.user_id) == []
    noted = {entry["what"] for entry in yard.log(last[0]["n"] if last else 0) if entry["name"] == "mallory"}
    assert noted >= {"not_allowed", "too_large", "bad_input"}
    assert "instance" in yard.mounts(yard.mallory, "Counter", config_overrides={"step": 3})


def test_a_state_with_traps(yard: Yard, tmp_path: Path) -> None:
    """A state to begin with is data: it answers nobody else's request, makes no class, and unpickles nothing."""
    trace = tmp_path / "ran"
    call = yard.alice.request("submit", address="bob/Keeper", data={"secret": "alice"}, timeout=60)["id"]
    wait_until(lambda: yard.keeps(yard.alice.user_id, "Keeper"))

    class Bomb:
        def __reduce__(self) -> Any:
            return (Path(trace).touch, ())

    tag = "$p2pflows"
    bomb = base64.b64encode(pickle.dumps(Bomb())).decode()
    kept = {"data": {"forged": True}, "reply_data": {"mode": "reply", "message": call}, "user_id": yard.alice.user_id}
    state = {
        "kept": {tag: "message", "fields": kept},
        "model": {tag: "model", "class": "pathlib.Path", "data": [str(trace)]},
        "bomb": {tag: "bytes", "base64": bomb},
        "__class__": {tag: "dict", "items": {tag: "bytes"}},
    }
    instance = yard.mounts(yard.mallory, "Keeper", initial_state=state)["instance"]
    said = yard.mallory.asks(yard.bob, "Keeper", {"answer": ["forged", "again"]}, instance=instance)
    assert said == {"kept": {"forged": True}}
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
        assert yard.mounts(yard.mallory, "Keeper", initial_state={"kept": wrong})["kind"] == "flow_failed"
    assert yard.mounts(yard.mallory, "Careless", initial_state={"count": 7})["kind"] == "not_allowed"
    assert not trace.exists()
    assert yard.alice.request("outbox")["failed"] == []
    yard.alice.request("cancel", id=call)


def test_instances_of_others(yard: Yard) -> None:
    """Neither alice's instances nor those that bob made for a tree are mallory's, whoever told her their ids."""
    mine = yard.alice.request("mount", address="bob/Tree")["instance"]
    assert yard.alice.request("call", address="bob/Tree", instance=mine, data={"path": ["near"]})["data"]["count"] == 1
    (below,) = [each["instance"] for each in yard.instances(yard.bob.user_id) if each["endpoint"] == "Counter"]
    guessed = derived_id("singleton", yard.bob.user_id, "Counter")
    for instance in (mine, below, guessed):
        asked = [
            yard.mallory.sends(yard.bob, endpoint, data, instance=named)
            for endpoint, data, named in (
                ("Tree", {"path": ["near"]}, instance),
                ("Counter", {}, instance),
                (topics.INSTANCES, {"op": "delete", "instance": instance}, None),
                (topics.INSTANCES, {"op": "reset", "instance": instance, "recursive": True}, None),
            )
        ]
        assert [yard.mallory.hears(call)["kind"] for call in asked] == ["not_allowed"] * 4
    shown = yard.mallory.asks(yard.bob, topics.INSTANCES, {"op": "list"})["instances"]
    assert {each["client"] for each in shown} <= {yard.mallory.user_id}
    assert yard.alice.request("call", address="bob/Tree", instance=mine, data={"path": ["near"]})["data"]["count"] == 2
    assert ("not_allowed", "mallory") in {(entry["what"], entry["name"]) for entry in yard.log()}
    yard.alice.request("delete_instance", instance=mine, user="bob")


def test_answers_for_others(yard: Yard) -> None:
    """What bob was asked, only bob answers; a flow told to answer alice's request answers its own caller alone."""
    call = yard.alice.request("submit", address="bob/User", data={"text": "Who are you?"}, timeout=60)["id"]
    (prompt,) = yard.bob.wait_for_prompts()
    replayed = yard.alice.refused("replayed")
    for kind, data in (("reply", {"human_input": "Mallory."}), ("error", {"kind": "declined", "message": "No."})):
        body = yard.mallory.message(yard.alice.user_id, topics.REPLY, type=kind, cause=call, data=data).to_bytes()
        yard.mallory.publishes(yard.alice, topics.REPLY, body)
    told = Notice(to=yard.alice.user_id, progress=[(call, {"delta": "Mallory."})], received=[call])
    yard.mallory.publishes(yard.alice, topics.NOTICE, told.to_bytes(), kind=BundleKind.NOTICE)
    assert yard.mallory.asks(yard.bob, "Forger", {"request": call}) == {"done": True}
    wait_until(lambda: yard.alice.refused("replayed") == replayed + 2)
    yard.bob.request("answer", id=prompt["id"], text="Bob.")
    assert yard.alice.request("wait", id=call)["data"] == {"human_input": "Bob."}


def test_the_id_of_anothers_request(yard: Yard) -> None:
    """In a flow that all share, mallory's request under the id of alice's gets neither her answer nor her place."""
    call = yard.alice.request("submit", address="bob/Shared", data={"question": "Why?"}, timeout=60)["id"]
    wait_until(lambda: yard.keeps(yard.bob.user_id, "Shared"))
    assert yard.mallory.asks(yard.bob, "Shared", {"mine": True}, id=call)["kind"] == "bad_input"
    assert yard.mallory.asks(yard.bob, "Shared", {"answer": ["Because."]}) == {"kept": {"question": "Why?"}}
    assert yard.alice.request("wait", id=call)["data"] == {"answer": "Because."}
    assert yard.mounts(yard.mallory, "Shared", initial_state={})["kind"] == "not_allowed"


def test_withdrawing_what_others_asked_for(yard: Yard) -> None:
    """A cancel from mallory ends nothing of alice's: no mount, no question, no run."""
    mount = yard.alice.request("mount", address="bob/Counter")["instance"]
    question = yard.alice.request("submit", address="bob/User", data={"text": "Still there?"}, timeout=60)["id"]
    (prompt,) = yard.bob.wait_for_prompts()
    for cause in (question, mount, derived_id("mount", yard.alice.user_id, question)):
        for endpoint in ("User", "Counter", topics.INSTANCES):
            yard.mallory.sends(yard.bob, endpoint, {}, type="cancel", cause=cause)
    assert yard.mallory.asks(yard.bob, "Counter", {})["count"] == 1
    assert yard.alice.request("call", address="bob/Counter", instance=mount, timeout=20)["data"]["count"] == 1
    yard.bob.request("answer", id=prompt["id"], text="Still here.")
    assert yard.alice.request("wait", id=question)["data"] == {"human_input": "Still here."}


def test_a_flood_of_mounts_and_calls(yard: Yard) -> None:
    """While mallory asks for hundreds of things at once, alice is served; all that mallory asked for has its end."""
    order = {"op": "mount", "endpoint": "Counter"}
    bodies = [yard.mallory.message(yard.bob.user_id, topics.INSTANCES, type="call", data=order) for _ in range(150)]
    yard.mallory.publishes(yard.bob, topics.INSTANCES, *(body.to_bytes() for body in bodies))
    calls = [yard.mallory.message(yard.bob.user_id, "Counter", type="call", data={}) for _ in range(150)]
    yard.mallory.publishes(yard.bob, "Counter", *(body.to_bytes() for body in calls))
    assert yard.lives()
    assert all("instance" in yard.mallory.hears(body.id) for body in bodies)
    assert all(yard.mallory.hears(call.id)["count"] == 1 for call in calls)
    yard.bob.request("delete_endpoint", endpoint="Counter")
    yard.serve("Counter", "flow_classes:Counter")


def test_a_template_in_a_message(yard: Yard) -> None:
    """What mallory writes is shown as she wrote it: it fills a place in a prompt, and is never a template itself."""
    template = {"template": "She asks: {{ query }}", "input_variables": ["query"]}
    yard.serve("Ask", "p2pflows.humans.human:HumanFlow", config={"query_message_prompt_template": template})
    said = "{{ 7 * 7 }} {{ self.__init__.__globals__ }} {% for x in range(10**9) %}{% endfor %}"
    call = yard.mallory.sends(yard.bob, "Ask", {"query": said})
    (prompt,) = yard.bob.wait_for_prompts()
    assert prompt["text"] == f"She asks: {said}"
    yard.bob.request("answer", id=prompt["id"], text="No.")
    assert yard.mallory.hears(call) == {"human_input": "No."}
    overrides = {"query_message_prompt_template": {"template": "{{ query }}"}}
    assert yard.mounts(yard.mallory, "Ask", config_overrides=overrides)["kind"] == "not_allowed"


def test_orders_for_a_terminal(yard: Yard) -> None:
    """Nothing that mallory can have written into bob's log or lists steers his terminal."""
    said = yard.mallory.asks(yard.bob, "Careless", {"text": "", "raise": f"Oh {ESC} no"})
    assert said["kind"] == "flow_failed"
    for endpoint, data in (("Counter", {}), (topics.INSTANCES, {"op": ESC})):
        yard.mallory.sends(yard.bob, endpoint, data, source=ESC, instance="0" * 32)
    yard.mallory.asks(yard.bob, "User", {"text": " "}, source=ESC)
    yard.mounts(yard.mallory, "Counter", config_overrides={f"step{ESC}": 1})
    shown = [yard.bob.start_command(*words) for words in (["log"], ["log", "--json"], ["instances"], ["requests"])]
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


def test_forged_answers_to_commands(yard: Yard) -> None:
    """`mount`, `instances` and `ls` take whatever mallory's daemon answers, and show none of it raw."""
    for grants in GRANTS:
        about = "instances" if "instances" in grants else "mount"
        commands = {
            topics.INSTANCES: yard.alice.start_command(about, "mallory" if about == "instances" else "mallory/far")
        }
        if "flows" in grants:
            commands[topics.FLOWS] = yard.alice.start_command("ls", "mallory")
        for endpoint in commands:
            yard.mallory.answers(yard.mallory.is_asked(endpoint), grants)
        for command in commands.values():
            ran = command.wait()
            assert not ORDERS & set(ran.out + ran.err), (grants, ran)
            assert "bug" not in ran.err, (grants, ran)


@pytest.mark.parametrize("grant", [{}, *GRANTS[1:4], {"instance": "0" * 32}], ids=range(5))
def test_a_subflow_that_is_granted_in_no_form(yard: Yard, grant: dict[str, Any]) -> None:
    """A composite of bob's whose neighbour grants nonsense is not mounted, and its caller hears why."""
    call = yard.alice.request("submit", address="bob/Relay", data={"path": ["far"]}, timeout=60)["id"]
    yard.mallory.answers(yard.mallory.is_asked(topics.INSTANCES), grant)
    if grant.get("instance") not in ("0" * 32, None):
        with pytest.raises(CallError, match="the daemon of its owner sent an answer of a wrong form"):
            yard.alice.request("wait", id=call)
        return
    asked = yard.mallory.is_asked("far")
    assert asked.instance == grant.get("instance")
    yard.mallory.answers(asked, {"fine": True})
    assert yard.alice.request("wait", id=call)["data"] == {"fine": True, "levels": 1}


def test_a_subflow_that_lies(yard: Yard) -> None:
    """Whatever a neighbour's flow answers, once, twice, never or in no form, the composite's caller hears an end."""
    mount = yard.alice.start_command("mount", "bob/Relay")
    yard.mallory.answers(yard.mallory.is_asked(topics.INSTANCES), {"instance": "7" * 32})
    instance = mount.wait().ok().out.strip()
    deep = json.loads("[" * 140 + "]" * 140)

    def asks() -> tuple[str, Message]:
        order = {"path": ["far"]}
        call = yard.alice.request("submit", address="bob/Relay", instance=instance, data=order, timeout=60)["id"]
        return call, yard.mallory.is_asked("far")

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
        yard.mallory.answers(asked, data)
        yard.mallory.answers(asked, {"second": True})
        assert yard.alice.request("wait", id=call)["data"] == {**data, "levels": data.get("levels", 0) + 1}
    for kind in ("usage", "daemon_not_running", "disk", "not_allowed", "made_up", ESC, 7, None):
        call, asked = asks()
        yard.mallory.answers(asked, {"kind": kind, "message": f"You have no key. {ESC}", "hint": ["x"] * 9}, "error")
        with pytest.raises(CallError) as failed:
            yard.alice.request("wait", id=call)
        assert failed.value.kind in ("flow_failed", "not_allowed")
    call, asked = asks()
    malformed = yard.bob.refused("malformed")
    honest = yard.mallory.message(yard.bob.user_id, topics.REPLY, type="reply", cause=asked.id, data={"x": 0})
    for number in (b"1e999", b"NaN", b"-Infinity", b"[" * 160 + b"]" * 160, b'"\\ud800"'):
        body = honest.to_bytes().replace(b'"x":0', b'"x":' + number)
        yard.mallory.publishes(yard.bob, topics.REPLY, body)
    wait_until(lambda: yard.bob.refused("malformed") == malformed + 5)
    yard.mallory.publishes(yard.bob, topics.REPLY, honest.to_bytes())
    assert yard.alice.request("wait", id=call)["data"] == {"x": 0, "levels": 1}
    with pytest.raises(DeadlinePassed):
        yard.alice.request("call", address="bob/Relay", instance=instance, data={"path": ["far"]}, timeout=0.5)
    yard.mallory.is_asked("far")


def test_progress_that_nobody_asked_for(yard: Yard) -> None:
    """Floods of progress, for one's own call and for others', are dropped where they are too much, and stop nothing."""
    call = yard.alice.start_command("call", "mallory/far", "--stream", "--json")
    asked = yard.mallory.is_asked("far")
    alice = yard.alice.user_id
    floods: list[list[tuple[str, dict[str, Any]]]] = [
        [(asked.id, {"delta": ESC})],
        [(asked.id, {"text": "x" * 600_000})],
        [(asked.id, {"n": number}) for number in range(5_000)],
        [(f"{number:032x}", {"delta": "x"}) for number in range(5_000)],
    ]
    for progress in floods:
        body = Notice(to=alice, progress=progress).to_bytes()
        yard.mallory.publishes(yard.alice, topics.NOTICE, body, kind=BundleKind.NOTICE)
    wrong = f'{{"to": "{alice}", "progress": [["{asked.id}", {{"n": 1e999}}], ["{asked.id}", [1]]]}}'
    yard.mallory.publishes(yard.alice, topics.NOTICE, wrong.encode(), kind=BundleKind.NOTICE)
    yard.mallory.answers(asked, {"done": True})
    ran = call.wait().ok()
    assert ran.document == {"done": True}
    assert "xxx" not in ran.err
    assert "Infinity" not in ran.err
    assert "\x1b" not in ran.err


def test_a_stranger_wants_an_instance(yard: Yard) -> None:
    """It waits in `requests` under the endpoint that is wanted; once allowed, it is granted; denied, it never is."""
    order = {"op": "mount", "endpoint": "Counter", "config_overrides": {"step": 5}}
    call = yard.eve.sends(yard.bob, topics.INSTANCES, order)
    yard.bob.wait_for_status(lambda now: now["requests"] == 1)
    (request,) = yard.bob.request("requests")["requests"]
    assert (request["user"], request["endpoints"]) == (yard.eve.user_id, ["Counter"])
    assert yard.eve.asks(yard.bob, topics.INSTANCES, {"op": "list"}) == {"instances": []}
    wrong = {"op": "delete", "instance": "0" * 32}
    assert yard.eve.asks(yard.bob, topics.INSTANCES, wrong)["kind"] == "not_allowed"
    assert yard.instances(yard.eve.user_id) == []
    yard.bob.request("allow", user=yard.eve.user_id, name="eve")
    instance = yard.eve.hears(call)["instance"]
    assert yard.eve.asks(yard.bob, "Counter", {}, instance=instance)["count"] == 5
    yard.bob.cli("contacts", "remove", "eve").ok()
    yard.eve.sends(yard.bob, "Counter", {}, instance=instance)
    yard.bob.wait_for_status(lambda now: now["requests"] == 1)
    yard.bob.request("deny", user=yard.eve.user_id)


def test_a_worker_with_the_key_of_another_point(yard: Yard) -> None:
    """Who holds the key of one dispatch point sends whatever frames; the other points' tasks are out of reach."""
    bob = yard.bob.user_id
    call = yard.alice.request("submit", address="bob/Keeper", data={"question": "Why?"}, timeout=60)["id"]
    wait_until(lambda: yard.keeps(yard.alice.user_id, "Keeper"))
    topic = topics.results(bob, "attic")
    channel = Channel(point_key(yard.bob.me, "attic"))
    yard.spy.publish(topic, channel.seal(topic, _frame("w-rogue", 0, 1)))
    answer = yard.spy.first(lambda packet: packet.topic == topics.dispatch(bob, "attic", "w-rogue"))
    boot = channel.open(answer.topic, answer.payload)[0]["boot"]
    name = re.findall(r"as (w-\w+)\.", yard.bob.log_text())[-1]
    tasks = [f"{n}-{call}" for n in range(300)]
    turn = json.dumps({"out": [{"op": "reply", "request": call, "data": {"forged": True}}], "state": {}}).encode()
    ask = {"k": 0, "op": "call", "mark": "m", "user": yard.mallory.user_id, "endpoint": "stolen", "data": {}}
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
        yard.spy.publish(topic, channel.seal(topic, {**_frame(worker, boot, number + 2), **more}))
    results = {"results": [{"task": task, "error": None} for task in tasks]}
    yard.spy.publish(topic, channel.seal(topic, {**_frame("w-last", boot, 1), **results}, [turn] * len(tasks)))
    yard.spy.publish(topics.results(bob, "default"), channel.seal(topic, _frame(name, boot, 10**9)))
    assert yard.lives()
    assert yard.alice.request("call", address="bob/Keeper", data={"answer": ["x"]}, conversation=call, timeout=20)
    assert yard.alice.request("wait", id=call)["data"] == {"answer": "x"}
    assert not any(packet.topic.endswith("/in/stolen") for packet in yard.spy.seen)
    assert yard.bob.refused("bad_frame") > 0


def _frame(worker: str, boot: int, number: int) -> dict[str, Any]:
    return {
        "worker": worker, "boot": boot, "n": number, "seen": 0, "slots": 1, "held": [], "results": [],
        "draining": False, "bye": False,
    }  # fmt: skip
