"""The table of requests that came to us; it is also the memory of ids that were seen."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from typing import Any

from p2pflows.protocol.message import Message
from p2pflowsd.journal.conditions import HAS_NUMBER, is_one_of
from p2pflowsd.journal.rows import IncomingRow, columns
from p2pflowsd.lifecycle import LIVE_INCOMING, IncomingState, may_become

_COLUMNS = ", ".join(columns(IncomingRow))
_INSERT = (
    f"INSERT INTO incoming ({', '.join(columns(IncomingRow)[1:])}, body, bundle)"
    f" VALUES ({', '.join('?' * (len(columns(IncomingRow)) + 1))}) ON CONFLICT (peer, id) DO NOTHING"
)
_KEEPS_BODY = frozenset({IncomingState.BLOCKED, IncomingState.HELD, IncomingState.READY, IncomingState.DEAD})
_EXPIRING = sorted(LIVE_INCOMING)
_MOVE = {
    state: f"UPDATE incoming SET state = '{state}', error = coalesce(?, error)"
    + ("" if state in _KEEPS_BODY else ", body = NULL")
    + f" WHERE n = ? AND {is_one_of(may_become(state))}"
    for state in IncomingState
}


class IncomingTable:
    """Requests by arrival."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, message: Message, body: bytes, bundle: int, now: int, state: IncomingState) -> IncomingRow | None:
        """Keep a request; None if the id was seen before."""
        row = IncomingRow(
            row_id=0,
            id=message.id,
            peer=message.sender,
            type=message.type,
            endpoint=message.endpoint,
            epoch=message.epoch,
            seq=message.seq,
            conversation=message.conversation,
            received=now,
            expires=message.expires,
            state=state,
            instance=message.instance,
        )
        return self._insert(row, body, bundle)

    def add_answer(
        self,
        message_id: str,
        *,
        peer: str,
        kind: str,
        endpoint: str,
        conversation: str,
        body: bytes,
        now: int,
        expires: int,
        instance: str,
        root_request: int | None,
    ) -> IncomingRow | None:
        """Keep an answer that runs one of our flows again; None if it was kept before."""
        row = IncomingRow(
            row_id=0,
            id=message_id,
            peer=peer,
            type=kind,
            endpoint=endpoint,
            epoch=0,
            seq=0,
            conversation=conversation,
            received=now,
            expires=expires,
            state=IncomingState.READY,
            instance=instance,
            root_request=root_request,
        )
        return self._insert(row, body, None)

    def belongs(self, row_id: int, instance: str) -> None:
        """Say which instance a request is for."""
        self._db.execute("UPDATE incoming SET instance = ? WHERE n = ?", (instance, row_id))

    def progressed(self, row_id: int) -> None:
        """A run got further than before: its worker's death counts anew from here."""
        self._db.execute("UPDATE incoming SET attempts = 0 WHERE n = ? AND attempts > 0", (row_id,))

    def open_of(self, instance: str, message_id: str | None = None) -> list[IncomingRow]:
        """The requests for an instance that wait, run, or are still to be answered; of one id, or all.

        Those of each stream come in its order.
        """
        return self._many(
            "instance = ? AND instance IS NOT NULL AND id = coalesce(?, id) AND state IN ('ready', 'kept')"
            " ORDER BY epoch, seq, n",
            instance,
            message_id,
        )

    def add_bundle(self, peer: str, proof: bytes, expires: int) -> int:
        """Keep the proof of who signed a bundle; gives its number."""
        return int(
            self._db.execute(
                "INSERT INTO bundles (peer, proof, expires) VALUES (?, ?, ?)", (peer, proof, expires)
            ).lastrowid
            or 0
        )

    def drop_bundle(self, bundle: int) -> None:
        """Forget a proof of nothing that is kept."""
        self._db.execute("DELETE FROM bundles WHERE n = ?", (bundle,))

    def move(self, row_id: int, state: IncomingState, error: str | None = None) -> bool:
        """Move one request to a state if the move is legal; the body goes when nothing can need it any more."""
        return self._db.execute(_MOVE[state], (error, row_id)).rowcount == 1

    def record_failure(self, row_id: int, error: str) -> bool:
        """Note that something which a post has set off has failed; False if something has before."""
        changed = self._db.execute("UPDATE incoming SET error = ? WHERE n = ? AND error IS NULL", (error, row_id))
        return changed.rowcount == 1

    def attempted(self, row_id: int) -> int:
        """Count one more attempt; gives how many there were."""
        row = self._db.execute(
            "UPDATE incoming SET attempts = attempts + 1 WHERE n = ? RETURNING attempts", (row_id,)
        ).fetchone()
        return int(row[0]) if row else 0

    def requeue_dead(self, row_id: int, expires: int) -> bool:
        """Let a dead request run again, with its attempts counted anew."""
        self._db.execute(
            "UPDATE incoming SET attempts = 0, expires = ? WHERE n = ? AND state = 'dead'", (expires, row_id)
        )
        return self.move(row_id, IncomingState.READY)

    def find(self, peer: str, message_id: str) -> IncomingRow | None:
        """The request with an id."""
        return self._one("peer = ? AND id = ?", peer, message_id)

    def get(self, row_id: int) -> IncomingRow | None:
        """The request with a number."""
        return self._one("n = ?", row_id)

    def body(self, row_id: int) -> bytes:
        """The signed body of a live request."""
        row = self._db.execute("SELECT body FROM incoming WHERE n = ?", (row_id,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else b"{}"

    def data(self, row_id: int) -> dict[str, Any]:
        """What the sender of a live request has given; empty when there is none."""
        content = json.loads(self.body(row_id)).get("data")
        return content if isinstance(content, dict) else {}

    def bodies(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The signed bodies of some live requests."""
        return self._of_bodies("body", numbers)

    def sizes(self, numbers: Sequence[int]) -> dict[int, int]:
        """How many bytes the bodies of some live requests have; they are not read for it."""
        return self._of_bodies("length(body)", numbers)

    def in_state(self, state: IncomingState) -> list[IncomingRow]:
        """All requests in one live state, oldest first."""
        return self._live(state, "ORDER BY n")

    def blocked(self, peer: str, endpoint: str) -> list[IncomingRow]:
        """The requests of one stream that wait for an earlier one, in their order."""
        return self._live(IncomingState.BLOCKED, "AND peer = ? AND endpoint = ? ORDER BY epoch, seq", peer, endpoint)

    def held_by(self, peer: str) -> list[IncomingRow]:
        """The requests of one unknown sender, those of each stream in its order."""
        return self._live(IncomingState.HELD, "AND peer = ? ORDER BY epoch, seq, n", peer)

    def count_undecided(self, peer: str | None = None) -> int:
        """How many requests wait for a decision on their sender, or for an earlier message; of one peer, or in all."""
        return sum(
            self._db.execute(f"SELECT count(*) {_in(state)} AND peer = coalesce(?, peer)", (peer,)).fetchone()[0]
            for state in (IncomingState.HELD, IncomingState.BLOCKED)
        )

    def expired(self, now: int) -> list[IncomingRow]:
        """Live requests whose deadline has passed."""
        found = [row for state in _EXPIRING for row in self._live(state, "AND expires <= ?", now)]
        return sorted(found, key=lambda row: row.row_id)

    def next_expiry(self) -> int | None:
        """The earliest deadline of a live request."""
        rows = [self._db.execute(f"SELECT min(expires) {_in(state)}").fetchone() for state in _EXPIRING]
        return min((expires for (expires,) in rows if expires is not None), default=None)

    def _insert(self, row: IncomingRow, body: bytes, bundle: int | None) -> IncomingRow | None:
        # Not RETURNING: it doubles the cost of an INSERT, and says nothing that is not known here.
        cursor = self._db.execute(_INSERT, (*row[1:], body, bundle))
        return row._replace(row_id=cursor.lastrowid or 0) if cursor.rowcount == 1 else None

    def _of_bodies(self, what: str, numbers: Sequence[int]) -> dict[int, Any]:
        if not numbers:
            return {}
        query = f"SELECT n, {what} FROM incoming WHERE {HAS_NUMBER} AND body IS NOT NULL"
        return dict(self._db.execute(query, (json.dumps(numbers),)))

    def _live(self, state: IncomingState, more: str, *values: object) -> list[IncomingRow]:
        return [IncomingRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} {_in(state)} {more}", values)]

    def _one(self, where: str, *values: object) -> IncomingRow | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM incoming WHERE {where}", values).fetchone()
        return IncomingRow._make(row) if row else None

    def _many(self, where: str, *values: object) -> list[IncomingRow]:
        return [
            IncomingRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM incoming WHERE {where}", values)
        ]


def _in(state: IncomingState) -> str:
    """The rows in one live state, of which there are few; without being told, SQLite may look through all of a peer."""
    return f"FROM incoming INDEXED BY incoming_live WHERE state = '{state}'"
