"""Worker tokens: which workers may serve which dispatch point, and until when (docs/PROTOCOL.md, section 16).

The key of a token follows from the user's key and the token's id, so that the daemon can tell the holder of a token
why it is refused, even when it has forgotten the token. A frame without an id comes from a worker on this machine, or
from the holder of a token that an earlier release made.
"""

from __future__ import annotations

from datetime import UTC, datetime

from p2pflows.errors import NotAllowed, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.identity import Identity
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import WorkerTokenRow

MAX_TOKENS = 100
"""Tokens that are good at once."""
MAX_ENDED_TOKENS = 100
"""Tokens that are revoked or expired and still listed."""
_ID_BYTES = 4
_OLD = "old-"
_OLD_ACCEPTED = "old_worker_tokens"
"""The key in `meta` that a journal has if an earlier release began it."""


class WorkerTokens:
    """The worker tokens of one daemon.

    Args:
        identity: whose daemon it is.
        journal: keeps the list.
        clock: tells when a token expires.
        entropy: makes ids.
    """

    def __init__(self, *, identity: Identity, journal: Journal, clock: Clock, entropy: Entropy) -> None:
        self._identity = identity
        self._journal = journal
        self._table = journal.worker_tokens
        self._clock = clock
        self._entropy = entropy

    def make(self, point: str, name: str = "", lifetime_ms: int | None = None) -> WorkerTokenRow:
        """Make a token.

        Args:
            point: the dispatch point that its workers may serve.
            name: what the owner calls it.
            lifetime_ms: after which it is refused; None for never.

        Raises:
            NotAllowed: there are too many.
        """
        now = self._clock.now()
        rows = self._table.all()
        good = [row for row in rows if self.state(row) == "good"]
        if len(good) >= MAX_TOKENS:
            raise NotAllowed(
                f"You have {MAX_TOKENS} worker tokens, which is the most.",
                "Revoke one that you do not need: p2pflows worker-token revoke ID",
            )
        # An entry for tokens of an earlier release stays: without it, they would be accepted again.
        ended = [row for row in rows if row not in good and not row.id.startswith(_OLD)]
        for row in ended[: max(0, len(ended) - MAX_ENDED_TOKENS + 1)]:
            self._table.remove(row.id)
        token_id = self._entropy(_ID_BYTES).hex()
        while self._table.get(token_id) is not None:
            token_id = self._entropy(_ID_BYTES).hex()
        row = WorkerTokenRow(token_id, point, name, now, None if lifetime_ms is None else now + lifetime_ms, None)
        self._table.add(row)
        return row

    def all(self) -> list[WorkerTokenRow]:
        """All tokens, oldest first."""
        return self._table.all()

    def state(self, row: WorkerTokenRow) -> str:
        """Return `good`, `expired` or `revoked`."""
        if row.revoked is not None:
            return "revoked"
        return "expired" if row.expires is not None and row.expires <= self._clock.now() else "good"

    def revoke(self, id_part: str) -> WorkerTokenRow:
        """Revoke a token.

        Args:
            id_part: its id, or how that begins.

        Raises:
            UsageError: no token, or more than one, has such an id, or it is revoked.
        """
        found = [row for row in self._table.all() if row.id == id_part] or [
            row for row in self._table.all() if id_part and row.id.startswith(id_part)
        ]
        if not found:
            raise UsageError(f"You have no worker token {id_part!r}.", "See: p2pflows worker-token list")
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} worker tokens begin with {id_part!r}.", "Give more of the id: p2pflows worker-token list"
            )
        (row,) = found
        if row.revoked is not None:
            raise UsageError(f"The worker token {row.id} is revoked already.", "See: p2pflows worker-token list")
        self._table.revoke(row.id, self._clock.now())
        return row

    def key(self, point: str, token_id: str) -> bytes:
        """The key of a token, whether or not it is good; with the id "", the key of workers on this machine."""
        return token_key(self._identity, point, token_id) if token_id else point_key(self._identity, point)

    def problem(self, point: str, token_id: str) -> str | None:
        """Why workers with a token are refused, in words for them; None if they are welcome.

        Args:
            point: the dispatch point that they serve.
            token_id: the token, or what `old_id` returned.
        """
        row = self._table.get(token_id)
        another = f"Ask for another: p2pflows worker-token {point}"
        if row is None or row.point != point:
            return f"The worker token {token_id} for the dispatch point {point!r} is not known any more. {another}"
        match self.state(row):
            case "revoked":
                return f"The worker token {token_id} for the dispatch point {point!r} was revoked. {another}"
            case "expired":
                when = datetime.fromtimestamp((row.expires or 0) / 1000, UTC).strftime("%Y-%m-%d %H:%M")
                return (
                    f"The worker token {token_id} for the dispatch point {point!r} expired at {when} (UTC). {another}"
                )
            case _:
                return None

    def old_id(self, point: str) -> str:
        """The id under which the tokens of a point that an earlier release made are listed.

        They are listed from when one is first seen, if the journal is older than this release.
        """
        token_id = _OLD + point
        is_new = self._table.get(token_id) is None
        if is_new and self._journal.meta.get(_OLD_ACCEPTED) is not None and len(self._table.all()) < 2 * MAX_TOKENS:
            self._table.add(WorkerTokenRow(token_id, point, "", 0, None, None))
        return token_id


def point_key(identity: Identity, point: str) -> bytes:
    """The key that a user's daemon shares with the workers of one dispatch point on its machine."""
    return identity.derive(f"dispatch point {point}")


def token_key(identity: Identity, point: str, token_id: str) -> bytes:
    """The key that a user's daemon shares with the workers that have one token."""
    return identity.derive(f"worker token {topics.queue_of(point, token_id)}")
