"""The history of a simulation: a list of facts, for the checker.

Triggers in the journal write a fact about it in the transaction that makes the fact true. So the history has exactly
the facts that were committed, even after a crash. The triggers are stored in the journal's file, so a real daemon
writes its history in the same way. Clients, workers and the simulated world add the facts that they observe.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from p2pflowsd.journal.bodies import Kind, read_either


def _new(columns: str) -> dict[str, str]:
    return {column: f"NEW.{column}" for column in columns.split()}


_BODY = read_either("NEW.body", "NEW.large", "NEW", Kind.MESSAGE)
_ANSWER = read_either("NEW.answer", "NEW.large_answer", "NEW", Kind.ANSWER)
_MOVED = {"was": "OLD.state", "state": "NEW.state"}
_OF_RUN = "(SELECT {} FROM incoming WHERE incoming.n = {}.n)"


def _in(body: str, field: str) -> str:
    return f"json_extract(CAST({body} AS TEXT), '$.{field}')"


def _record(row: str) -> dict[str, str]:
    """Return what to say about a row of `records`; its id is that of the request that runs."""
    return {column: f"{row}.{column}" for column in ("k", "mark", "message")} | {
        "what": f"{row}.kind",
        "id": _OF_RUN.format("id", row),
        "peer": _OF_RUN.format("peer", row),
        "value": f"json({row}.value)",
    }


_TRIGGERS: dict[str, tuple[str, dict[str, str]]] = {
    "accepted": (
        "INSERT ON outgoing",
        _new("type peer endpoint epoch seq cause created expires")
        | {"data": _in(_BODY, "data"), "instance": _in(_BODY, "instance"), "origin": "json(NEW.origin)"},
    ),
    "outgoing_redated": ("UPDATE OF expires ON outgoing", _new("created expires")),
    "outgoing_moved": ("UPDATE OF state ON outgoing", {**_MOVED, "answer": f"json(CAST({_ANSWER} AS TEXT))"}),
    "outgoing_removed": ("DELETE ON outgoing", {"state": "OLD.state"}),
    "received": (
        "INSERT ON incoming",
        _new("type peer endpoint epoch seq state instance") | {"cause": _in("NEW.body", "cause")},
    ),
    "incoming_moved": (
        "UPDATE OF state ON incoming",
        {**_MOVED, **_new("type peer endpoint error instance")}
        | {"root": "(SELECT id FROM incoming AS root WHERE root.n = NEW.root)"},
    ),
    "incoming_removed": ("DELETE ON incoming", {"peer": "OLD.peer", "state": "OLD.state"}),
    "prompt_added": ("INSERT ON prompts", _new("type peer endpoint text")),
    "prompt_moved": ("UPDATE OF state ON prompts", {**_MOVED, **_new("peer answer")}),
    "instance_added": (
        "INSERT ON instances",
        _new("endpoint client own") | {"subflows": "json(NEW.subflows)"},
    ),
    "state_saved": ("UPDATE OF state ON instances", {"state": "json(NEW.state)"}),
    "instance_removed": ("DELETE ON instances", {}),
    "record_added": ("INSERT ON records", _record("NEW")),
    "record_completed": ("UPDATE OF value ON records", _record("NEW") | {"was": "OLD.value"}),
    "record_removed": ("DELETE ON records", _record("OLD")),
}
"""For each kind of fact: the change of a row that causes it, and what it says about the row, as SQL expressions.

The id of a fact is the id of the row, unless there is an expression for it.
"""

_ALSO = {"instance_added": [("state_saved", "NEW.state IS NOT NULL")]}
"""The facts of other kinds that a change of a row causes as well, each with its condition."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that happened.

    Attributes:
        t: wall time of the machine on which it happened, in milliseconds since the Unix epoch.
        node: user id of the daemon that it is about.
        kind: a key of `_TRIGGERS`, if a journal wrote it. Clients write `confirmed` when the daemon has accepted a
            message, `reported` when it has reported the end of one, and `answered` for each answer of a human. Workers
            write `run_started`, `call_result` and `step_result`. The world writes `restored` when it puts back an old
            copy of a journal.
        id: the id of the message or instance; for a run, the id of the request that runs.
        about: everything else, depending on the kind.
    """

    t: int
    node: str
    kind: str
    id: str
    about: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """Return the fact as a line of a history file."""
        return json.dumps(
            {"t": self.t, "node": self.node, "kind": self.kind, "id": self.id, **self.about}, ensure_ascii=False
        )


def install(journal: Path) -> None:
    """Add the triggers to a journal file; does nothing if they are there."""
    db = sqlite3.connect(journal)
    db.execute(
        "CREATE TABLE IF NOT EXISTS history (n INTEGER PRIMARY KEY, t INTEGER, kind TEXT, id TEXT, about TEXT) STRICT"
    )
    now = "CAST(round((julianday('now') - 2440587.5) * 86400000) AS INTEGER)"
    for trigger, (event, _) in _TRIGGERS.items():
        inserts = ""
        for kind, condition in ((trigger, "true"), *_ALSO.get(trigger, ())):
            about = _TRIGGERS[kind][1]
            row = "OLD" if event.startswith("DELETE") else "NEW"
            of = about.get("id", f"{row}.id")
            pairs = ", ".join(f"'{name}', {value}" for name, value in about.items() if name != "id")
            values = f"{now}, '{kind}', {of}, json_object({pairs})"
            inserts += f"INSERT INTO history (t, kind, id, about) SELECT {values} WHERE {condition}; "
        db.execute(f"CREATE TRIGGER IF NOT EXISTS history_{trigger} AFTER {event} BEGIN {inserts}END")
    db.commit()
    db.close()


def read(db: sqlite3.Connection, node: str, after: int = 0) -> tuple[list[Fact], int]:
    """Return the facts in a journal after a number, and the number of the last one."""
    facts = []
    for n, t, kind, message_id, about in db.execute(
        "SELECT n, t, kind, id, about FROM history WHERE n > ? ORDER BY n", (after,)
    ):
        facts.append(Fact(t, node, kind, message_id, json.loads(about)))
        after = n
    return facts, after
