"""What the rest of the daemon sees of the journal: frozen rows."""

from __future__ import annotations

from typing import NamedTuple


class IncomingRow(NamedTuple):
    """A request that came to us, without its body."""

    row_id: int
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
    root_request: int | None = None


class OutgoingRow(NamedTuple):
    """A message that we send, without its body."""

    row_id: int
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

    row_id: int
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
    is_explicit: int
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

    row_id: int
    call_index: int
    kind: str
    fingerprint: str
    message: str | None
    value: str | None


class LogRow(NamedTuple):
    """Something that the owner may want to know of."""

    row_id: int
    at: int
    what: str
    peer: str
    endpoint: str
    detail: str


_COLUMN_OF = {
    "row_id": "n",
    "call_index": "k",
    "fingerprint": "mark",
    "root_request": "root",
    "is_explicit": "own",
}
"""The column of a field, where the table has a shorter name for it."""


def columns(row_type: type[tuple[object, ...]]) -> tuple[str, ...]:
    """The table columns that the fields of a row type are read from, in their order."""
    fields: tuple[str, ...] = row_type._fields  # type: ignore[attr-defined]
    return tuple(_COLUMN_OF.get(field, field) for field in fields)
