"""A daemon whose disk fails says so, refuses, answers what only reads, loses nothing, and comes back by itself.

The daemon runs inside the test, on a disk that fails when the test wants it to; its broker and its neighbour are real.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

import pytest
from simulation import disk as disks
from simulation.disk import Disk, Failure
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows import config
from p2pflows.errors import JournalFailed, P2pflowsError
from p2pflows.home import Home
from p2pflowsd import app
from p2pflowsd.app import App

STRIDE = 2
MAX_OPERATIONS = 45
"""How many operations on the disk a round takes, about."""


@contextmanager
def running(alice: Person) -> Iterator[None]:
    """Run the daemon of a person in a thread of this process."""
    has_begun = threading.Event()
    stops: list[object] = []

    async def run() -> None:
        stopping, loop = asyncio.Event(), asyncio.get_running_loop()
        stops.append(lambda: loop.call_soon_threadsafe(stopping.set))
        home = Home(alice.home)
        daemon = App(home, config.load(home), logging.getLogger("p2pflowsd"))
        await daemon.run(stopping, lambda _about: has_begun.set())

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert has_begun.wait(20)
        yield
    finally:
        stop = stops[0]
        assert callable(stop)
        stop()
        thread.join(20)
        gc.collect()
    assert not thread.is_alive()


@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of a link that is ended while it connects
@pytest.mark.parametrize(
    ("failure", "words"),
    [(disks.INPUT_OUTPUT_ERROR, "Check the disk"), (disks.FULL, "Free some disk space"), (disks.READ_ONLY, "writable")],
    ids=["input/output error", "full", "read-only"],
)
def test_whatever_operation_fails(
    failure: Mapping[str, int], words: str, network: Network, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """In each round a later operation on the disk fails, and some that follow it."""
    bob = network.person("bob").without_workers().start()
    alice = network.person("alice").without_workers()
    alice.add_contact(bob)
    bob.add_contact(alice)
    disk = Disk()
    disk.install(monkeypatch)
    monkeypatch.setattr(app, "DISK_RETRY_S", 0.02)
    for name in ("P2PFLOWS_BROKER", "P2PFLOWS_EMBEDDED"):
        monkeypatch.setenv(name, alice.environment[name])
    caplog.set_level(logging.INFO, logger="p2pflowsd")
    sent: list[str] = []
    asked: list[str] = []
    hints: set[str] = set()
    with running(alice):
        for first in range(1, MAX_OPERATIONS, STRIDE):
            asked.append(f"question {first}")
            call = bob.request("submit", address="alice/User", data={"text": asked[-1]}, timeout=600)["id"]
            disk.fail(Failure(failure, first, count=10))
            try:
                alice.request("send", address="bob/User", data={"text": f"note {first}"})
                sent.append(f"note {first}")
            except JournalFailed as error:
                hints.add(error.hint)
                for reading in ("status", "inbox", "outbox", "log", "requests"):
                    alice.request(reading)
            with suppress(P2pflowsError):  # it may not have come yet, or the disk may fail
                alice.request("answer", id=call, text="Too early?")
            disk.work_again()
            wait_until(lambda: alice.status()["problem"] is None)
        wait_until(lambda: len(alice.prompts(everything=True)) == len(asked))
        for prompt in alice.prompts():
            alice.request("answer", id=prompt["id"], text="Yes.")
        for person in (alice, bob):
            wait_until(lambda person=person: person.status()["pending"] == 0)  # type: ignore[misc]
        entries = [entry["detail"] for entry in alice.request("log")["entries"] if entry["what"] == "disk"]
        problems = {record.message for record in caplog.records if record.levelno == logging.ERROR}
    assert disk.failed > 3
    assert len(sent) + len(hints) > 0
    assert sorted(prompt["text"] for prompt in bob.prompts(everything=True)) == sorted(sent)
    assert all(words in hint and "Nothing was accepted" in hint for hint in hints)
    assert entries
    assert all("could not be written" in entry for entry in entries)
    assert any("cannot be written" in problem and words in problem for problem in problems)
    assert not any("bug" in record.message or "Traceback" in record.message for record in caplog.records)
