"""Checks a history against the promises of p2pflows about instances and runs, and describes every violation.

R1  The state of an instance contains each message that took effect on it, once, and in the order of the effects. If a
    request fails after its run ended without an answer, the effects after it may be undone together with it.
R2  A call of a run is one message, however often the run starts again, and each attempt gets the same result of it.
R3  The result of a step does not change once it is stored.
R4  A run asks a human each question once. A daemon with an old copy of its journal may ask again.
R5  A request that was left without an answer by its run is answered once: by a later run, or because it failed; not if
    it was withdrawn.
R6  A tree of instances is mounted and released as a whole, across all daemons. What a dead letter has mounted stays,
    because the dead letter may run again.
R7  An answer runs the instance that made the call, and not a later instance with the same id.
R8  The records of a run are removed when its request ends.
R9  An instance works on one request at a time: while a request awaits a reply, no run starts for another one. Classes
    that are served as interleaved are excepted.

I3 in `simulation.checker` is the order of messages from one sender. The checks leave out what a daemon does whose
journal was replaced by an old copy.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.flows import INTERLEAVED
from simulation.history import Fact

from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import ANSWERS
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState

_QUESTION = re.compile("[0-9a-f]{32}: ")
"""The beginning of every question that a run asks: the id of the message that runs."""
_RESULT_FIELDS = ("id", "from", "data", "error", "value")

_Key = tuple[str, str, str, int]
"""A call or step of a run: the daemon, the sender of the request that runs, the id of the request, and the number."""


@dataclass(slots=True)
class _Instance:
    """An instance from its mount to its release.

    Attributes:
        node: the daemon that has it.
        about: what the history says of it.
        seen: the messages that its stored state contains.
        effects: the messages that took effect on it.
        failed: the last request that failed after its run had ended without an answer.
        awaited: the ids of the answers that may run it again.
        working_on: sender and id of the last request that awaited a reply after its run.
    """

    node: str
    about: dict[str, Any]
    seen: list[str] = field(default_factory=list)
    effects: list[str] = field(default_factory=list)
    failed: str = ""
    working_on: tuple[str, str] | None = None
    awaited: set[str] = field(default_factory=set)

    def effects_before(self, message_id: str) -> list[str]:
        """Return the effects before that of a message."""
        return self.effects[: self.effects.index(message_id)]


@dataclass(slots=True)
class _Request:
    """A request at its recipient."""

    kind: str
    state: str = IncomingState.READY
    error: str | None = None
    awaited_reply: bool = False
    retries: int = 0


@dataclass(slots=True)
class _Record:
    """A call or a step in the journal."""

    about: dict[str, Any]
    times: int = 0
    results: list[dict[str, Any]] = field(default_factory=list)
    is_removed: bool = False


class _Runs:
    """The facts of a history about instances and runs, sorted by what they are about."""

    def __init__(self, facts: Iterable[Fact]) -> None:
        facts = list(facts)
        self.violations: list[str] = []
        self.restored = {fact.node for fact in facts if fact.kind == "restored"}
        self.instances: dict[tuple[str, str], _Instance] = {}
        self.requests: dict[tuple[str, str, str], _Request] = {}
        self.records: dict[_Key, _Record] = {}
        self.results: dict[_Key, list[Any]] = defaultdict(list)
        """The results that workers got of calls and steps."""
        self.mounts: dict[tuple[str, str], Fact] = {}
        """The requests for instances, by (daemon, instance)."""
        self.ends: dict[tuple[str, str], str] = {}
        self.answers: Counter[tuple[str, str, str]] = Counter()
        self.questions: Counter[tuple[str, str, str]] = Counter()
        for fact in facts:
            getattr(self, f"_{fact.kind}", lambda _fact: None)(fact)
        for (_, instance_id), instance in self.instances.items():
            self._check_state(instance_id, instance)

    def _accepted(self, fact: Fact) -> None:
        about = fact.about
        if about["cause"] is not None and about["type"] in ANSWERS:
            self.answers[fact.node, about["peer"], about["cause"]] += 1
        if about["endpoint"] == topics.INSTANCES and about["type"] == "call" and about["data"].get("op") == "mount":
            self.mounts[about["peer"], derived_id("mount", fact.node, fact.id)] = fact
        caller = self.instances.get((fact.node, (about["origin"] or {}).get("instance", "")))
        if caller is not None:
            caller.awaited.add(derived_id("answer", fact.id))

    def _outgoing_moved(self, fact: Fact) -> None:
        self.ends[fact.node, fact.id] = fact.about["state"]

    def _received(self, fact: Fact) -> None:
        self.requests[fact.node, fact.about["peer"], fact.id] = _Request(fact.about["type"], fact.about["state"])
        instance = self.instances.get((fact.node, fact.about["instance"] or ""))
        runs_again = fact.about["type"] in ANSWERS and fact.node not in self.restored
        if runs_again and (instance is None or fact.id not in instance.awaited):
            self.violations.append(f"R7: the answer {_short(fact.id)} runs an instance that did not make the call")

    def _incoming_moved(self, fact: Fact) -> None:
        about = fact.about
        was, new = about["was"], about["state"]
        request = self.requests.get((fact.node, about["peer"], fact.id))
        if request is not None:
            request.state, request.error = new, about["error"]
            request.awaited_reply |= new == IncomingState.AWAITING_REPLY
            request.retries += was == IncomingState.DEAD
        instance = self.instances.get((fact.node, about["instance"] or ""))
        if instance is None:
            return
        if was == IncomingState.AWAITING_REPLY and new != IncomingState.DONE:
            instance.failed = fact.id
        has_run = was == IncomingState.READY and new in (IncomingState.AWAITING_REPLY, IncomingState.DONE)
        if has_run and about["endpoint"] != topics.INSTANCES:
            instance.effects.append(fact.id)
            self._check_one_at_a_time(fact, instance)

    def _check_one_at_a_time(self, fact: Fact, instance: _Instance) -> None:
        mine = fact.about["root"] or fact.id
        other = instance.working_on
        open_call = other is not None and self.requests[fact.node, *other].state == IncomingState.AWAITING_REPLY
        if open_call and other is not None and other[1] != mine and instance.about["endpoint"] not in INTERLEAVED:
            self.violations.append(
                f"R9: the instance ran for {_short(mine)}, although {_short(other[1])} awaits a reply"
            )
        if fact.about["state"] == IncomingState.AWAITING_REPLY:
            instance.working_on = (fact.about["peer"], fact.id)

    def _prompt_added(self, fact: Fact) -> None:
        if _QUESTION.match(fact.about["text"]):
            self.questions[fact.node, fact.about["peer"], fact.about["text"]] += 1

    def _instance_added(self, fact: Fact) -> None:
        self.instances[fact.node, fact.id] = _Instance(fact.node, fact.about)

    def _state_saved(self, fact: Fact) -> None:
        instance = self.instances.get((fact.node, fact.id))
        if instance is None or fact.node in self.restored:
            return
        seen = (fact.about["state"] or {"seen": []})["seen"]
        if seen[:-1] != instance.seen and seen != instance.seen:
            if instance.failed not in instance.effects or seen != instance.effects_before(instance.failed):
                self.violations.append(f"R1: a run of {_short(fact.id)} did not start from the state of the run before")
            instance.effects = list(seen)
        instance.seen = seen

    def _instance_removed(self, fact: Fact) -> None:
        instance = self.instances.pop((fact.node, fact.id), None)
        if instance is not None:
            self._check_state(fact.id, instance)

    def _record_added(self, fact: Fact) -> None:
        record = self.records.setdefault(_key(fact), _Record(fact.about))
        record.times += 1
        record.is_removed = False
        if fact.about["value"] is not None:
            record.results.append(fact.about["value"])

    def _record_completed(self, fact: Fact) -> None:
        record = self.records.setdefault(_key(fact), _Record(fact.about))
        record.results.append(fact.about["value"])

    def _record_removed(self, fact: Fact) -> None:
        if _key(fact) in self.records:
            self.records[_key(fact)].is_removed = True

    def _call_result(self, fact: Fact) -> None:
        self.results[_key(fact)].append(fact.about["what"])

    def _step_result(self, fact: Fact) -> None:
        self.results[_key(fact)].append({"value": fact.about["what"]})

    def _check_state(self, instance_id: str, instance: _Instance) -> None:
        if instance.node not in self.restored and instance.seen != instance.effects:
            seen, effects = ([_short(each) for each in ids] for ids in (instance.seen, instance.effects))
            name = f"{_short(instance_id)} ({instance.about['endpoint']})"
            self.violations.append(f"R1: the state of {name} contains {seen}, but {effects} took effect on it")


def check_runs(facts: Sequence[Fact]) -> list[str]:
    """Return a sentence for each violation in a history; it begins with the number of the promise."""
    runs = _Runs(facts)
    return [
        *runs.violations,
        *_different_results(runs),
        *(f"R4: {violation}" for violation in _repeated_questions(runs)),
        *(f"R5: {violation}" for violation in _wrongly_answered(runs)),
        *(f"R6: {violation}" for violation in _incomplete_trees(runs)),
        *(f"R8: {violation}" for violation in _records_left(runs)),
    ]


def _different_results(runs: _Runs) -> Iterator[str]:
    messages: dict[tuple[str, str], _Key] = {}
    for key, record in runs.records.items():
        node, _, message_id, number = key
        if node in runs.restored or record.about["what"] == "suspended":
            continue
        name = f"{'R3: step' if record.about['what'] == 'step' else 'R2: call'} {number} of {_short(message_id)}"
        if record.times != 1:
            yield f"{name} was stored {record.times} times"
        if len(record.results) > 1:
            yield f"{name} got {len(record.results)} results"
        message = record.about["message"]
        if message is not None and messages.setdefault((node, message), key) != key:
            yield f"{name} is the same message as another call"
        stored = [{each: result[each] for each in _RESULT_FIELDS if each in result} for result in record.results]
        got = runs.results.get(key, [])
        if any(result != (stored + got)[0] for result in got):
            yield f"{name}: the attempts got {got}, but the journal has {stored}"
    for key in runs.results.keys() - runs.records.keys():
        if key[0] not in runs.restored:
            yield f"R2: a run for {_short(key[2])} got a result of {key[3]}, which the journal does not have"


def _repeated_questions(runs: _Runs) -> Iterator[str]:
    for (node, peer, text), times in runs.questions.items():
        if times > 1 and not {node, peer} & runs.restored:
            yield f"the question {text[:40]!r} was asked {times} times"


def _wrongly_answered(runs: _Runs) -> Iterator[str]:
    for (node, peer, message_id), request in runs.requests.items():
        if not request.awaited_reply or request.kind != "call" or node in runs.restored:
            continue
        ended = request.state in (IncomingState.DONE, IncomingState.FAILED)
        withdrawn = request.error == "cancelled"  # either the request, or the call that it waited for
        answers = runs.answers[node, peer, message_id]
        if answers > ended + request.retries or (ended and not answers and not withdrawn):
            yield f"{_short(message_id)} awaited an answer of a later run; it is {request.state} with {answers} answers"


def _incomplete_trees(runs: _Runs) -> Iterator[str]:
    parents = {
        (part["user"], part["instance"]): (node, instance_id)
        for (node, instance_id), instance in runs.instances.items()
        for part in instance.about["subflows"].values()
        if part["instance"] is not None
    }
    of_dead_letters = {
        (node, record.about["message"])
        for (node, peer, message_id, _), record in runs.records.items()
        if (request := runs.requests.get((node, peer, message_id))) and request.state == IncomingState.DEAD
    }
    for (owner, child), (node, parent) in parents.items():
        if not {owner, node} & runs.restored and (owner, child) not in runs.instances:
            yield f"{_short(parent)} has a subflow {_short(child)} that does not exist"
    for (owner, instance_id), instance in runs.instances.items():
        mount = runs.mounts.get((owner, instance_id))
        if mount is None or {owner, mount.node} & runs.restored:
            continue
        name = f"{_short(instance_id)} ({instance.about['endpoint']})"
        if mount.about["origin"] is None:
            end = runs.ends.get((mount.node, mount.id))
            if end not in ("done", "expired"):
                yield f"{name} exists, but the request to mount it ended as {end}"
        elif (owner, instance_id) not in parents and (mount.node, mount.id) not in of_dead_letters:
            yield f"{name} exists, but the flow for which it was mounted does not"


def _records_left(runs: _Runs) -> Iterator[str]:
    for (node, peer, message_id, number), record in runs.records.items():
        request = runs.requests.get((node, peer, message_id))
        ended = request is None or request.state not in (*OPEN_INCOMING, IncomingState.DEAD)
        if node not in runs.restored and ended and not record.is_removed:
            yield f"{_short(message_id)} ended, but the journal still has its record {number}"


def _key(fact: Fact) -> _Key:
    return (fact.node, fact.about["peer"], fact.id, fact.about["k"])


def _short(message_id: str) -> str:
    return message_id[-8:]
