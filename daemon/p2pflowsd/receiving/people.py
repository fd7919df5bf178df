"""How people meet: what arrives at the endpoint `_invite`, and the parts that it goes to."""

from __future__ import annotations

from collections.abc import Callable

from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput
from p2pflows.protocol.message import Message
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, MeetingRow
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving.introductions import Introductions
from p2pflowsd.receiving.invitations import Invitations
from p2pflowsd.receiving.wishes import Wishes
from p2pflowsd.running.catalog import Catalog
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages
from p2pflowsd.sending.presence import Followed


class People:
    """Invitations, introductions, and the wishes of strangers; the arguments are those of the three classes."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        contacts: Contacts,
        catalog: Catalog,
        followed: Followed,
        outbox: Outbox,
        messages: OwnMessages,
        settlement: Settlement,
        callbacks: Callbacks,
        log: OwnersLog,
        on_met: Callable[[MeetingRow], None],
    ) -> None:
        self._settlement = settlement
        self.invitations = Invitations(
            user=user,
            journal=journal,
            clock=clock,
            entropy=entropy,
            contacts=contacts,
            catalog=catalog,
            followed=followed,
            outbox=outbox,
            settlement=settlement,
            callbacks=callbacks,
            log=log,
            on_met=on_met,
        )
        self.introductions = Introductions(
            user=user,
            journal=journal,
            clock=clock,
            contacts=contacts,
            messages=messages,
            settlement=settlement,
            log=log,
        )
        self.wishes = Wishes(
            journal=journal,
            clock=clock,
            contacts=contacts,
            outbox=outbox,
            messages=messages,
            settlement=settlement,
            log=log,
        )

    def receive(self, row: IncomingRow, message: Message) -> None:
        """Carry out a request to `_invite`, and end it; strangers may make some of them."""
        match message.data.get("op"):
            case "accept":
                self.invitations.receive(row, message)
            case "introduce":
                self.introductions.receive(row, message)
            case "allowed":
                self.wishes.receive(row)
            case _:
                self._settlement.fail(
                    row, BadInput("There is no such operation.", "See the specification of the protocol.")
                )
