"""Tables that map a key to one value."""

from __future__ import annotations

import sqlite3
from typing import Generic, TypeVar

Value = TypeVar("Value", str, int)


class KeyValueTable(Generic[Value]):
    """A table of two columns: a key and its value."""

    def __init__(self, db: sqlite3.Connection, name: str, key: str, value: str) -> None:
        self._db = db
        self._get = f"SELECT {value} FROM {name} WHERE {key} = ?"
        self._set = (
            f"INSERT INTO {name} ({key}, {value}) VALUES (?, ?)"
            f" ON CONFLICT ({key}) DO UPDATE SET {value} = excluded.{value}"
        )
        self._remove = f"DELETE FROM {name} WHERE {key} = ?"
        self._all = f"SELECT {key}, {value} FROM {name}"

    def get(self, key: str) -> Value | None:
        """Return the value of a key, or None if it has none."""
        row = self._db.execute(self._get, (key,)).fetchone()
        return row[0] if row else None

    def set(self, key: str, value: Value) -> None:
        """Store the value of a key."""
        self._db.execute(self._set, (key, value))

    def remove(self, key: str) -> None:
        """Remove a key with its value."""
        self._db.execute(self._remove, (key,))

    def all(self) -> dict[str, Value]:
        """Return every key with its value."""
        return dict(self._db.execute(self._all))
