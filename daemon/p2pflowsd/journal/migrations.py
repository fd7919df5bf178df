"""The journal's schema, as small steps forward; each is committed together with its own record.

A released step is never edited: append a new one.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable


def _first(db: sqlite3.Connection) -> None:
    for statement in (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID",
        """CREATE TABLE incoming (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL, peer TEXT NOT NULL, type TEXT NOT NULL, endpoint TEXT NOT NULL,
             epoch INTEGER NOT NULL, seq INTEGER NOT NULL, conversation TEXT NOT NULL, body BLOB, bundle INTEGER,
             received INTEGER NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL,
             attempts INTEGER NOT NULL DEFAULT 0, error TEXT, UNIQUE (peer, id)) STRICT""",
        """CREATE INDEX incoming_live ON incoming (state, expires)
             WHERE state IN ('blocked', 'held', 'ready', 'asked', 'dead')""",
        """CREATE TABLE bundles (
             n INTEGER PRIMARY KEY, peer TEXT NOT NULL, proof BLOB NOT NULL, expires INTEGER NOT NULL) STRICT""",
        """CREATE TABLE outgoing (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, type TEXT NOT NULL, peer TEXT NOT NULL,
             endpoint TEXT NOT NULL, epoch INTEGER NOT NULL, seq INTEGER NOT NULL, conversation TEXT NOT NULL,
             cause TEXT, body BLOB, created INTEGER NOT NULL, expires INTEGER NOT NULL, state TEXT NOT NULL,
             note TEXT NOT NULL DEFAULT '', answer BLOB, ended INTEGER) STRICT""",
        "CREATE INDEX outgoing_live ON outgoing (expires) WHERE state IN ('pending', 'stored')",
        """CREATE TABLE streams (
             way TEXT NOT NULL, peer TEXT NOT NULL, endpoint TEXT NOT NULL, epoch INTEGER NOT NULL,
             seq INTEGER NOT NULL, PRIMARY KEY (way, peer, endpoint)) STRICT, WITHOUT ROWID""",
        """CREATE TABLE prompts (
             n INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, peer TEXT NOT NULL, type TEXT NOT NULL,
             endpoint TEXT NOT NULL, conversation TEXT NOT NULL, text TEXT NOT NULL, data TEXT NOT NULL,
             received INTEGER NOT NULL,
             expires INTEGER NOT NULL, state TEXT NOT NULL, answer TEXT, ended INTEGER) STRICT""",
        "CREATE INDEX prompts_open ON prompts (n) WHERE state = 'open'",
        "CREATE TABLE served (endpoint TEXT PRIMARY KEY, record TEXT NOT NULL) STRICT, WITHOUT ROWID",
        "CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    ):
        db.execute(statement)


def _prompts_have_places(db: sqlite3.Connection) -> None:
    """A request that came too early is asked after those it had to wait for, so arrival is not the order of asking."""
    db.execute("ALTER TABLE prompts ADD COLUMN place INTEGER NOT NULL DEFAULT 0")
    db.execute("UPDATE prompts SET place = n")
    db.execute("CREATE INDEX prompts_place ON prompts (place)")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_first, _prompts_have_places)


def migrate(db: sqlite3.Connection) -> None:
    """Bring the schema up to date.

    Raises:
        sqlite3.DatabaseError: the file cannot be written, or is no SQLite file.
        ValueError: the file was written by a newer release.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise ValueError(f"the journal has schema {version}, this release knows {len(STEPS)}")
    for number, step in enumerate(STEPS[version:], start=version + 1):
        db.execute("BEGIN IMMEDIATE")
        try:
            step(db)
            db.execute(f"PRAGMA user_version = {number}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
