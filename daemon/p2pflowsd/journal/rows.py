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
    attempts: int = 0
    error: str | None = None
    instance: str | None = None
    root: int | None = None


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
    origin: str | None


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
    label: str
    """By which name the asking flow knows this human."""


class InstanceRow(NamedTuple):
    """A mounted flow; `config`, `subflows`, `initial` and `state` are JSON objects."""

    id: str
    endpoint: str
    client: str
    own: int
    """1 if it was asked for by its id, 0 if a conversation or the endpoint has it."""
    config: str
    subflows: str
    initial: str | None
    state: str | None
    point: str | None
    created: int
    used: int


class RecordRow(NamedTuple):
    """What a run did that must not be done twice; `value` is JSON, and missing while a call has no answer."""

    n: int
    k: int
    kind: str
    mark: str
    message: str | None
    value: str | None


class LogRow(NamedTuple):
    """Something that the owner may want to know of."""

    n: int
    at: int
    what: str
    peer: str
    endpoint: str
    detail: str
