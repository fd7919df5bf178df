"""The part of a long conversation that the model receives: its first messages, its last ones, or all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from p2pflows.errors import UsageError
from p2pflows.models.context import split_turns

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


def to_send(
    history: Sequence[Mapping[str, Any]], first_k: int | None, last_k: int | None, *, user: str
) -> list[Mapping[str, Any]]:
    """Return the part of a conversation that the model receives.

    The system message is always part of it, unless it is empty, and counts for nothing, so no window removes what the
    owner told the model. Of the rest, the window keeps whole turns, each a question with its answers, since many models
    refuse a conversation that begins with an answer. The newest question is always part of it.

    Args:
        history: the whole conversation, which begins with the system message and ends with the newest question.
        first_k: how many messages from the start, without the system message.
        last_k: how many messages from the end.
        user: the name of the user role.

    Raises:
        UsageError: a count is not a whole number, at least 0.
    """
    # By its place, as the config may have had another name for its role when the conversation began.
    system, *messages = history
    kept = {id(message) for message in window(messages, first_k, last_k)}
    *earlier, newest = split_turns(messages, user)
    whole = [message for turn in earlier if kept.issuperset(map(id, turn)) for message in turn]
    head = [system] if system["content"] else []  # strict servers refuse an empty one
    return [*head, *whole, *newest]
