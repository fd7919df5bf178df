"""The settings of flows with humans: time to answer, number of rounds, words that end an interaction."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pflows.errors import UsageError

MAX_ROUNDS = "max_rounds"
HUMAN_TIMEOUT = "human_timeout"
END_WORDS = "end_of_interaction_string"


def rounds(config: Mapping[str, Any]) -> int | None:
    """Return after how many rounds an interaction ends; None for no limit.

    Raises:
        UsageError: it is not a whole number, at least 1.
    """
    value = config.get(MAX_ROUNDS)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise UsageError(f"The config's {MAX_ROUNDS!r} is {value!r}.", "Write a whole number, at least 1, or null.")


def timeout(config: Mapping[str, Any]) -> float | None:
    """Return how many seconds a human has for one answer; None for as long as the caller waits.

    Raises:
        UsageError: it is not a number above 0.
    """
    value = config.get(HUMAN_TIMEOUT)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise UsageError(f"The config's {HUMAN_TIMEOUT!r} is {value!r}.", "Write a number of seconds above 0, or null.")


def end_words(config: Mapping[str, Any]) -> str:
    """Return the words with which a human ends an interaction.

    Raises:
        UsageError: it is not a text, or blank.
    """
    value = config.get(END_WORDS)
    if isinstance(value, str) and value.strip():
        return value
    raise UsageError(f"The config's {END_WORDS!r} is {value!r}.", "Write a text, such as: <END>")
