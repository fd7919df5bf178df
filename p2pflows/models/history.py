"""The part of a long conversation that the model receives: its first messages, its last ones, or all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from p2pflows.errors import UsageError

Message = TypeVar("Message")


def window(messages: Sequence[Message], first_k: int | None, last_k: int | None) -> list[Message]:
    """Return the first and the last messages of a conversation in order, each at most once.

    Args:
        messages: the whole conversation; it stays unchanged.
        first_k: how many messages from the start; None for none.
        last_k: how many messages from the end; None for none. When both are None, all messages are returned.

    Raises:
        UsageError: a count is not a whole number, at least 0.
    """
    for name, count in (("first_k", first_k), ("last_k", last_k)):
        if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 0):
            raise UsageError(f"previous_messages.{name} is not a whole number, at least 0.", "Write one, or null.")
    if first_k is None and last_k is None:
        return list(messages)
    start, end = first_k or 0, len(messages) - (last_k or 0)
    return [message for index, message in enumerate(messages) if index < start or index >= end]
