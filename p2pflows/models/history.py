"""Which messages of a long conversation are sent to the model: the first few, the last few, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from p2pflows.errors import UsageError

Message = TypeVar("Message")


def window(messages: Sequence[Message], first_k: int | None, last_k: int | None) -> list[Message]:
    """The first and the last messages in their order, each at most once.

    Args:
        messages: the whole conversation; it is left as it is.
        first_k: how many from the start; None when only the end counts.
        last_k: how many from the end; None when only the start counts. With neither, all are given.

    Raises:
        UsageError: a count is no whole number from 0.
    """
    for name, count in (("first_k", first_k), ("last_k", last_k)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise UsageError(f"previous_messages.{name} is not a whole number from 0.", "Give one, or null for none.")
    if first_k is None and last_k is None:
        return list(messages)
    start, end = first_k or 0, len(messages) - (last_k or 0)
    return [message for index, message in enumerate(messages) if index < start or index >= end]
