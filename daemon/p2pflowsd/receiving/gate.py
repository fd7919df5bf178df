"""Who reaches what: default deny, decided from values alone."""

from __future__ import annotations

from enum import Enum, auto

from p2pflows.contacts import Book
from p2pflows.protocol import topics
from p2pflowsd.running.catalog import ANYONE, CONTACTS, ME, Served


class Verdict(Enum):
    """What becomes of a request."""

    PASS = auto()
    """It reaches the flow."""
    HOLD = auto()
    """Its sender is unknown: it waits for the owner's decision."""
    NOT_SERVED = auto()
    """Nothing is served there."""
    NOT_ALLOWED = auto()
    """The endpoint is not for this sender."""


def decide(sender: str, endpoint: str, *, me: str, book: Book, served: Served | None) -> Verdict:
    """What becomes of a sender's request to an endpoint.

    Unknown senders learn nothing of what is served, but for what is open to anyone.
    """
    if endpoint == topics.FLOWS:
        return Verdict.PASS
    if served is not None and may_call(sender, served, me=me, book=book):
        return Verdict.PASS
    if sender != me and sender not in book.by_user:
        return Verdict.NOT_ALLOWED if sender in book.blocked else Verdict.HOLD
    return Verdict.NOT_SERVED if served is None else Verdict.NOT_ALLOWED


def may_call(sender: str, served: Served, *, me: str, book: Book) -> bool:
    """Whether a flow's allow rule covers a sender."""
    if sender == me:
        return True
    if sender in book.blocked:
        return False
    if served.allow == CONTACTS:
        return sender in book.by_user
    if served.allow in (ME, ANYONE):
        return served.allow == ANYONE
    return bool({sender, book.by_user.get(sender)} & set(served.allow.split(",")))
