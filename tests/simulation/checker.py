"""Checks a history against the promises of p2pflows about messages, and describes every violation.

I1  No message is lost: every accepted message ends as stored, answered, failed, expired or cancelled.
I2  Every message takes effect once, even if it was received several times.
I3  Messages from one sender to one endpoint, or to one instance of it, take effect in the order in which they were
    accepted; messages that failed may be missing.
I4  A human is asked each question once, and the first answer counts.
I5  A caller gets the answer that the recipient stored for this very call, and it does not change afterwards.

`simulation.run_checker` checks the promises about instances and runs.

A daemon whose journal was replaced by an old copy has forgotten some of its promises. The checks leave out what such a
daemon does itself, but not what other daemons do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from simulation.history import Fact
from simulation.run_checker import check_runs

from p2pflows.errors import as_theirs
from p2pflows.protocol.ids import derived_id
from p2pflowsd.lifecycle import MOVES, OPEN_INCOMING, OPEN_OUTGOING, IncomingState, OutgoingState, PromptState

REQUESTS = ("call", "post")
ANSWERS = ("reply", "error")


@dataclass(slots=True)
class _Sent:
    """A message as the journal of its sender recorded it."""

    accepted: Fact
    expires: int
    """Its deadline; another one if it was given new times."""
    state: str = "pending"
    answer: Any = None


@dataclass(slots=True)
class _Received:
    """A request as the journal of its recipient recorded it."""

    times: int = 0
    state: str = ""
    ends: int = 0
    retries: int = 0
    prompts: int = 0
    human_answers: list[str] = field(default_factory=list)


class _Messages:
    """The facts of a history about messages, sorted by message."""

    def __init__(self, facts: Sequence[Fact]) -> None:
        self.restored = {fact.node for fact in facts if fact.kind == "restored"}
        self.sent: dict[tuple[str, str], _Sent] = {}
        """By (sender, id)."""
        self.received: dict[tuple[str, str, str], _Received] = defaultdict(_Received)
        """By (recipient, sender, id)."""
        self.answers: dict[tuple[str, str, str], list[Fact]] = defaultdict(list)
        """Accepted answers, by (recipient of the request, its sender, its id)."""
        self.run_again: set[tuple[str, str]] = set()
        """Answers that may run an instance again, as (daemon, id)."""
        self.illegal_moves: list[str] = []
        self.expired_early: list[str] = []
        self.confirmed = [(fact.node, fact.id) for fact in facts if fact.kind == "confirmed"]
        self.reported = [fact for fact in facts if fact.kind == "reported"]
        counting = [fact for fact in facts if fact.kind == "answered" and fact.about["counts"]]
        self.counting_answers = Counter((fact.node, fact.id) for fact in counting)
        self.texts = {(fact.node, fact.id): fact.about["text"] for fact in counting}
        for fact in facts:
            getattr(self, f"_{fact.kind}", lambda _fact: None)(fact)

    def _accepted(self, fact: Fact) -> None:
        self.sent[fact.node, fact.id] = _Sent(fact, fact.about["expires"])
        if "instance" in (fact.about["origin"] or {}):
            self.run_again.add((fact.node, derived_id("answer", fact.id)))
        if fact.about["type"] in ANSWERS:
            self.answers[fact.node, fact.about["peer"], fact.about["cause"]].append(fact)

    def _outgoing_redated(self, fact: Fact) -> None:
        # By another clock it gets another deadline, but a request has as much time as before.
        sent = self.sent.get((fact.node, fact.id))
        if sent is None:
            return
        before, now = sent.accepted.about, fact.about
        if before["type"] not in ANSWERS and now["expires"] - now["created"] < before["expires"] - before["created"]:
            self.expired_early.append(f"{_short(fact.id)} was given less time")
        sent.expires = now["expires"]

    def _outgoing_moved(self, fact: Fact) -> None:
        sent = self.sent.get((fact.node, fact.id))
        new = OutgoingState(fact.about["state"])
        if new not in MOVES[OutgoingState][OutgoingState(fact.about["was"])]:
            self.illegal_moves.append(f"message {_short(fact.id)} went from {fact.about['was']} to {new}")
        if sent is None:
            return
        answered = sent.state == "done" and sent.accepted.about["type"] == "call"
        if answered and fact.node not in self.restored:
            self.illegal_moves.append(f"call {_short(fact.id)} was answered, and then went to {new}")
        sent.state, sent.answer = new, fact.about["answer"]
        if new is OutgoingState.EXPIRED and fact.t < sent.expires:
            self.expired_early.append(f"{_short(fact.id)} expired before its deadline")

    def _outgoing_removed(self, fact: Fact) -> None:
        # An answer is removed when its recipient has stored it; a request some time after its end.
        sent = self.sent.get((fact.node, fact.id))
        if sent is not None and sent.accepted.about["type"] in ANSWERS:
            sent.state = "removed"
        elif fact.about["state"] in OPEN_OUTGOING:
            self.illegal_moves.append(f"message {_short(fact.id)} was removed while it was {fact.about['state']}")

    def _received(self, fact: Fact) -> None:
        received = self.received[fact.node, fact.about["peer"], fact.id]
        received.times += 1
        received.state = fact.about["state"]

    def _incoming_moved(self, fact: Fact) -> None:
        received = self.received[fact.node, fact.about["peer"], fact.id]
        was, new = IncomingState(fact.about["was"]), IncomingState(fact.about["state"])
        if new not in MOVES[IncomingState][was]:
            self.illegal_moves.append(f"request {_short(fact.id)} went from {was} to {new}")
        received.state = new
        received.ends += new not in OPEN_INCOMING
        received.retries += was is IncomingState.DEAD

    def _prompt_added(self, fact: Fact) -> None:
        self.received[fact.node, fact.about["peer"], fact.id].prompts += 1

    def _prompt_moved(self, fact: Fact) -> None:
        if PromptState(fact.about["state"]) not in MOVES[PromptState][PromptState(fact.about["was"])]:
            self.illegal_moves.append(
                f"prompt {_short(fact.id)} went from {fact.about['was']} to {fact.about['state']}"
            )
        if fact.about["state"] == PromptState.ANSWERED:
            self.received[fact.node, fact.about["peer"], fact.id].human_answers.append(fact.about["answer"])


def check(facts: Sequence[Fact]) -> list[str]:
    """Return a sentence for each violation in a history; it begins with the number of the promise."""
    messages = _Messages(facts)
    return [
        *(f"illegal move: {violation}" for violation in messages.illegal_moves),
        *(f"I1: {violation}" for violation in _lost(messages)),
        *(f"I2: {violation}" for violation in _repeated(messages)),
        *(f"I3: {violation}" for violation in _out_of_order(messages, facts)),
        *(f"I4: {violation}" for violation in _wrong_prompts(messages)),
        *(f"I5: {violation}" for violation in _wrong_answers(messages)),
        *(f"I5: {violation}" for violation in _wrong_reports(messages)),
        *check_runs(facts),
    ]


def _lost(messages: _Messages) -> Iterator[str]:
    yield from messages.expired_early
    for node, message_id in messages.confirmed:
        if (node, message_id) not in messages.sent:
            yield f"the daemon confirmed {_short(message_id)} to its client, but its journal does not have it"
    for (node, message_id), sent in messages.sent.items():
        about = sent.accepted.about
        peer = about["peer"]
        if node in messages.restored:
            continue
        if sent.state in OPEN_OUTGOING:
            yield f"{about['type']} {_short(message_id)} never ended; at its sender it is {sent.state}"
        is_stored = sent.state == "stored" or (sent.state == "done" and sent.answer is None)
        if (
            is_stored
            and about["type"] not in ANSWERS
            and peer not in messages.restored
            and (peer, node, message_id) not in messages.received
        ):
            yield f"{about['type']} {_short(message_id)} is {sent.state} at its sender, but not stored at its recipient"
    for (node, _peer, message_id), received in messages.received.items():
        if received.state in OPEN_INCOMING and node not in messages.restored:
            yield f"request {_short(message_id)} never ended; at its recipient it is {received.state}"


def _repeated(messages: _Messages) -> Iterator[str]:
    for (node, peer, message_id), received in messages.received.items():
        if node in messages.restored:
            continue
        known = (peer, message_id) in messages.sent or (node, message_id) in messages.run_again
        if not known and peer not in messages.restored:
            yield f"{_short(message_id)} took effect, but the journal of its sender does not have it"
        if received.times > 1:
            yield f"{_short(message_id)} was stored {received.times} times by its recipient"
        if received.ends > 1 + received.retries:
            yield f"{_short(message_id)} took effect {received.ends} times"
        answers = len(messages.answers[node, peer, message_id])
        if answers > 1 + received.retries:
            yield f"{_short(message_id)} was answered {answers} times"


def _out_of_order(messages: _Messages, facts: Sequence[Fact]) -> Iterator[str]:
    """Compare the order of effects, prompts and first runs with the order in the journal of the sender."""
    parallel = {fact.id for fact in facts if fact.kind == "run_started" and fact.about["parallel"]}
    requests = [key for key, sent in messages.sent.items() if sent.accepted.about["type"] in REQUESTS]
    order = {message_id: index for index, (_, message_id) in enumerate(requests)}
    streams: dict[tuple[str, str, str, str, str], dict[str, None]] = defaultdict(dict)
    for fact in facts:
        what = _what_is_ordered(fact)
        if what and fact.id in order and fact.id not in parallel:
            instance = fact.about.get("instance") or ""
            streams[what, fact.about["peer"], fact.node, fact.about["endpoint"], instance].setdefault(fact.id)
    for (what, sender, recipient, endpoint, _instance), ids in streams.items():
        for earlier, later in _inversions(ids, order) if not {sender, recipient} & messages.restored else ():
            yield f"{what} at {endpoint}: {_short(later)} came after {_short(earlier)}, but was accepted before it"


def _what_is_ordered(fact: Fact) -> str | None:
    """Return the name of the sequence that a fact belongs to, if it must follow the order of acceptance."""
    match fact.kind, fact.about:
        case "prompt_added", _:
            return "prompts"
        case "run_started", _:
            return "runs"
        case "incoming_moved", {"was": "ready", "state": "kept" | "done" | "dead" | "failed", "error": error} if (
            error not in ("cancelled", "not_allowed")  # a refusal has no effect
        ):
            return "effects"
    return None


def _inversions(ids: Iterable[str], order: dict[str, int]) -> Iterator[tuple[str, str]]:
    """Find the ids that come after one with a higher place in the order, with the highest such one."""
    highest: str | None = None
    for message_id in ids:
        if highest is not None and order[message_id] < order[highest]:
            yield highest, message_id
        else:
            highest = message_id


def _wrong_prompts(messages: _Messages) -> Iterator[str]:
    for (node, peer, message_id), received in messages.received.items():
        if node in messages.restored:
            continue
        if received.prompts > 1:
            yield f"question {_short(message_id)} was asked {received.prompts} times"
        if len(received.human_answers) > 1 or messages.counting_answers[node, message_id] > 1:
            yield f"question {_short(message_id)} accepted more than one answer"
        text = messages.texts.get((node, message_id))
        if text is not None and received.human_answers[:1] != [text]:
            yield f"question {_short(message_id)}: the journal does not have the answer that the daemon accepted"
        for answer in messages.answers[node, peer, message_id]:
            if received.human_answers and answer.about["data"].get("human_input") != received.human_answers[0]:
                yield f"question {_short(message_id)}: the answer that was sent is not the answer of the human"


def _given(messages: _Messages, node: str, peer: str, message_id: str, kind: str) -> list[Any]:
    """The answers of a type that a peer gave to a call, as the journal of the caller stores them."""
    is_theirs = kind == "error" and peer != node  # stored as an error of that user, never as our own
    return [
        as_theirs(answer.about["data"], peer) if is_theirs else answer.about["data"]
        for answer in messages.answers[peer, node, message_id]
        if answer.about["type"] == kind
    ]


def _wrong_answers(messages: _Messages) -> Iterator[str]:
    for (node, message_id), sent in messages.sent.items():
        about = sent.accepted.about
        if about["type"] != "call" or sent.state not in ("done", "failed") or {node, about["peer"]} & messages.restored:
            continue
        kind = "reply" if sent.state == "done" else "error"
        if sent.answer not in _given(messages, node, about["peer"], message_id, kind):
            yield f"call {_short(message_id)} ended with an answer that its recipient did not send"
        echo = sent.answer.get("echo") if isinstance(sent.answer, dict) else None
        if echo is not None and echo != (about["data"] or {}):
            yield f"call {_short(message_id)} got the answer to another call"


def _wrong_reports(messages: _Messages) -> Iterator[str]:
    """Compare the ends that daemons reported to their clients with the journals.

    An answer is reported before it is committed. If a crash prevents the commit, the answer arrives again, perhaps
    after the deadline of the call.
    """
    for fact in messages.reported:
        sent = messages.sent.get((fact.node, fact.id))
        if fact.node in messages.restored or sent is None or sent.accepted.about["type"] != "call":
            continue
        state, answer = fact.about["state"], fact.about["answer"]
        kind = "reply" if state == "done" else "error"
        given = _given(messages, fact.node, sent.accepted.about["peer"], fact.id, kind)
        ended_before_commit = sent.state in ("expired", "cancelled") and answer in given
        if not ended_before_commit and (state, answer) != (sent.state, sent.answer):
            yield f"call {_short(fact.id)}: the daemon reported {state}, but its journal says {sent.state}"


def _short(message_id: str) -> str:
    return message_id[-8:]
