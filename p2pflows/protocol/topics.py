"""MQTT topics: built and read here only (docs/PROTOCOL.md, Topics)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from p2pflows.errors import UsageError

PREFIX = "p2pflows/1"
REPLY = "_reply"
"""The endpoint where answers to calls arrive."""
NOTICE = "_notice"
"""The endpoint where notices arrive: receipts and stream repairs."""
FLOWS = "_flows"
"""The daemon's endpoint that lists the flows a caller may call."""
DAEMON = "_daemon"
"""The endpoint where daemons of one user find each other; signed facts arrive there, and no bundles."""
INSTANCES = "_instances"
"""The daemon's endpoint that mounts, resets and deletes instances of the flows it serves."""
INVITE = "_invite"
"""The daemon's endpoint where people meet: accepted invitations, introductions, and news of being allowed."""
FILES = "_files"
"""The endpoint where daemons ask each other for files, and pieces of them arrive."""
QUESTIONS = "_questions"
"""The daemon's endpoint where people who are asked the same say which of them works on the answer."""
TAKES_NO_REQUESTS = frozenset({REPLY, NOTICE, DAEMON, FILES})
"""The daemon's endpoints where a call or post is refused as `wrong_topic`, so that nobody would ever confirm it."""

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_USER = re.compile(r"[0-9a-f]{64}")
_TOKEN_ID = re.compile(r"[0-9a-f]{8}")


def is_name(text: str) -> bool:
    """Return whether a text may name an endpoint, a dispatch point, a worker or a contact."""
    return _NAME.fullmatch(text) is not None


def is_user_id(text: str) -> bool:
    """Return whether a text has the form of a user id: 64 lower-case hex digits."""
    return _USER.fullmatch(text) is not None


def queue_of(point: str, token: str) -> str:
    """Return what stands for a dispatch point in topics: its name, with the id of a worker's token if it has one."""
    return f"{point}.{token}" if token else point


def split_queue(text: str) -> tuple[str, str] | None:
    """Return the dispatch point and the token id, or "", of what `queue_of` returned; None if it has another form."""
    point, dot, token = text.partition(".")
    if not is_name(point) or (dot and not _TOKEN_ID.fullmatch(token)):
        return None
    return point, token


def check_name(text: str, what: str) -> str:
    """Return the text if it may be a name.

    Args:
        text: the name.
        what: what it names, for the error: "an endpoint".

    Raises:
        UsageError: the text cannot be a name.
    """
    if not is_name(text):
        raise UsageError(f"{text!r} cannot name {what}.", "Use 1 to 64 letters, digits, '_' or '-'.")
    return text


def check_endpoint(text: str) -> str:
    """Return the text if a user may serve a flow under this endpoint.

    Raises:
        UsageError: the text cannot be a name, or starts with '_', as the daemon's own endpoints do.
    """
    if check_name(text, "an endpoint").startswith("_"):
        raise UsageError(f"{text!r} cannot name an endpoint.", "Names that start with '_' are reserved.")
    return text


def inbox(user: str, endpoint: str) -> str:
    """Return the topic on which others publish bundles for an endpoint of a user."""
    return f"{PREFIX}/{user}/in/{endpoint}"


def card(user: str) -> str:
    """Return the topic that retains a user's signed list of public endpoints."""
    return f"{PREFIX}/{user}/card"


def status(user: str) -> str:
    """Return the topic that retains a user's signed presence."""
    return f"{PREFIX}/{user}/status"


def dispatch(user: str, queue: str, worker: str) -> str:
    """Return the topic on which the daemon publishes frames for one worker; see `queue_of`."""
    return f"{PREFIX}/{user}/dispatch/{queue}/{worker}"


def results(user: str, queue: str) -> str:
    """Return the topic on which workers of a dispatch point publish frames for the daemon; see `queue_of`."""
    return f"{PREFIX}/{user}/results/{queue}"


def daemon_filters(user: str) -> list[str]:
    """Return the topic filters that a user's daemon subscribes to for itself."""
    return [f"{PREFIX}/{user}/in/+", f"{PREFIX}/{user}/results/+"]


@dataclass(frozen=True, slots=True)
class InboxTopic:
    """A topic that carries bundles for an endpoint."""

    user: str
    endpoint: str


@dataclass(frozen=True, slots=True)
class ResultsTopic:
    """A topic that carries frames from workers of a dispatch point: those with one token, or those without an id."""

    user: str
    point: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class PresenceTopic:
    """A topic that carries a user's status or card."""

    user: str
    what: str


@dataclass(frozen=True, slots=True)
class DispatchTopic:
    """A topic that carries frames for one worker."""

    user: str
    point: str
    worker: str
    token: str = ""

    @property
    def queue(self) -> str:
        """What stands for the dispatch point; see `queue_of`."""
        return queue_of(self.point, self.token)


@lru_cache(maxsize=1024)
def parse(topic: str) -> InboxTopic | ResultsTopic | PresenceTopic | DispatchTopic | None:
    """Return what a topic is for, or None if it is not one of p2pflows."""
    match topic.split("/"):
        case ["p2pflows", "1", user, "in", endpoint] if is_user_id(user) and is_name(endpoint):
            return InboxTopic(user, endpoint)
        case ["p2pflows", "1", user, "results", queue] if is_user_id(user) and (parts := split_queue(queue)):
            return ResultsTopic(user, *parts)
        case ["p2pflows", "1", user, "dispatch", queue, worker] if (
            is_user_id(user) and is_name(worker) and (parts := split_queue(queue))
        ):
            return DispatchTopic(user, parts[0], worker, parts[1])
        case ["p2pflows", "1", user, ("status" | "card") as what] if is_user_id(user):
            return PresenceTopic(user, what)
        case _:
            return None
