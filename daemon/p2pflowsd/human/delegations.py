"""Questions of this user that the one who was asked has passed on to somebody else (docs/PROTOCOL.md, section 12).

A user who is asked can only name another user. The asker's daemon then asks that user itself. So the one who answers
signs the answer, and sees the words that were asked. Nobody can make this daemon send anything else: it asks only
contacts of its owner, only at the endpoint of people, only what was asked of a person before, and only a few times.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from p2pflows.contacts import Contacts
from p2pflows.errors import CallError, Cancelled, Delegated
from p2pflows.protocol import strict_json
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Message, Type
from p2pflowsd.clock import Clock
from p2pflowsd.human.inbox import MAX_WHY_CHARS
from p2pflowsd.human.transcript import HUMAN_ENDPOINT, Transcript
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages

MAX_HOPS = 3
"""How often one question may be passed on."""
_KEY = "delegated"


@dataclass(frozen=True, slots=True)
class Hop:
    """A question was passed on.

    Attributes:
        by: the user who was asked.
        to: the user who is asked instead.
        why: the reason; may be empty.
    """

    by: str
    to: str
    why: str


class Delegations:
    """Follows questions that are passed on, and brings the answers back to whoever waits for them.

    Args:
        user: the user id of the owner.
        journal: where messages are stored.
        clock: the time.
        contacts: whom the owner knows.
        outbox: ends messages.
        messages: sends them.
        transcript: knows which endpoints are people's.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        outbox: Outbox,
        messages: OwnMessages,
        transcript: Transcript,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._outbox = outbox
        self._messages = messages
        self._transcript = transcript
        outbox.on_ended.append(self._on_ended)

    def follow(self, message: Message) -> bool:
        """Ask the user to whom a question was passed on.

        Args:
            message: the answer of the one who was asked.

        Returns:
            False if the answer is to be taken as it is: it passes nothing on, or not in a way that may be followed.
        """
        if message.type != Type.ERROR or message.data.get("kind") != Delegated.kind:
            return False
        to, why = message.data.get("to"), message.data.get("why", "")
        row = self._journal.outgoing.find(message.in_reply_to or "")
        if not isinstance(to, str) or not isinstance(why, str) or row is None:
            return False
        if row.peer == message.sender and row.state in OPEN_OUTGOING and self._journal.lines.delegate_of(row.id):
            return True  # it comes again, or too late
        if not self._may_follow(row, message.sender, to):
            return False
        asked = Message.model_validate_json(self._journal.outgoing.body(row.id) or b"{}")
        why = why[:MAX_WHY_CHARS]
        try:
            self._messages.send(
                Type.CALL,
                to,
                HUMAN_ENDPOINT,
                {**asked.data, "passed_on_by": row.peer, **({"passed_on_because": why} if why else {})},
                life_ms=row.expires - self._clock.now(),
                conversation=row.conversation,
                source=asked.source,
                message_id=_follower(row.id, to),
                origin=strict_json.compact({_KEY: row.id}),
            )
        except CallError:
            return False
        self._transcript.on_passed_on(row, to, why)
        return True

    def on_call_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> bool:
        """Let a question end as the one does by which it was followed; return False if a call follows none."""
        followed = _followed(sent)
        if followed is None:
            return False
        row = self._journal.outgoing.find(followed)
        if row is not None and row.state in OPEN_OUTGOING:
            self._outbox.end(row, state, answer)
        return True

    def hops(self, message_id: str) -> list[Hop]:
        """Return how a question of the user was passed on, first to last."""
        row = self._journal.outgoing.find(message_id)
        return [] if row is None else [hop for hop, _ in self._walk(row)]

    def last(self, row: OutgoingRow) -> OutgoingRow:
        """Return the message that asks a question now: the one by which it was followed last, or itself."""
        return next((message for _, message in reversed(self._walk(row))), row)

    def first(self, row: OutgoingRow) -> OutgoingRow:
        """Return the message with which a question was asked first: the one that others follow, or itself."""
        for _ in range(MAX_HOPS):
            followed = _followed(row)
            before = None if followed is None else self._journal.outgoing.find(followed)
            if before is None:
                break
            row = before
        return row

    def _walk(self, row: OutgoingRow) -> list[tuple[Hop, OutgoingRow]]:
        """Return how a question was passed on, each time with the message that followed it."""
        found: list[tuple[Hop, OutgoingRow]] = []
        while len(found) < MAX_HOPS and (delegate := self._journal.lines.delegate_of(row.id)) is not None:
            follower = self._journal.outgoing.find(_follower(row.id, delegate[0]))
            if follower is None:
                break
            found.append((Hop(row.peer, *delegate), follower))
            row = follower
        return found

    def _may_follow(self, row: OutgoingRow, sender: str, to: str) -> bool:
        """Whether a question may be asked of somebody else, as the sender of an answer wishes."""
        book = self._contacts.known
        chain = self._asked_before(row)
        return (
            row.type == Type.CALL
            and row.peer == sender
            and row.state in OPEN_OUTGOING
            and row.expires > self._clock.now()
            and row.size > 0
            and self._transcript.is_human(row.peer, row.endpoint)
            and to in book.by_user
            and to not in book.blocked
            and to not in chain
            and to != self._user
            and len(chain) <= MAX_HOPS
        )

    def _asked_before(self, row: OutgoingRow) -> list[str]:
        """Return the users who were asked until now, last first."""
        found = [row.peer]
        followed = _followed(row)
        while followed is not None and len(found) <= MAX_HOPS:
            before = self._journal.outgoing.find(followed)
            if before is None:
                break
            found.append(before.peer)
            followed = _followed(before)
        return found

    def _on_ended(self, row: OutgoingRow, state: OutgoingState, _answer: bytes | None) -> None:
        """Withdraw what follows a question that was withdrawn or has expired."""
        if state not in (OutgoingState.CANCELLED, OutgoingState.EXPIRED):
            return
        delegate = self._journal.lines.delegate_of(row.id)
        follower = None if delegate is None else self._journal.outgoing.find(_follower(row.id, delegate[0]))
        if follower is None or follower.state not in OPEN_OUTGOING:
            return
        error = strict_json.dumps(Cancelled("You withdrew it.").as_wire())
        if self._outbox.end(follower, OutgoingState.CANCELLED, error) and state == OutgoingState.CANCELLED:
            self._outbox.accept(
                Type.CANCEL, follower.peer, follower.endpoint, {}, expires=follower.expires, in_reply_to=follower.id
            )


def _follower(message_id: str, to: str) -> str:
    """The id of the message that asks somebody else; the same however often the answer comes that asks for it."""
    return derived_id("delegated", message_id, to)


def _followed(row: OutgoingRow) -> str | None:
    """The id of the question that a message follows."""
    if row.origin is None or not row.origin.startswith(f'{{"{_KEY}"'):
        return None
    return str(json.loads(row.origin)[_KEY])
