"""Presence: statuses that tell who is online, and that only the user can sign."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import LoneDaemon

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import MAX_COUNT
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.sending import presence
from p2pflowsd.sending.presence import MAX_CARD_BYTES, MAX_FLOWS_ON_CARD, Followed, Presence

ALICE, BOB, MALLORY = Identity(b"a" * 32), Identity(b"b" * 32), Identity(b"m" * 32)
STATUS = topics.status(ALICE.user_id)


def _status(boot: Any = 5, online: Any = True, by: Identity = ALICE, connection: int = 0) -> bytes:
    return presence.seal(by, STATUS, {"boot": boot, "n": connection, "online": online})


def _signed(content: bytes) -> bytes:
    return ALICE.sign(presence._DOMAIN + STATUS.encode() + b"\0" + content) + content


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


def test_a_last_will_is_the_last_word_of_its_connection(bob: Presence) -> None:
    """What was said before it may arrive later; a daemon that does not number its connections may come back."""
    for connection, comes_back in ((0, True), (3, False)):
        status = partial(_status, boot=6 + connection, connection=connection)
        bob.learn(ALICE.user_id, status())
        for _ in range(2):
            assert not bob.learn(ALICE.user_id, status(online=False))
        assert bob.learn(ALICE.user_id, status()) is comes_back
        assert bob.online(ALICE.user_id) is comes_back
    assert bob.learn(ALICE.user_id, _status(boot=9, connection=4))
    assert not bob.learn(ALICE.user_id, _status(boot=9, connection=3, online=False))
    assert bob.online(ALICE.user_id) is True


@pytest.mark.parametrize(
    ("boot", "online", "retained", "is_twin"),
    [
        (7, True, False, False), (7, True, True, False), (6, True, True, False), (6, True, False, True),
        (8, True, True, True), (8, True, False, True), (8, False, False, False), (6, False, False, False),
    ],
)  # fmt: skip
def test_a_status_of_another_start_shows_a_copied_home(boot: int, online: bool, retained: bool, is_twin: bool) -> None:
    """One that the broker has kept of an earlier start, one's own, and a last will are no sign of another daemon."""
    alice = Presence(ALICE, 7)
    assert alice.is_twin(_status(boot, online), retained=retained) is is_twin
    assert not alice.is_twin(b"", retained=retained)
    with pytest.raises(Refused, match="bad_signature"):
        alice.is_twin(_status(8, by=MALLORY), retained=retained)


def test_a_later_start_rises_above_an_earlier_one(bob: Presence) -> None:
    """After the clock was set back, contacts would ignore a status that is numbered below the last one."""
    alice = Presence(ALICE, 7)
    for boot, rises in ((6, False), (7, False), (9, True), (9, False), (MAX_COUNT, False)):
        assert alice.rise_above(_status(boot)) is rises
    assert not alice.rise_above(b"")
    assert alice.boot == 10
    bob.learn(ALICE.user_id, _status(9))
    assert bob.learn(ALICE.user_id, alice.mine(online=True))


@pytest.mark.parametrize(("flows", "size", "shown"), [(9, 10, 9), (9, 10_000, 9), (600, 200, MAX_FLOWS_ON_CARD)])
def test_a_card_is_as_long_as_others_read(flows: int, size: int, shown: int) -> None:
    """If it is too long, it has only the names of the endpoints, and not more than so many."""
    alice, topic = Presence(ALICE, 7), topics.card(ALICE.user_id)
    card = alice.card([{"endpoint": f"e{number}", "about": "x" * size} for number in range(flows)])
    assert len(card) <= MAX_CARD_BYTES
    fact = presence.open_signed(ALICE.user_id, topic, card)
    assert fact is not None
    assert [flow["endpoint"] for flow in fact["flows"]] == [f"e{number}" for number in range(shown)]
    assert ("about" in fact["flows"][0]) is (flows * size < MAX_CARD_BYTES)


@pytest.mark.parametrize(("files", "takes"), [({"files": True}, True), ({"files": 1}, False), ({}, False)])
def test_a_status_says_whether_files_are_taken(bob: Presence, files: dict[str, Any], takes: bool) -> None:
    """That of an older release says nothing of them, and of a user without one nothing is known."""
    assert bob.takes_files(ALICE.user_id) is None
    bob.learn(ALICE.user_id, presence.seal(ALICE, STATUS, {"boot": 5, "n": 1, "online": True, **files}))
    assert bob.takes_files(ALICE.user_id) is takes


def test_each_user_is_followed_once(tmp_path: Path) -> None:
    """And nobody follows themselves; what was subscribed to is subscribed to again after a new connection."""
    daemon = LoneDaemon(tmp_path)
    asked: list[str] = []
    daemon.link.subscribe = asked.extend  # type: ignore[method-assign,assignment]
    callbacks = Callbacks()
    followed = Followed(BOB.user_id, daemon.link, callbacks)
    for user in (ALICE.user_id, ALICE.user_id, BOB.user_id):
        followed.add(user)
    assert asked == []
    callbacks.run_after_commit()
    assert asked == [STATUS]
    assert [followed.has(user) for user in (ALICE.user_id, MALLORY.user_id)] == [True, False]
    assert followed.reset({MALLORY.user_id}) == [topics.status(MALLORY.user_id)]
    assert [followed.has(user) for user in (ALICE.user_id, MALLORY.user_id)] == [False, True]
    daemon.journal.close()


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
        ("malformed", _status(boot=-1)),
        ("malformed", _status(boot=True)),
        ("malformed", _status(boot=MAX_COUNT + 1)),
        ("malformed", _status(connection=-1)),
        ("bad_signature", _signed(b"no JSON")),
        ("bad_signature", _signed(b"[]")),
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
