"""Networks for the acceptance tests: one for a session where nothing is killed, one for a test where something is."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator

import pytest
from support.network import MOSQUITTO, Network
from support.people import Person

SLOW = "P2PFLOWS_SLOW_TESTS"
"""Set in the environment to run the tests that take long, too."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark `slow`."""
    config.addinivalue_line("markers", f"slow: takes long; run with {SLOW}=1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that take long, unless the environment asks for them."""
    if not os.environ.get(SLOW):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason=f"takes long; set {SLOW}=1"))


@pytest.fixture(scope="session")
def pair() -> Iterator[tuple[Person, Person]]:
    """Alice and bob on an embedded broker; many tests share them, because their daemons take seconds to start."""
    network = Network()
    try:
        yield network.pair()
    finally:
        network.close()


@pytest.fixture
def alice(pair: tuple[Person, Person]) -> Person:
    """The user who calls."""
    return pair[0].ready()


@pytest.fixture
def bob(pair: tuple[Person, Person]) -> Iterator[Person]:
    """The user who serves and answers; after each test his inbox is empty."""
    bob = pair[1].ready()
    yield bob
    bob.end_background_processes()
    if bob.is_running:
        for user in {prompt["from"] for prompt in [*bob.prompts(), *bob.request("inbox", snoozed=True)["prompts"]]}:
            bob.request("decline_all", user=user)


@pytest.fixture(params=["mosquitto", "iotcore"])
def program(request: pytest.FixtureRequest) -> str:
    """The name of each embedded broker."""
    if request.param == "mosquitto" and not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    return str(request.param)


@pytest.fixture
def network() -> Iterator[Network]:
    """An empty network for one test."""
    network = Network()
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def pair_without_workers(network: Network) -> tuple[Person, Person]:
    """Alice and bob for one test, without workers."""
    return network.pair(workers=False)


@pytest.fixture
def network_on_each_broker(program: str) -> Iterator[Network]:
    """An empty network for one test, on each embedded broker."""
    network = Network(program)
    try:
        yield network
    finally:
        network.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the output of the daemons to the report of a failed test."""
    report = yield
    if report.failed and call.when == "call":
        people = {
            person.name: person
            for value in item.funcargs.values()
            for person in (value.people if isinstance(value, Network) else [value])
            if isinstance(person, Person)
        }
        for name, person in people.items():
            report.sections.append((f"daemon of {name}", person.log_text()[-6000:]))
    return report
