"""The table of messages that we send, and of the answers to them."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

from p2pflows import short_ids
from p2pflows.protocol.message import ANSWERS, Message
from p2pflowsd.counts import count_down
from p2pflowsd.journal.bodies import BodyTable, Kind, in_row, lies_apart, number_of, read_either
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.journal.sql import HAS_NUMBER, insert_into, is_one_of
from p2pflowsd.journal.table import Table
from p2pflowsd.journal.usage import UsageTable
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, may_become

_INSERT = insert_into(
    "outgoing",
    (
        "n", "id", "type", "peer", "endpoint", "epoch", "seq", "conversation", "cause", "body", "large", "created",
        "expires", "state", "origin",
    ),
)  # fmt: skip
_KEEPS_BODY = frozenset({OutgoingState.PENDING, OutgoingState.STORED, OutgoingState.FAILED, OutgoingState.EXPIRED})
_MAY_MOVE = {state: f"WHERE id = ? AND {is_one_of(may_become(state))}" for state in OutgoingState}
_MOVED = {
    state: f"state = '{state}', ended = ?"
    + ("" if state in _KEEPS_BODY else ", body = NULL, large = 0")
    + f" {_MAY_MOVE[state]}"
    for state in OutgoingState
}
_MOVE = {state: f"UPDATE outgoing SET {moved}" for state, moved in _MOVED.items()}
_END = {
    state: f"UPDATE outgoing SET answer = ?, large_answer = ?, fetched = ?, {moved}" for state, moved in _MOVED.items()
}
_ADD_ANSWER = {
    state: f"INSERT OR REPLACE INTO bodies (n, body) SELECT {number_of(Kind.ANSWER)}, ? FROM outgoing {may_move}"
    for state, may_move in _MAY_MOVE.items()
}
_NEXT_NUMBER = "SELECT coalesce(max(n), 0) + 1 FROM outgoing"
_BODY_OF = read_either("body", "large", "outgoing", Kind.MESSAGE)
_BODY = f"SELECT {_BODY_OF} FROM outgoing WHERE id = ?"
_BODIES = f"SELECT n, {_BODY_OF} FROM outgoing WHERE {HAS_NUMBER} AND state = 'pending'"

# Few messages are open. SQLite may read the whole table to find them, unless it must use one of these indexes.
_OPEN = "INDEXED BY outgoing_live WHERE state IN ('pending', 'stored')"
_OPEN_ANSWERS = f"SELECT id, peer, coalesce(length(body), large) FROM outgoing {_OPEN} AND type IN ('reply', 'error')"
_OPEN_OF_INSTANCE = (
    "INDEXED BY outgoing_of_instance WHERE origin GLOB '{\"instance\"*' AND state IN ('pending', 'stored')"
)
_OPEN_OF_RUNS = "INDEXED BY outgoing_of_root WHERE origin IS NOT NULL AND state IN ('pending', 'stored')"
_OF_RUNS = (
    "SELECT id, json_extract(origin, '$.instance'), json_extract(origin, '$.root')"
    f" FROM outgoing {_OPEN_OF_RUNS} AND json_extract(origin, '$.instance') IS NOT NULL"
)

_OWN = "origin IS NULL AND endpoint NOT GLOB '_*'"
_OPEN_OWN = f"{_OWN} AND type = 'call' AND state IN ('pending', 'stored')"
_ENDED_OWN = (
    f"{_OWN} AND ((type = 'call' AND state NOT IN ('pending', 'stored'))"
    " OR (type = 'post' AND state IN ('failed', 'expired')))"
)
MAX_LOOKED = 2_000
"""How many rows one call of `own` looks at, so that it takes a few milliseconds."""
_END_OF_LOOK = f"SELECT min(n) FROM (SELECT n FROM outgoing WHERE n < ? ORDER BY n DESC LIMIT {MAX_LOOKED})"
MAX_NEW = 10_000
"""How many of the newest messages are searched for one of which only a part is known."""
_IS_NEW = f"n > (SELECT max(n) FROM outgoing) - {MAX_NEW}"
_ARE_REQUESTS = "type IN ('call', 'post')"
MAX_MATCHING = 6
"""How many messages a short id finds; more than one are ambiguous, and errors name five."""
_AFTER_HEX = "g"
"""Comes after every hex digit."""
MAX_KEPT_ANSWER_BYTES = 16_000
"""An answer that a program has got is kept with its call if it is not larger."""


class OutgoingTable(Table[OutgoingRow]):
    """Messages in the order in which they were accepted."""

    name = "outgoing"
    row_type = OutgoingRow

    def __init__(self, db: sqlite3.Connection, usage: UsageTable, bodies: BodyTable) -> None:
        super().__init__(db)
        self._usage = usage
        self._long_bodies = bodies
        self._answers: dict[str, tuple[str, int]] = {}
        """The recipients of open answers, and the bytes of their bodies, by id."""
        self._of_runs: dict[str, tuple[str, int | None]] = {}
        """The instances that the answers to open calls run, and the requests on whose behalf these were made, by id."""
        self._calls_by: Counter[str] = Counter()
        """How many of these calls each instance has made."""
        self._calls_for: Counter[int] = Counter()
        """How many of these calls were made for each request."""

    def load(self) -> None:
        """Read which answers are open, and which calls whose answers run an instance again."""
        self._answers.clear()
        self._of_runs.clear()
        self._calls_by.clear()
        self._calls_for.clear()
        for message_id, instance, root in self._db.execute(_OF_RUNS):
            self._note_of_run(message_id, instance, root)
        for message_id, peer, size in self._db.execute(_OPEN_ANSWERS):
            self._answers[message_id] = (peer, size)

    def add(self, message: Message, body: bytes, origin: str | None = None) -> int:
        """Store a message to be sent; return its number."""
        number: int | None = None
        if lies_apart(body):  # before its row, so that whoever sees the row finds the body
            (number,) = self._db.execute(_NEXT_NUMBER).fetchone()
            self._long_bodies.put(Kind.MESSAGE, number or 0, body)
        values = (
            number,
            message.id,
            message.type,
            message.recipient,
            message.endpoint,
            message.epoch,
            message.seq,
            message.conversation,
            message.in_reply_to,
            *in_row(body),
            message.created,
            message.expires,
            OutgoingState.PENDING,
            origin,
        )
        row_id = self._db.execute(_INSERT, values).lastrowid or 0
        if message.type in ANSWERS:
            self._answers[message.id] = (message.recipient, len(body))
            self._usage.add_answer(message.recipient, 1, len(body))
        if origin is not None and origin.startswith('{"instance"'):
            content = json.loads(origin)
            self._note_of_run(message.id, content["instance"], content.get("root"))
        return row_id

    def move(
        self,
        message_id: str,
        state: OutgoingState,
        now: int,
        answer: bytes | None = None,
        *,
        is_fetched: bool = False,
    ) -> bool:
        """Move a message to a state if the move is legal; its body stays if it may have to be sent again.

        Args:
            message_id: the message.
            state: the new state.
            now: the time in milliseconds since the Unix epoch.
            answer: the answer, or the error, as JSON.
            is_fetched: whether a program of the user gets it now, so that it need not be kept for one.
        """
        ended = None if state in OPEN_OUTGOING else now
        if answer is not None and lies_apart(answer):
            self._db.execute(_ADD_ANSWER[state], (answer, message_id))
        moved = (
            self._changes_one(_MOVE[state], ended, message_id)
            if answer is None
            else self._changes_one(
                _END[state], *in_row(answer), _fetched(answer) if is_fetched else 0, ended, message_id
            )
        )
        if not moved:
            return False
        if state not in OPEN_OUTGOING and message_id in self._answers:
            peer, size = self._answers.pop(message_id)
            self._usage.add_answer(peer, -1, 0 if state in _KEEPS_BODY else -size)
        if state not in OPEN_OUTGOING and message_id in self._of_runs:
            self._forget_of_run(message_id)
        return True

    def mark_stored(self, calls: Sequence[str], others: Sequence[str], answers: Sequence[str], now: int) -> None:
        """Move pending messages on, because their recipient has stored them.

        Args:
            calls: ids of calls, which now wait for their answer.
            others: ids of posts and withdrawals, which are done.
            answers: ids of open answers, which are removed.
            now: the time in milliseconds since the Unix epoch.
        """
        self._db.executemany(_MOVE[OutgoingState.STORED], [(None, message_id) for message_id in calls])
        self._db.executemany(_MOVE[OutgoingState.DONE], [(now, message_id) for message_id in others])
        removed = [message_id for message_id in dict.fromkeys(answers) if message_id in self._answers]
        self._db.executemany("DELETE FROM outgoing WHERE id = ?", [(message_id,) for message_id in removed])
        for message_id in removed:
            peer, size = self._answers.pop(message_id)
            self._usage.add_answer(peer, -1, -size)

    def reopen(self, calls: Sequence[str]) -> None:
        """Move stored calls back, because their recipient misses them.

        Args:
            calls: ids of stored calls.
        """
        self._db.executemany(_MOVE[OutgoingState.PENDING], [(None, message_id) for message_id in calls])
        self._db.executemany("UPDATE outgoing SET note = '' WHERE id = ?", [(message_id,) for message_id in calls])

    def mark_fetched(self, row: OutgoingRow) -> None:
        """Note that a program of the user has got the answer to a message that has ended."""
        self._db.execute("UPDATE outgoing SET fetched = ? WHERE n = ?", (_fetched(row.answer), row.row_id))

    def set_note(self, message_id: str, peer: str, note: str) -> None:
        """Store what the recipient last reported about an open message."""
        self._db.execute(
            "UPDATE outgoing SET note = ? WHERE id = ? AND peer = ? AND state IN ('pending', 'stored')",
            (note, message_id, peer),
        )

    def restamp(self, row_id: int, message: Message) -> None:
        """Give a pending message another position in its stream, or other times."""
        body = message.to_bytes()
        is_changed = self._changes_one(
            "UPDATE outgoing SET epoch = ?, seq = ?, created = ?, expires = ?, body = ?, large = ?"
            " WHERE n = ? AND state = 'pending'",
            *(message.epoch, message.seq, message.created, message.expires, *in_row(body), row_id),
        )
        if is_changed and lies_apart(body):
            self._long_bodies.put(Kind.MESSAGE, row_id, body)
        if is_changed and message.id in self._answers:
            peer, size = self._answers[message.id]
            self._answers[message.id] = (peer, len(body))
            self._usage.add_answer(peer, 0, len(body) - size)

    def find(self, message_id: str) -> OutgoingRow | None:
        """Return the message with an id."""
        return self._one("WHERE id = ?", message_id)

    def get(self, row_id: int) -> OutgoingRow | None:
        """Return the message with a number."""
        return self._one("WHERE n = ?", row_id)

    def matching(self, id_part: str) -> list[OutgoingRow]:
        """Return some calls and posts whose id begins with `id_part`, and those of the newest that it stands for."""
        patterns = short_ids.globs(id_part)
        if not patterns:
            return []
        if short_ids.is_whole(id_part):
            return self._many(f"WHERE id = ? AND {_ARE_REQUESTS}", id_part)
        either = " OR ".join(["id GLOB ?"] * len(patterns))
        begins = f"WHERE id >= ? AND id < ? AND {_ARE_REQUESTS} ORDER BY id LIMIT {MAX_MATCHING}"
        newest = f"WHERE {_IS_NEW} AND ({either}) AND {_ARE_REQUESTS} ORDER BY n DESC LIMIT {MAX_MATCHING}"
        return self._many(begins, id_part, id_part + _AFTER_HEX) + self._many(newest, *patterns)

    def body(self, message_id: str) -> bytes | None:
        """Return the body of a message, or None once it cannot be sent again."""
        body: bytes | None = self._value(_BODY, message_id)
        return body

    def bodies(self, row_ids: Sequence[int]) -> dict[int, bytes]:
        """Return the bodies of some pending messages, by number."""
        return dict(self._db.execute(_BODIES, (json.dumps(row_ids),)))

    def pending(self) -> list[OutgoingRow]:
        """Return all messages that their recipients have not stored, oldest first."""
        return self._many(f"{_OPEN} AND state = 'pending' ORDER BY n")

    def created_after(self, now: int, limit: int) -> list[OutgoingRow]:
        """Return the first pending messages that were accepted later than `now`, when the clock was ahead."""
        return self._many(f"{_OPEN} AND state = 'pending' AND created > ? ORDER BY n LIMIT ?", now, limit)

    def stored(self) -> list[OutgoingRow]:
        """Return the calls that wait for their answer, oldest first."""
        return self._many(f"{_OPEN} AND state = 'stored' ORDER BY n")

    def newest_calls(self, limit: int) -> list[OutgoingRow]:
        """Return the last calls that the user made, newest first; without those of flows and of the daemon itself."""
        return self._many(
            f"WHERE {_IS_NEW} AND type = 'call'"
            " AND (origin IS NULL OR origin GLOB '{\"question\"*') AND endpoint NOT GLOB '_*'"
            " ORDER BY n DESC LIMIT ?",
            limit,
        )

    def own(self, before: int, limit: int, *, is_open: bool) -> tuple[list[OutgoingRow], int | None]:
        """Look for calls of the user's programs, and for their posts that failed, among some rows.

        Args:
            before: the number of the row below which to look.
            limit: how many to return at most.
            is_open: whether to return the calls that wait for their answer, or what has ended.

        Returns:
            Those that were found, newest first, and the number below which to look next; None if no row is left.
        """
        end = self._value(_END_OF_LOOK, before)
        condition = _OPEN_OWN if is_open else _ENDED_OWN
        found = self._many(f"WHERE n >= ? AND n < ? AND {condition} ORDER BY n DESC LIMIT ?", end, before, limit)
        return found, (found[-1].row_id if len(found) == limit else end)

    def clear_own(self, before: int) -> tuple[int, int | None]:
        """Remove what has ended among the rows that one call of `own` looks at.

        Returns:
            How many rows were removed, and the number below which to look next; None if no row is left.
        """
        end = self._value(_END_OF_LOOK, before)
        gone = self._db.execute(f"DELETE FROM outgoing WHERE n >= ? AND n < ? AND {_ENDED_OWN}", (end, before))
        return gone.rowcount, end

    def expired(self, now: int, limit: int) -> list[OutgoingRow]:
        """Return the first open messages whose deadline has passed."""
        return self._many(f"{_OPEN} AND expires <= ? ORDER BY expires, n LIMIT ?", now, limit)

    def open_to(self, peer: str, endpoint: str) -> list[OutgoingRow]:
        """Return the open messages to an endpoint of a user, oldest first."""
        return self._many(f"{_OPEN} AND peer = ? AND endpoint = ? ORDER BY n", peer, endpoint)

    def of_root(self, row_id: int) -> list[OutgoingRow]:
        """Return the open calls that runs made on behalf of one request, and whose answers run an instance again."""
        return self._many(f"{_OPEN_OF_RUNS} AND json_extract(origin, '$.root') = ? ORDER BY n", row_id)

    def has_open_of_root(self, row_id: int) -> bool:
        """Return whether a call that a run made on behalf of a request is open, and its answer runs an instance.

        The journal is not read.
        """
        return row_id in self._calls_for

    def open_roots(self) -> set[tuple[str, int]]:
        """Return each instance whose runs have open calls, with the requests on whose behalf it made them."""
        columns = "json_extract(origin, '$.instance'), json_extract(origin, '$.root')"
        found = self._db.execute(f"SELECT DISTINCT {columns} FROM outgoing {_OPEN_OF_RUNS}")
        return {(instance, root) for instance, root in found if instance is not None and root is not None}

    def of_instance(self, instance: str) -> list[OutgoingRow]:
        """Return the open calls whose answers run an instance again."""
        if instance not in self._calls_by:
            return []
        return self._many(f"{_OPEN_OF_INSTANCE} AND json_extract(origin, '$.instance') = ? ORDER BY n", instance)

    def next_expiry(self) -> int | None:
        """Return the earliest deadline of an open message, in milliseconds since the Unix epoch."""
        deadline: int | None = self._value(f"SELECT min(expires) FROM outgoing {_OPEN}")
        return deadline

    def _note_of_run(self, message_id: str, instance: str, root: int | None) -> None:
        self._of_runs[message_id] = (instance, root)
        self._calls_by[instance] += 1
        if root is not None:
            self._calls_for[root] += 1

    def _forget_of_run(self, message_id: str) -> None:
        instance, root = self._of_runs.pop(message_id)
        count_down(self._calls_by, instance)
        if root is not None:
            count_down(self._calls_for, root)


def _fetched(answer: bytes | None) -> int:
    """The value of the column `fetched` for an answer that a program has got: 2 if it is large, otherwise 1."""
    return 2 if answer is not None and len(answer) > MAX_KEPT_ANSWER_BYTES else 1
