"""Prompts whose id is written in short."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Neighbour

from p2pflows.errors import UsageError

ONE, TWO = "0197f6a0c3de7b0e9a5d0f0e38689ea2", "0197f6a0c3de7b0e9a5d0f0e38681b00"


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, with two questions whose ids end alike."""
    desk = Desk(tmp_path)
    desk.serves("User", "", kind="human")
    alice = Neighbour(desk, 8, "alice")
    for number in (ONE, TWO):
        alice.sends("User", {"text": "Well?"}, id=number, conversation=number)
    yield desk
    desk.journal.close()


@pytest.mark.parametrize("part", ["38689", "9ea2", "38689ea2"])
def test_the_beginning_of_what_is_shown_is_enough(desk: Desk, part: str) -> None:
    """The inbox shows 38689ea2, so its first digits name the question, too."""
    desk.do(lambda: desk.node.inbox.decline(part, ""))
    assert {row.id: row.state for row in desk.journal.prompts.all()} == {ONE: "declined", TWO: "open"}


def test_an_ambiguous_id_is_refused_with_the_candidates(desk: Desk) -> None:
    """And neither question is declined."""
    error = desk.do(lambda: desk.node.inbox.decline("3868", ""))
    assert isinstance(error, UsageError)
    assert error.message == "Several prompts have an id like '3868': 38681b00, 38689ea2."
    assert {row.state for row in desk.journal.prompts.matching("0197")} == {"open"}
