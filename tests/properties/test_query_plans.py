"""No statement of the journal reads a whole table, so a message takes the same time however large the journal is."""

from __future__ import annotations

import re
import sqlite3
from random import Random
from typing import Any

import pytest
from simulation.random_lives import RandomActions
from simulation.world import World

from p2pflowsd.journal.migrations import migrate

GROWING = {
    "incoming", "outgoing", "bundles", "log", "streams", "prompts", "lines", "bodies", "senders", "remembered",
    "records",
}  # fmt: skip
"""Tables with a row for every message, or for every stream."""
INDEXES_OF_FEW = {
    "incoming_live", "incoming_blocked", "incoming_of_instance", "incoming_open_of_peer",
    "outgoing_live", "outgoing_of_root", "lines_under_way", "prompts_snoozed",
}  # fmt: skip
"""Indexes of the few open messages and requests."""
AT_START = (
    "SET place = n", "backwards(id)", "GROUP BY peer", "SELECT DISTINCT peer, endpoint FROM lines",
    "SELECT DISTINCT n FROM records",
)  # fmt: skip
"""Parts of statements that run once, when a journal is opened or a daemon starts."""


OF_TESTS = ("history", "AS summed")
"""Parts of statements that the simulation runs in a journal to observe it."""


def statements(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[str]:
    """Return one example of each kind of statement that journals run in a simulation with many kinds of events."""
    found: dict[str, str] = {}
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened: sqlite3.Connection = connect(*args, **kwargs)
        if "cached_statements" in kwargs:  # the journal's own connection, not one of an observer
            opened.set_trace_callback(
                lambda text: found.setdefault(re.sub(r"'[^']*'|x'[0-9a-f]*'|\d+", "?", text), text)
            )
        return opened

    monkeypatch.setattr(sqlite3, "connect", traced)
    with World(7, people=2) as world:
        actions = RandomActions(world, Random(7))  # noqa: S311 - a simulation, no secrets
        for _ in range(steps):
            actions.step()
        world.settle()
    return [text for text in found.values() if text.startswith(("SELECT", "UPDATE", "DELETE"))]


def test_no_statement_reads_a_whole_table_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checked with the plans that SQLite explains for each statement."""
    texts = statements(monkeypatch, steps=400)
    monkeypatch.undo()
    db = sqlite3.connect(":memory:")
    migrate(db)
    wrong = set()
    for text in texts:
        if any(part in text for part in (*AT_START, *OF_TESTS)):
            continue
        for *_, step in db.execute(f"EXPLAIN QUERY PLAN {text}"):
            match step.split():
                case ["SCAN", table, *how] if table in GROWING and not INDEXES_OF_FEW & set(how):
                    wrong.add(f"{step}: {text}")
    db.close()
    assert len(texts) > 40
    assert wrong == set()
