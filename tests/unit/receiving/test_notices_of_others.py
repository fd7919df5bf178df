"""Notices: what they say of messages that are not their sender's has no effect, and none has its effect twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.message import MAX_PROGRESS_BYTES, Type
from p2pflows.protocol.notice import Notice
from p2pflowsd.journal.streams import Direction
from p2pflowsd.receiving.seen_notices import MAX_PEERS, WINDOW, SeenNotices
from p2pflowsd.sending.presence import Presence
from p2pflowsd.sending.resends import RESEND_INTERVAL_S

CALL, POST, STORED = (f"{number:032x}" for number in (1, 2, 3))
EPOCH = 5


class Scene(LoneDaemon):
    """Bob's daemon: it sends messages to ann, misses one of hers, and knows mallory, too."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.serve_human()
        self.ann, self.mallory = Peer(self, 65, "ann"), Peer(self, 66, "mallory")
        self.progress: list[dict[str, Any]] = []
        self.do(self._send)
        self.ann.notify(received=[STORED])
        self.ann.send(*(self.ann.message(epoch=EPOCH, seq=seq) for seq in (2, 4)))
        self.sleep(0.6)

    def _send(self) -> None:
        for kind, message_id in ((Type.CALL, CALL), (Type.POST, POST), (Type.CALL, STORED)):
            self.node.outbox.accept(
                kind, self.ann.user, "x", {}, expires=self.clock.now() + HOUR_MS, message_id=message_id
            )
            self.node.waiters.expect(message_id, lambda _state, _answer: None, self.progress.append)

    @property
    def epoch(self) -> int:
        """The epoch of the stream to ann."""
        position = self.journal.streams.get(Direction.OUTGOING, self.ann.user, "x")
        assert position is not None
        return position.epoch

    def lines(self) -> dict[str, Any]:
        """A line for each list of a notice that is about ann's messages and streams."""
        return {
            "received": [CALL, POST],
            "held": [CALL, STORED],
            "waiting": [POST, STORED],
            "untimely": [[CALL, self.clock.now() + HOUR_MS]],
            "refused": [[CALL, "requests_full"]],
            "gaps": [["x", self.epoch, 0]],
            "skips": [["User", EPOCH, 2]],
            "rewound": [["x", self.epoch, POST]],
            "positions": [["x", self.epoch + 9, 1]],
            "progress": [[STORED, {"done": 1}]],
        }

    def everything(self) -> dict[str, Any]:
        """All that a notice could change about ann's messages and streams."""
        self.journal.streams.save()
        tables = ("incoming", "outgoing", "streams", "prompts", "bundles", "log")
        return {
            **{table: self.journal._db.execute(f"SELECT * FROM {table}").fetchall() for table in tables},  # noqa: S608
            "attempts": [self.node.outbox.attempts(message_id) for message_id in (CALL, POST, STORED)],
            "untimely": [self.node.outbox.is_untimely(message_id) for message_id in (CALL, POST)],
            "clocks": self.node.outbox.peer_clocks.offset_ms(self.ann.user),
            "awaited": self.node.outbox.awaits(self.ann.user),
            "blocked": self.node.blocked.counts(),
            "asks": self.node.notices.is_requesting_from(self.ann.user),
            "sent to ann": sum(
                len(payload)
                for topic, payloads in self.link.sent.items()
                if self.ann.user in topic
                for payload in payloads
            ),
            "progress": list(self.progress),
        }


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """Bob's daemon."""
    scene = Scene(tmp_path)
    yield scene
    scene.journal.close()


LISTS = [name for name in Notice.model_fields if name not in ("to", "boot", "number", "at")]


@pytest.mark.parametrize("name", LISTS)
def test_a_contact_says_something_about_messages_of_another(scene: Scene, name: str) -> None:
    """No list of a notice has an effect on messages and streams that are not those of its sender."""
    before = scene.everything()
    lines = scene.lines()
    scene.mallory.notify(**{name: lines[name]}, **({"rewound": lines["rewound"]} if name == "positions" else {}))
    scene.sleep(0.03)
    scene.node.outbox.flush()
    assert scene.everything() == before
    assert all(prompt.peer != scene.ann.user or prompt.text == "hello" for prompt in scene.journal.prompts.all())


@pytest.mark.parametrize("name", LISTS)
def test_the_same_from_the_one_whose_messages_they_are(scene: Scene, name: str) -> None:
    """Each list has an effect if it comes from the right peer, so the test above can fail."""
    before = scene.everything()
    lines = scene.lines()
    scene.ann.notify(**{name: lines[name]}, **({"rewound": lines["rewound"]} if name == "positions" else {}))
    scene.sleep(0.03)
    assert scene.everything() != before


def test_a_notice_for_somebody_else_is_forwarded(scene: Scene) -> None:
    """A notice that ann signed for mallory has no effect here, although it came in a bundle for us."""
    before = scene.everything()
    scene.ann.notify(received=[CALL], to=scene.mallory.user)
    assert scene.everything() | {"log": []} == before
    assert scene.journal.counters["refused.wrong_recipient"] == 1


def replayed(scene: Scene, times: int, **lines: Any) -> None:
    """Let one notice of ann arrive several times."""
    bundle = scene.ann.bundle(scene.ann.notice(**lines), kind=BundleKind.NOTICE)
    for _ in range(times):
        scene.receive(topics.NOTICE, bundle)


def test_progress_that_a_broker_repeats_is_shown_once(scene: Scene) -> None:
    """A notice that arrives four times has its effect once."""
    replayed(scene, 4, boot=7, n=1, progress=[[STORED, {"done": 1}]])
    assert scene.progress == [{"done": 1}]
    assert scene.journal.counters["refused.replayed"] == 3


def test_progress_that_is_too_long_or_about_nothing_is_dropped(scene: Scene) -> None:
    """Nobody makes a client read pages, nor stops a daemon with the id of a message that it does not have."""
    for message_id, data in (("9" * 32, {"done": 1}), (STORED, {"done": "x" * MAX_PROGRESS_BYTES}), (STORED, {})):
        scene.ann.notify(progress=[[message_id, data]])
    assert scene.progress == [{}]


def test_an_old_receipt_does_not_take_back_a_later_one(scene: Scene) -> None:
    """A receipt in `waiting` that a broker repeats after the one in `received` changes nothing."""
    waiting = scene.ann.bundle(scene.ann.notice(boot=7, n=1, waiting=[STORED]), kind=BundleKind.NOTICE)
    scene.receive(topics.NOTICE, waiting)
    scene.ann.notify(boot=7, n=2, received=[STORED])
    scene.receive(topics.NOTICE, waiting)
    row = scene.journal.outgoing.find(STORED)
    assert row is not None
    assert row.note == ""


def test_a_notice_of_an_earlier_start_comes_late(scene: Scene) -> None:
    """After the first notice of a new start of a peer's daemon, those of the start before have no effect."""
    scene.ann.notify(boot=8, n=1, received=[CALL])
    scene.ann.notify(boot=7, n=9, received=[POST])
    assert scene.node.outbox.pending == 1


def test_notices_that_overtake_each_other_all_count(scene: Scene) -> None:
    """Notices of one start may arrive in any order."""
    scene.ann.notify(boot=7, n=2, received=[CALL])
    scene.ann.notify(boot=7, n=1, received=[POST])
    assert scene.node.outbox.pending == 0


def test_own_notices_are_numbered(scene: Scene) -> None:
    """What a daemon sends grows in number, and after a restart in boot."""
    scene.ann.send(scene.ann.message(epoch=EPOCH, seq=0))
    scene.sleep(0.03)
    scene.restart()
    scene.ann.send(scene.ann.message(epoch=EPOCH, seq=1))
    scene.sleep(0.03)
    numbers = [(notice["boot"], notice["n"]) for notice in scene.ann.received(topics.NOTICE)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == (scene.node.boot, 1)


def test_the_memory_for_numbers_is_bounded() -> None:
    """Old numbers and old peers are forgotten; a number that is too old to be remembered counts as seen."""
    seen = SeenNotices()
    assert all(seen.take("ann", 1, number) for number in range(1, WINDOW + 3))
    assert not seen.take("ann", 1, 2)
    assert not seen.take("ann", 1, WINDOW + 2)
    assert len(seen._by_peer["ann"].numbers) == WINDOW
    for number in range(MAX_PEERS):
        assert seen.take(f"peer {number}", 1, 1)
    assert len(seen._by_peer) == MAX_PEERS
    assert seen.take("ann", 1, 2)


def test_a_status_that_a_broker_repeats_makes_nothing_be_sent_again(scene: Scene) -> None:
    """Statuses of connections that are over, online or not, are no sign that a contact's daemon has come back."""
    scene.ann.show(boot=7, online=True, connection=1)
    scene.ann.show(boot=7, online=False, connection=1)
    scene.ann.show(boot=7, online=True, connection=2)
    for _ in range(2):  # so that the next reason to send again would have its effect at once
        scene.sleep(RESEND_INTERVAL_S)
    before = [scene.node.outbox.attempts(message_id) for message_id in (CALL, POST)]
    for _ in range(3):
        scene.ann.show(boot=7, online=False, connection=1)
        scene.ann.show(boot=7, online=True, connection=1)
        scene.ann.show(boot=6, online=True, connection=9)
        scene.ann.show(boot=7, online=True, connection=2)
    assert [scene.node.outbox.attempts(message_id) for message_id in (CALL, POST)] == before
    assert scene.node.presence.online(scene.ann.user) is True
    scene.ann.show(boot=7, online=False, connection=2)
    scene.ann.show(boot=7, online=True, connection=3)
    assert [scene.node.outbox.attempts(message_id) for message_id in (CALL, POST)] > before


def test_own_statuses_grow(scene: Scene) -> None:
    """A peer takes our statuses in the order in which they were true, in whatever order they arrive."""
    will = scene.node.presence.will()
    online = scene.node.presence.mine(online=True)
    reader = Presence(scene.identity, 1)
    assert reader.learn(scene.user, online)
    assert not reader.learn(scene.user, will)
    assert not reader.learn(scene.user, online)
    assert reader.online(scene.user) is False
    scene.node.presence.will()
    assert reader.learn(scene.user, scene.node.presence.mine(online=True))
