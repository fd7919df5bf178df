"""Classes for simulated workers: what flow authors write, as scripts that say what they want and go on with the answer.

Every script keeps in its state which messages it has run on, so that the checker can tell what took effect.
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
    """Send a call now; the script goes on with its number."""

    user: str
    endpoint: str
    instance: str | None
    data: dict[str, Any]
    subflow: str = ""
    timeout: float | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for the end of a call, with its number."""

    call: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Withdraw a call, with its number."""

    call: int


@dataclass(frozen=True, slots=True)
class Step:
    """Have something done once, and its result kept."""

    compute: Callable[[], Any]


@dataclass(frozen=True, slots=True)
class Pause:
    """Take so many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell the caller something before the answer."""

    data: dict[str, Any]


Wish = Call | Wait | Withdraw | Step | Pause | Tell
Script = Generator[Wish, Any, dict[str, Any]]
"""What a run does; what it gives in the end is what the daemon gets."""


def subflows(me: str, neighbour: str) -> dict[str, dict[str, list[str]]]:
    """Of which flows each composite is made, as (user, endpoint) under a key."""
    return {
        COUNTER: {},
        TALLY: {},
        MUTE: {},
        PAIR: {"near": [me, COUNTER], "far": [neighbour, COUNTER], "human": [neighbour, HUMAN]},
        HUB: {"near": [me, COUNTER], "far": [neighbour, COUNTER]},
        GUIDE: {"far": [neighbour, COUNTER], "human": [neighbour, HUMAN], "tally": [neighbour, TALLY]},
        TOWER: {"pair": [neighbour, PAIR], "near": [me, COUNTER]},
        CLERK: {"near": [me, COUNTER], "human": [neighbour, HUMAN]},
        RUIN: {"near": [me, COUNTER], "pair": [neighbour, PAIR], "gone": [neighbour, "nowhere"]},
    }


class Turn:
    """What a script has to know and to fill in, for one task of a class."""

    def __init__(self, task: TaskSpec, random: Random) -> None:
        self.order: dict[str, Any] = json.loads(task.data)
        self.random = random
        self.message = task.message
        self.data: dict[str, Any] = self.order.get("data", {})
        self.about: dict[str, Any] = self.order.get("about", {})
        self.subflows: dict[str, Any] = {}
        self.state: dict[str, Any] = {}
        self.out: list[dict[str, Any]] = []
        self._task = task

    def script(self) -> Script:
        """All of it: mounted first if it is not there yet, then run."""
        order, mounted = self.order, None
        if order.get("mount") is not None:
            mounted = yield from self._mount(order["mount"])
            self.subflows = mounted["subflows"]
        elif self._task.op == "run":
            self.subflows, self.state = order["subflows"], order["state"] or {}
        made = {} if mounted is None else {"mounted": mounted}
        if self._task.op == "mount":
            return {"out": [], **made}
        self.state = {"seen": [], "open": {}, **self.state}
        self.state["seen"].append(self.message)
        yield from _CLASSES[self._task.endpoint](self)
        return {"out": self.out, "state": self.state, **made}

    def _mount(self, mount: dict[str, Any]) -> Generator[Wish, Any, dict[str, Any]]:
        asked = {}
        for key, (user, endpoint) in mount["config"]["subflows"].items():
            data = {"op": "mount", "endpoint": endpoint, "config_overrides": {}, "path": mount["path"]}
            asked[key] = yield Call(user, topics.INSTANCES, None, data, key)
        parts = {}
        for key, k in asked.items():
            outcome = yield Wait(k)
            granted = _data(outcome)
            user, endpoint = mount["config"]["subflows"][key]
            parts[key] = {
                "user": user,
                "endpoint": endpoint,
                "instance": granted["instance"],
                "shared": granted["shared"],
            }
        return {"config": mount["config"], "subflows": parts}

    def call(self, key: str, data: dict[str, Any], timeout: float | None = None) -> Call:
        """A call to a subflow."""
        part = self.subflows[key]
        return Call(part["user"], part["endpoint"], part["instance"], data, key, timeout)

    def call_back(self, key: str, packaged: str, data: dict[str, Any]) -> None:
        """Call a subflow when this run ends well; its answer is a message for a later run."""
        part = self.subflows[key]
        self.out.append({"op": "call_back", "subflow": key, "packaged": packaged, "data": data, "source": key, **part})

    def reply(self, data: dict[str, Any], request: str | None = None, error: dict[str, Any] | None = None) -> None:
        """Answer a request when this run ends well."""
        self.out.append({"op": "reply", "request": request or self.message, "data": data, "error": error})


def _counter(turn: Turn) -> Script:
    """Say how many messages it has run on, and what it was asked."""
    yield Pause(float(turn.data.get("seconds", 0.02 * turn.random.random())))
    _fail_if_told(turn)
    turn.reply(
        {
            "echo": turn.data,
            **turn.data.get("says", {}),
            "count": len(turn.state["seen"]),
            "run": turn.random.randrange(2**32),
        }
    )
    return {}


def _pair(turn: Turn) -> Script:
    """Ask two counters, or a counter and a human, without waiting, and answer what was kept once both have answered."""
    waiting = turn.state["open"]
    if turn.order["type"] in ("call", "post"):
        yield Pause(float(turn.data.get("seconds", 0.02 * turn.random.random())))
        _fail_if_told(turn)
        waiting[turn.message] = {"echo": turn.data, "wants": turn.order["type"] == "call"}
        keys = ["near", "human" if turn.data.get("human") and "human" in turn.subflows else "far"]
        waiting[turn.message]["keys"] = keys
        text = f"{turn.message}: shall we?"
        for key in keys:
            turn.call_back(key, f"{turn.message} {key}", {"text": text, **turn.data.get("asks", {})})
        return {}
    yield Pause(float(turn.data.get("ponders", 0.02 * turn.random.random())))
    request, key = turn.about["packaged"].split()
    if request not in waiting:  # the checker knows whether that may be
        return {}
    waiting[request][key] = turn.about["error"] or turn.data
    if set(waiting[request]["keys"]) <= set(waiting[request]):
        told = waiting.pop(request)
        wrong = next((told[key] for key in told.pop("keys") if "kind" in told[key]), None)
        if told.pop("wants"):
            turn.reply({} if wrong else told, request, wrong)
    return {}


def _clerk(turn: Turn) -> Script:
    """Ask a counter or a human, and answer the only request in mind: wrong as soon as two requests meet."""
    if turn.order["type"] in ("call", "post"):
        yield Pause(float(turn.data.get("seconds", 0.02 * turn.random.random())))
        _fail_if_told(turn)
        turn.state["open"] = {"echo": turn.data, "wants": turn.order["type"] == "call", "request": turn.message}
        key = "human" if turn.data.get("human") else "near"
        turn.call_back(key, "", {"text": f"{turn.message}: shall we?", **turn.data.get("asks", {})})
        return {}
    yield Pause(0.02 * turn.random.random())
    mind = turn.state.pop("open")
    if mind["wants"]:
        turn.reply({"echo": mind["echo"]}, mind["request"], turn.about["error"])
    return {}


def _guide(turn: Turn) -> Script:
    """Ask a counter, then a human, then do something once, then tell a counter that everybody shares."""
    yield Pause(0.02 * turn.random.random())
    first = yield Step(lambda: turn.random.randrange(2**32))
    yield _dawdle(turn)
    far = yield from _answer(turn.call("far", {"for": turn.message}, turn.data.get("patience")))
    yield Tell({"far": far["count"]})
    question = yield turn.call("human", {"text": f"{turn.message}: shall we?"})
    if turn.data.get("withdraws"):
        yield Pause(float(turn.data["withdraws"]))
        yield Withdraw(question)
    human = yield Wait(question)
    drawn = yield Step(lambda: [first, turn.random.randrange(2**32)])
    yield _dawdle(turn)
    _fail_if_told(turn)
    tally = yield from _answer(turn.call("tally", {"for": turn.message, "drawn": drawn}))
    again = yield Step(lambda: {"sum": sum(drawn) + tally["count"]})
    yield _dawdle(turn)
    turn.reply({"echo": turn.data, "far": far, "human": human.get("data"), "drawn": drawn, "again": again})
    return {}


def _tower(turn: Turn) -> Script:
    """Ask a composite at the neighbour and a counter of its own, both at once."""
    first = yield turn.call("pair", {"for": turn.message})
    second = yield turn.call("near", {"for": turn.message})
    near = _data((yield Wait(second)))
    drawn = yield Step(lambda: turn.random.randrange(2**32))
    yield _dawdle(turn)
    pair = _data((yield Wait(first)))
    _fail_if_told(turn)
    turn.reply({"echo": turn.data, "near": near, "pair": pair, "drawn": drawn})
    return {}


def _mute(turn: Turn) -> Script:
    """Answer nothing, and forget the request."""
    yield Pause(0.02 * turn.random.random())
    turn.state["seen"] = []
    return {}


def _ruin(turn: Turn) -> Script:
    """Never run, as one of its subflows cannot be had."""
    raise FlowFailed(f"{turn.message} ran without its subflow.")
    yield Pause(0.0)


_CLASSES: dict[str, Callable[[Turn], Script]] = {
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


def _answer(call: Call) -> Generator[Wish, Any, dict[str, Any]]:
    """Send a call and wait for what it is answered."""
    outcome = yield Wait((yield call))
    return _data(outcome)


def _data(outcome: dict[str, Any]) -> dict[str, Any]:
    if outcome.get("error"):
        raise FlowFailed(f"A call of it ended as {outcome['error']['kind']}.")
    data: dict[str, Any] = outcome["data"]
    return data


def _dawdle(turn: Turn) -> Pause:
    """Time in which whatever runs the flow may die."""
    return Pause(float(turn.data.get("dawdles", 0.02)) * turn.random.random())


def _fail_if_told(turn: Turn) -> None:
    if "fails" in turn.data:
        raise FlowFailed(str(turn.data["fails"]))
