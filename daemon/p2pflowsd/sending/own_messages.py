"""Calls and posts that this user makes: send, wait for, withdraw, send again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from p2pflows import short_ids
from p2pflows.errors import BadInput, Cancelled
from p2pflows.protocol import strict_json
from p2pflows.protocol.message import Message, Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.waiters import OnSettled, Waiters

_MIN_RESEND_LIFETIME_MS = 60_000


class OwnMessages:
    """The calls and posts of one user.

    Attributes:
        on_sent: called with each call and post that is accepted.
    """

    def __init__(self, *, journal: Journal, clock: Clock, outbox: Outbox, waiters: Waiters) -> None:
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._waiters = waiters
        self.on_sent: Callable[[Message], None] = lambda _message: None

    def send(
        self,
        kind: Type,
        peer: str,
        endpoint: str,
        data: dict[str, Any],
        *,
        life_ms: int,
        conversation: str | None = None,
        source: str = "",
        instance: str | None = None,
        typed: Mapping[str, str] | None = None,
        message_id: str | None = None,
        origin: str | None = None,
        progress: bool = False,
    ) -> str:
        """Accept a call or a post, and return its id; for the arguments see `Outbox.accept`.

        Raises:
            CallError: it cannot be sent; see `Outbox.accept`.
        """
        message = self._outbox.accept(
            kind,
            peer,
            endpoint,
            data,
            expires=self._clock.now() + life_ms,
            conversation=conversation,
            source=source,
            instance=instance,
            typed=typed,
            message_id=message_id,
            origin=origin,
            progress=progress,
        )
        self._journal.count("accepted")
        self.on_sent(message)
        return message.id

    def wait(self, part: str, on_settled: OnSettled) -> OutgoingRow:
        """Call back when a message ends.

        Args:
            part: its id, or the beginning or end of it.
            on_settled: called once, never before this batch is recorded.

        Raises:
            BadInput: no message, or more than one, has an id like that.
        """
        row = self._find(part)
        self._waiters.wait(row, on_settled)
        return row

    def cancel(self, part: str) -> str:
        """Withdraw a call or a post, and return its id.

        Raises:
            BadInput: it has ended already, or no single message has an id like that.
        """
        row = self._find(part)
        error = strict_json.dumps(Cancelled("You withdrew it.").as_wire())
        if not self._outbox.end(row, OutgoingState.CANCELLED, error):
            raise BadInput(f"Message {row.id[-8:]} is already {row.state}.", "There is nothing left to cancel.")
        expires = max(row.expires, self._clock.now() + _MIN_RESEND_LIFETIME_MS)
        self._outbox.accept(Type.CANCEL, row.peer, row.endpoint, {}, expires=expires, in_reply_to=row.id)
        return row.id

    def resend(self, row: OutgoingRow) -> str:
        """Send a message that failed once more, and return the id of the new one.

        Raises:
            BadInput: its body is gone, as of a post that its recipient had stored before it failed there.
        """
        body = self._journal.outgoing.body(row.id)
        if body is None:
            raise BadInput(
                f"What {row.id[-8:]} said is not kept here, as it had arrived before it failed.",
                "Send it anew: p2pflows send",
            )
        old = Message.model_validate_json(body)
        return self.send(
            Type(row.type),
            row.peer,
            row.endpoint,
            old.data,
            life_ms=max(_MIN_RESEND_LIFETIME_MS, row.expires - row.created),
            conversation=old.conversation,
            source=old.source,
            typed=old.typed,
        )

    def _find(self, part: str) -> OutgoingRow:
        rows = self._outbox.matching(part)
        if len(rows) > 1:
            ids = short_ids.name_all([row.id for row in rows])
            raise BadInput(f"Several messages of yours have an id like {part!r}: {ids}.", "Give more of the id.")
        if not rows:
            raise BadInput(
                f"No message of yours has an id like {part!r}.",
                "Ended messages are forgotten after a day, unless config.yaml says otherwise. See: p2pflows asked",
            )
        return rows[0]
