"""How figures change as work grows: what waits, what is queued, whom one knows; on real daemons."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from support.network import Network
from support.people import Person
from support.processes import wait_until

import p2pflows
from p2pflows.client import Client
from p2pflows.protocol.identity import Identity

CALLS = 500
IN_FLIGHT = 200
"""How many requests are made at a time of what is to wait."""
WAIT_S = 600.0
_MS = 1_000
_LIMITS = """
limits:
  requests_per_contact: 1000000
  answers_per_contact: 1000000
  questions_per_contact: 1000000
  bytes_per_contact: 2 GB
  own_requests: 1000000
"""
"""So that one contact can have as much waiting as is measured."""
FLOWS = '''
from p2pflows import AtomicFlow


def gate(n: int) -> int:
    """Run where no worker is, so that its callers wait."""
    return n


def sink(n: int) -> None:
    """Do nothing."""


def echo(n: int) -> int:
    """Return the number."""
    return n


class Asker(AtomicFlow):
    """Waits for gate."""

    default_config = {"name": "Asker", "description": "Waits.", "subflows_config": {"Gate": {"flow_endpoint": "gate"}}}

    def run(self, message):
        return self.subflows["Gate"].call(message.data)
'''


class Spread(NamedTuple):
    """The median of some measurements, what 99 of 100 stay below, and the worst."""

    median: float
    p99: float
    worst: float


class Growth(NamedTuple):
    """A curve.

    Attributes:
        name: what it is about.
        unit: of what is measured.
        sizes: how much work there is at each point.
        measure: starts persons, and returns the values at one size.
    """

    name: str
    unit: str
    sizes: tuple[int, ...]
    measure: Callable[[Network, int], Spread]


def beside_waiting_runs(network: Network, count: int) -> Spread:
    """Return how long calls take, in milliseconds, beside so many runs that wait for an answer."""
    alice, bob = _pair(network)
    me = p2pflows.connect(alice.home)
    worker = bob.start_worker("--dispatch-point", "closed")
    wait_until(lambda: "closed" in {point["dispatch_point"] for point in bob.status()["workers"]}, WAIT_S)
    bob.serve("gate", "flows.py:gate", "--dispatch-point", "closed", "--parallel")
    bob.cli("serve", "Asker", "--class", f"{bob.folder}/flows.py:Asker", "--parallel").ok()
    worker.terminate()
    worker.wait(20)
    instance = me.request("mount", address="bob/Asker")["instance"]
    _request_many(alice, "submit", count, _number, address="bob/Asker", instance=instance, timeout=36_000)
    wait_until(lambda: _queued(bob, "closed") >= count, WAIT_S)
    return _calls(me)


def beside_questions(network: Network, count: int) -> Spread:
    """Return how long calls take, in milliseconds, beside so many open questions to the human there."""
    alice, bob = _pair(network)
    me = p2pflows.connect(alice.home)
    bob.cli("serve", "Ask", "--human").ok()
    _request_many(alice, "submit", count, lambda n: {"text": f"Question {n}"}, address="bob/Ask", timeout=36_000)
    wait_until(lambda: int(bob.request("inbox", limit=1)["questions"]) >= count, WAIT_S)
    return _calls(me)


def beside_a_backlog(network: Network, count: int) -> Spread:
    """Return how long calls take, in milliseconds, while so many posts to another endpoint are delivered."""
    alice, bob = _pair(network)
    me = p2pflows.connect(alice.home)
    bob.serve("sink", "flows.py:sink")
    bob.stop()
    _request_many(alice, "send", count, _number, address="bob/sink")
    bob.start(wait=False)
    _wait_until_connected(bob)
    _calls(me, 1)  # which waits for the worker to start
    return _calls(me)


def start_with_contacts(network: Network, count: int) -> Spread:
    """Return the seconds from the start of a daemon with so many contacts until it is connected."""
    bob = network.person("bob")
    lines = [f"  user{n:06}: {Identity(n.to_bytes(32, 'big')).user_id}\n" for n in range(1, count + 1)]
    contacts = Path(bob.home) / "contacts.yaml"
    contacts.write_text("contacts:\n" + "".join(lines), encoding="utf-8")
    contacts.chmod(0o600)
    began = time.perf_counter()
    bob.start(wait=False)
    _wait_until_connected(bob)
    took = time.perf_counter() - began
    return Spread(took, took, took)


GROWTHS = (
    Growth("a call beside N waiting runs", "ms", (0, 10_000, 50_000), beside_waiting_runs),
    Growth("a call beside N questions", "ms", (0, 10_000, 100_000), beside_questions),
    Growth("a call beside N queued posts", "ms", (0, 20_000, 300_000), beside_a_backlog),
    Growth("start with N contacts", "s", (10, 20_000, 100_000), start_with_contacts),
)


def measure_all(report: Callable[[str], None]) -> dict[Growth, dict[int, Spread]]:
    """Measure all curves.

    Args:
        report: is told what is measured now.
    """
    found: dict[Growth, dict[int, Spread]] = {}
    for growth in GROWTHS:
        found[growth] = {}
        for size in growth.sizes:
            report(f"{growth.name}, N = {size:,}")
            network = Network()
            try:
                found[growth][size] = growth.measure(network, size)
            finally:
                network.close()
    return found


def table(found: dict[Growth, dict[int, Spread]]) -> str:
    """Return the curves as text."""
    lines = []
    for growth, values in found.items():
        points = ", ".join(
            f"{size:,}: {each.median:,.1f} {growth.unit}"
            + (f" (p99 {each.p99:,.1f}, worst {each.worst:,.1f})" if each.worst > each.median else "")
            for size, each in values.items()
        )
        lines.append(f"{growth.name:<32}{points}")
    return "\n".join(lines)


def _wait_until_connected(person: Person) -> None:
    def is_connected() -> bool:
        try:
            return bool(person.status()["broker"]["connected"])
        except p2pflows.DaemonNotRunning:
            return False

    wait_until(is_connected, WAIT_S)


def _pair(network: Network) -> tuple[Person, Person]:
    """Start two persons who know each other; the second serves an echo."""
    alice, bob = network.person("alice").without_workers(), network.person("bob")
    for person in (alice, bob):
        with (person.home / "config.yaml").open("a") as settings:
            settings.write(_LIMITS)
        person.start(wait=False)
    alice.add_contact(bob.ready())
    bob.add_contact(alice.ready())
    bob.write_file("flows.py", FLOWS)
    bob.serve("echo", "flows.py:echo")
    return alice, bob


def _number(number: int) -> dict[str, object]:
    return {"n": number}


def _request_many(
    person: Person, method: str, count: int, data_of: Callable[[int], dict[str, object]], **params: object
) -> None:
    """Make so many requests, each with the data that its number gives."""

    async def request() -> None:
        numbers = iter(range(count))
        async with p2pflows.connect_async(person.home) as client:

            async def one_after_another() -> None:
                for number in numbers:
                    await client.request(method, data=data_of(number), **params)

            await asyncio.gather(*(one_after_another() for _ in range(IN_FLIGHT)))

    asyncio.run(request())


def _queued(bob: Person, point: str) -> int:
    return next((int(each["queued"]) for each in bob.status()["workers"] if each["dispatch_point"] == point), 0)


def _calls(me: Client, count: int = CALLS) -> Spread:
    times = []
    for n in range(count):
        began = time.perf_counter()
        me.request("call", address="bob/echo", data={"n": n}, timeout=WAIT_S)
        times.append((time.perf_counter() - began) * _MS)
    times.sort()
    return Spread(statistics.median(times), times[int(0.99 * (len(times) - 1))], times[-1])
