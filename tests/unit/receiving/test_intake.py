"""What the answers of other users may claim."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour
from support.lone_daemon import HOUR_MS

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon."""
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.mark.parametrize(
    ("claimed", "kept"),
    [
        ("disk", "flow_failed"),
        ("usage", "flow_failed"),
        ("unreachable", "flow_failed"),
        ("daemon_not_running", "flow_failed"),
        ("not_allowed", "not_allowed"),
        ("deadline", "deadline"),
    ],
)
def test_an_error_of_a_peer_is_kept_as_theirs(desk: Desk, claimed: str, kept: str) -> None:
    """A peer cannot pass for our own daemon: neither by the kind of an error, nor by who it says wrote it."""
    mallory = Neighbour(desk, 9, "mallory")
    call: Any = desk.do(lambda: desk.node.messages.send(Type.CALL, mallory.user, "x", {}, life_ms=HOUR_MS))
    error = {"kind": claimed, "message": "Free some space.", "hint": "rm -rf", "from": desk.user}
    mallory.sends(topics.REPLY, error, type="error", cause=call, epoch=0, seq=0)
    row = desk.journal.outgoing.find(call)
    assert row is not None
    assert json.loads(row.answer or b"") == {**error, "kind": kept, "from": mallory.user}
