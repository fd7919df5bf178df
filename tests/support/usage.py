"""What each peer fills of a journal, summed up from its rows."""

from __future__ import annotations

from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import UsageRow

_KIND_OF = {
    "blocked": "blocked",
    "held": "held",
    "ready": "tasks",
    "kept": "tasks",
    "dead": "dead",
    "asked": "questions",
    "done": "remembered",
    "failed": "remembered",
    "expired": "remembered",
}


def summed_usage(journal: Journal) -> dict[str, UsageRow]:
    """Return the sums over the rows of a journal, by peer; without peers that fill nothing."""
    db = journal._db
    found: dict[str, dict[str, int]] = {}

    def add(peer: str, size: int | None, kind: str | None = None) -> None:
        row = found.setdefault(peer, {})
        row["bytes"] = row.get("bytes", 0) + (size or 0)
        if kind is not None:
            row[kind] = row.get(kind, 0) + 1

    for peer, state, size in db.execute("SELECT peer, state, coalesce(length(body), large) FROM incoming AS summed"):
        add(peer, size, _KIND_OF[state])
    for (peer,) in db.execute("SELECT user FROM remembered AS summed JOIN senders ON senders.n = summed.sender"):
        add(peer, 0, "remembered")
    for peer, text, data in db.execute("SELECT peer, text, data FROM prompts AS summed"):
        add(peer, len(text.encode()) + len(data.encode()))
    for peer, state, size in db.execute(
        "SELECT peer, state, coalesce(length(body), large) FROM outgoing AS summed WHERE type IN ('reply', 'error')"
    ):
        add(peer, size, "answers" if state in ("pending", "stored") else None)
    rows = (UsageRow(peer, **row) for peer, row in found.items())
    return {row.peer: row for row in rows if row != UsageRow(row.peer)}


def counted_usage(journal: Journal) -> dict[str, UsageRow]:
    """Return what a journal counts, by peer."""
    return {row.peer: row for row in journal.usage.all()}


def check_usage(journal: Journal) -> None:
    """Compare what a journal counts with what it holds."""
    assert counted_usage(journal) == summed_usage(journal)
