"""Real brokers for the tests: each on a free port, in a folder of its own, with the config that the daemon writes."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest
from support import processes
from support.network import MOSQUITTO

from p2pflowsd.processes.broker_programs import Program
from p2pflowsd.processes.embedded_broker import EmbeddedBroker


@pytest.fixture
def free_port() -> int:
    """A TCP port on which nobody listens."""
    return processes.free_port()


@pytest.fixture(params=["mosquitto", "iotcore"])
def program(request: pytest.FixtureRequest) -> Program:
    """The name of each broker program that the daemon can run."""
    if request.param == "mosquitto" and not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    return cast("Program", request.param)


@pytest.fixture
def mosquitto() -> str:
    """The path of mosquitto, for tests that need it."""
    if not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    return MOSQUITTO


@pytest.fixture
async def broker(program: Program, free_port: int, tmp_path: Path) -> AsyncIterator[EmbeddedBroker]:
    """A broker; `ensure()` returns its address, and starts it again if a test has killed it."""
    embedded = EmbeddedBroker(
        free_port, directory=tmp_path / "broker", program=program, log=logging.getLogger("test.broker")
    )
    await embedded.ensure()
    yield embedded
    await embedded.close()
