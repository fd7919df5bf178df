"""Wishes of strangers to be let in. They outlive the requests that made them; a stranger who is let in is told."""

from __future__ import annotations

from p2pflows.contacts import Contacts
from p2pflows.errors import NotAllowed
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, WishRow
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages

MAX_WISHES = 200
MIN_KEPT_MS = 24 * 3_600_000
"""For how long a wish is safe from those of other strangers."""
LIFE_MS = 7 * 24 * 3_600_000
"""How long the news travels that a stranger was let in."""


class Wishes:
    """Remembers who wants to be let in, and tells those who were.

    Attributes:
        peers: the user ids of all who have a wish.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        outbox: Outbox,
        messages: OwnMessages,
        settlement: Settlement,
        log: OwnersLog,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._outbox = outbox
        self._messages = messages
        self._settlement = settlement
        self._log = log
        self.peers = journal.wishes.peers()

    def note(self, peer: str, endpoint: str) -> None:
        """Remember that a stranger has asked for an endpoint; if there is no room, an old wish of another gives way."""
        now = self._clock.now()
        wishes = self._journal.wishes
        if peer not in self.peers and len(self.peers) >= MAX_WISHES:
            oldest = wishes.oldest()
            if oldest is None or oldest.last > now - MIN_KEPT_MS:
                return
            self.forget(oldest.peer)
        wishes.note(peer, endpoint, now)
        self.peers.add(peer)

    def forget(self, peer: str) -> None:
        """Forget the wish of a stranger."""
        self._journal.wishes.remove(peer)
        self.peers.discard(peer)

    def current(self) -> list[WishRow]:
        """Return the wishes about which the owner has not decided, in the order in which they were first made."""
        book = self._contacts.known
        return [
            row for row in self._journal.wishes.all() if row.peer not in book.by_user and row.peer not in book.blocked
        ]

    def granted(self) -> set[str]:
        """Return the strangers with a wish who have become contacts."""
        return self.peers & self._contacts.known.by_user.keys()

    def grant(self, peer: str, released: int) -> None:
        """Forget the wish of a stranger who was let in; tell them, unless a request of theirs goes on now.

        Args:
            peer: their user id.
            released: how many of their requests go on.
        """
        if peer in self.peers and not released:
            self._messages.send(Type.POST, peer, topics.INVITE, {"op": "allowed"}, life_ms=LIFE_MS)
        self.forget(peer)

    def receive(self, row: IncomingRow) -> None:
        """Tell the owner that a user has let them in, if they have sent that user anything."""
        if not self._outbox.sends_to(row.peer):
            self._settlement.fail(row, NotAllowed("You were not asked for anything."))
            return
        self._log.note(
            "allowed", row.peer, "", "They allow you to call them now. Send again what they had not allowed."
        )
        self._settlement.finish(row, {})
