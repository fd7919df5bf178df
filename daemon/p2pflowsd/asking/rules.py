"""When a question has ended, and how; decided from what has become of those who are asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from p2pflows.errors import DeadlinePassed
from p2pflows.forms.typed import show
from p2pflowsd.asking.question import Person, Result, Wish
from p2pflowsd.lifecycle import QuestionState

_NO_ANSWER = (QuestionState.EXPIRED, QuestionState.DECLINED, QuestionState.DELEGATED, QuestionState.FAILED)
"""The outcomes without an answer; if those who were asked differ, the first of these that occurs is that of all."""


def decide(wish: Wish, people: Sequence[Person], now: int) -> Result | None:
    """Return how a question has ended; None if it is still open.

    Args:
        wish: what the asker wants.
        people: those who were asked, with what has become of each.
        now: the time in milliseconds since the Unix epoch.
    """
    results = [person.result for person in people]
    answered = [result for result in results if result.outcome == QuestionState.ANSWERED]
    if answered:
        return answered[0]
    if any(result.outcome == QuestionState.OPEN for result in results):
        return None
    ended = next(
        result for outcome in (*_NO_ANSWER, QuestionState.CANCELLED) for result in results if result.outcome == outcome
    )
    return with_default(wish, ended, now)


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
