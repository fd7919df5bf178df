"""What the tests of the human's part share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.desk import Desk, Neighbour


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon, which serves him to his contacts."""
    desk = Desk(tmp_path)
    desk.serve_human()
    yield desk
    desk.journal.close()


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact of Bob's."""
    return Neighbour(desk, 1, "alice")
