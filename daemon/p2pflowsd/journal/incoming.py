"""The table of requests that we received; it is also how an id is recognised when it comes again."""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from p2pflows import short_ids
from p2pflows.protocol.message import Message
from p2pflowsd.counts import count_down
from p2pflowsd.journal.bodies import BodyTable, Kind, in_row, lies_apart, read_either
from p2pflowsd.journal.remembered import RememberedTable
from p2pflowsd.journal.rows import IncomingRow, columns
from p2pflowsd.journal.sql import HAS_NUMBER, insert_into, is_one_of
from p2pflowsd.journal.table import Table
from p2pflowsd.journal.usage import UsageTable
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState, may_become

_COLUMNS = [*columns(IncomingRow)[1:], "body", "large", "bundle"]
_INSERT = insert_into("incoming", _COLUMNS) + " ON CONFLICT (peer, id) DO NOTHING"
_KEEPS_BODY = frozenset({IncomingState.BLOCKED, IncomingState.HELD, IncomingState.READY, IncomingState.DEAD})
_MOVE = {
    state: f"UPDATE incoming SET state = '{state}', error = coalesce(?, error)"
    + ("" if state in _KEEPS_BODY else ", body = NULL, large = 0, bundle = NULL")
    + " WHERE n = ?"
    for state in IncomingState
}
_MAY_BECOME = {state: frozenset(may_become(state)) for state in IncomingState}
_BODY_OF = read_either("body", "large", "incoming", Kind.REQUEST)
_BODY = f"SELECT {_BODY_OF} FROM incoming WHERE n = ?"
_HAS_BODY = "(body IS NOT NULL OR large > 0)"
_BODIES = f"SELECT n, {_BODY_OF} FROM incoming WHERE {HAS_NUMBER} AND {_HAS_BODY}"

# Few requests are open or dead. SQLite may read all rows of a peer to find them, unless it must use this index.
_IN_STATE = {
    state: f"INDEXED BY incoming_live WHERE state = '{state}'" for state in (*sorted(OPEN_INCOMING), IncomingState.DEAD)
}
_LIVE = {
    state: f"SELECT n, peer, coalesce(length(body), large), bundle, instance, root FROM incoming {clause}"
    for state, clause in _IN_STATE.items()
}
_ALL_IN_STATE = {state: f"{clause} ORDER BY n" for state, clause in _IN_STATE.items()}
_ALL_BLOCKED = "INDEXED BY incoming_blocked WHERE state = 'blocked'"
_BLOCKED = f"{_ALL_BLOCKED} AND peer = ? AND endpoint = ? ORDER BY epoch, seq LIMIT ?"
_BLOCKED_BY = f"{_ALL_BLOCKED} AND peer = ?"
_BLOCKED_STREAMS = f"SELECT peer, endpoint, count(*) FROM incoming {_ALL_BLOCKED} GROUP BY peer, endpoint"
_HELD_BY = f"{_IN_STATE[IncomingState.HELD]} AND peer = ? ORDER BY epoch, seq, n"
_OF_INSTANCE = frozenset({IncomingState.READY, IncomingState.AWAITING_REPLY})
"""The states in which a request of an instance is to be run, or to be answered by a later run."""
_IS_OPEN = is_one_of(sorted(OPEN_INCOMING))
_OPEN_OF_PEER = f"SELECT n FROM incoming INDEXED BY incoming_open_of_peer WHERE peer = ? AND {_IS_OPEN} ORDER BY n"
_OPEN_PEERS = f"SELECT DISTINCT peer FROM incoming INDEXED BY incoming_open_of_peer WHERE {_IS_OPEN}"
_HELD_PEERS = f"SELECT DISTINCT peer FROM incoming {_IN_STATE[IncomingState.HELD]}"
_HELD_BY_SENDER = f"SELECT peer, count(*), min(received) FROM incoming {_IN_STATE[IncomingState.HELD]} GROUP BY peer"
_COUNT_HELD = f"SELECT count(*) FROM incoming {_IN_STATE[IncomingState.HELD]} AND peer = coalesce(?, peer)"
_COUNT_DEAD = f"SELECT count(*) FROM incoming {_IN_STATE[IncomingState.DEAD]}"
_EXPIRED = tuple(f"{_IN_STATE[state]} AND expires <= ? ORDER BY expires LIMIT ?" for state in sorted(OPEN_INCOMING))
_NEXT_EXPIRY = tuple(f"SELECT min(expires) FROM incoming {_IN_STATE[state]}" for state in sorted(OPEN_INCOMING))


class _Live(NamedTuple):
    """What is kept in memory of a request that is open or dead.

    Attributes:
        peer: its sender.
        state: its state.
        size: the bytes of its body; 0 if that is removed.
        bundle: the number of the bundle in which it came; None if its body is removed, or if it came in none.
        instance: the instance that it is for; None if that is not known yet, or if there is none.
        root_request: for an answer that runs an instance again, the request that the call was made for.
    """

    peer: str
    state: str
    size: int
    bundle: int | None
    instance: str | None
    root_request: int | None


class IncomingTable(Table[IncomingRow]):
    """Requests in the order of their arrival."""

    name = "incoming"
    row_type = IncomingRow

    def __init__(
        self, db: sqlite3.Connection, usage: UsageTable, bodies: BodyTable, remembered: RememberedTable
    ) -> None:
        super().__init__(db)
        self._usage = usage
        self._long_bodies = bodies
        self._remembered = remembered
        self._live: dict[int, _Live] = {}
        self._of_instance: dict[str, set[int]] = {}
        """The requests of each instance that are ready or await a reply."""
        self._answers_for: Counter[int] = Counter()
        """How many answers are still to be run, by the requests that the calls were made for."""
        self._bodies_in: Counter[int] = Counter()
        """How many bodies there are of the requests in each bundle."""
        self._with_fewer_bodies: set[int] = set()
        """The bundles that had a body removed in this transaction."""

    def load(self) -> None:
        """Read which requests are open or dead."""
        self._live.clear()
        self._of_instance.clear()
        self._answers_for.clear()
        self._bodies_in.clear()
        for state, statement in _LIVE.items():
            for row_id, peer, size, bundle, instance, root in self._db.execute(statement):
                self._note_live(row_id, _Live(sys.intern(peer), state, size, bundle, instance, root))

    def add(self, message: Message, body: bytes, bundle: int, now: int, state: IncomingState) -> IncomingRow | None:
        """Store a request; return None if its sender has sent this id before."""
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
            wants_progress=int(message.progress),
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
        """Store an answer that runs one of our instances again; return None if it was stored before."""
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

    def add_bundle(self, peer: str, proof: bytes, expires: int) -> int:
        """Store the proof of who signed a bundle; return its number."""
        statement = "INSERT INTO bundles (peer, proof, expires) VALUES (?, ?, ?)"
        return self._db.execute(statement, (peer, proof, expires)).lastrowid or 0

    def keep_bundle(self, bundle: int, expires: int) -> None:
        """Keep the proof of a bundle at most as long as the last of its messages may live."""
        self._db.execute("UPDATE bundles SET expires = ? WHERE n = ?", (expires, bundle))

    def drop_bundle(self, bundle: int) -> None:
        """Remove the proof of a bundle, as no body of its messages is stored."""
        self._db.execute("DELETE FROM bundles WHERE n = ?", (bundle,))

    def move(self, row_id: int, state: IncomingState, error: str | None = None) -> bool:
        """Move a request to a state if the move is legal; its body is removed once nothing can need it any more."""
        found = self._live.get(row_id)
        if found is None or found.state not in _MAY_BECOME[state]:
            return False
        self._db.execute(_MOVE[state], (error, row_id))
        peer, _, size, bundle, instance, root = found
        if state not in _KEEPS_BODY:
            size, bundle = 0, None
            self._long_bodies.drop_unsaved(row_id)
            self._drop_body(found.bundle)
        self._forget_use(row_id, found)
        if state in _IN_STATE:
            moved = self._live[row_id] = _Live(peer, state, size, bundle, instance, root)
            self._note_use(row_id, moved)
        else:
            del self._live[row_id]
        self._usage.move_request(peer, found.state, state, found.size - size)
        return True

    def set_instance(self, row_id: int, instance: str) -> None:
        """Store which instance a request is for."""
        self._db.execute("UPDATE incoming SET instance = ? WHERE n = ?", (instance, row_id))
        found = self._live.get(row_id)
        if found is not None:
            self._forget_use(row_id, found)
            named = self._live[row_id] = found._replace(instance=instance)
            self._note_use(row_id, named)

    def count_attempt(self, row_id: int) -> int:
        """Count one more attempt to run a request; return how many there were."""
        statement = "UPDATE incoming SET attempts = attempts + 1 WHERE n = ? RETURNING attempts"
        return self._value(statement, row_id) or 0

    def reset_attempts(self, row_id: int) -> None:
        """Count attempts from zero again, because a run got further than before."""
        self._db.execute("UPDATE incoming SET attempts = 0 WHERE n = ? AND attempts > 0", (row_id,))

    def record_failure(self, row_id: int, error: str) -> bool:
        """Store that something which a post caused has failed; return False if a failure is stored already."""
        return self._changes_one("UPDATE incoming SET error = ? WHERE n = ? AND error IS NULL", error, row_id)

    def requeue_dead(self, row_id: int, expires: int) -> bool:
        """Make a dead request ready again, with a new deadline and no attempt counted."""
        self._db.execute(
            "UPDATE incoming SET attempts = 0, expires = ? WHERE n = ? AND state = 'dead'", (expires, row_id)
        )
        return self.move(row_id, IncomingState.READY)

    def save(self) -> None:
        """Remove the proofs of bundles of whose messages no body is left."""
        for bundle in self._with_fewer_bodies:
            if not self._bodies_in[bundle]:
                del self._bodies_in[bundle]
                self.drop_bundle(bundle)
        self._with_fewer_bodies.clear()

    def knows(self, peer: str, message_id: str) -> bool:
        """Return whether a peer has sent a request under an id, and a copy could still be valid."""
        return self.find(peer, message_id) is not None or self._remembered.has(peer, message_id)

    def find(self, peer: str, message_id: str) -> IncomingRow | None:
        """Return the request that a peer sent under an id; None also if it has ended, and only its id is left."""
        return self._one("WHERE peer = ? AND id = ?", peer, message_id)

    def get(self, row_id: int) -> IncomingRow | None:
        """Return the request with a number."""
        return self._one("WHERE n = ?", row_id)

    def state(self, row_id: int) -> str | None:
        """Return the state of a request that is open or dead, else None; the journal is not read."""
        found = self._live.get(row_id)
        return None if found is None else found.state

    def body(self, row_id: int) -> bytes:
        """Return the signed body of an open request."""
        body: bytes | None = self._long_bodies.unsaved.get(row_id) or self._value(_BODY, row_id)
        return b"{}" if body is None else body

    def data(self, row_id: int) -> dict[str, Any]:
        """Return the data in the body of an open request; empty if it has none."""
        content = json.loads(self.body(row_id)).get("data")
        return content if isinstance(content, dict) else {}

    def bodies(self, row_ids: Sequence[int]) -> dict[int, bytes]:
        """Return the signed bodies of some requests, by number; those without a body are left out."""
        if not row_ids:
            return {}
        unsaved = self._long_bodies.unsaved
        return {n: unsaved.get(n) or body for n, body in self._db.execute(_BODIES, (json.dumps(row_ids),))}

    def sizes(self, row_ids: Sequence[int]) -> dict[int, int]:
        """Return the length in bytes of the bodies of some requests, by number; the journal is not read."""
        found = ((row_id, self._live.get(row_id)) for row_id in row_ids)
        return {row_id: live.size for row_id, live in found if live is not None and live.size}

    def in_state(self, state: IncomingState) -> list[IncomingRow]:
        """Return all requests in an open state, or dead, oldest first."""
        return self._many(_ALL_IN_STATE[state])

    def dead(self, limit: int, offset: int = 0) -> list[IncomingRow]:
        """Return some dead letters, in the order of their deadlines."""
        return self._many(f"{_IN_STATE[IncomingState.DEAD]} ORDER BY expires LIMIT ? OFFSET ?", limit, offset)

    def dead_matching(self, id_part: str) -> list[IncomingRow]:
        """Return some dead letters whose id is written in short as `id_part`."""
        patterns = short_ids.globs(id_part)
        either = " OR ".join(["id GLOB ?"] * len(patterns)) or "false"
        return self._many(f"{_IN_STATE[IncomingState.DEAD]} AND ({either}) LIMIT 6", *patterns)

    def count_dead(self) -> int:
        """Return how many dead letters there are."""
        count: int = self._value(_COUNT_DEAD)
        return count

    def blocked(self, peer: str, endpoint: str, *, limit: int) -> list[IncomingRow]:
        """Return the first requests of one stream that wait for an earlier one, in the order of the stream."""
        return self._many(_BLOCKED, peer, endpoint, limit)

    def blocked_by(self, peer: str) -> list[IncomingRow]:
        """Return the requests of a peer that wait for an earlier one of their stream."""
        return self._many(_BLOCKED_BY, peer)

    def blocked_streams(self) -> list[tuple[str, str, int]]:
        """Return each stream that has blocked requests, as peer, endpoint and how many they are."""
        return self._db.execute(_BLOCKED_STREAMS).fetchall()

    def held_by(self, peer: str) -> list[IncomingRow]:
        """Return the held requests of one unknown sender; those of each stream are in its order."""
        return self._many(_HELD_BY, peer)

    def open_of(self, instance: str, message_id: str | None = None) -> list[IncomingRow]:
        """Return the requests for an instance that are ready or await a reply; with one id, or all.

        Those of each stream are in its order.
        """
        if instance not in self._of_instance:
            return []
        condition = "WHERE instance = ? AND instance IS NOT NULL AND state IN ('ready', 'kept')"
        if message_id is not None:
            return self._many(f"{condition} AND id = ? ORDER BY epoch, seq, n", instance, message_id)
        return self._many(f"{condition} ORDER BY epoch, seq, n", instance)

    def unanswered_of(self, instance: str) -> list[int]:
        """Return the numbers of the requests for an instance that await a reply; the journal is not read."""
        of_instance = self._of_instance.get(instance, ())
        return sorted(each for each in of_instance if self._live[each].state == IncomingState.AWAITING_REPLY)

    def has_answers_for(self, row_id: int) -> bool:
        """Return whether an answer to a call that was made for a request is still to be run; nothing is read."""
        return row_id in self._answers_for

    def open_of_peer(self, peer: str) -> list[int]:
        """Return the numbers of all open requests of a peer, oldest first."""
        return [row_id for (row_id,) in self._db.execute(_OPEN_OF_PEER, (peer,))]

    def open_peers(self) -> set[str]:
        """Return the peers that have open requests."""
        return {peer for (peer,) in self._db.execute(_OPEN_PEERS)}

    def held_peers(self) -> set[str]:
        """Return the unknown senders whose requests wait for a decision."""
        return {peer for (peer,) in self._db.execute(_HELD_PEERS)}

    def held_by_sender(self) -> list[tuple[str, int, int]]:
        """Return each sender of held requests, with how many they are and when the first of them came."""
        return self._db.execute(_HELD_BY_SENDER).fetchall()

    def count_held(self, peer: str | None = None) -> int:
        """Return how many requests are held, of one peer or of all."""
        count: int = self._value(_COUNT_HELD, peer)
        return count

    def expired(self, now: int, limit: int) -> list[IncomingRow]:
        """Return open requests whose deadline has passed, oldest first: at most `limit` in each state."""
        found = [row for clause in _EXPIRED for row in self._many(clause, now, limit)]
        return sorted(found, key=lambda row: row.row_id)

    def next_expiry(self) -> int | None:
        """Return the earliest deadline of an open request, in milliseconds since the Unix epoch."""
        deadlines = [self._value(statement) for statement in _NEXT_EXPIRY]
        return min((expires for expires in deadlines if expires is not None), default=None)

    def _insert(self, row: IncomingRow, body: bytes, bundle: int | None) -> IncomingRow | None:
        if self._remembered.has(row.peer, row.id):
            return None
        # Not RETURNING: it doubles the cost of an INSERT, and returns nothing that is not known here.
        cursor = self._db.execute(_INSERT, (*row[1:], *in_row(body), bundle))
        if cursor.rowcount != 1:
            return None
        row_id = cursor.lastrowid or 0
        if lies_apart(body):
            self._long_bodies.put_soon(row_id, body)
        self._usage.add_request(row.peer, row.state, len(body))
        if row.state in _IN_STATE:
            live = _Live(sys.intern(row.peer), row.state, len(body), bundle, row.instance, row.root_request)
            self._note_live(row_id, live)
        return IncomingRow(row_id, *row[1:])

    def _note_live(self, row_id: int, live: _Live) -> None:
        self._live[row_id] = live
        self._note_use(row_id, live)
        if live.bundle:
            self._bodies_in[live.bundle] += 1

    def _note_use(self, row_id: int, live: _Live) -> None:
        """Note which instance a request is for, and which other one it was made for, if it is to be run or answered."""
        if live.instance is None or live.state not in _OF_INSTANCE:
            return
        self._of_instance.setdefault(live.instance, set()).add(row_id)
        if live.root_request is not None and live.state == IncomingState.READY:
            self._answers_for[live.root_request] += 1

    def _forget_use(self, row_id: int, live: _Live) -> None:
        """Undo `_note_use`."""
        if live.instance is None or live.state not in _OF_INSTANCE:
            return
        of_instance = self._of_instance[live.instance]
        of_instance.discard(row_id)
        if not of_instance:
            del self._of_instance[live.instance]
        if live.root_request is not None and live.state == IncomingState.READY:
            count_down(self._answers_for, live.root_request)

    def _drop_body(self, bundle: int | None) -> None:
        """Count the bodies that a bundle still proves, as one is removed."""
        if bundle:
            self._bodies_in[bundle] -= 1
            self._with_fewer_bodies.add(bundle)
