"""Flow classes: construction, sending, state, and a whole composite between two people."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import logging
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import pytest
from pydantic import BaseModel
from support.scripted_run import ALICE, BOB, CAROL, INSTANCE, Memory, ScriptedRun, Sent, answer_to, incoming

from p2pflows.errors import Declined, FlowFailed, UsageError
from p2pflows.flows import run as port
from p2pflows.flows.flow import AtomicFlow, CompositeFlow, Flow, build, dump_state, invoke
from p2pflows.flows.interfaces import KeyInterface
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.proxy import FlowProxy
from p2pflows.flows.run import Target

_F = TypeVar("_F", bound=Flow)

ABOUT = {"name": "sample", "description": "A sample."}
USERS = {"User1": Target(ALICE, "User"), "User2": Target(BOB, "User")}
PAIR = {
    **ABOUT,
    "subflows_config": {"User1": {"flow_endpoint": "User"}, "User2": {"flow_endpoint": "User", "user_id": BOB}},
}


class HumanToHuman(CompositeFlow):
    """The tutorial's composite: two humans take turns."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_interface = KeyInterface(keys_to_rename={"human_input": "api_output"})
        self.flow_state["last_state"] = None

    def call_user(self, user: str, input_message: FlowMessage) -> None:
        """Ask one of the two."""
        message = self.input_interface(input_message)
        message = self.package_input_message(data=message.data)

        self.subflows[user].get_reply(message)

    def run(self, input_message: FlowMessage) -> None:
        """Hand what one said to the other."""
        last_state = self.flow_state["last_state"]

        if last_state is None or last_state == "User2":
            self.call_user(user="User1", input_message=input_message)
            self.flow_state["last_state"] = "User1"

        elif last_state == "User1":
            self.call_user(user="User2", input_message=input_message)
            self.flow_state["last_state"] = "User2"


class Echo(AtomicFlow):
    """Answers with the data it receives."""

    default_config: ClassVar[dict[str, Any]] = ABOUT

    def run(self, input_message: FlowMessage) -> Any:
        """Give back the data."""
        return input_message.data


class Pair(CompositeFlow):
    """Has two subflows; tests replace its run."""

    def run(self, input_message: FlowMessage) -> Any:
        """Ask the second user."""
        self.subflows["User2"].get_reply(input_message)


def made(flow_class: type[_F], run: ScriptedRun | None = None, state: bytes | None = None, **config: Any) -> _F:
    """Create a flow as a worker does, with two subflows if it is a composite."""
    composite = issubclass(flow_class, CompositeFlow)
    whole = {**(PAIR if composite else ABOUT), **config}
    return build(flow_class, whole, subflows=USERS if composite else {}, run=run or ScriptedRun(), state=state)


def running(flow: Flow) -> ScriptedRun:
    """Return the run that sends a flow's messages."""
    assert isinstance(flow._run, ScriptedRun)
    return flow._run


# Making.


def test_the_tutorials_composite_lets_two_people_talk() -> None:
    """HumanToHuman, as in the tutorial, passes each answer to the other person; its state is stored in between."""
    message = incoming({"api_output": "Let's start chatting."}, request=None)
    state = None
    heard = []
    for said in ("Hi, I am Alice.", "Hi, I am Bob.", "Bye."):
        flow = made(HumanToHuman, state=state)
        invoke(flow, message)
        state = dump_state(flow)
        (sent,) = running(flow).call_backs
        heard.append((sent.subflow, sent.target.user, sent.message.data["api_output"]))
        message = answer_to(sent, {"human_input": said})
    assert heard == [
        ("User1", ALICE, "Let's start chatting."),
        ("User2", BOB, "Hi, I am Alice."),
        ("User1", ALICE, "Hi, I am Bob."),
    ]


def test_a_partial_state_leaves_the_rest_of_the_constructors_state() -> None:
    """Keys set after `super().__init__()` survive a stored state that lacks them."""
    flow = made(HumanToHuman, state=json.dumps({"other": 1}).encode())
    assert flow.flow_state == {"last_state": None, "other": 1}


def test_config_and_subflows_are_there_when_the_state_is_set_up() -> None:
    """`set_up_flow_state` and the constructor can use both (D25)."""

    class Counting(Pair):
        def set_up_flow_state(self) -> None:
            super().set_up_flow_state()
            self.flow_state["turns"] = dict.fromkeys(self.subflows, self.flow_config["start"])

    assert made(Counting, start=5).flow_state == {"turns": {"User1": 5, "User2": 5}}


def test_a_constructor_gets_the_keys_of_the_config() -> None:
    """A constructor may take keys of the config; the config stays complete, and changes of the copy do not reach it."""

    class Warm(Echo):
        def __init__(self, temperature: float, options: dict[str, Any], **kwargs: Any) -> None:
            super().__init__(**kwargs)
            options.clear()
            self.temperature = temperature

    flow = made(Warm, temperature=0.5, options={"a": 1})
    assert flow.temperature == 0.5
    assert (flow.flow_config["temperature"], flow.flow_config["options"]) == (0.5, {"a": 1})


def test_a_constructor_may_ask_for_the_config_itself() -> None:
    """A constructor with one parameter `flow_config`, the other common form, works too."""

    class Whole(Echo):
        def __init__(self, flow_config: dict[str, Any], **kwargs: Any) -> None:
            super().__init__(flow_config=flow_config, **kwargs)
            self.start = flow_config["start"]

    assert made(Whole, start=5).start == 5
    assert Whole(flow_config={"start": 6}).flow_config["start"] == 6


def test_the_config_of_an_instance_is_fixed() -> None:
    """A worker uses the stored config of the instance, not the present defaults of the class (D22)."""
    flow = build(Echo, {"name": "old", "description": "d"}, subflows={}, run=None, state=None)
    assert flow.flow_config == {"name": "old", "description": "d"}


def test_flows_made_by_hand() -> None:
    """The factories and the plain constructor override the defaults with their arguments."""
    by_keys = Echo.instantiate_from_default_config(name="other", options={"a": 1})
    assert (by_keys.name, by_keys.flow_config["description"]) == ("other", "A sample.")
    assert Echo.instantiate_with_overrides({"a": {"b": 1}}).flow_config["a"] == {"b": 1}
    assert Echo.instantiate_from_config({**ABOUT, "x": 1}).flow_config == {**ABOUT, "x": 1}
    assert Echo(x=1).flow_config["x"] == 1
    assert Echo.get_config(x=1)["x"] == 1
    composite = HumanToHuman.instantiate_from_config(PAIR)
    assert composite.flow_state == {"last_state": None}
    assert list(composite.subflows) == ["User1", "User2"]


def test_no_two_flows_share_their_config() -> None:
    """Flows change neither the defaults of the class nor the caller's dict (D13)."""
    config = {**ABOUT, "options": {"a": 1}}
    first = Echo.instantiate_from_config(config)
    first.flow_config["options"]["a"] = 2
    first.flow_state["x"] = 1
    second = Echo.instantiate_from_config(config)
    assert (second.flow_config["options"], second.flow_state) == ({"a": 1}, {})


def test_a_missing_key_is_named() -> None:
    """A composite without a name is an error at once (D24)."""
    with pytest.raises(UsageError, match="'name'"):
        build(Pair, {"description": "d", "subflows_config": {}}, subflows={}, run=None, state=None)
    with pytest.raises(UsageError, match="'subflows_config'"):
        Pair(flow_config=ABOUT)


def test_a_subflow_that_stands_for_nobody_is_named() -> None:
    """A worker never creates a composite with a subflow that has no target."""
    with pytest.raises(UsageError, match="'User2'"):
        build(Pair, PAIR, subflows={"User1": USERS["User1"]}, run=ScriptedRun(), state=None)


def test_what_is_no_flow_class_is_refused() -> None:
    """Only flow classes can be built (D20)."""
    wrongs: list[Any] = [dict, print, ScriptedRun]
    for wrong in wrongs:
        with pytest.raises(UsageError, match="not a flow class"):
            build(wrong, ABOUT, subflows={}, run=None, state=None)


def test_a_constructor_that_raises_is_told() -> None:
    """The error of a failed constructor has the class's name and the error's type and text (D38)."""

    class Broken(Echo):
        def __init__(self, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            raise ZeroDivisionError("oh")

    with pytest.raises(FlowFailed, match="Broken cannot be created: ZeroDivisionError: oh"):
        made(Broken)


# Running.


def test_a_returned_dict_or_message_is_the_answer() -> None:
    """What `run` returns answers its input message."""

    class Messenger(Echo):
        def run(self, input_message: FlowMessage) -> Any:
            return FlowMessage(data={"got": input_message.data})

    for flow, expected in ((made(Echo), {"a": 1}), (made(Messenger), {"got": {"a": 1}})):
        assert invoke(flow, incoming({"a": 1}, request="wire")) is None
        assert running(flow).replies == [("wire", expected)]


def test_what_is_returned_to_nobody_is_not_sent(caplog: pytest.LogCaptureFixture) -> None:
    """An answer to a post is dropped and logged."""
    flow = made(Echo)
    with caplog.at_level(logging.DEBUG, "p2pflows.flows"):
        invoke(flow, incoming({"a": 1}, request=None))
    assert running(flow).replies == []
    assert "is not sent" in caplog.text


def test_a_run_that_returns_nothing_answers_nothing() -> None:
    """None sends no answer; a later run may send one."""
    flow = made(HumanToHuman)
    invoke(flow, incoming({"api_output": "x"}))
    assert running(flow).replies == []


def test_a_run_that_returns_something_else_is_told() -> None:
    """A run that returns a text fails, so the caller receives an error instead of waiting."""

    class Talker(Echo):
        def run(self, input_message: FlowMessage) -> Any:
            return str(input_message.data)

    with pytest.raises(FlowFailed, match="returned a str"):
        invoke(made(Talker), incoming({}))


async def test_an_async_run() -> None:
    """An async run is awaited, may await other calls, and answers in the same way."""

    class Asker(CompositeFlow):
        async def run(self, input_message: FlowMessage) -> Any:
            proxy = self.subflows["User2"]
            return await proxy.get_reply_future(proxy.package_input_message(input_message.data))

    memory = Memory()
    flow = made(Asker, ScriptedRun(memory=memory))
    later = invoke(flow, incoming({"a": 1}, request="wire"))
    assert later is not None

    async def answer() -> None:
        running(flow).answer(0, {"human_input": "yes"})

    await asyncio.gather(later, answer())
    assert memory.calls[0][0].message.data == {"a": 1}
    assert running(flow).replies == [("wire", {"human_input": "yes"})]


def test_answering_later_from_the_state() -> None:
    """A run stores its request and asks a subflow; a later run answers the request."""

    class Later(CompositeFlow):
        def run(self, input_message: FlowMessage) -> None:
            if input_message.subflow is None:
                self.flow_state["initial_message"] = input_message
                self.subflows["User2"].get_reply(self.package_input_message({"api_output": "?"}))
            else:
                reply = self.package_output_message(self.flow_state["initial_message"], input_message.data)
                self.send_message(reply)

    first = made(Later)
    request = incoming({"query": "q"}, request="wire 7")
    invoke(first, request)
    second = made(Later, state=dump_state(first))
    invoke(second, answer_to(running(first).call_backs[0], {"human_input": "yes"}))
    assert running(second).replies == [("wire 7", {"human_input": "yes"})]


def test_a_run_that_changes_its_input_still_answers_the_right_request() -> None:
    """The request to answer is fixed when the message arrives."""

    class Messy(Echo):
        def run(self, input_message: FlowMessage) -> Any:
            input_message.reply_data["message"] = "elsewhere"
            input_message.reply_data = {}
            return {"a": 1}

    flow = made(Messy)
    invoke(flow, incoming({}, request="wire"))
    assert running(flow).replies == [("wire", {"a": 1})]


def test_a_subflows_error_passes_up_or_enters_the_run() -> None:
    """A subflow's error ends the run with that error, unless the class handles errors (D38)."""

    class Handling(Pair):
        handles_errors = True

        def run(self, input_message: FlowMessage) -> Any:
            self.flow_state["error"] = f"{input_message.subflow}: {input_message.error}"

    sent = Sent(USERS["User2"], FlowMessage(), subflow="User2")
    message = answer_to(sent, {}, error=Declined("No."))
    with pytest.raises(Declined, match="No"):
        invoke(made(Pair), message)
    flow = made(Handling)
    invoke(flow, message)
    assert flow.flow_state["error"] == "User2: No."


def test_a_flow_without_a_run_says_so() -> None:
    """AtomicFlow itself represents flows that run elsewhere, such as a human."""
    with pytest.raises(UsageError, match="no run method"):
        invoke(made(AtomicFlow), incoming({}))


def test_a_flow_that_no_worker_runs_cannot_send() -> None:
    """A flow that no worker runs packages messages; sending is an error with a next step."""
    flow = HumanToHuman.instantiate_from_config(PAIR)
    message = flow.package_input_message({"a": 1})
    attempts: list[Callable[[], Any]] = [
        functools.partial(flow.subflows["User1"].send_message, message),
        functools.partial(flow.subflows["User1"].get_reply, message),
        functools.partial(flow.subflows["User1"].get_reply_future, message),
        functools.partial(flow.send_message, flow.package_output_message(incoming({}), {})),
        functools.partial(flow.step, dict),
        functools.partial(flow.progress, {}),
    ]
    for attempt in attempts:
        with pytest.raises(UsageError) as caught:
            attempt()
        assert "run a worker" in caught.value.hint


def test_steps_and_progress_reach_the_run() -> None:
    """A step is computed once, also when the run starts over; progress is reported in order."""
    made_up = []

    class Working(Echo):
        def run(self, input_message: FlowMessage) -> Any:
            self.progress({"done": (1, 2)})
            return {"sum": self.step(self.add, input_message.data["a"], b=2)}

        def add(self, a: int, b: int) -> int:
            made_up.append(a)
            return a + b

    first = made(Working)
    again = made(Working, ScriptedRun(memory=running(first).memory))
    for flow in (first, again):
        invoke(flow, incoming({"a": 1}, request="wire"))
        assert running(flow).replies == [("wire", {"sum": 3})]
        assert running(flow).told == [{"done": [1, 2]}]
    assert made_up == [1]


def test_a_step_is_not_async() -> None:
    """An async function is refused: its result would be a coroutine."""

    async def compute() -> None: ...

    with pytest.raises(UsageError, match="async"):
        made(Echo).step(compute)


# Messages.


def test_packaging_copies() -> None:
    """A packaged message shares nothing with its data or with the next message (D33)."""
    data = {"a": [1]}
    flow = made(Echo)
    first, second = flow.package_input_message(data), flow.package_input_message(data)
    first.data["a"].append(2)
    first.reply_data["mode"] = "x"
    assert (data, second.data, second.reply_data) == ({"a": [1]}, {"a": [1]}, {"mode": "no_reply"})
    assert (first.src_flow, first.src_flow_id, first.user_id) == ("sample", INSTANCE, ALICE)
    assert first.message_id != second.message_id
    with pytest.raises(UsageError, match="dict"):
        flow.package_input_message("text")  # type: ignore[arg-type]


def test_an_answer_is_packaged_from_its_request() -> None:
    """An answer goes to the sender of its request, names the request, and has data of its own."""
    flow, request = made(Echo), dataclasses.replace(incoming({}, request="wire"), conversation="talk")
    answer = flow.package_output_message(request, FlowMessage(data={"a": 1}, private_keys=["a"]))
    assert (answer.data, answer.dst_flow, answer.request) == ({"a": 1}, "caller", "wire")
    assert (answer.input_message_id, answer.conversation) == (request.message_id, "talk")
    assert answer.is_reply
    assert answer.private_keys == []
    assert answer.reply_data is not request.reply_data


def test_a_flow_itself_sends_answers_only() -> None:
    """Other messages are sent through a subflow."""
    flow = made(Echo)
    with pytest.raises(UsageError, match="answers only"):
        flow.send_message(flow.package_input_message({}))
    with pytest.raises(UsageError, match="dict is not a message"):
        flow.send_message({"a": 1})  # type: ignore[arg-type]


def test_an_answer_may_be_sent_through_a_subflow_too() -> None:
    """An answer goes to its request, whichever object sends it."""
    flow = made(Pair)
    flow.subflows["User1"].send_message(flow.package_output_message(incoming({}, request="wire"), {"a": 1}))
    assert running(flow).replies == [("wire", {"a": 1})]
    assert running(flow).posts == []


def test_the_answer_comes_back_to_the_executing_flow_whoever_packaged_the_message() -> None:
    """A message is sent by the flow that runs, whichever object packaged it (D29)."""
    flow = made(Pair)
    stranger = build(Echo, ABOUT, subflows={}, run=ScriptedRun(CAROL, "2" * 32), state=None)
    for message in (
        FlowMessage(data={"a": 1}),
        flow.subflows["User1"].package_input_message({"a": 1}),
        stranger.package_input_message({"a": 1}),
        incoming({"a": 1}),
        answer_to(Sent(USERS["User1"], FlowMessage(), subflow="User1"), {"a": 1}),
    ):
        flow.subflows["User2"].get_reply(message, timeout=5)
        sent = running(flow).call_backs[-1]
        assert (sent.target, sent.subflow, sent.timeout) == (USERS["User2"], "User2", 5)
        assert sent.message.message_id == sent.message.input_message_id == message.message_id
        assert (sent.message.is_reply, sent.message.subflow) == (False, None)
        assert (sent.message.src_flow_id, sent.message.user_id) == (INSTANCE, ALICE)
        assert (sent.message.src_flow, sent.message.request) == ("User2", None)
        assert sent.message.data == {"a": 1}
        assert sent.message is not message


def test_a_post_wants_no_answer() -> None:
    """`send_message` of a subflow posts a copy as JSON data, without `unsent_keys`."""
    flow = made(Pair, unsent_keys=["secret"])
    message = flow.package_input_message({"a": (1, 2), "secret": 1})
    flow.subflows["User2"].send_message(message)
    (sent,) = running(flow).posts
    assert (sent.target, sent.message.data) == (USERS["User2"], {"a": [1, 2]})
    assert message.data == {"a": (1, 2), "secret": 1}


def test_a_proxy_refuses_what_is_no_message() -> None:
    """Data must be packaged before it is sent."""
    with pytest.raises(UsageError, match="is not a message"):
        made(Pair).subflows["User1"].get_reply({"a": 1})  # type: ignore[arg-type]


def test_a_proxy_tells_whom_it_stands_for() -> None:
    """A proxy's name is the key of the subflow; its config keeps the name in the composite's config."""
    config = {"name": "The other", "description": "d", "flow_endpoint": "User", "user_id": BOB}
    flow = build(Pair, {**PAIR, "subflows_config": {"User2": config}}, subflows=USERS, run=ScriptedRun(), state=None)
    proxy = flow._get_subflow("User2")
    assert proxy is not None
    assert (proxy.name, proxy.target) == ("User2", USERS["User2"])
    assert proxy.flow_config == {**config, "flow_id": None}
    assert "User2" in str(proxy)
    assert flow._get_subflow("User3") is None


def test_a_proxy_without_a_target_says_so() -> None:
    """A proxy sends nothing until it has a target."""
    with pytest.raises(UsageError, match="has no target yet"):
        FlowProxy("Bob", None, run=ScriptedRun()).send_message(FlowMessage())


@pytest.mark.parametrize(
    ("user", "endpoint", "instance"),
    [("bob", "User", None), (BOB.upper(), "User", None), (BOB, "a/b", None), (BOB, "+", None), (BOB, "User", "x")],
)
def test_a_malformed_target_is_refused(user: str, endpoint: str, instance: str | None) -> None:
    """Ids and endpoints are checked before anything is sent (D10, D23)."""
    with pytest.raises(UsageError):
        Target(user, endpoint, instance)


def test_private_values_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Inputs, calls and answers are logged at DEBUG, without the values of private keys (D28)."""

    class Both(Pair):
        def run(self, input_message: FlowMessage) -> Any:
            self.subflows["User1"].send_message(input_message)
            return {"out": 1, "nested": [{"secret": "hush"}]}

    flow = made(Both, private_keys=["secret"])
    with caplog.at_level(logging.DEBUG, "p2pflows.flows"):
        invoke(flow, incoming({"in": 1, "secret": "hush"}, request="wire"))
    assert [part in caplog.text for part in ('"in": 1', '"out": 1', "hush")] == [True, True, False]
    assert running(flow).replies == [("wire", {"out": 1, "nested": [{"secret": "hush"}]})]


# State.


def test_updating_the_state() -> None:
    """Values are copied; None and equal values change nothing."""
    flow = made(Echo)
    values = {"a": [1], "b": None}
    flow._state_update_dict(values)
    flow._state_update_dict(FlowMessage(data={"a": None, "c": 2}))
    values["a"] = []
    assert flow.flow_state == {"a": [1], "b": None, "c": 2}
    with pytest.raises(ValueError, match="nothing"):
        flow._state_update_dict({})


def test_reading_the_state() -> None:
    """Keys may be dotted; a missing one is an error; None reads all keys; values are copies."""
    flow = made(Echo)
    flow.flow_state = {"a": {"b": [1]}, "x.y": 2}
    assert flow._fetch_state_attributes_by_keys(["a.b", "x.y"]) == {"a.b": [1], "x.y": 2}
    flow._fetch_state_attributes_by_keys()["a"]["b"].append(2)
    assert flow._fetch_state_attributes_by_keys(None) == {"a": {"b": [1]}, "x.y": 2}
    with pytest.raises(KeyError, match=r"a\.c"):
        flow._fetch_state_attributes_by_keys(["a.c"])
    assert (flow._get_from_state("x.y"), flow._get_from_state("no"), flow._get_from_state("no", 1)) == (2, None, 1)


def test_a_state_that_cannot_be_stored_is_told() -> None:
    """The run fails, and the error names the key (D39)."""
    flow = made(Echo)
    flow.flow_state["future"] = FlowProxy("Bob", USERS["User1"], run=ScriptedRun()).get_reply_future(FlowMessage())
    with pytest.raises(FlowFailed, match=r"flow_state\.future is of type FlowFuture"):
        dump_state(flow)


def test_models_that_a_class_names_come_back() -> None:
    """`state_models` lists the classes that are read back from the state."""

    class Order(BaseModel):
        item: str

    class Shop(Echo):
        state_models = (Order,)

    flow = made(Shop)
    flow.flow_state["order"] = Order(item="tea")
    stored = dump_state(flow)
    assert made(Shop, state=stored).flow_state == {"order": Order(item="tea")}
    assert made(Echo, state=stored).flow_state == {"order": {"item": "tea"}}


def test_reset_brings_back_what_the_constructor_left() -> None:
    """A full reset drops the stored state; any other reset drops nothing."""
    flow = made(HumanToHuman, state=b'{"last_state":"User1","more":1}')
    flow.reset(full_reset=False, recursive=False)
    assert flow.flow_state == {"last_state": "User1", "more": 1}
    flow.reset(full_reset=True, recursive=False)
    assert flow.flow_state == {"last_state": None}
    by_hand = Echo()
    by_hand.flow_state["a"] = 1
    by_hand.reset(full_reset=True, recursive=True)
    assert by_hand.flow_state == {}


def test_reset_reaches_subflows() -> None:
    """A recursive reset is sent to the daemons that run the subflows; a human has no state (D48)."""
    targets = {"User1": Target(ALICE, "User"), "User2": Target(BOB, "Bot", "b" * 32)}
    run = ScriptedRun()
    flow = build(Pair, PAIR, subflows=targets, run=run, state=None)
    flow.reset(full_reset=True, recursive=True)
    (sent,) = run.posts
    assert sent.target == Target(BOB, "_instances")
    assert sent.message.data == {"op": "reset", "instance": "b" * 32, "recursive": True}


# Telling.


def test_the_interface_is_a_description_only() -> None:
    """An interface may be a text, a list or a mapping (D26), and changes no message."""
    flow = made(Echo, input_interface="query", output_interface={"human_input": "what they said"})
    assert flow.get_interface_description() == {"input": ["query"], "output": {"human_input": "what they said"}}
    assert made(Echo).get_interface_description() == {"input": [], "output": []}
    invoke(flow, incoming({"other": 1}, request="wire"))
    assert running(flow).replies == [("wire", {"other": 1})]


def test_a_flow_tells_what_it_is() -> None:
    """The text of a flow has its name, class, kind, description, keys and subflows, and nothing else of its config."""
    text = str(made(Pair, input_interface=["query"], api_infos="hush"))
    assert text.splitlines() == [
        "Name: sample", "Class: Pair", "Type: CompositeFlow", "Description: A sample.", "Input: query",
        "Subflows: User1, User2",
    ]  # fmt: skip
    assert (Flow.type(), Echo.type(), Pair.type()) == ("Flow", "AtomicFlow", "CompositeFlow")


def test_a_flow_can_be_called() -> None:
    """Calling a flow with a message does what a worker does."""
    flow = made(Echo)
    flow(incoming({"a": 1}, request="wire"))
    assert running(flow).replies == [("wire", {"a": 1})]


def test_the_current_run() -> None:
    """A plain function finds the run it is part of; outside a run, the error says what to do."""
    run = ScriptedRun()
    with port.set_current(run):
        assert port.current() is run
    with pytest.raises(UsageError, match="not run by a worker"):
        port.current()
