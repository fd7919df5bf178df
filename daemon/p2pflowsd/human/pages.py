"""Pages of the inbox, and its groups: read with work that does not depend on how much the inbox holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from p2pflows.errors import UsageError
from p2pflows.protocol.message import Type
from p2pflowsd.human.open_prompts import OpenPrompts
from p2pflowsd.journal import Journal
from p2pflowsd.journal.prompts import Page
from p2pflowsd.journal.rows import PromptRow

MAX_PAGE = 1_000
"""The most prompts of a page."""


@dataclass(frozen=True, slots=True)
class Group:
    """The open prompts of one user, or those of one conversation with a user.

    Attributes:
        user: whose prompts they are.
        conversation: the id of the conversation; None for all prompts of the user.
        questions: how many want an answer.
        notes: how many want none.
        first: the prompt that is shown first.
    """

    user: str
    conversation: str | None
    questions: int
    notes: int
    first: PromptRow | None


def read_page(journal: Journal, page: Page, after: str) -> tuple[list[PromptRow], str | None]:
    """Read a page of the inbox.

    Args:
        journal: the journal.
        page: which prompts it has.
        after: the id of the prompt before it, or a part of that id; empty for the first page.

    Returns:
        The prompts, and the id to read on after; None if there are no more. A page of past prompts may have fewer
        than its limit, although there are more: those that were looked at and do not belong to it.

    Raises:
        UsageError: no prompt has the id `after`.
    """
    if after:
        found = journal.prompts.matching(after)
        if len(found) != 1:
            raise UsageError(f"No single message has the id {after!r}.", "Begin with the first page: p2pflows inbox")
        page = replace(page, after=found[0])
    rows = journal.prompts.page(replace(page, limit=page.limit + 1))
    more = rows[page.limit :]
    rows = rows[: page.limit]
    is_cut = bool(more) or (len(rows) < page.limit and bool(rows) and _goes_on(journal, page, rows[-1]))
    last = rows[-1].id if is_cut else None
    if not page.is_open:
        rows = [row for row in rows if _belongs(row, page)]
    return rows, last


def _goes_on(journal: Journal, page: Page, last: PromptRow) -> bool:
    """Whether there are prompts after the last one of a page, which ended early because of its size."""
    return bool(journal.prompts.page(replace(page, after=last, limit=1)))


def _belongs(row: PromptRow, page: Page) -> bool:
    return page.type in (None, row.type) and row.received >= (page.since or 0)


def groups(journal: Journal, counts: OpenPrompts, limit: int) -> list[Group]:
    """Return the users with open prompts, those with the most questions first."""
    found = []
    for user, questions, notes in counts.by_user(limit):
        first = journal.prompts.page(Page(limit=1, peer=user))
        found.append(Group(user, None, questions, notes, first[0] if first else None))
    return found


def groups_of(journal: Journal, user: str, limit: int) -> list[Group]:
    """Return the conversations with one user that have open prompts, in the order in which they began."""
    found: dict[str, Group] = {}
    for conversation, kind, count, first in journal.prompts.groups_of(user, 2 * limit):
        group = found.get(conversation) or Group(user, conversation, 0, 0, None)
        group = replace(group, questions=count) if kind == Type.CALL else replace(group, notes=count)
        if group.first is None or kind == Type.CALL:
            group = replace(group, first=journal.prompts.get(first))
        found[conversation] = group
    return list(found.values())[:limit]
