"""Frames to workers: when they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Hand, Neighbour

from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflowsd.running.worker_tokens import point_key


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves a function at the dispatch point `b`."""
    desk = Desk(tmp_path)
    desk.serves("function", kind="python", parallel=True)
    yield desk
    desk.journal.close()


def confirmed(desk: Desk, worker: Hand) -> list[str]:
    """The tasks whose results the daemon has confirmed to a worker."""
    topic = topics.dispatch(desk.user, worker.point, worker.name)
    channel = Channel(point_key(desk.identity, worker.point))
    return [task for payload in desk.link.sent.get(topic, []) for task in channel.open(topic, payload)[0]["done"]]


def test_a_draining_worker_gets_its_confirmations_at_once(desk: Desk) -> None:
    """A confirmation waits for a frame with something else, unless its worker waits for it to end."""
    worker = Hand(desk, "b", "w")
    alice = Neighbour(desk, 1, "alice")
    alice.sends("function", {})
    alice.sends("function", {})
    (first, _), (second, _) = worker.takes()
    worker.ends(first, {})
    assert confirmed(desk, worker) == []
    worker.says((b"{}",), results=[{"task": second["task"], "error": None}], draining=True)
    assert confirmed(desk, worker) == [first["task"], second["task"]]
