"""Presence: statuses that tell who is online, and that only the user can sign."""

from __future__ import annotations

import json
from typing import Any

import pytest

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.identity import Identity
from p2pflowsd.sending import presence
from p2pflowsd.sending.presence import Presence

ALICE, BOB, MALLORY = Identity(b"a" * 32), Identity(b"b" * 32), Identity(b"m" * 32)
STATUS = topics.status(ALICE.user_id)


def _status(boot: Any = 5, online: Any = True, by: Identity = ALICE, connection: int = 0) -> bytes:
    return presence.seal(by, STATUS, {"boot": boot, "n": connection, "online": online})


@pytest.fixture
def bob() -> Presence:
    """The presence that Bob's daemon knows: none yet."""
    return Presence(BOB, 1)


def test_a_user_without_a_status_is_unknown(bob: Presence) -> None:
    """Unknown is not the same as offline."""
    assert bob.online(ALICE.user_id) is None


def test_the_last_status_counts(bob: Presence) -> None:
    """A user is online or offline as their last status says."""
    assert bob.learn(ALICE.user_id, _status(online=True))
    assert bob.online(ALICE.user_id) is True
    assert not bob.learn(ALICE.user_id, _status(online=False))
    assert bob.online(ALICE.user_id) is False


def test_only_a_change_is_news(bob: Presence) -> None:
    """A user comes online after being offline, or with a new start; the same status again says nothing new."""
    assert bob.learn(ALICE.user_id, _status(online=True))
    assert not bob.learn(ALICE.user_id, _status(online=True))
    assert bob.learn(ALICE.user_id, _status(boot=6, online=True))
    bob.learn(ALICE.user_id, _status(boot=6, online=False))
    assert bob.learn(ALICE.user_id, _status(boot=6, online=True))


def test_a_new_connection_is_news(bob: Presence) -> None:
    """A user on a new connection comes online, although no last will has told that the one before had ended."""
    assert bob.learn(ALICE.user_id, _status(connection=1))
    assert bob.learn(ALICE.user_id, _status(connection=2))
    assert not bob.learn(ALICE.user_id, _status(connection=2))
    assert not bob.learn(ALICE.user_id, _status(connection=1))


def test_others_accept_our_own_status(bob: Presence) -> None:
    """Other daemons understand the status that a daemon publishes, and its last will."""
    alice = Presence(ALICE, 7)
    assert bob.learn(ALICE.user_id, alice.mine(online=True))
    bob.learn(ALICE.user_id, alice.mine(online=False))
    assert bob.online(ALICE.user_id) is False


def test_a_status_of_an_earlier_start_is_ignored(bob: Presence) -> None:
    """A last will that arrives after the daemon has restarted does not make its user offline."""
    bob.learn(ALICE.user_id, _status(boot=6, online=True))
    assert not bob.learn(ALICE.user_id, _status(boot=5, online=False))
    assert bob.online(ALICE.user_id) is True


def test_a_status_signed_by_another_user_is_refused(bob: Presence) -> None:
    """Nobody can publish a status for another user."""
    with pytest.raises(Refused, match="bad_signature"):
        bob.learn(ALICE.user_id, _status(by=MALLORY))
    assert bob.online(ALICE.user_id) is None


def test_a_status_is_not_moved_to_another_topic() -> None:
    """The signature covers the topic, so a card cannot be used as a status."""
    card = presence.seal(ALICE, topics.card(ALICE.user_id), {"boot": 5, "online": True})
    assert presence.open_signed(ALICE.user_id, STATUS, card) is None


@pytest.mark.parametrize(
    ("reason", "payload"),
    [
        ("bad_signature", b"x"),
        ("bad_signature", _status()[:-1]),
        ("bad_signature", _status() + b" "),
        ("bad_signature", bytes([_status()[0] ^ 1]) + _status()[1:]),
        ("bad_signature", presence.seal(ALICE, STATUS, {"boot": 5, "online": True, "fill": "x" * 65_536})),
        ("malformed", presence.seal(ALICE, STATUS, {})),
        ("malformed", _status(boot="5")),
        ("malformed", _status(online=1)),
        ("malformed", _status(boot=None)),
    ],
    ids=str,
)
def test_a_damaged_or_malformed_status_is_refused(bob: Presence, reason: str, payload: bytes) -> None:
    """A payload that is not a complete, signed status is refused with a reason, and changes nothing."""
    with pytest.raises(Refused, match=reason):
        bob.learn(ALICE.user_id, payload)
    assert bob.online(ALICE.user_id) is None


def test_a_cleared_status_changes_nothing(bob: Presence) -> None:
    """An empty payload clears the retained message; anybody can send it, so it changes nothing."""
    bob.learn(ALICE.user_id, _status())
    assert not bob.learn(ALICE.user_id, b"")
    assert bob.online(ALICE.user_id) is True


def test_a_fact_is_signed_and_readable() -> None:
    """A retained payload is a signature followed by plain JSON, which anybody can read."""
    assert json.loads(_status()[64:]) == {"boot": 5, "n": 0, "online": True}
