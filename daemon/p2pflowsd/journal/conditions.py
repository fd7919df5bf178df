"""SQL conditions that several tables use."""

from __future__ import annotations

from collections.abc import Iterable

HAS_NUMBER = "n IN (SELECT value FROM json_each(?))"
"""That a row has one of the numbers in a JSON array."""


def is_one_of(states: Iterable[str]) -> str:
    """That a row is in one of some states.

    Not `state IN (...)`: for a list of three or more, SQLite builds and fills a table at each run of the statement,
    which takes longer than all else that a statement for one row does.
    """
    alternatives = " OR ".join(f"state = '{state}'" for state in states)
    return f"({alternatives or 'false'})"
