"""Presence: signed hints about who is online, believed from their user alone."""

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


def _status(boot: Any = 5, online: Any = True, by: Identity = ALICE) -> bytes:
    return presence.seal(by, STATUS, {"boot": boot, "online": online})


@pytest.fixture
def bob() -> Presence:
    """What Bob's daemon knows of others: nothing yet."""
    return Presence(BOB, 1)


def test_of_whom_nothing_was_heard_nothing_is_known(bob: Presence) -> None:
    """Not known is not the same as offline."""
    assert bob.online(ALICE.user_id) is None


def test_who_says_so_is_online_or_offline(bob: Presence) -> None:
    """The latest word of a user counts."""
    assert bob.learn(ALICE.user_id, _status(online=True))
    assert bob.online(ALICE.user_id) is True
    assert not bob.learn(ALICE.user_id, _status(online=False))
    assert bob.online(ALICE.user_id) is False


def test_my_own_status_is_believed_by_others(bob: Presence) -> None:
    """What a daemon publishes, and leaves as its last will, is understood by its neighbours."""
    alice = Presence(ALICE, 7)
    assert bob.learn(ALICE.user_id, alice.mine(online=True))
    bob.learn(ALICE.user_id, alice.mine(online=False))
    assert bob.online(ALICE.user_id) is False


def test_the_word_of_an_earlier_start_is_too_late(bob: Presence) -> None:
    """A last will that arrives after its user has started anew does not make them offline."""
    bob.learn(ALICE.user_id, _status(boot=6, online=True))
    assert not bob.learn(ALICE.user_id, _status(boot=5, online=False))
    assert bob.online(ALICE.user_id) is True


def test_nobody_speaks_for_somebody_else(bob: Presence) -> None:
    """A status that another user has signed says nothing, and is refused."""
    with pytest.raises(Refused, match="bad_signature"):
        bob.learn(ALICE.user_id, _status(by=MALLORY))
    assert bob.online(ALICE.user_id) is None


def test_a_status_is_not_moved_to_another_topic() -> None:
    """The signature covers the topic: a card is no status, and mine is not yours."""
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
def test_a_damaged_or_strange_status_says_nothing(bob: Presence, reason: str, payload: bytes) -> None:
    """What is not a whole, signed status changes nothing, and is refused by name."""
    with pytest.raises(Refused, match=reason):
        bob.learn(ALICE.user_id, payload)
    assert bob.online(ALICE.user_id) is None


def test_a_status_that_was_cleared_says_nothing(bob: Presence) -> None:
    """An empty payload is how a broker's retained message is taken away: no word of the user."""
    bob.learn(ALICE.user_id, _status())
    assert not bob.learn(ALICE.user_id, b"")
    assert bob.online(ALICE.user_id) is True


def test_a_fact_is_signed_and_readable() -> None:
    """A retained payload is a signature and then plain JSON, for anybody to read."""
    assert json.loads(_status()[64:]) == {"boot": 5, "online": True}
