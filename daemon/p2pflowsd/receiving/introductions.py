"""Introductions: a contact names a user whom we may want to know. Nothing changes until the owner allows that user."""

from __future__ import annotations

from p2pflows import petnames
from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput, CallError, NotAllowed, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.identity import check_user_id
from p2pflows.protocol.message import Message, Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, IntroductionRow
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.own_messages import OwnMessages

MAX_OF_ONE = 50
"""Introductions of one contact that are kept; the oldest give way."""
LIFE_MS = 7 * 24 * 3_600_000
"""How long an introduction travels."""


class Introductions:
    """Sends introductions, and keeps those of contacts."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        messages: OwnMessages,
        settlement: Settlement,
        log: OwnersLog,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._messages = messages
        self._settlement = settlement
        self._log = log

    def introduce(self, one: str, other: str) -> list[str]:
        """Introduce two contacts to each other, each by the name that we have for them.

        Args:
            one: the user id of a contact.
            other: the user id of another one.

        Returns:
            The ids of the two messages.

        Raises:
            P2pflowsError: one of them is no contact, or both are the same.
        """
        if one == other:
            raise UsageError("Both are the same user.", "Name two contacts: p2pflows introduce bob carol")
        names = self._contacts.known.by_user
        for user in (one, other):
            if user not in names:
                raise UsageError("You can introduce only your contacts.", "See: p2pflows contacts list")
        return [self._tell(to, about, names[about]) for to, about in ((one, other), (other, one))]

    def receive(self, row: IncomingRow, message: Message) -> None:
        """Keep an introduction, if a contact makes it and its user is new to us."""
        try:
            self._keep(row.peer, message.data.get("user"), message.data.get("name"))
        except CallError as error:
            self._settlement.fail(row, error)
        else:
            self._settlement.finish(row, {})

    def current(self) -> list[IntroductionRow]:
        """Return the introductions of users about whom the owner has not decided, newest first.

        Only those count that somebody made who still is a contact.
        """
        book = self._contacts.known
        return [
            row
            for row in self._journal.introductions.all()
            if row.peer not in book.by_user and row.peer not in book.blocked and row.by in book.by_user
        ]

    def introducer_of(self, user: str) -> str | None:
        """Return who made the newest introduction of a user; None if nobody did."""
        return next((row.by for row in self.current() if row.peer == user), None)

    def forget(self, user: str) -> None:
        """Forget the introductions of a user about whom the owner has decided."""
        self._journal.introductions.remove(user)

    def _tell(self, to: str, about: str, name: str) -> str:
        data = {"op": "introduce", "user": about, "name": name}
        return self._messages.send(Type.POST, to, topics.INVITE, data, life_ms=LIFE_MS)

    def _keep(self, by: str, user: object, name: object) -> None:
        book = self._contacts.known
        if by not in book.by_user:
            raise NotAllowed("Only contacts may introduce others.", "Ask to become a contact first.")
        if not isinstance(user, str) or not topics.is_user_id(user):
            raise BadInput("An introduction names a user.", 'Put their id under "user".')
        try:
            check_user_id(user)
        except UsageError as error:
            raise BadInput(error.message) from None
        if user == self._user or user in book.by_user or user in book.blocked:
            return
        name = petnames.normalize(name) if isinstance(name, str) and petnames.has_form(name) else ""
        self._journal.introductions.add(IntroductionRow(0, user, by, name, self._clock.now()), MAX_OF_ONE)
        called = f" as {name!r}" if name else ""
        self._log.note("introduced", by, "", f"They introduce the user {user}{called}. See: p2pflows requests")
