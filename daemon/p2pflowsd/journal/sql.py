"""Pieces of SQL that several tables use."""

from __future__ import annotations

from collections.abc import Iterable

HAS_NUMBER = "n IN (SELECT value FROM json_each(?))"
"""Condition: the row has one of the numbers in a JSON array."""


def is_one_of(states: Iterable[str]) -> str:
    """Return the condition that a row is in one of some states.

    Not `state IN (...)`: for a list of three or more, SQLite builds and fills a table at each run of the statement,
    which takes longer than everything else that a statement for one row does.
    """
    alternatives = " OR ".join(f"state = '{state}'" for state in states)
    return f"({alternatives or 'false'})"


def insert_into(table: str, columns: Iterable[str]) -> str:
    """Return the statement that inserts a row with a value for each of some columns."""
    columns = tuple(columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
