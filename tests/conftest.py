"""What every test needs."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from support.memory_disk import memory_disk

# A shell in the background starts programs that ignore SIGINT; the programs of the tests must not.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No deadline, because other tests use the same processors, and Hypothesis needs seconds for its first text.
# The same examples at every run, so that a failure is due to the change; `scripts/simulate` looks for new ones.
settings.register_profile("suite", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")

if TYPE_CHECKING:
    from support.scripted_daemon import ScriptedDaemon


def pytest_configure(config: pytest.Config) -> None:
    """Keep the folders of `tmp_path` in memory if possible, because a journal syncs its file at each commit."""
    config.addinivalue_line("markers", "early: takes minutes; begins before all others, which then run beside it")
    if disk := memory_disk():
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(disk))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that take minutes begin first, so that none of them is alone at the end."""
    items.sort(key=lambda item: item.get_closest_marker("early") is None)


def pytest_collection_finish() -> None:
    """Let the garbage collector skip the thousands of collected tests, which stay to the end."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests have recorded as `report`: measurements that make no test fail."""
    for result in terminalreporter.getreports("passed"):
        for text in (value for name, value in result.user_properties if name == "report"):
            terminalreporter.write_line(f"{text}")


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A stand-in for a daemon, without a script."""
    from support.scripted_daemon import ScriptedDaemon

    with ScriptedDaemon(tmp_path / "home") as daemon:
        yield daemon
