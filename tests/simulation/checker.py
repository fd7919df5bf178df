"""The invariants of p2pflows, as questions to a history; what is wrong comes back in words.

I1  no loss: every accepted message ends as stored, answered, failed, expired or cancelled; never in silence.
I2  exactly one effect for each sender and id, whatever was repeated.
I3  effects of one sender on one endpoint, or on one instance of it, follow the order in which they were accepted; what
    failed may be missing.
I4  a question is shown once, and its first answer counts.
I5  a reply reaches exactly the request that it names, with the content that was recorded; what has its end keeps it.

Those of instances and runs are in `simulation.run_checker`.

A journal that was restored from an old copy has forgotten what it had promised. What such a journal says of itself is
not checked; that nobody else is misled by it is.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.history import Fact
from simulation.run_checker import check_runs

from p2pflows.protocol.message import derived_id
from p2pflowsd.lifecycle import MOVES, OPEN_INCOMING, OPEN_OUTGOING, IncomingState, OutgoingState, PromptState

REQUESTS = ("call", "post")
ANSWERS = ("reply", "error")


@dataclass(slots=True)
class _Sent:
    """A message as its sender's journal knew it."""

    accepted: Fact
    state: str = "pending"
    answer: Any = None


@dataclass(slots=True)
class _Come:
    """A request as its recipient's journal knew it."""

    receives: int = 0
    state: str = ""
    ends: int = 0
    revived: int = 0
    asks: int = 0
    answers: list[str] = field(default_factory=list)
    pruned: bool = False


class _Tale:
    """The facts in an order that is good to ask questions of."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.restored = {fact.node for fact in facts if fact.kind == "restore"}
        self.sent: dict[tuple[str, str], _Sent] = {}
        self.come: dict[tuple[str, str, str], _Come] = defaultdict(_Come)
        self.replies: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
        self.again: set[tuple[str, str]] = set()
        """Answers that may run a flow of ours again, as (daemon, id)."""
        self.illegal: list[str] = []
        self.early: list[str] = []
        self.told = [(fact.node, fact.id) for fact in facts if fact.kind == "told"]
        self.counted = Counter(
            (fact.node, fact.id) for fact in facts if fact.kind == "answered" and fact.about["counts"]
        )
        self.texts = {
            (fact.node, fact.id): fact.about["text"]
            for fact in facts
            if fact.kind == "answered" and fact.about["counts"]
        }
        self.heard = [fact for fact in facts if fact.kind == "heard"]
        for fact in facts:
            getattr(self, f"_{fact.kind}", lambda _fact: None)(fact)

    def _accept(self, fact: Fact) -> None:
        self.sent[fact.node, fact.id] = _Sent(fact)
        if "instance" in (fact.about["origin"] or {}):
            self.again.add((fact.node, derived_id("answer", fact.id)))
        if fact.about["type"] in ANSWERS:
            self.replies[fact.node, fact.about["peer"], fact.about["cause"]].append(fact)

    def _sent(self, fact: Fact) -> None:
        sent = self.sent.get((fact.node, fact.id))
        new = OutgoingState(fact.about["state"])
        if new not in MOVES[OutgoingState][OutgoingState(fact.about["was"])]:
            self.illegal.append(f"{_short(fact.id)} went from {fact.about['was']} to {new}")
        if sent is None:
            return
        answered = sent.state == "done" and sent.accepted.about["type"] == "call"
        if answered and fact.node not in self.restored:
            self.illegal.append(f"call {_short(fact.id)} was answered, and then ended as {new}")
        sent.state, sent.answer = new, fact.about["answer"]
        if new is OutgoingState.EXPIRED and fact.t < sent.accepted.about["expires"]:
            self.early.append(f"{_short(fact.id)} expired before its deadline")

    def _drop(self, fact: Fact) -> None:
        """An answer is dropped once its recipient has it; a request only some time after its end."""
        sent = self.sent.get((fact.node, fact.id))
        if sent is not None and sent.accepted.about["type"] in ANSWERS:
            sent.state = "dropped"
        elif fact.about["state"] in OPEN_OUTGOING:
            self.illegal.append(f"{_short(fact.id)} was dropped while {fact.about['state']}")

    def _receive(self, fact: Fact) -> None:
        come = self.come[fact.node, fact.about["peer"], fact.id]
        come.receives += 1
        come.state = fact.about["state"]

    def _move(self, fact: Fact) -> None:
        come = self.come[fact.node, fact.about["peer"], fact.id]
        was, new = IncomingState(fact.about["was"]), IncomingState(fact.about["state"])
        if new not in MOVES[IncomingState][was]:
            self.illegal.append(f"request {_short(fact.id)} went from {was} to {new}")
        come.state = new
        come.ends += new not in OPEN_INCOMING
        come.revived += was is IncomingState.DEAD

    def _prune(self, fact: Fact) -> None:
        self.come[fact.node, fact.about["peer"], fact.id].pruned = True

    def _ask(self, fact: Fact) -> None:
        self.come[fact.node, fact.about["peer"], fact.id].asks += 1

    def _close(self, fact: Fact) -> None:
        if PromptState(fact.about["state"]) not in MOVES[PromptState][PromptState(fact.about["was"])]:
            self.illegal.append(f"prompt {_short(fact.id)} went from {fact.about['was']} to {fact.about['state']}")
        if fact.about["state"] == PromptState.ANSWERED:
            self.come[fact.node, fact.about["peer"], fact.id].answers.append(fact.about["answer"])


def check(facts: Sequence[Fact]) -> list[str]:
    """What a history violates, in words; empty if all invariants hold."""
    tale = _Tale(facts)
    return [
        *(f"illegal move: {what}" for what in tale.illegal),
        *(f"I1: {what}" for what in _lost(tale)),
        *(f"I2: {what}" for what in _repeated(tale)),
        *(f"I3: {what}" for what in _swapped(tale, facts)),
        *(f"I4: {what}" for what in _asked_badly(tale)),
        *(f"I5: {what}" for what in _answered_badly(tale)),
        *(f"I5: {what}" for what in _heard_wrongly(tale)),
        *check_runs(facts),
    ]


def _lost(tale: _Tale) -> Iterator[str]:
    yield from tale.early
    for node, message_id in tale.told:
        if (node, message_id) not in tale.sent:
            yield f"{_short(message_id)} was accepted, and its sender's journal knows nothing of it"
    for (node, message_id), sent in tale.sent.items():
        about = sent.accepted.about
        peer = about["peer"]
        if node in tale.restored:
            continue
        if sent.state in OPEN_OUTGOING:
            yield f"{about['type']} {_short(message_id)} never ended: it is {sent.state}"
        taken = sent.state == "stored" or (sent.state == "done" and sent.answer is None)
        if (
            taken
            and about["type"] not in ANSWERS
            and peer not in tale.restored
            and (peer, node, message_id) not in tale.come
        ):
            yield f"{about['type']} {_short(message_id)} counts as {sent.state}, and its recipient has nothing of it"
    for (node, _peer, message_id), come in tale.come.items():
        if come.state in OPEN_INCOMING and node not in tale.restored:
            yield f"request {_short(message_id)} never ended at its recipient: it is {come.state}"


def _repeated(tale: _Tale) -> Iterator[str]:
    for (node, peer, message_id), come in tale.come.items():
        if node in tale.restored:
            continue
        known = (peer, message_id) in tale.sent or (node, message_id) in tale.again
        if not known and peer not in tale.restored:
            yield f"{_short(message_id)} had an effect, and its sender's journal knows nothing of it"
        if come.receives > 1:
            yield f"{_short(message_id)} was received {come.receives} times"
        if come.ends > 1 + come.revived:
            yield f"{_short(message_id)} had {come.ends} effects"
        answers = len(tale.replies[node, peer, message_id])
        if answers > 1 + come.revived:
            yield f"{_short(message_id)} got {answers} answers"


def _swapped(tale: _Tale, facts: Sequence[Fact]) -> Iterator[str]:
    """The order of acceptance is that of the sender's journal; effects, questions and first runs must follow it."""
    parallel = {fact.id for fact in facts if fact.kind == "run" and fact.about["parallel"]}
    requests = [key for key, sent in tale.sent.items() if sent.accepted.about["type"] in REQUESTS]
    order = {message_id: place for place, (_, message_id) in enumerate(requests)}
    streams: dict[tuple[str, str, str, str, str], dict[str, None]] = defaultdict(dict)
    for fact in facts:
        what = _in_order(fact)
        if what and fact.id in order and fact.id not in parallel:
            instance = fact.about.get("instance") or ""
            streams[what, fact.about["peer"], fact.node, fact.about["endpoint"], instance].setdefault(fact.id)
    for (what, sender, recipient, endpoint, _instance), ids in streams.items():
        for before, after in _falls(ids, order) if not {sender, recipient} & tale.restored else ():
            yield f"{what} on {endpoint}: {_short(after)} came after {_short(before)}, but was accepted first"


def _in_order(fact: Fact) -> str | None:
    """What a fact is if it must keep to the order of acceptance."""
    match fact.kind, fact.about:
        case "ask", _:
            return "questions"
        case "run", _:
            return "runs"
        case "move", {"was": "ready", "state": "kept" | "done" | "dead" | "failed", "error": error} if (
            error != "cancelled"
        ):
            return "effects"
    return None


def _falls(ids: Iterable[str], order: dict[str, int]) -> Iterator[tuple[str, str]]:
    highest: str | None = None
    for message_id in ids:
        if highest is not None and order[message_id] < order[highest]:
            yield highest, message_id
        else:
            highest = message_id


def _asked_badly(tale: _Tale) -> Iterator[str]:
    for (node, peer, message_id), come in tale.come.items():
        if node in tale.restored:
            continue
        if come.asks > 1:
            yield f"question {_short(message_id)} was asked {come.asks} times"
        if len(come.answers) > 1 or tale.counted[node, message_id] > 1:
            yield f"question {_short(message_id)} took more than one answer"
        text = tale.texts.get((node, message_id))
        if text is not None and come.answers[:1] != [text]:
            yield f"question {_short(message_id)}: the answer that counted is not the one that was kept"
        for reply in tale.replies[node, peer, message_id]:
            if come.answers and reply.about["data"] != {"human_input": come.answers[0]}:
                yield f"question {_short(message_id)} was answered with something else than the human said"


def _answered_badly(tale: _Tale) -> Iterator[str]:
    for (node, message_id), sent in tale.sent.items():
        about = sent.accepted.about
        if about["type"] != "call" or sent.state not in ("done", "failed") or {node, about["peer"]} & tale.restored:
            continue
        wanted = "reply" if sent.state == "done" else "error"
        replies = [
            reply.about["data"]
            for reply in tale.replies[about["peer"], node, message_id]
            if reply.about["type"] == wanted
        ]
        if sent.answer not in replies:
            yield f"call {_short(message_id)} ended with an answer that its recipient never gave"
        echo = sent.answer.get("echo") if isinstance(sent.answer, dict) else None
        if echo is not None and echo != (about["data"] or {}):
            yield f"call {_short(message_id)} got the echo of another message"


def _heard_wrongly(tale: _Tale) -> Iterator[str]:
    """What callers heard is what their journals keep, but for what a crash let a journal forget.

    An answer is told before it is committed, comes again after a crash, and then its deadline may be over.
    """
    for fact in tale.heard:
        sent = tale.sent.get((fact.node, fact.id))
        if fact.node in tale.restored or sent is None or sent.accepted.about["type"] != "call":
            continue
        heard, answer = fact.about["state"], fact.about["answer"]
        given = [reply.about["data"] for reply in tale.replies[sent.accepted.about["peer"], fact.node, fact.id]]
        forgotten = sent.state in ("expired", "cancelled") and answer in given
        if not forgotten and (heard, answer) != (sent.state, sent.answer):
            yield f"call {_short(fact.id)}: its caller heard of {heard}, and its journal says {sent.state}"


def _short(message_id: str) -> str:
    return message_id[-8:]
