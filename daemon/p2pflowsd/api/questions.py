"""The methods with which this user asks humans, and looks at what became of it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from p2pflows.contacts import ME, members_of
from p2pflows.errors import BadInput, DeadlinePassed, UsageError
from p2pflows.forms import Form
from p2pflows.forms.wire import ATTACHED
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.api import asked_views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import (
    MAX_TIMEOUT_S,
    POST_TIMEOUT_S,
    Count,
    FileList,
    Flag,
    IdPart,
    Json,
    JsonObject,
    MustBe,
    NewId,
    NoParameters,
    Parameters,
    Seconds,
    Text,
    Words,
)
from p2pflowsd.asking.question import Need, Wish
from p2pflowsd.asking.questions import MAX_PEOPLE, Answerer
from p2pflowsd.journal.rows import OutgoingRow, QuestionRow
from p2pflowsd.lifecycle import QuestionState

ASK_TIMEOUT_S = 600
HUMAN = "User"
"""The endpoint at which every daemon serves its user."""
MAX_SOURCE_CHARS = 64
MAX_LISTED = 1_000
_AFTER_ALL = 2**62
"""A number above those of all rows."""


class ThenParameters(BaseModel):
    """Whom to ask if nobody has answered some seconds after the start."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    who: list[str]
    after: Annotated[float, Field(gt=0, le=MAX_TIMEOUT_S)]


class AskParameters(Parameters):
    """A question, whom to ask, and what the answer must be."""

    NOT_NULL: ClassVar[frozenset[str]] = frozenset({"default"})

    id: NewId = ""
    who: Words
    text: Text
    schema_: JsonObject = Field(default_factory=dict, alias="schema")
    draft: Json = None
    default: Json = None
    timeout: Seconds = ASK_TIMEOUT_S
    source: Text = ""
    need: Annotated[Need, Field(strict=False), MustBe("first, all, unanimous or quorum")] = Need.FIRST
    quorum: Count = 0
    then: Annotated[list[ThenParameters], MustBe("a list of objects with `who` and `after`")] = Field(
        default_factory=list
    )
    files: FileList = Field(default_factory=list)
    delay: Annotated[float, Field(ge=0, le=MAX_TIMEOUT_S), MustBe("from 0 to 30 days", "Give it in seconds.")] = 0


class TellParameters(Parameters):
    """A note, and for whom it is."""

    who: Words
    text: Text
    timeout: Seconds = POST_TIMEOUT_S
    files: FileList = Field(default_factory=list)


class QuestionParameters(Parameters):
    """A question, by its id or a part of it."""

    id: IdPart


class AskedParameters(Parameters):
    """Which part of the list to return."""

    limit: Count = 100
    offset: Count = 0
    open: Flag = False


async def ask(daemon: Daemon, params: AskParameters) -> Any:
    """Ask humans, without waiting for the answer: `who` has contacts, addresses, and groups such as `@team`.

    `need` says whose answers decide: the `first`, `all`, those of all until one says no (`unanimous`), or the same
    one of `quorum` people. `then` has others, who are asked `after` some seconds; `delay` says when to begin. `id` is
    a new id for it; with the id of an earlier question nothing is asked, so that a client can repeat a request.
    `files` has references to files that go with it.

    Returns:
        `id` of the question, once it is committed
    """
    form = Form.read(params.schema_ if "schema_" in params.model_fields_set else None, params.draft)
    wish = Wish.with_form(
        form,
        default=[params.default] if "default" in params.model_fields_set else [],
        source=params.source[:MAX_SOURCE_CHARS],
        life_ms=int(params.timeout * 1000),
        need=params.need,
        quorum=params.quorum,
        files=params.files,
        steps=[
            {
                "people": [[person.user, person.endpoint] for person in _people(daemon, step.who)],
                "after_ms": int(step.after * 1000),
            }
            for step in params.then
        ],
    )
    people = _people(daemon, params.who)

    def step() -> str:
        start = daemon.node.clock.now() + int(params.delay * 1000) if params.delay else 0
        return daemon.node.questions.ask(params.text, people, replace(wish, start=start), params.id)

    return {"id": await daemon.run(step)}


async def tell(daemon: Daemon, params: TellParameters) -> Any:
    """Leave a note for people: `who` is as for `ask`. Either all of them get it, or nothing is sent.

    Returns:
        `sent`: list of `id`, `user`, `name`, `endpoint`, once they are committed
    """
    data: dict[str, Any] = {"api_output": params.text, **({ATTACHED: params.files} if params.files else {})}

    def step() -> list[dict[str, Any]]:
        node = daemon.node
        people = list(dict.fromkeys(_people(daemon, params.who)))
        if not 1 <= len(people) <= MAX_PEOPLE:
            raise BadInput(f"A note goes to 1 to {MAX_PEOPLE} people.", "Name them, or a group of them.")
        if not params.text.strip():
            raise BadInput("The note is empty.", "Give a text.")
        for person in people:
            node.outbox.check(person.user, person.endpoint, data)
        life_ms = int(params.timeout * 1000)
        return [
            {
                "id": node.messages.send(Type.POST, person.user, person.endpoint, data, life_ms=life_ms),
                "user": person.user,
                "name": node.name_of(person.user),
                "endpoint": person.endpoint,
            }
            for person in people
        ]

    return {"sent": await daemon.run(step)}


async def question(daemon: Daemon, params: QuestionParameters) -> Any:
    """Show a question of this user.

    Returns:
        a [question](#questions)
    """

    def step() -> dict[str, Any]:
        return asked_views.question(daemon.node, _find(daemon, params.id))

    return await daemon.read(step)


async def asked(daemon: Daemon, params: AskedParameters) -> Any:
    """List the questions and calls of this user, and the posts that failed: first those that are open, newest first.

    Returns:
        `asked`: list of [questions](#questions); `more`: whether there are others after them
    """
    limit = min(params.limit, MAX_LISTED)
    offset = min(params.offset, MAX_LISTED)
    wanted = offset + limit + 1
    calls = await _own(daemon, wanted, is_open=True)
    found = await daemon.read(lambda: asked_views.are_open(daemon.node, calls, wanted))
    if not params.open and (wanted := wanted - len(found)) > 0:
        ended = await _own(daemon, wanted, is_open=False)
        found += await daemon.read(lambda: asked_views.have_ended(daemon.node, ended, wanted))
    return {"asked": found[offset : offset + limit], "more": len(found) > offset + limit}


async def clear_asked(daemon: Daemon, _params: NoParameters) -> Any:
    """Forget the questions, calls and failed posts that have ended.

    Returns:
        `cleared`: how many there were
    """
    total: int = await daemon.run(daemon.node.journal.questions.clear)
    before: int | None = _AFTER_ALL
    while before is not None:
        found, before = await daemon.run(partial(daemon.node.journal.outgoing.clear_own, before))
        total += found
    return {"cleared": total}


async def _own(daemon: Daemon, limit: int, *, is_open: bool) -> list[OutgoingRow]:
    """Return the newest calls of this user's programs, from slices of the journal that different batches read."""
    found: list[OutgoingRow] = []
    before: int | None = _AFTER_ALL
    while before is not None and len(found) < limit:
        outgoing = daemon.node.journal.outgoing
        rows, before = await daemon.read(partial(outgoing.own, before, limit - len(found), is_open=is_open))
        found += rows
    return found


async def wait_for_question(daemon: Daemon, row: QuestionRow, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
    """Wait until a question has ended, and return it.

    Raises:
        DeadlinePassed: it is still open when the timeout has passed.
    """
    end: asyncio.Future[QuestionRow] = asyncio.get_running_loop().create_future()

    def on_end(ended: QuestionRow) -> None:
        if not end.done():
            end.set_result(ended)

    def step() -> QuestionRow:
        found = _find(daemon, row.id)
        daemon.node.questions.wait(found, on_end)
        return found

    found = await daemon.read(step)
    if found.state != QuestionState.OPEN:  # while the journal cannot be written, nobody else says so
        on_end(found)
    try:
        ended = await asyncio.wait_for(end, timeout)
    except TimeoutError:
        raise DeadlinePassed(f"Question {row.id[-8:]} has no answer yet.", f"Wait on: p2pflows wait {row.id}") from None
    finally:
        daemon.node.questions.stop_waiting(row.id, on_end)
    return asked_views.question(daemon.node, ended)


def _find(daemon: Daemon, part: str) -> QuestionRow:
    row = daemon.node.questions.find(part)
    if row is None:
        raise UsageError(f"No question of yours has an id like {part!r}.", "See: p2pflows asked")
    return row


def _people(daemon: Daemon, who: list[str]) -> list[Answerer]:
    """Return whom to ask.

    Raises:
        P2pflowsError: nobody is named, somebody is unknown, or an endpoint has a wrong form.
    """
    book = daemon.contacts()
    found = []
    for name in who:
        if not name.strip():  # as of a variable that is not set; elsewhere an empty text means oneself
            raise UsageError(f"{name!r} names nobody.", f"Name a contact; you are: {ME}")
        if name.startswith("@"):
            found += [Answerer(user, HUMAN) for user in members_of(name[1:], book)]
            continue
        user, endpoint = daemon.resolve_address(name if "/" in name else f"{name}/{HUMAN}", book)
        found.append(Answerer(user, topics.check_name(endpoint, "an endpoint")))
    return found
