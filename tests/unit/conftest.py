"""What the unit tests share."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

import pytest

from p2pflowsd import journal
from p2pflowsd.journal import migrations


@pytest.fixture(scope="session", autouse=True)
def new_journals_are_copies() -> Iterator[None]:
    """Copy the tables of a new journal: to run all migrations takes 10 ms, and the tests make thousands of journals."""
    empty = sqlite3.connect(":memory:", isolation_level=None)
    empty.execute("PRAGMA auto_vacuum = INCREMENTAL")
    migrations.migrate(empty)
    steps = migrations.STEPS

    def migrate(db: sqlite3.Connection) -> None:
        is_usual = migrations.STEPS is steps and isinstance(
            db, sqlite3.Connection
        )  # other tests bring a disk of theirs
        if is_usual and db.execute("PRAGMA user_version").fetchone() == (0,):
            empty.backup(db)
        else:
            migrations.migrate(db)

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(journal, "migrate", migrate)
        yield
    empty.close()
