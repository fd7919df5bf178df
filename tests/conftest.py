"""What every test needs."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

# A shell that runs the tests in the background has them ignore SIGINT, and so would all programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing here: in a fresh clone the first text waits until all characters are listed,
# and other tests use the same processors.
# The examples are the same at every run, so that a run which fails can be told from a change which does;
# `scripts/simulate` looks for new ones.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

if TYPE_CHECKING:
    from support.scripted_daemon import ScriptedDaemon


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A stand-in for a daemon, without a script."""
    from support.scripted_daemon import ScriptedDaemon

    with ScriptedDaemon(tmp_path / "home") as daemon:
        yield daemon
