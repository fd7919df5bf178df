"""The verdict on a soak finds what clients and flows have seen go wrong; `simulation.checker` finds it in journals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from simulation.history import Fact
from soak.traffic import Asked
from soak.verdict import Evidence, count_reruns, judge, summarize

ANN, BOB = "a" * 64, "b" * 64


def call(number: int, kind: str = "call") -> tuple[Asked, list[Fact]]:
    """A call from ann to bob's `record` that was answered, as its client and both journals saw it."""
    message_id, answer_id, data = f"{number:032x}", f"{number + 1000:032x}", {"token": f"ann-{number}"}
    answer = {"echo": data}
    sent = {
        "type": "call",
        "peer": BOB,
        "endpoint": "record",
        "cause": None,
        "created": 1,
        "expires": 9,
        "data": data,
        "origin": None,
    }
    replied = {**sent, "type": "reply", "peer": ANN, "endpoint": "_reply", "cause": message_id, "data": answer}
    received = {"type": "call", "peer": ANN, "endpoint": "record", "instance": None}
    facts = [
        Fact(1, ANN, "accepted", message_id, sent),
        Fact(1, ANN, "confirmed", message_id),
        Fact(1, BOB, "received", message_id, {**received, "state": "ready"}),
        Fact(
            1,
            BOB,
            "incoming_moved",
            message_id,
            {**received, "was": "ready", "state": "done", "error": None, "root": None},
        ),
        Fact(1, BOB, "accepted", answer_id, replied),
        Fact(1, ANN, "outgoing_moved", message_id, {"was": "pending", "state": "done", "answer": answer}),
        Fact(1, BOB, "outgoing_removed", answer_id, {"state": "pending"}),
    ]
    return Asked(message_id, kind, "bob", data, end="done", answer=answer), facts


@pytest.fixture
def evidence() -> Evidence:
    """Two calls from ann to bob, with nothing wrong."""
    (first, facts), (second, more) = call(1), call(2)
    effects = [{"endpoint": "record", "token": message.token} for message in (first, second)]
    return Evidence([*facts, *more], {"ann": [first, second]}, {"bob": effects}, {ANN: "ann", BOB: "bob"})


def lose_effect(evidence: Evidence) -> None:
    """A journal calls a request done that never ran."""
    evidence.effects = {"bob": evidence.effects["bob"][:1]}


def run_in_wrong_order(evidence: Evidence) -> None:
    """The second call runs before the first one."""
    evidence.effects = {"bob": evidence.effects["bob"][::-1]}


def run_out_of_nothing(evidence: Evidence) -> None:
    """A flow runs for something that nobody has sent."""
    evidence.effects = {"bob": [*evidence.effects["bob"], {"endpoint": "record", "token": "ann-9"}]}


def mix_answers_up(evidence: Evidence) -> None:
    """The two callers' clients get each other's answers."""
    one, other = evidence.asked["ann"]
    one.answer, other.answer = other.answer, one.answer


def never_end(evidence: Evidence) -> None:
    """A client never hears of the end of its call."""
    evidence.asked["ann"][0].end = None


def fail_for_no_reason(evidence: Evidence) -> None:
    """A call ends with an error that no fault explains."""
    evidence.asked["ann"][0].end = "flow_failed"


def let_in(evidence: Evidence) -> None:
    """Somebody reaches a private flow."""
    evidence.effects = {"bob": [*evidence.effects["bob"], {"endpoint": "private", "token": "ann-2"}]}


def test_nothing_wrong(evidence: Evidence) -> None:
    """An honest history has no violation; a run that was repeated after a kill is counted, and is none."""
    assert judge(evidence) == []
    assert count_reruns(evidence) == 0
    evidence.effects = {"bob": [*evidence.effects["bob"], evidence.effects["bob"][1]]}
    assert judge(evidence) == []
    assert count_reruns(evidence) == 1


@pytest.mark.parametrize(
    ("falsify", "kind"),
    [
        (lose_effect, "lost"),
        (run_in_wrong_order, "out of order"),
        (run_out_of_nothing, "doubled"),
        (mix_answers_up, "wrong answers"),
        (never_end, "lost"),
        (fail_for_no_reason, "unexplained errors"),
        (let_in, "let in"),
    ],
)
def test_each_violation_is_found(evidence: Evidence, falsify: Callable[[Evidence], None], kind: str) -> None:
    """Each thing that goes wrong is counted under its kind, and nothing else is."""
    falsify(evidence)
    found = {name: count for name, count in summarize(judge(evidence)).items() if count}
    assert set(found) == {kind}, judge(evidence)
