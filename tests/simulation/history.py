"""What happened, one fact per line, for the checker.

A fact about a journal is written by triggers inside the very transaction that makes it true: whatever a crash leaves
committed is in the history, and nothing else is. The triggers live in the journal's file, so a real daemon writes its
history in the same way. Clients, workers and the simulated world add what they see to the same list.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def _new(columns: str) -> dict[str, str]:
    return {column: f"NEW.{column}" for column in columns.split()}


_IN_BODY = "json_extract(CAST(NEW.body AS TEXT), '$.{}')"
_MOVED = {"was": "OLD.state", "state": "NEW.state"}
_OF_RUN = "(SELECT {} FROM incoming WHERE incoming.n = {}.n)"


def _record(row: str) -> dict[str, str]:
    """A record goes by the id of the request that runs."""
    told = {column: f"{row}.{column}" for column in ("k", "mark", "message")}
    return told | {
        "what": f"{row}.kind",
        "id": _OF_RUN.format("id", row),
        "peer": _OF_RUN.format("peer", row),
        "value": f"json({row}.value)",
    }


_TRIGGERS: dict[str, tuple[str, dict[str, str]]] = {
    "accept": (
        "INSERT ON outgoing",
        _new("type peer endpoint epoch seq cause expires")
        | {"data": _IN_BODY.format("data"), "instance": _IN_BODY.format("instance"), "origin": "json(NEW.origin)"},
    ),
    "sent": ("UPDATE OF state ON outgoing", {**_MOVED, "answer": "json(CAST(NEW.answer AS TEXT))"}),
    "drop": ("DELETE ON outgoing", {"state": "OLD.state"}),
    "receive": (
        "INSERT ON incoming",
        _new("type peer endpoint epoch seq state instance") | {"cause": _IN_BODY.format("cause")},
    ),
    "move": ("UPDATE OF state ON incoming", {**_MOVED, **_new("type peer endpoint error instance")}),
    "prune": ("DELETE ON incoming", {"peer": "OLD.peer", "state": "OLD.state"}),
    "ask": ("INSERT ON prompts", _new("type peer endpoint text")),
    "close": ("UPDATE OF state ON prompts", {**_MOVED, **_new("peer answer")}),
    "mounted": (
        "INSERT ON instances",
        _new("endpoint client own") | {"subflows": "json(NEW.subflows)"},
    ),
    "left": ("UPDATE OF state ON instances", {"state": "json(NEW.state)"}),
    "unmounted": ("DELETE ON instances", {}),
    "recorded": ("INSERT ON records", _record("NEW")),
    "concluded": ("UPDATE OF value ON records", _record("NEW") | {"was": "OLD.value"}),
    "forgotten": ("DELETE ON records", _record("OLD")),
}
"""What each kind of fact says about the row whose change makes it true; `id` is the row's own unless it is said."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of history.

    Attributes:
        t: wall time in milliseconds where it happened.
        node: user id of the daemon that it is about.
        kind: those of `_TRIGGERS` come from journals; told, heard and answered from clients, run, got and stepped from
            workers, restore from the world.
        id: of the message or instance; of a run, it is that of the request that runs.
        about: what else there is to say, by kind.
    """

    t: int
    node: str
    kind: str
    id: str
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The fact as a line of a history file."""
        return json.dumps(
            {"t": self.t, "node": self.node, "kind": self.kind, "id": self.id, **self.about}, ensure_ascii=False
        )


def install(journal: Path) -> None:
    """Make a journal file write its history; a second time changes nothing."""
    db = sqlite3.connect(journal)
    db.execute(
        "CREATE TABLE IF NOT EXISTS history (n INTEGER PRIMARY KEY, t INTEGER, kind TEXT, id TEXT, about TEXT) STRICT"
    )
    now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"
    for kind, (event, about) in _TRIGGERS.items():
        row = "OLD" if event.startswith("DELETE") else "NEW"
        of = about.get("id", f"{row}.id")
        pairs = ", ".join(f"'{name}', {value}" for name, value in about.items() if name != "id")
        insert = f"INSERT INTO history (t, kind, id, about) VALUES ({now}, '{kind}', {of}, json_object({pairs}))"  # noqa: S608 - all ours
        db.execute(f"CREATE TRIGGER IF NOT EXISTS history_{kind} AFTER {event} BEGIN {insert}; END")
    db.commit()
    db.close()


def read(db: sqlite3.Connection, node: str, after: int = 0) -> tuple[list[Fact], int]:
    """The facts in a journal from a number on, and the number of the last one."""
    facts = []
    for n, t, kind, message_id, about in db.execute(
        "SELECT n, t, kind, id, about FROM history WHERE n > ? ORDER BY n", (after,)
    ):
        facts.append(Fact(t, node, kind, message_id, json.loads(about)))
        after = n
    return facts, after
