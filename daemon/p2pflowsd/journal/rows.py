"""What the rest of the daemon sees of the journal: frozen rows."""

from __future__ import annotations

from typing import NamedTuple


class IncomingRow(NamedTuple):
    """A request that came to us, without its body."""

    n: int
    id: str
    peer: str
    type: str
    endpoint: str
    epoch: int
    seq: int
    conversation: str
    received: int
    expires: int
    state: str
    attempts: int
    error: str | None


class OutgoingRow(NamedTuple):
    """A message that we send, without its body."""

    n: int
    id: str
    type: str
    peer: str
    endpoint: str
    epoch: int
    seq: int
    conversation: str
    cause: str | None
    size: int
    created: int
    expires: int
    state: str
    note: str
    answer: bytes | None


class PromptRow(NamedTuple):
    """A question to the human."""

    n: int
    id: str
    peer: str
    type: str
    endpoint: str
    conversation: str
    text: str
    data: str
    received: int
    expires: int
    state: str
    answer: str | None
