"""The methods with which this user asks humans, and looks at what became of it."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from pydantic import Field

from p2pflows.errors import BadInput, DeadlinePassed, UsageError
from p2pflows.forms import Form
from p2pflows.protocol import topics
from p2pflowsd.api import asked_views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import (
    Count,
    Flag,
    IdPart,
    Json,
    JsonObject,
    NoParameters,
    Parameters,
    Seconds,
    Text,
    Words,
)
from p2pflowsd.asking.question import Wish
from p2pflowsd.asking.questions import Answerer
from p2pflowsd.journal.rows import QuestionRow

ASK_TIMEOUT_S = 600
HUMAN = "User"
"""The endpoint at which every daemon serves its user."""
MAX_SOURCE_CHARS = 64
MAX_LISTED = 1_000
MAX_CLEARED = 5_000
"""Messages that one batch forgets, so that no batch takes long."""


class AskParameters(Parameters):
    """A question, whom to ask, and what the answer must be."""

    NOT_NULL: ClassVar[frozenset[str]] = frozenset({"default"})

    who: Words
    text: Text
    schema_: JsonObject = Field(default_factory=dict, alias="schema")
    draft: Json = None
    default: Json = None
    timeout: Seconds = ASK_TIMEOUT_S
    source: Text = ""


class QuestionParameters(Parameters):
    """A question, by its id or a part of it."""

    id: IdPart


class AskedParameters(Parameters):
    """Which part of the list to return."""

    limit: Count = 100
    offset: Count = 0
    open: Flag = False


async def ask(daemon: Daemon, params: AskParameters) -> Any:
    """Ask a human, without waiting for the answer; `who` is a contact, or the address of a human.

    Returns:
        `id` of the question, once it is committed
    """
    form = Form.read(params.schema_ if "schema_" in params.model_fields_set else None, params.draft)
    wish = Wish.with_form(
        form,
        default=[params.default] if "default" in params.model_fields_set else [],
        source=params.source[:MAX_SOURCE_CHARS],
        life_ms=int(params.timeout * 1000),
    )
    people = _people(daemon, params.who)
    return {"id": await daemon.run(lambda: daemon.node.questions.ask(params.text, people, wish))}


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
    found = await daemon.read(lambda: asked_views.listed(daemon.node, offset + limit + 1, open_only=params.open))
    return {"asked": found[offset : offset + limit], "more": len(found) > offset + limit}


async def clear_asked(daemon: Daemon, _params: NoParameters) -> Any:
    """Forget the questions, calls and failed posts that have ended.

    Returns:
        `cleared`: how many there were
    """
    total: int = await daemon.run(daemon.node.journal.questions.clear)
    while found := await daemon.run(lambda: daemon.node.journal.outgoing.clear_own(MAX_CLEARED)):
        total += found
    return {"cleared": total}


async def wait_for_question(daemon: Daemon, row: QuestionRow, timeout: float) -> dict[str, Any]:  # noqa: ASYNC109
    """Wait until a question has ended, and return it.

    Raises:
        DeadlinePassed: it is still open when the timeout has passed.
    """
    end: asyncio.Future[QuestionRow] = asyncio.get_running_loop().create_future()

    def on_end(ended: QuestionRow) -> None:
        if not end.done():
            end.set_result(ended)

    def step() -> None:
        daemon.node.questions.wait(_find(daemon, row.id), on_end)

    await daemon.run(step)
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
    if len(who) != 1:
        raise BadInput("A question goes to one human.", "Give one contact, and the question as one text in quotes.")
    book = daemon.contacts()
    found = []
    for name in who:
        user, endpoint = daemon.resolve_address(name if "/" in name else f"{name}/{HUMAN}", book)
        found.append(Answerer(user, topics.check_name(endpoint, "an endpoint")))
    return found
