"""The verdict on a soak: what journals, clients and flows have recorded is compared with the promises."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from simulation.checker import check
from simulation.history import Fact
from soak.traffic import Asked

EXPECTED_ENDS: dict[str, set[str]] = {
    "human": {"declined"},
    "withdrawn": {"cancelled", "declined"},
    "denied": {"not_allowed"},
    "brief": {"deadline", "unreachable", "no_worker", "declined"},
}
"""The kinds of errors that belong to a kind of message."""
FAULT_ENDS = {"worker_lost"}
"""The kinds of errors with which any call may end, because its worker was killed three times."""
CATEGORIES = {
    "I1": "lost",
    "I2": "doubled",
    "I3": "out of order",
    "I4": "asked twice",
    "I5": "wrong answers",
    "error": "unexplained errors",
    "denied": "let in",
}
"""The first word of a violation, and the name of its kind."""


@dataclass(slots=True)
class Evidence:
    """What is known of a soak.

    Attributes:
        facts: the history of all journals, and what clients have observed.
        asked: all accepted messages, by the name of their sender.
        effects: the lines that the flows of each user have written.
        names: the petname of each user id.
    """

    facts: list[Fact]
    asked: Mapping[str, Sequence[Asked]]
    effects: Mapping[str, Sequence[dict[str, str]]]
    names: dict[str, str] = field(default_factory=dict)


def read_effects(path: Path) -> list[dict[str, str]]:
    """Return the lines that the flows of a user have written, in the order of writing."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def judge(evidence: Evidence) -> list[str]:
    """Return a sentence for each violation; it begins with a word of `CATEGORIES` or the number of another promise."""
    ids = {
        fact.about["data"]["token"]: (fact.node, fact.id)
        for fact in evidence.facts
        if fact.kind == "accepted" and fact.about["type"] in ("call", "post") and "token" in (fact.about["data"] or {})
    }
    runs = list(_runs(evidence, ids))
    return [
        *check([*evidence.facts, *runs]),
        *(f"I1: {violation}" for violation in _without_effect(evidence, runs)),
        *(f"I2: {violation}" for violation in _unknown_effects(evidence, ids)),
        *_wrong_ends(evidence),
        *(f"denied: {violation}" for violation in _let_in(evidence)),
    ]


def count_reruns(evidence: Evidence) -> int:
    """Return how often the code of a flow ran again for the same message, which kills may cause."""
    lines = Counter(
        (name, line["endpoint"], line["token"]) for name, lines in evidence.effects.items() for line in lines
    )
    return sum(lines.values()) - len(lines)


def summarize(violations: Sequence[str]) -> dict[str, int]:
    """Return how many violations there are of each kind."""
    counts = Counter(CATEGORIES.get(violation.partition(":")[0], "others") for violation in violations)
    return {name: counts[name] for name in (*CATEGORIES.values(), "others")}


def _runs(evidence: Evidence, ids: Mapping[str, tuple[str, str]]) -> Iterator[Fact]:
    """The first run of each message, as the flows recorded it."""
    node_of = {name: node for node, name in evidence.names.items()}
    for name, lines in evidence.effects.items():
        for line in lines:
            if line["token"] in ids:
                sender, message_id = ids[line["token"]]
                about = {"peer": sender, "endpoint": line["endpoint"], "parallel": False, "instance": None}
                yield Fact(0, node_of[name], "run_started", message_id, about)


def _without_effect(evidence: Evidence, runs: Sequence[Fact]) -> Iterator[str]:
    """Find requests that a journal calls done although no flow ran for them."""
    ran = {(run.node, run.id) for run in runs}
    served = {"record", "weigh", "clerk", "relay"}
    for fact in evidence.facts:
        ended = (
            fact.kind == "incoming_moved" and fact.about["state"] == "done" and fact.about["type"] in ("call", "post")
        )
        if ended and fact.about["endpoint"] in served and (fact.node, fact.id) not in ran:
            yield f"{fact.about['type']} {fact.id[-8:]} to {fact.about['endpoint']} is done, but did not run"


def _unknown_effects(evidence: Evidence, ids: Mapping[str, Any]) -> Iterator[str]:
    for name, lines in evidence.effects.items():
        for line in lines:
            if line["token"] not in ids:
                yield f"a flow of {name} ran for {line['token']}, which no journal has"


def _wrong_ends(evidence: Evidence) -> Iterator[str]:
    """Compare what each client got with what it asked; each sentence begins with its kind."""
    for name, messages in evidence.asked.items():
        for message in messages:
            if not message.wants_answer:
                continue
            who = f"{message.kind} {message.token} of {name}"
            if message.end is None:
                yield f"I1: {who} never ended for its client"
            elif message.end == "done":
                yield from (f"I5: {who} {problem}" for problem in _wrong_answer(message))
            elif message.end not in FAULT_ENDS | EXPECTED_ENDS.get(message.kind, set()):
                yield f"error: {who} ended with {message.end}, which no fault explains"


def _wrong_answer(message: Asked) -> Iterator[str]:
    answer = message.answer or {}
    if "echo" in answer and answer["echo"] != message.data:
        yield f"got the answer to {answer['echo'].get('token')}"
    if "heard" in answer and answer["heard"] != f"{message.token}/asked":
        yield f"got what was heard for {answer['heard']}"
    if message.kind == "large" and answer.get("sha256") != hashlib.sha256(message.data["text"].encode()).hexdigest():
        yield "was weighed wrongly"
    if "human_input" in answer and answer["human_input"] != f"yes, {message.token}":
        yield f"got the human's answer {answer['human_input']!r}"
    if not {"echo", "sha256", "human_input"} & answer.keys():
        yield f"got an answer of an unknown form: {sorted(answer)}"


def _let_in(evidence: Evidence) -> Iterator[str]:
    for name, lines in evidence.effects.items():
        for line in lines:
            if line["endpoint"] == "private":
                yield f"a private flow of {name} ran for {line['token']}"
    for messages in evidence.asked.values():
        for message in messages:
            if message.kind == "denied" and message.end == "done":
                yield f"{message.token} was answered"
