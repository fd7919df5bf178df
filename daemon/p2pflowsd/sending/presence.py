"""Retained, signed facts about a user: whether their daemon is online, and the card of what they serve to anyone.

Payload: a 64-byte Ed25519 signature, then JSON. The signature covers a domain tag, the topic and the JSON.
Presence is a hint. It makes resending faster and errors more precise, but no promise depends on it.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, TypeGuard

from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity, verify
from p2pflows.protocol.message import MAX_COUNT
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.link import Link

_DOMAIN = b"p2pflows retained 1\0"
MAX_CARD_BYTES = 65_536
MAX_FLOWS_ON_CARD = 500


def seal(identity: Identity, topic: str, fact: dict[str, Any]) -> bytes:
    """Sign a fact for one topic; return the payload."""
    content = json.dumps(fact, separators=(",", ":")).encode()
    return identity.sign(_DOMAIN + topic.encode() + b"\0" + content) + content


def open_signed(user: str, topic: str, payload: bytes) -> dict[str, Any] | None:
    """Return the fact that a user signed for a topic, or None if the payload is anything else."""
    signature, content = payload[:SIGNATURE_BYTES], payload[SIGNATURE_BYTES:]
    if len(payload) > MAX_CARD_BYTES or not verify(
        bytes.fromhex(user), signature, _DOMAIN + topic.encode() + b"\0" + content
    ):
        return None
    try:
        fact = strict_json.loads_exact(content)
    except ValueError:
        return None
    return fact if isinstance(fact, dict) else None


class Presence:
    """Which users are online, according to the last status that each of them signed.

    Args:
        identity: signs our own status.
        boot: a number that grows with every start of our daemon.
    """

    def __init__(self, identity: Identity, boot: int) -> None:
        self._identity = identity
        self.boot = boot
        self._connection = 0
        self._known: dict[str, _Status] = {}

    def card(self, flows: list[dict[str, Any]]) -> bytes:
        """Return the payload of our card: the flows that anyone may call, or only their endpoints if it is too long."""
        about = {"boot": self.boot, "user": self._identity.user_id}
        topic = topics.card(self._identity.user_id)
        sealed = seal(self._identity, topic, {**about, "flows": flows})
        if len(sealed) <= MAX_CARD_BYTES:
            return sealed
        names = [{"endpoint": flow["endpoint"]} for flow in flows]
        return seal(self._identity, topic, {**about, "flows": names[:MAX_FLOWS_ON_CARD]})

    def mine(self, *, online: bool) -> bytes:
        """Return the payload of our own status on the present connection."""
        fact = {"boot": self.boot, "n": self._connection, "online": online, "files": True}
        return seal(self._identity, topics.status(self._identity.user_id), fact)

    def will(self) -> bytes:
        """Return the payload of the last will for the next connection to the broker: that we are offline."""
        self._connection += 1
        return self.mine(online=False)

    def online(self, user: str) -> bool | None:
        """Return whether a user's daemon is online; None if it never sent a status."""
        known = self._known.get(user)
        return known.online if known else None

    def takes_files(self, user: str) -> bool | None:
        """Return whether a user's daemon fetches files beside messages; None if it never sent a status."""
        known = self._known.get(user)
        return known.takes_files if known else None

    def boot_of(self, user: str) -> int:
        """Return the number of the last start of a user's daemon; -1 if it never sent a status."""
        known = self._known.get(user)
        return known.boot if known else -1

    def is_twin(self, payload: bytes, *, retained: bool) -> bool:
        """Whether a status of this user comes from another daemon with the same key, as in a copied home.

        A stored status of an earlier start of this daemon is no sign of one.

        Raises:
            Refused: this user did not sign it, or it is not a status.
        """
        if not payload:
            return False
        status = _read_status(self._identity.user_id, payload)
        return status.online and status.boot != self.boot and (status.boot > self.boot or not retained)

    def rise_above(self, payload: bytes) -> bool:
        """Number our status above one of this user that another daemon has left, or the contacts would ignore ours.

        Returns:
            Whether our status has to be published again.

        Raises:
            Refused: this user did not sign it, or it is not a status.
        """
        if not payload:
            return False
        boot = _read_status(self._identity.user_id, payload).boot
        if not self.boot < boot < MAX_COUNT:
            return False
        self.boot = boot + 1
        return True

    def learn(self, user: str, payload: bytes) -> bool:
        """Store the status of a user.

        Returns:
            Whether the user's daemon has come online: after it was offline, with a new start, or on a new connection,
            as the broker may have forgotten what was under way to it.

        Raises:
            Refused: the user did not sign it, or it is not a status.
        """
        if not payload:
            return False  # anybody may clear a retained message, so this is not the word of the user
        status = _read_status(user, payload)
        before = self._known.get(user)
        if before is not None and status.is_older_than(before):
            return False
        self._known[user] = status
        return status.online and status != before

    def forget(self, user: str) -> None:
        """Forget the status of a user who does not matter."""
        self._known.pop(user, None)


class _Status(NamedTuple):
    """What a status says.

    Attributes:
        boot: grows with each start of the daemon.
        connection: grows with each connection to the broker in this boot; 0 if the daemon does not number them.
        online: whether the daemon is online. In each connection it first is, and then is not.
        takes_files: whether it fetches files beside messages; those of older releases do not.
    """

    boot: int
    connection: int
    online: bool
    takes_files: bool = False

    def is_older_than(self, other: _Status) -> bool:
        """Return whether a status was true before another one was, and is not any more."""
        if self[:2] != other[:2]:
            return self < other
        return self.connection > 0 and not other.online


def _read_status(user: str, payload: bytes) -> _Status:
    fact = open_signed(user, topics.status(user), payload)
    if fact is None:
        raise Refused("bad_signature")
    boot, connection, online = fact.get("boot"), fact.get("n", 0), fact.get("online")
    if not (_is_count(boot) and _is_count(connection) and isinstance(online, bool)):
        raise Refused("malformed")
    return _Status(boot, connection, online, fact.get("files") is True)


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_COUNT


class Followed:
    """The users whose status topics the daemon has subscribed to."""

    def __init__(self, me: str, link: Link, callbacks: Callbacks) -> None:
        self._me = me
        self._link = link
        self._callbacks = callbacks
        self._users: set[str] = set()

    def add(self, user: str) -> None:
        """Subscribe to a user's status after this batch, as they will send us something."""
        if user not in self._users and user != self._me:
            self._users.add(user)
            self._callbacks.after_commit(lambda: self._link.subscribe([topics.status(user)]))

    def has(self, user: str) -> bool:
        """Return whether the status of a user matters; a broker may deliver that of anybody."""
        return user in self._users

    def reset(self, users: set[str]) -> list[str]:
        """Follow these users and no others; return the topics to subscribe to."""
        self._users = set(users)
        return [topics.status(user) for user in sorted(users)]
