"""The methods of conversations with people: what was said, and what is said from now on."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

from pydantic import Field

from p2pflows.errors import UsageError
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import MAX_COUNT, Count, MustBe, Parameters, Text
from p2pflowsd.human.transcript import HUMAN_ENDPOINT

MAX_LINES_SHOWN = 500
MAX_SEARCHED = 500
"""How many lines one batch searches."""
MAX_TITLES = 1_000
MAX_TITLE_CHARS = 60
Limit = Annotated[int, Field(ge=1, le=MAX_LINES_SHOWN), MustBe(f"a whole number from 1 to {MAX_LINES_SHOWN}")]


class ChatParameters(Parameters):
    """With whom to talk, under which of their endpoints, and how many past lines to return."""

    user: Text
    endpoint: Text = HUMAN_ENDPOINT
    title: Text = ""
    limit: Limit = 50


class LinesParameters(Parameters):
    """Which lines to look for."""

    text: Text = ""
    user: Text = ""
    before: Count = 0
    limit: Limit = 50


class TitleParameters(Parameters):
    """A conversation, and its name; empty to take the name away."""

    conversation: Annotated[str, Field(pattern="^[0-9a-f]{32}$"), MustBe("32 hex digits")]
    title: Annotated[
        str, Field(max_length=MAX_TITLE_CHARS), MustBe(f"text of at most {MAX_TITLE_CHARS} characters")
    ] = ""


async def chat(daemon: Daemon, params: ChatParameters) -> Any:
    """Return the last lines with a person; in JSON Lines, then send an event `line` for each that appears or changes.

    Returns:
        `user`, `name`, `conversation` (the one with the title, or null), `lines`: list of [lines](#lines), oldest
        first; with a `title`, only those of that conversation
    """
    user = daemon.resolve_user(params.user)

    def read() -> dict[str, Any]:
        node = daemon.node
        node.transcript.note_human(user, params.endpoint)
        table, conversation = node.journal.lines, None
        if params.title:
            conversation = _titled(daemon, user, params.title)
            found = [] if conversation is None else table.of_conversation(conversation, params.limit, MAX_COUNT)
        else:
            found = table.with_peer(user, params.limit, MAX_COUNT)
        return {
            "user": user,
            "name": node.name_of(user),
            "conversation": conversation,
            "lines": [views.line(node, row) for row in reversed(found) if row.peer == user],
        }

    return await daemon.read(read)


async def lines(daemon: Daemon, params: LinesParameters) -> Any:
    """Find lines that hold a text, whatever its case, with one person or with anybody, newest first.

    Returns:
        `lines`: list of [lines](#lines)
    """
    user = daemon.resolve_user(params.user) if params.user else ""
    found: list[dict[str, Any]] = []
    last: int | None = params.before or MAX_COUNT
    while len(found) < params.limit and last is not None:
        hits, last = await daemon.read(partial(_search, daemon, user, params, last))
        found += hits
    return {"lines": found[: params.limit]}


def _search(daemon: Daemon, user: str, params: LinesParameters, before: int) -> tuple[list[dict[str, Any]], int | None]:
    """Look through some lines before a number; return those that hold the text, and the number of the last one."""
    table = daemon.node.journal.lines
    rows = table.with_peer(user, MAX_SEARCHED, before) if user else table.newest(MAX_SEARCHED, before)
    hits = [row for row in rows if params.text.casefold() in row.text.casefold()][: params.limit]
    return [views.line(daemon.node, row) for row in hits], rows[-1].row_id if rows else None


async def title(daemon: Daemon, params: TitleParameters) -> Any:
    """Name a conversation; only you see the name.

    Returns:
        `conversation`, `title`
    """

    def name() -> None:
        titles = daemon.node.journal.titles
        if not params.title:
            titles.remove(params.conversation)
            return
        known = titles.all()
        if len(known) >= MAX_TITLES and params.conversation not in known:
            raise UsageError(f"{MAX_TITLES:,} conversations have names, as many as may have.", "Take one away.")
        titles.set(params.conversation, params.title)

    await daemon.run(name)
    return {"conversation": params.conversation, "title": params.title or None}


def _titled(daemon: Daemon, user: str, title: str) -> str | None:
    """Return the conversation with a user that has a name."""
    journal = daemon.node.journal
    for conversation, known in journal.titles.all().items():
        if known == title and any(
            row.peer == user for row in journal.lines.of_conversation(conversation, 1, MAX_COUNT)
        ):
            return conversation
    return None
