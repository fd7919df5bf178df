"""When a question has ended, and how; decided from what has become of those who are asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from p2pflows.errors import DeadlinePassed, Undecided
from p2pflows.forms.shown import show
from p2pflows.protocol.strict_json import compact
from p2pflowsd.asking.question import Need, Person, Result, Wish
from p2pflowsd.lifecycle import QuestionState

_NO_ANSWER = (
    QuestionState.EXPIRED,
    QuestionState.DECLINED,
    QuestionState.DELEGATED,
    QuestionState.FAILED,
    QuestionState.CANCELLED,
)
"""The outcomes without an answer; if those who were asked differ, the first of these that occurs is that of all."""


def decide(wish: Wish, people: Sequence[Person], now: int, *, may_ask_more: bool = False) -> Result | None:
    """Return how a question has ended; None if it is still open.

    Args:
        wish: what the asker wants.
        people: those who were asked, with what has become of each.
        now: the time in milliseconds since the Unix epoch.
        may_ask_more: whether others are asked if these do not answer.
    """
    results = [person.result for person in people]
    answered = [result for result in results if result.outcome == QuestionState.ANSWERED]
    open_count = sum(result.outcome == QuestionState.OPEN for result in results)
    decided = _DECIDE[Need(wish.need)](wish, answered, len(results), open_count)
    if decided is not None:
        return decided
    if open_count or may_ask_more:
        return None
    ended = next(
        (result for outcome in _NO_ANSWER for result in results if result.outcome == outcome),
        Result(QuestionState.FAILED, at=now, error=_undecided().as_wire()),
    )
    return with_default(wish, ended, now)


def _first(_wish: Wish, answered: Sequence[Result], _asked: int, _open: int) -> Result | None:
    return answered[0] if answered else None


def _all(_wish: Wish, answered: Sequence[Result], asked: int, _open: int) -> Result | None:
    if len(answered) < asked:
        return None
    if asked == 1:
        return answered[0]
    values = [result.value for result in answered]
    return replace(answered[-1], value=values, text=show(values), remark="", by="")


def _unanimous(_wish: Wish, answered: Sequence[Result], asked: int, _open: int) -> Result | None:
    no = next((result for result in answered if result.value is not True), None)
    return no or (answered[-1] if len(answered) == asked else None)


def _quorum(wish: Wish, answered: Sequence[Result], _asked: int, open_count: int) -> Result | None:
    """Return the answer that enough people gave, or that no answer can be given by enough of them."""
    votes = Counter(compact(result.value) for result in answered)
    most, count = votes.most_common(1)[0] if votes else ("", 0)
    if count >= wish.quorum:
        return next(result for result in reversed(answered) if compact(result.value) == most)
    if answered and count + open_count < wish.quorum:
        return Result(QuestionState.FAILED, at=answered[-1].at, error=_undecided().as_wire())
    return None


_DECIDE = {Need.FIRST: _first, Need.ALL: _all, Need.UNANIMOUS: _unanimous, Need.QUORUM: _quorum}


def with_default(wish: Wish, ended: Result, now: int) -> Result:
    """Return the asker's own value in place of an answer that did not come in time, if the asker has given one."""
    is_silence = ended.outcome == QuestionState.EXPIRED or (
        ended.outcome == QuestionState.FAILED and (ended.error or {}).get("timed_out") is True
    )
    if not wish.default or not is_silence:
        return ended
    (value,) = wish.default
    return replace(
        ended, outcome=QuestionState.DEFAULTED, value=value, text=show(value), by="", at=now, error=ended.error
    )


def expired() -> DeadlinePassed:
    """Return the error of a question that nobody was asked before its deadline."""
    return DeadlinePassed("The question's deadline passed before anybody was asked.", "Give it longer: --timeout 10m")


def _undecided() -> Undecided:
    return Undecided("Not enough people gave the same answer.", "Ask again, or let fewer decide.")
