"""The tables of files beside messages: what there is, who may fetch it, and which requests wait for it."""

from __future__ import annotations

import json

from p2pflowsd.journal.rows import AwaitedRow, FileGrantRow, FileRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table
from p2pflowsd.lifecycle import FileState

_INSERT_FILE = insert_into("files", columns(FileRow))
_INSERT_AWAITED = insert_into("awaited", columns(AwaitedRow))
_TAKES_ROOM = f"state IN ('{FileState.HERE}', '{FileState.WANTED}')"


class FileTable(Table[FileRow]):
    """Files by id; several may have the same bytes."""

    name = "files"
    row_type = FileRow

    def add(self, row: FileRow) -> None:
        """Store a file."""
        self._db.execute(_INSERT_FILE, row)

    def get(self, file_id: str) -> FileRow | None:
        """Return a file."""
        return self._one("WHERE id = ?", file_id)

    def matching(self, id_part: str) -> list[FileRow]:
        """Return the files whose id is written in short as `id_part`."""
        return self._matching(id_part)

    def all(self) -> list[FileRow]:
        """Return all files, the one used last first."""
        return self._many("ORDER BY used DESC, id")

    def wanted(self) -> list[FileRow]:
        """Return the files that are to be fetched, in the order in which they became known."""
        return self._many(f"WHERE state = '{FileState.WANTED}' ORDER BY created, id")

    def count(self) -> int:
        """Return how many files there are, fetched or not."""
        return int(self._value("SELECT count(*) FROM files"))

    def bytes_of(self, peer: str) -> int:
        """Return how many bytes the files of a user take, or will."""
        statement = f"SELECT coalesce(sum(size), 0) FROM files WHERE peer = ? AND {_TAKES_ROOM}"
        return int(self._value(statement, peer))

    def bytes(self) -> int:
        """Return how many bytes all files take, or will."""
        return int(self._value(f"SELECT coalesce(sum(size), 0) FROM files WHERE {_TAKES_ROOM}"))

    def set_state(self, file_id: str, state: FileState, error: str = "") -> None:
        """Note how it stands with a file."""
        self._db.execute("UPDATE files SET state = ?, error = ? WHERE id = ?", (state, error, file_id))

    def touch(self, file_id: str, used: int, needed: int) -> None:
        """Note that a file was used, and until when a message needs it."""
        self._db.execute(
            "UPDATE files SET used = max(used, ?), needed = max(needed, ?) WHERE id = ?", (used, needed, file_id)
        )

    def idle(self, used_before: int, now: int, limit: int) -> list[FileRow]:
        """Return the first files that were used before a time, and that no message needs any more."""
        return self._many("WHERE used < ? AND needed < ? ORDER BY used LIMIT ?", used_before, now, limit)

    def remove(self, file_id: str) -> None:
        """Forget a file."""
        self._db.execute("DELETE FROM files WHERE id = ?", (file_id,))

    def has_bytes(self, sha256: str) -> bool:
        """Return whether a file has these bytes, and keeps them on the disk."""
        return bool(
            self._value(f"SELECT EXISTS (SELECT 1 FROM files WHERE sha256 = ? AND state = '{FileState.HERE}')", sha256)
        )


class FileGrantTable(Table[FileGrantRow]):
    """Who may fetch which of our files."""

    name = "file_grants"
    row_type = FileGrantRow

    def grant(self, file_id: str, peer: str, expires: int) -> None:
        """Let a user fetch a file, at least until some time."""
        self._db.execute(
            "INSERT INTO file_grants (file, peer, expires, state) VALUES (?, ?, ?, '')"
            " ON CONFLICT (file, peer) DO UPDATE SET expires = max(expires, excluded.expires), state = ''",
            (file_id, peer, expires),
        )

    def get(self, file_id: str, peer: str) -> FileGrantRow | None:
        """Return what one user may do with a file; None if nothing."""
        return self._one("WHERE file = ? AND peer = ?", file_id, peer)

    def of(self, file_id: str) -> list[FileGrantRow]:
        """Return who may fetch a file."""
        return self._many("WHERE file = ? ORDER BY peer", file_id)

    def has_any(self, peer: str, now: int) -> bool:
        """Return whether a user may fetch a file now."""
        return bool(self._value("SELECT EXISTS (SELECT 1 FROM file_grants WHERE peer = ? AND expires > ?)", peer, now))

    def set_state(self, file_id: str, peer: str, state: str) -> bool:
        """Note what became of a file at a user; return whether that is news."""
        return self._changes_one(
            "UPDATE file_grants SET state = ? WHERE file = ? AND peer = ? AND state != ?", state, file_id, peer, state
        )

    def remove(self, file_id: str) -> None:
        """Let nobody fetch a file any more."""
        self._db.execute("DELETE FROM file_grants WHERE file = ?", (file_id,))


class AwaitedTable(Table[AwaitedRow]):
    """Requests that wait for files, by the number of the request."""

    name = "awaited"
    row_type = AwaitedRow

    def add(self, row: AwaitedRow) -> None:
        """Let a request wait."""
        self._db.execute(_INSERT_AWAITED, row)

    def all(self) -> list[AwaitedRow]:
        """Return all requests that wait, in the order of arrival."""
        return self._many("ORDER BY n")

    def remove(self, row_id: int) -> None:
        """Let a request wait no more."""
        self._db.execute("DELETE FROM awaited WHERE n = ?", (row_id,))


def as_files(ids: list[str]) -> str:
    """Return ids of files as an `AwaitedRow` has them."""
    return json.dumps(ids)
