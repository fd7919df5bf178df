"""The invariants of instances and their runs, as questions to a history; what is wrong comes back in words.

R1  the state of an instance counts each message that took effect on it, once, in the order of the effects; a request
    that was left unanswered and then failed may take with it what came of it alone.
R2  a call of a run is one message, whatever was run again, and each attempt learns the same of it.
R3  what a step gave stays, once it was kept.
R4  what a run asks a human is asked once; whoever has put back a journal in which it is not asked yet may ask anew.
R5  a request that a run left unanswered is answered once, by a later run or by its failure, unless it was withdrawn.
R6  a tree of instances comes about and goes as a whole, over all daemons that it spans; a dead letter may run again, so
    what it has mounted stays.
R7  an answer runs the instance again that has asked, and no later one of the same id.
R8  what runs have recorded is forgotten when their request has its end.

The order per sender is I3, of `simulation.checker`. What a journal that was put back says of itself is not checked.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.history import Fact

from p2pflows.protocol import topics
from p2pflows.protocol.message import ANSWERS, derived_id
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState

_QUESTION = re.compile("[0-9a-f]{32}: ")
"""How the questions of runs begin: with the message that the run is for."""
_OUTCOME = ("id", "from", "data", "error")

_Key = tuple[str, str, str, int]
"""A call or step: whose daemon, who sent the request that runs, its id, and the number in the run."""


@dataclass(slots=True)
class _Instance:
    """An instance between its mount and its end."""

    node: str
    about: dict[str, Any]
    seen: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    failed: str = ""
    """The request that failed last of those that runs had left unanswered."""
    awaits: set[str] = field(default_factory=set)
    """Ids under which answers may run it again."""

    def before(self, message_id: str) -> list[str]:
        """What had taken effect before a message."""
        return self.effects[: self.effects.index(message_id)]


@dataclass(slots=True)
class _Request:
    """How a request stands."""

    kind: str
    state: str = IncomingState.READY
    error: str | None = None
    kept: bool = False
    revived: int = 0


@dataclass(slots=True)
class _Record:
    """A call or a step that was recorded."""

    about: dict[str, Any]
    times: int = 0
    values: list[dict[str, Any]] = field(default_factory=list)
    forgotten: bool = False


class _Story:
    """The facts about instances and runs."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        self.wrong: list[str] = []
        self.restored: set[str] = set()
        self.instances: dict[tuple[str, str], _Instance] = {}
        self.requests: dict[tuple[str, str, str], _Request] = {}
        self.records: dict[_Key, _Record] = {}
        self.learned: dict[_Key, list[Any]] = defaultdict(list)
        self.mounts: dict[tuple[str, str], Fact] = {}
        self.ends: dict[tuple[str, str], str] = {}
        self.answers: Counter[tuple[str, str, str]] = Counter()
        self.asked: Counter[tuple[str, str, str]] = Counter()
        facts = list(facts)
        self.restored = {fact.node for fact in facts if fact.kind == "restore"}
        for fact in facts:
            getattr(self, f"_{fact.kind}", lambda _fact: None)(fact)
        for (_, instance), each in self.instances.items():
            self._check_state(instance, each)

    def _accept(self, fact: Fact) -> None:
        about = fact.about
        if about["cause"] is not None and about["type"] in ANSWERS:
            self.answers[fact.node, about["peer"], about["cause"]] += 1
        if about["endpoint"] == topics.INSTANCES and about["type"] == "call" and about["data"].get("op") == "mount":
            self.mounts[about["peer"], derived_id("mount", fact.node, fact.id)] = fact
        asking = self.instances.get((fact.node, (about["origin"] or {}).get("instance", "")))
        if asking is not None:
            asking.awaits.add(derived_id("answer", fact.id))

    def _sent(self, fact: Fact) -> None:
        self.ends[fact.node, fact.id] = fact.about["state"]

    def _receive(self, fact: Fact) -> None:
        self.requests[fact.node, fact.about["peer"], fact.id] = _Request(fact.about["type"], fact.about["state"])
        instance = self.instances.get((fact.node, fact.about["instance"] or ""))
        again = fact.about["type"] in ANSWERS and fact.node not in self.restored
        if again and (instance is None or fact.id not in instance.awaits):
            self.wrong.append(f"R7: the answer {_short(fact.id)} runs an instance that has not asked")

    def _move(self, fact: Fact) -> None:
        about = fact.about
        request = self.requests.get((fact.node, about["peer"], fact.id))
        if request is not None:
            request.state, request.error = about["state"], about["error"]
            request.kept |= about["state"] == IncomingState.AWAITING_REPLY
            request.revived += about["was"] == IncomingState.DEAD
        ran = about["was"] == IncomingState.READY and about["state"] in (
            IncomingState.AWAITING_REPLY,
            IncomingState.DONE,
        )
        instance = self.instances.get((fact.node, about["instance"] or ""))
        if (
            instance is not None
            and about["was"] == IncomingState.AWAITING_REPLY
            and about["state"] != IncomingState.DONE
        ):
            instance.failed = fact.id
        if ran and instance is not None and about["endpoint"] != topics.INSTANCES:
            instance.effects.append(fact.id)

    def _ask(self, fact: Fact) -> None:
        if _QUESTION.match(fact.about["text"]):
            self.asked[fact.node, fact.about["peer"], fact.about["text"]] += 1

    def _mounted(self, fact: Fact) -> None:
        self.instances[fact.node, fact.id] = _Instance(fact.node, fact.about)

    def _left(self, fact: Fact) -> None:
        instance = self.instances.get((fact.node, fact.id))
        if instance is None or fact.node in self.restored:
            return
        seen = (fact.about["state"] or {"seen": []})["seen"]
        if seen[:-1] != instance.seen and seen != instance.seen:
            if instance.failed not in instance.effects or seen != instance.before(instance.failed):
                self.wrong.append(f"R1: a run of {_short(fact.id)} began from another state than the last one had left")
            instance.effects = list(seen)
        instance.seen = seen

    def _unmounted(self, fact: Fact) -> None:
        instance = self.instances.pop((fact.node, fact.id), None)
        if instance is not None:
            self._check_state(fact.id, instance)

    def _recorded(self, fact: Fact) -> None:
        record = self.records.setdefault(_key(fact), _Record(fact.about))
        record.times += 1
        record.forgotten = False
        if fact.about["value"] is not None:
            record.values.append(fact.about["value"])

    def _concluded(self, fact: Fact) -> None:
        record = self.records.setdefault(_key(fact), _Record(fact.about))
        record.values.append(fact.about["value"])

    def _forgotten(self, fact: Fact) -> None:
        if _key(fact) in self.records:
            self.records[_key(fact)].forgotten = True

    def _got(self, fact: Fact) -> None:
        self.learned[_key(fact)].append(fact.about["what"])

    def _stepped(self, fact: Fact) -> None:
        self.learned[_key(fact)].append({"value": fact.about["what"]})

    def _check_state(self, instance: str, each: _Instance) -> None:
        if each.node not in self.restored and each.seen != each.effects:
            told = f"{[_short(one) for one in each.seen]} of {[_short(one) for one in each.effects]}"
            self.wrong.append(f"R1: the state of {_short(instance)} ({each.about['endpoint']}) counts {told}")


def check_runs(facts: Sequence[Fact]) -> list[str]:
    """What a history violates, in words; empty if all invariants of instances and runs hold."""
    story = _Story(facts)
    return [
        *story.wrong,
        *_run_otherwise(story),
        *(f"R4: {what}" for what in _asked_again(story)),
        *(f"R5: {what}" for what in _left_open(story)),
        *(f"R6: {what}" for what in _half_mounted(story)),
        *(f"R8: {what}" for what in _remembered(story)),
    ]


def _run_otherwise(story: _Story) -> Iterator[str]:
    messages: dict[tuple[str, str], _Key] = {}
    for key, record in story.records.items():
        node, _, message_id, k = key
        if node in story.restored:
            continue
        name = f"{'R3: step' if record.about['what'] == 'step' else 'R2: call'} {k} of {_short(message_id)}"
        if record.times != 1:
            yield f"{name} was recorded {record.times} times"
        if len(record.values) > 1:
            yield f"{name} got {len(record.values)} results"
        message = record.about["message"]
        if message is not None and messages.setdefault((node, message), key) != key:
            yield f"{name} is the same message as another call"
        known = [{name: value[name] for name in (*_OUTCOME, "value") if name in value} for value in record.values]
        learned = story.learned.get(key, [])
        if any(what != (known + learned)[0] for what in learned):
            yield f"{name} was not the same at each attempt: {learned}, and the journal has {known}"
    for key in story.learned.keys() - story.records.keys():
        if key[0] not in story.restored:
            yield f"R2: a run for {_short(key[2])} learned what was never recorded, under {key[3]}"


def _asked_again(story: _Story) -> Iterator[str]:
    for (node, peer, text), times in story.asked.items():
        if times > 1 and not {node, peer} & story.restored:
            yield f"the question {text[:40]!r} was asked {times} times"


def _left_open(story: _Story) -> Iterator[str]:
    for (node, peer, message_id), request in story.requests.items():
        if not request.kept or request.kind != "call" or node in story.restored:
            continue
        ended = request.state in (IncomingState.DONE, IncomingState.FAILED)
        withdrawn = request.error == "cancelled"  # it, or what it was waiting for
        answers = story.answers[node, peer, message_id]
        if answers > ended + request.revived or (ended and not answers and not withdrawn):
            yield f"{_short(message_id)} was kept, is {request.state}, and got {answers} answers"


def _half_mounted(story: _Story) -> Iterator[str]:
    parts = {
        (part["user"], part["instance"]): (node, instance)
        for (node, instance), each in story.instances.items()
        for part in each.about["subflows"].values()
        if part["instance"] is not None
    }
    waiting = {
        (node, record.about["message"])
        for (node, peer, message_id, _), record in story.records.items()
        if (request := story.requests.get((node, peer, message_id))) and request.state == IncomingState.DEAD
    }
    for (owner, child), (node, parent) in parts.items():
        if not {owner, node} & story.restored and (owner, child) not in story.instances:
            yield f"{_short(parent)} has a subflow {_short(child)} that is not there"
    for (owner, instance), each in story.instances.items():
        mount = story.mounts.get((owner, instance))
        if mount is None or {owner, mount.node} & story.restored:
            continue
        if mount.about["origin"] is None:
            end = story.ends.get((mount.node, mount.id))
            if end not in ("done", "expired"):
                yield f"{_short(instance)} ({each.about['endpoint']}) is there, and its mount ended as {end}"
        elif (owner, instance) not in parts and (mount.node, mount.id) not in waiting:
            yield f"{_short(instance)} ({each.about['endpoint']}) was mounted for a flow that is not there"


def _remembered(story: _Story) -> Iterator[str]:
    for (node, peer, message_id, k), record in story.records.items():
        request = story.requests.get((node, peer, message_id))
        over = request is None or request.state not in (*OPEN_INCOMING, IncomingState.DEAD)
        if node not in story.restored and over and not record.forgotten:
            yield f"what {_short(message_id)} recorded under {k} is still there"


def _key(fact: Fact) -> _Key:
    return (fact.node, fact.about["peer"], fact.id, fact.about["k"])


def _short(message_id: str) -> str:
    return message_id[-8:]
