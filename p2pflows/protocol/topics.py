"""Addresses to MQTT topics and back; the only place where topic names are built (docs/PROTOCOL.md, Topics)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from p2pflows.errors import UsageError

PREFIX = "p2pflows/1"
REPLY = "_reply"
"""Where answers to calls arrive."""
NOTICE = "_notice"
"""Where receipts and stream repairs arrive."""
FLOWS = "_flows"
"""A daemon's own endpoint: answers which flows it serves to the caller."""
INSTANCES = "_instances"
"""A daemon's own endpoint: mounts, resets and deletes instances of the flows it serves."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_USER = re.compile(r"[0-9a-f]{64}")


def is_name(text: str) -> bool:
    """Whether text may name an endpoint, a dispatch point, a worker or a contact."""
    return _NAME.fullmatch(text) is not None


def is_user_id(text: str) -> bool:
    """Whether text has the form of a user id: 64 lower-case hex digits."""
    return _USER.fullmatch(text) is not None


def check_name(text: str, what: str) -> str:
    """Return text if it may name a `what`.

    Raises:
        UsageError: it may not.
    """
    if not is_name(text):
        raise UsageError(f"{text!r} cannot name {what}.", "Use 1 to 64 letters, digits, '_' or '-'.")
    return text


def check_endpoint(text: str) -> str:
    """Return text if a user may serve under it; names that start with '_' are the daemon's own.

    Raises:
        UsageError: it may not.
    """
    if check_name(text, "an endpoint").startswith("_"):
        raise UsageError(f"{text!r} cannot name an endpoint.", "Names that start with '_' are reserved.")
    return text


def inbox(user: str, endpoint: str) -> str:
    """Where anyone publishes bundles for one endpoint of a user."""
    return f"{PREFIX}/{user}/in/{endpoint}"


def card(user: str) -> str:
    """Where a user's signed, retained description of public endpoints stands."""
    return f"{PREFIX}/{user}/card"


def status(user: str) -> str:
    """Where a user's signed, retained presence stands."""
    return f"{PREFIX}/{user}/status"


def dispatch(user: str, point: str, worker: str) -> str:
    """Where the daemon publishes frames for one worker."""
    return f"{PREFIX}/{user}/dispatch/{point}/{worker}"


def results(user: str, point: str) -> str:
    """Where the workers of a dispatch point publish frames for the daemon."""
    return f"{PREFIX}/{user}/results/{point}"


def daemon_filters(user: str) -> list[str]:
    """What a user's daemon subscribes to for itself."""
    return [f"{PREFIX}/{user}/in/+", f"{PREFIX}/{user}/results/+"]


@dataclass(frozen=True, slots=True)
class InboxTopic:
    """A topic that holds bundles for an endpoint."""

    user: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class ResultsTopic:
    """A topic that holds frames from workers."""

    user: str
    point: str


@dataclass(frozen=True, slots=True)
class PresenceTopic:
    """A topic that holds a user's status or card."""

    user: str
    what: str


@dataclass(frozen=True, slots=True)
class DispatchTopic:
    """A topic that holds frames for one worker."""

    user: str
    point: str
    worker: str


@lru_cache(maxsize=1024)
def parse(topic: str) -> InboxTopic | ResultsTopic | PresenceTopic | DispatchTopic | None:
    """What a topic stands for, or None if it is none of ours."""
    match topic.split("/"):
        case ["p2pflows", "1", user, "in", endpoint] if is_user_id(user) and is_name(endpoint):
            return InboxTopic(user, endpoint)
        case ["p2pflows", "1", user, "results", point] if is_user_id(user) and is_name(point):
            return ResultsTopic(user, point)
        case ["p2pflows", "1", user, "dispatch", point, worker] if (
            is_user_id(user) and is_name(point) and is_name(worker)
        ):
            return DispatchTopic(user, point, worker)
        case ["p2pflows", "1", user, ("status" | "card") as what] if is_user_id(user):
            return PresenceTopic(user, what)
        case _:
            return None
