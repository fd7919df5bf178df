"""What a config says about humans: how long they have, how many rounds they take, which words end it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pflows.errors import UsageError

MAX_ROUNDS = "max_rounds"
HUMAN_TIMEOUT = "human_timeout"
END_WORDS = "end_of_interaction_string"


def rounds(config: Mapping[str, Any]) -> int | None:
    """After how many rounds an interaction ends; None if it goes on.

    Raises:
        UsageError: it is no whole number from 1 on.
    """
    value = config.get(MAX_ROUNDS)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise UsageError(f"The config's {MAX_ROUNDS!r} is {value!r}.", "Write a whole number from 1 on, or null.")


def timeout(config: Mapping[str, Any]) -> float | None:
    """How many seconds a human has for one answer; None for as long as whoever asked waits.

    Raises:
        UsageError: it is no number above 0.
    """
    value = config.get(HUMAN_TIMEOUT)
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
        return value
    raise UsageError(f"The config's {HUMAN_TIMEOUT!r} is {value!r}.", "Write a number of seconds, or null.")


def end_words(config: Mapping[str, Any]) -> str:
    """The words by which a human ends an interaction.

    Raises:
        UsageError: there are none.
    """
    value = config.get(END_WORDS)
    if isinstance(value, str) and value.strip():
        return value
    raise UsageError(f"The config's {END_WORDS!r} is {value!r}.", "Write a text, such as: <END>")
