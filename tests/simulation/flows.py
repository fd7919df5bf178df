"""The classes that simulated workers run, as scripts: generators that yield actions and get the results.

Every script stores in its state the messages that it has run on, so that the checker knows what took effect.

The data of a message may tell a class what to do:
    seconds: how long a counter or a pair takes; some milliseconds by default.
    fails: the text of an error with which the run ends.
    human: a pair or a clerk asks a human instead of a counter.
    subflow_data: what a pair or a clerk sends to its subflows.
    reply_data: what a counter adds to its reply.
    answer_seconds: how long a pair takes for an answer of a subflow.
    timeout: after how many seconds the first call of a guide expires.
    cancel_after: after how many seconds a guide withdraws its question.
    max_pause: how many seconds at most a composite pauses between its actions.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass
from random import Random
from typing import Any

from p2pflows.errors import FlowFailed
from p2pflows.protocol import topics
from p2pflows.protocol.worker_frames import TaskSpec

COUNTER, TALLY, PAIR, HUB, GUIDE = "counter", "tally", "pair", "hub", "guide"
TOWER, RUIN, CLERK, MUTE = "tower", "ruin", "clerk", "mute"
SINGLETONS = (TALLY, HUB, CLERK)
INTERLEAVED = (HUB,)
HUMAN = "User"


@dataclass(frozen=True, slots=True)
class Call:
    """Send a call now; the result is its number in the run."""

    user: str
    endpoint: str
    instance: str | None
    data: dict[str, Any]
    subflow: str = ""
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the end of a call; the result is its answer or error."""

    call: int


@dataclass(frozen=True, slots=True)
class Cancel:
    """Withdraw a call."""

    call: int


@dataclass(frozen=True, slots=True)
class Step:
    """Compute something once, and store the result."""

    compute: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Pause for some seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class SendProgress:
    """Send progress to the caller."""

    data: dict[str, Any]


Action = Call | Wait | Cancel | Step | Pause | SendProgress
Script = Generator[Action, Any, dict[str, Any]]
"""The actions of a run; it returns the content of the frame to the daemon."""


def subflows(me: str, peer: str) -> dict[str, dict[str, list[str]]]:
    """Return the subflows of each class, as (user, endpoint) by key."""
    return {
        COUNTER: {},
        TALLY: {},
        MUTE: {},
        PAIR: {"near": [me, COUNTER], "far": [peer, COUNTER], "human": [peer, HUMAN]},
        HUB: {"near": [me, COUNTER], "far": [peer, COUNTER]},
        GUIDE: {"far": [peer, COUNTER], "human": [peer, HUMAN], "tally": [peer, TALLY]},
        TOWER: {"pair": [peer, PAIR], "near": [me, COUNTER]},
        CLERK: {"near": [me, COUNTER], "human": [peer, HUMAN]},
        RUIN: {"near": [me, COUNTER], "pair": [peer, PAIR], "gone": [peer, "nowhere"]},
    }


class ScriptContext:
    """The input of a script for one task, and the output that it collects."""

    def __init__(self, task: TaskSpec, random: Random) -> None:
        self.payload: dict[str, Any] = json.loads(task.data)
        self.random = random
        self.message = task.message
        self.data: dict[str, Any] = self.payload.get("data", {})
        self.about: dict[str, Any] = self.payload.get("about", {})
        self.subflows: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.out: list[dict[str, Any]] = []
        self._task = task

    def script(self) -> Script:
        """Mount the instance if it does not exist, then run it."""
        payload, mounted = self.payload, None
        if payload.get("mount") is not None:
            mounted = yield from self._mount(payload["mount"])
            self.subflows = mounted["subflows"]
        elif self._task.op == "run":
            self.subflows, self.state = payload["subflows"], payload["state"] or {}
        content = {} if mounted is None else {"mounted": mounted}
        if self._task.op == "mount":
            return {"out": [], **content}
        self.state = {"seen": [], "open": {}, **self.state}
        self.state["seen"].append(self.message)
        yield from _CLASSES[self._task.endpoint](self)
        return {"out": self.out, "state": self.state, **content}

    def _mount(self, mount: dict[str, Any]) -> Generator[Action, Any, dict[str, Any]]:
        calls = {}
        for key, (user, endpoint) in mount["config"]["subflows"].items():
            data = {"op": "mount", "endpoint": endpoint, "config_overrides": {}, "path": mount["path"]}
            calls[key] = yield Call(user, topics.INSTANCES, None, data, key)
        parts = {}
        for key, call in calls.items():
            granted = _data((yield Wait(call)))
            user, endpoint = mount["config"]["subflows"][key]
            parts[key] = {
                "user": user,
                "endpoint": endpoint,
                "instance": granted["instance"],
                "shared": granted["shared"],
            }
        return {"config": mount["config"], "subflows": parts}

    def call(self, key: str, data: dict[str, Any], timeout: float | None = None) -> Call:
        """Return the action that calls a subflow."""
        part = self.subflows[key]
        return Call(part["user"], part["endpoint"], part["instance"], data, key, timeout)

    def call_back(self, key: str, packaged: str, data: dict[str, Any]) -> None:
        """Call a subflow when this run ends without an error; the answer starts another run."""
        part = self.subflows[key]
        self.out.append({"op": "call_back", "subflow": key, "packaged": packaged, "data": data, "source": key, **part})

    def reply(self, data: dict[str, Any], request: str | None = None, error: dict[str, Any] | None = None) -> None:
        """Answer a request when this run ends without an error."""
        self.out.append({"op": "reply", "request": request or self.message, "data": data, "error": error})


def _counter(context: ScriptContext) -> Script:
    """Reply with the data, and with the number of messages that the instance has run on."""
    yield Pause(float(context.data.get("seconds", 0.02 * context.random.random())))
    _fail_if_requested(context)
    context.reply(
        {
            "echo": context.data,
            **context.data.get("reply_data", {}),
            "count": len(context.state["seen"]),
            "run": context.random.randrange(2**32),
        }
    )
    return {}


def _pair(context: ScriptContext) -> Script:
    """Call two counters, or a counter and a human; a later run answers the request once both have answered."""
    waiting = context.state["open"]
    if context.payload["type"] in ("call", "post"):
        yield Pause(float(context.data.get("seconds", 0.02 * context.random.random())))
        _fail_if_requested(context)
        waiting[context.message] = {"echo": context.data, "wants_reply": context.payload["type"] == "call"}
        keys = ["near", "human" if context.data.get("human") and "human" in context.subflows else "far"]
        waiting[context.message]["keys"] = keys
        text = f"{context.message}: shall we?"
        for key in keys:
            context.call_back(key, f"{context.message} {key}", {"text": text, **context.data.get("subflow_data", {})})
        return {}
    yield Pause(float(context.data.get("answer_seconds", 0.02 * context.random.random())))
    request, key = context.about["packaged"].split()
    if request not in waiting:  # the checker finds out whether that is right
        return {}
    waiting[request][key] = context.about["error"] or context.data
    if set(waiting[request]["keys"]) <= set(waiting[request]):
        reply = waiting.pop(request)
        error = next((reply[key] for key in reply.pop("keys") if "kind" in reply[key]), None)
        if reply.pop("wants_reply"):
            context.reply({} if error else reply, request, error)
    return {}


def _clerk(context: ScriptContext) -> Script:
    """Call a counter or a human, and answer the only request in the state: wrong as soon as two requests meet."""
    if context.payload["type"] in ("call", "post"):
        yield Pause(float(context.data.get("seconds", 0.02 * context.random.random())))
        _fail_if_requested(context)
        wants_reply = context.payload["type"] == "call"
        context.state["open"] = {"echo": context.data, "wants_reply": wants_reply, "request": context.message}
        key = "human" if context.data.get("human") else "near"
        text = f"{context.message}: shall we?"
        context.call_back(key, "", {"text": text, **context.data.get("subflow_data", {})})
        return {}
    yield Pause(0.02 * context.random.random())
    request = context.state.pop("open")
    if request["wants_reply"]:
        context.reply({"echo": request["echo"]}, request["request"], context.about["error"])
    return {}


def _guide(context: ScriptContext) -> Script:
    """Call a counter, then a human, and then the tally that everybody shares, with steps in between."""
    yield Pause(0.02 * context.random.random())
    first = yield Step(lambda: context.random.randrange(2**32))
    yield _random_pause(context)
    far = yield from _answer(context.call("far", {"for": context.message}, context.data.get("timeout")))
    yield SendProgress({"far": far["count"]})
    question = yield context.call("human", {"text": f"{context.message}: shall we?"})
    if context.data.get("cancel_after"):
        yield Pause(float(context.data["cancel_after"]))
        yield Cancel(question)
    human = yield Wait(question)
    drawn = yield Step(lambda: [first, context.random.randrange(2**32)])
    yield _random_pause(context)
    _fail_if_requested(context)
    tally = yield from _answer(context.call("tally", {"for": context.message, "drawn": drawn}))
    again = yield Step(lambda: {"sum": sum(drawn) + tally["count"]})
    yield _random_pause(context)
    context.reply({"echo": context.data, "far": far, "human": human.get("data"), "drawn": drawn, "again": again})
    return {}


def _tower(context: ScriptContext) -> Script:
    """Call a pair at the peer and a counter at the own daemon, at the same time."""
    first = yield context.call("pair", {"for": context.message})
    second = yield context.call("near", {"for": context.message})
    near = _data((yield Wait(second)))
    drawn = yield Step(lambda: context.random.randrange(2**32))
    yield _random_pause(context)
    pair = _data((yield Wait(first)))
    _fail_if_requested(context)
    context.reply({"echo": context.data, "near": near, "pair": pair, "drawn": drawn})
    return {}


def _mute(context: ScriptContext) -> Script:
    """Answer nothing, and forget the request."""
    yield Pause(0.02 * context.random.random())
    context.state["seen"] = []
    return {}


def _ruin(context: ScriptContext) -> Script:
    """Never run, because one of its subflows does not exist."""
    raise FlowFailed(f"{context.message} ran without its subflow.")
    yield Pause(0.0)


_CLASSES: dict[str, Callable[[ScriptContext], Script]] = {
    COUNTER: _counter,
    TALLY: _counter,
    PAIR: _pair,
    HUB: _pair,
    GUIDE: _guide,
    TOWER: _tower,
    RUIN: _ruin,
    CLERK: _clerk,
    MUTE: _mute,
}


def _answer(call: Call) -> Generator[Action, Any, dict[str, Any]]:
    """Send a call, and wait for its answer."""
    outcome = yield Wait((yield call))
    return _data(outcome)


def _data(outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome.get("error"):
        raise FlowFailed(f"A call ended as {outcome['error']['kind']}.")
    data: dict[str, Any] = outcome["data"]
    return data


def _random_pause(context: ScriptContext) -> Pause:
    """Pause for a random time, in which the worker or the daemon may be killed."""
    return Pause(float(context.data.get("max_pause", 0.02)) * context.random.random())


def _fail_if_requested(context: ScriptContext) -> None:
    if "fails" in context.data:
        raise FlowFailed(str(context.data["fails"]))
