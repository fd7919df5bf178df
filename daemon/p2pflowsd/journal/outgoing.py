"""The table of messages that we send, and of the answers to them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence

from p2pflows.protocol.message import Message
from p2pflowsd.journal.conditions import HAS_NUMBER, is_one_of
from p2pflowsd.journal.rows import OutgoingRow, columns
from p2pflowsd.lifecycle import LIVE_OUTGOING, OutgoingState, may_become

_COLUMNS = ", ".join(columns(OutgoingRow)).replace("size", "coalesce(length(body), 0)")
_LIVE = "state IN ('pending', 'stored')"
_KEEPS_BODY = frozenset({OutgoingState.FAILED, OutgoingState.EXPIRED})
_MOVE = {
    state: f"UPDATE outgoing SET state = '{state}', ended = ?, answer = coalesce(?, answer)"
    + ("" if state in _KEEPS_BODY else ", body = NULL")
    + f" WHERE id = ? AND {is_one_of(may_become(state))}"
    for state in OutgoingState
}


class OutgoingTable:
    """Messages by the order in which they were accepted."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, message: Message, body: bytes, origin: str | None = None) -> int:
        """Keep a message to be sent; gives its number."""
        cursor = self._db.execute(
            """INSERT INTO outgoing
                  (id, type, peer, endpoint, epoch, seq, conversation, cause, body, created, expires, state, origin)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)""",
            (
                message.id,
                message.type,
                message.recipient,
                message.endpoint,
                message.epoch,
                message.seq,
                message.conversation,
                message.in_reply_to,
                body,
                message.created,
                message.expires,
                origin,
            ),
        )
        return int(cursor.lastrowid or 0)

    def move(self, message_id: str, state: OutgoingState, now: int, answer: bytes | None = None) -> bool:
        """Move one message to a state if the move is legal; bodies stay with what can be sent again by hand."""
        ended = None if state in LIVE_OUTGOING else now
        return self._db.execute(_MOVE[state], (ended, answer, message_id)).rowcount == 1

    def stored(self, calls: Sequence[str], others: Sequence[str], answers: Sequence[str], now: int) -> None:
        """Their recipient has committed these pending messages; answers have served their purpose then."""
        self._db.executemany(_MOVE[OutgoingState.STORED], [(None, None, message_id) for message_id in calls])
        self._db.executemany(_MOVE[OutgoingState.DONE], [(now, None, message_id) for message_id in others])
        self._db.executemany("DELETE FROM outgoing WHERE id = ?", [(message_id,) for message_id in answers])

    def note(self, message_id: str, peer: str, note: str) -> None:
        """Remember what the recipient last said of a message that is still live."""
        self._db.execute(
            "UPDATE outgoing SET note = ? WHERE id = ? AND peer = ? AND state IN ('pending', 'stored')",
            (note, message_id, peer),
        )

    def restamp(self, row_id: int, epoch: int, seq: int, body: bytes) -> None:
        """Give a pending message its place in a new epoch of its stream."""
        self._db.execute(
            "UPDATE outgoing SET epoch = ?, seq = ?, body = ? WHERE n = ? AND state = 'pending'",
            (epoch, seq, body, row_id),
        )

    def find(self, message_id: str) -> OutgoingRow | None:
        """The message with an id."""
        return self._one("id = ?", message_id)

    def get(self, row_id: int) -> OutgoingRow | None:
        """The message with a number."""
        return self._one("n = ?", row_id)

    def like(self, part: str) -> list[OutgoingRow]:
        """Calls and posts whose id is, or begins or ends with, some hex digits."""
        return self._many("id = ? AND type IN ('call', 'post')", part) or self._many(
            "type IN ('call', 'post') AND (id GLOB ? OR id GLOB ?)", part + "*", "*" + part
        )

    def body(self, message_id: str) -> bytes | None:
        """The body of a message that may be sent again."""
        row = self._db.execute("SELECT body FROM outgoing WHERE id = ?", (message_id,)).fetchone()
        return bytes(row[0]) if row and row[0] is not None else None

    def bodies(self, numbers: Sequence[int]) -> dict[int, bytes]:
        """The bodies of some pending messages."""
        query = f"SELECT n, body FROM outgoing WHERE {HAS_NUMBER} AND state = 'pending'"
        return dict(self._db.execute(query, (json.dumps(numbers),)))

    def pending(self) -> list[OutgoingRow]:
        """All that has not been stored by its recipient, oldest first."""
        return self._indexed("outgoing_live", f"{_LIVE} AND state = 'pending' ORDER BY n")

    def stored_by_peer(self) -> dict[str, int]:
        """How many stored calls wait for each peer's answer."""
        return dict(
            self._db.execute(
                f"""SELECT peer, count(*) FROM outgoing INDEXED BY outgoing_live
                    WHERE {_LIVE} AND state = 'stored' GROUP BY peer"""
            )
        )

    def unsent(self) -> list[OutgoingRow]:
        """Requests that failed or expired and may be sent again by hand, oldest first."""
        return self._many("state IN ('failed', 'expired') AND type IN ('call', 'post') ORDER BY n")

    def newest_calls(self, limit: int) -> list[OutgoingRow]:
        """The last calls that the user made, and no flow of theirs or the daemon itself; newest first."""
        return self._many("type = 'call' AND origin IS NULL AND endpoint NOT GLOB '_*' ORDER BY n DESC LIMIT ?", limit)

    def expired(self, now: int) -> list[OutgoingRow]:
        """Live messages whose deadline has passed."""
        return self._indexed("outgoing_live", f"{_LIVE} AND expires <= ? ORDER BY n", now)

    def of_root(self, row_id: int) -> list[OutgoingRow]:
        """Live calls that runs made on behalf of one request, and whose answers run a flow again."""
        return self._of_run("json_extract(origin, '$.root') = ?", row_id)

    def of_instance(self, instance: str) -> list[OutgoingRow]:
        """Live calls whose answers run an instance again."""
        return self._of_run("json_extract(origin, '$.instance') = ?", instance)

    def next_expiry(self) -> int | None:
        """The earliest deadline of a live message."""
        row = self._db.execute(f"SELECT min(expires) FROM outgoing WHERE {_LIVE}").fetchone()
        return None if row[0] is None else int(row[0])

    def _of_run(self, where: str, value: object) -> list[OutgoingRow]:
        return self._indexed("outgoing_of_root", f"origin IS NOT NULL AND {_LIVE} AND {where} ORDER BY n", value)

    def _indexed(self, index: str, where: str, *values: object) -> list[OutgoingRow]:
        """Rows of an index that holds few; without being told, SQLite may look through the whole table."""
        query = f"SELECT {_COLUMNS} FROM outgoing INDEXED BY {index} WHERE {where}"
        return [OutgoingRow._make(row) for row in self._db.execute(query, values)]

    def _one(self, where: str, *values: object) -> OutgoingRow | None:
        row = self._db.execute(f"SELECT {_COLUMNS} FROM outgoing WHERE {where}", values).fetchone()
        return OutgoingRow._make(row) if row else None

    def _many(self, where: str, *values: object) -> list[OutgoingRow]:
        return [
            OutgoingRow._make(row) for row in self._db.execute(f"SELECT {_COLUMNS} FROM outgoing WHERE {where}", values)
        ]
