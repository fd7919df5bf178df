"""The rows of the journal, as the rest of the daemon reads them: frozen tuples."""

from __future__ import annotations

from typing import NamedTuple

from p2pflowsd.journal.bodies import Kind, read_either


class IncomingRow(NamedTuple):
    """A request that we received, without its body."""

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
    wants_progress: int = 0
    """1 if its sender wants to hear how far it has got."""


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
    """The name by which the asking flow knows this human."""
    place: int = 0
    """Its position in the order in which questions are asked."""
    snoozed: int = 0
    """Until when it is hidden, in milliseconds since the Unix epoch; 0 if it is shown."""
    flow: str = ""
    """The flow that asks, with its dispatch point: "Booking@default"; empty if its owner asks in person."""
    claimed_by: str = ""
    """The user id of the one who works on the answer, if several are asked; empty if nobody does."""
    claimed_until: int = 0
    """When that ends, in milliseconds since the Unix epoch."""


class LineRow(NamedTuple):
    """Something that the user and another person have said to each other."""

    row_id: int
    peer: str
    by_me: int
    """1 if the user has said it, 0 if the other person has."""
    kind: str
    """`note`, `question`, `answer` or `declined`."""
    message: str
    """The id of the note or question; of an answer, that of the question."""
    endpoint: str
    conversation: str
    label: str
    """The name by which the asking flow knows the person whom it asks; empty if a person asks."""
    text: str
    at: int
    state: str
    """Of what the user sends: `sent`, `held`, `delivered`, or how it ended; of what others send: that of its prompt."""


class QuestionRow(NamedTuple):
    """A question that this user asks other humans; `wish`, `people` and `result` are JSON."""

    row_id: int
    id: str
    text: str
    wish: str
    people: str
    created: int
    expires: int
    due: int | None
    """When something is to be done for it before its end, such as asking others."""
    state: str
    result: str | None
    ended: int | None
    claimed_by: str = ""
    """The user id of the one who works on the answer; empty if nobody does."""
    claimed_until: int = 0
    """When that ends, in milliseconds since the Unix epoch."""
    claims: int = 0
    """How often it was claimed."""


class InstanceRow(NamedTuple):
    """A mounted flow; `config`, `subflows`, `initial` and `state` are JSON objects."""

    id: str
    endpoint: str
    client: str
    is_explicit: int
    """1 if somebody mounted it and uses it by its id, 0 if it belongs to a conversation or to the whole endpoint."""
    config: str
    subflows: str
    initial: str | None
    state: str | None
    point: str | None
    created: int
    used: int


class RecordRow(NamedTuple):
    """Something that a run did and must not do twice; `value` is JSON, and None while a call has no answer."""

    row_id: int
    call_index: int
    kind: str
    fingerprint: str
    message: str | None
    value: str | None


class LogRow(NamedTuple):
    """Something that the owner may want to know."""

    row_id: int
    at: int
    what: str
    peer: str
    endpoint: str
    detail: str


class InvitationRow(NamedTuple):
    """An invitation that we made.

    Attributes:
        name: what we will call the one who uses it; empty if they get a name made of their user id.
        allow: endpoints that they may call then, with commas.
        uses: how many users may use it.
        used: how many have.
        revoked: when it was revoked; 0 if it was not.
    """

    row_id: int
    id: str
    secret: bytes
    name: str
    allow: str
    uses: int
    used: int
    created: int
    expires: int
    revoked: int


class MeetingRow(NamedTuple):
    """A user who became a contact through an invitation.

    Attributes:
        invitation: the id of the invitation.
        name: the petname that they get; empty, until they are added, for one made of their user id.
        suggested: what they suggest to call them.
        way: "invited" if the invitation was ours, "accepted" if it was theirs.
        added: 1 once they are in the address book.
        words: the words to compare, once the owner was told of them; empty if they could not be computed.
    """

    row_id: int
    invitation: str
    peer: str
    name: str
    suggested: str
    way: str
    at: int
    added: int = 0
    words: str | None = None


class IntroductionRow(NamedTuple):
    """A user whom a contact, `by`, has introduced under a name."""

    row_id: int
    peer: str
    by: str
    name: str
    at: int


class WishRow(NamedTuple):
    """A stranger who asked to be let in; `endpoints` is a JSON list of what they asked for."""

    row_id: int
    peer: str
    endpoints: str
    first: int
    last: int


class SpendingRow(NamedTuple):
    """What a caller has spent at an endpoint at one model on one day.

    Attributes:
        day: days since 1970-01-01, UTC.
        endpoint: where it was spent.
        caller: who called, first of all if the owner's flows have called each other.
        model: the model's name.
        is_direct: 1 if the endpoint's own runs spent it; 0 if flows did that these have called.
        calls: how many requests to the model it took.
        tokens_in: the tokens that the model read.
        tokens_out: the tokens that it wrote.
        cached: how many of those that it read its server had at hand.
        cost: what it cost, in millionths of the currency of the prices.
    """

    day: int
    endpoint: str
    caller: str
    model: str
    is_direct: int
    calls: int
    tokens_in: int
    tokens_out: int
    cached: int
    cost: int


class UsageRow(NamedTuple):
    """How much of the journal one peer fills.

    Attributes:
        blocked: requests that wait for an earlier one.
        held: requests that wait for the owner's decision.
        tasks: requests that wait for a worker, run, or await a later answer.
        dead: dead letters.
        questions: open questions and notes.
        answers: answers that the peer has not confirmed.
        remembered: requests that have ended, whose ids are kept until their deadline.
        bytes: the bodies of all of these, and what questions hold.
    """

    peer: str
    blocked: int = 0
    held: int = 0
    tasks: int = 0
    dead: int = 0
    questions: int = 0
    answers: int = 0
    remembered: int = 0
    bytes: int = 0

    @property
    def requests(self) -> int:
        """Requests that have not ended."""
        return self.blocked + self.held + self.tasks + self.dead + self.questions


class WorkerTokenRow(NamedTuple):
    """A token with which workers serve a dispatch point; `expires` and `revoked` are None if it is never, or not."""

    id: str
    point: str
    name: str
    created: int
    expires: int | None
    revoked: int | None


class FileRow(NamedTuple):
    """A file beside messages: one of ours, or one that a message of another user refers to.

    Attributes:
        id: by which messages refer to it.
        peer: who sent it first; empty if it is ours.
        state: a `FileState`.
        error: why it could not be fetched, or is not; empty if it could.
        created: when it was first known.
        used: when it was put, sent or received last.
        needed: until when a message needs it, at least.
    """

    id: str
    sha256: str
    size: int
    name: str
    type: str
    peer: str
    state: str
    error: str
    created: int
    used: int
    needed: int


class FileGrantRow(NamedTuple):
    """A user who may fetch a file, until `expires`; `state` says what became of it."""

    file: str
    peer: str
    expires: int
    state: str


class AwaitedRow(NamedTuple):
    """A request that waits for files, or for an earlier one that does.

    Attributes:
        endpoint: its endpoint; with its number behind it if nobody waits for it in turn.
        files: a JSON list of the ids of the files.
    """

    row_id: int
    peer: str
    endpoint: str
    files: str


_EXPRESSION_OF = {
    "row_id": "n",
    "call_index": "k",
    "fingerprint": "mark",
    "root_request": "root",
    "is_explicit": "own",
    "size": "coalesce(length(body), large)",
}
"""The SQL expression that a field is read from, where that is not a column of the same name."""
_EXPRESSION_IN: dict[type[NamedTuple], dict[str, str]] = {
    OutgoingRow: {"answer": read_either("answer", "large_answer", "outgoing", Kind.ANSWER)},
    FileRow: {"size": "size"},
}
"""The same, for fields of one row type."""


def columns(row_type: type[NamedTuple]) -> tuple[str, ...]:
    """Return the SQL expressions that the fields of a row type are read from, in their order."""
    expressions = _EXPRESSION_OF | _EXPRESSION_IN.get(row_type, {})
    return tuple(expressions.get(field, field) for field in row_type._fields)
