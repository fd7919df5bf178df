"""Decides whether a sender may reach an endpoint; whatever no rule allows is denied."""

from __future__ import annotations

from enum import Enum, auto

from p2pflows.contacts import Book
from p2pflows.errors import NotAllowed
from p2pflows.protocol import topics
from p2pflowsd.running.catalog import ANYONE, CONTACTS, ME, Served

_OPEN_TO_STRANGERS = frozenset({topics.FLOWS, topics.INVITE, topics.QUESTIONS})
"""Endpoints of the daemon itself, which decides on each request there."""


class Verdict(Enum):
    """The decision on a request."""

    PASS = auto()
    """It reaches the flow."""
    HOLD = auto()
    """Its sender is unknown; it waits for the owner's decision."""
    NOT_SERVED = auto()
    """Nothing is served there."""
    NOT_ALLOWED = auto()
    """This sender may not call the endpoint."""


def decide(sender: str, endpoint: str, *, me: str, book: Book, served: Served | None) -> Verdict:
    """Decide on a sender's request to an endpoint.

    An unknown sender does not learn whether an endpoint is served, unless it is open to anyone.

    Args:
        sender: user id of the sender.
        endpoint: the endpoint that the request names.
        me: user id of the owner.
        book: the owner's contacts and blocked users.
        served: what is served under the endpoint; None if nothing is.
    """
    if endpoint in _OPEN_TO_STRANGERS:
        return Verdict.NOT_ALLOWED if sender in book.blocked else Verdict.PASS
    if served is not None and may_call(sender, served, me=me, book=book):
        return Verdict.PASS
    if sender != me and sender not in book.by_user:
        return Verdict.NOT_ALLOWED if sender in book.blocked else Verdict.HOLD
    return Verdict.NOT_SERVED if served is None else Verdict.NOT_ALLOWED


def may_call(sender: str, served: Served, *, me: str, book: Book) -> bool:
    """Return whether the allow rule of a flow covers a sender."""
    if sender == me:
        return True
    if sender in book.blocked:
        return False
    if served.allow == CONTACTS:
        return sender in book.by_user
    if served.allow in (ME, ANYONE):
        return served.allow == ANYONE
    return sender in served.allow.split(",") and (sender in book.by_user or sender in (served.strangers or ()))


def refusal(endpoint: str) -> NotAllowed:
    """Return the error for a sender who may not call an endpoint."""
    return NotAllowed(f"You are not allowed to call {endpoint!r}.", "Ask its owner to allow you.")
