"""However much a journal remembers, what happens at each message costs the same: no statement looks through a table."""

from __future__ import annotations

import re
import sqlite3
from random import Random
from typing import Any

import pytest
from simulation.soak import Life
from simulation.world import World

from p2pflowsd.journal.migrations import migrate

GROWING = {"incoming", "outgoing", "bundles", "log", "streams"}
"""What has a row for every message, or for every stream."""
FEW = {"incoming_live", "incoming_of_instance", "outgoing_live", "outgoing_of_root"}
"""Indexes of what has no end yet."""


def statements(monkeypatch: pytest.MonkeyPatch, steps: int) -> list[str]:
    """What journals are asked in a life of many kinds of events, each kind of statement once."""
    asked: dict[str, str] = {}
    connect = sqlite3.connect

    def traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
        opened: sqlite3.Connection = connect(*args, **kwargs)
        if "cached_statements" in kwargs:  # a journal's, not one that looks on
            opened.set_trace_callback(
                lambda text: asked.setdefault(re.sub(r"'[^']*'|x'[0-9a-f]*'|\d+", "?", text), text)
            )
        return opened

    monkeypatch.setattr(sqlite3, "connect", traced)
    with World(7, people=2) as world:
        life = Life(world, Random(7))  # noqa: S311 - a simulation, no secrets
        for _ in range(steps):
            life.step()
        world.settle()
    return [text for text in asked.values() if text.startswith(("SELECT", "UPDATE", "DELETE"))]


def test_no_statement_looks_through_a_table_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As SQLite itself explains how it would run them."""
    asked = statements(monkeypatch, steps=400)
    monkeypatch.undo()
    db = sqlite3.connect(":memory:")
    migrate(db)
    wrong = set()
    for text in asked:
        if "history" in text:
            continue
        for *_, step in db.execute(f"EXPLAIN QUERY PLAN {text}"):
            match step.split():
                case ["SCAN", table, *how] if table in GROWING and not FEW & set(how):
                    wrong.add(f"{step}: {text}")
    db.close()
    assert len(asked) > 40
    assert wrong == set()
