"""A network: people whose daemons share one real broker."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from p2pflows.contacts import Contacts
from support.memory_disk import memory_disk
from support.people import Person
from support.processes import command_line_of, free_port, kill_process

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
"""The path of mosquitto, if it is installed."""
BROKER_PROGRAM = "mosquitto" if MOSQUITTO else "iotcore"
"""The program that daemons run as their embedded broker, as far as a test does not care which."""


class Network:
    """People whose daemons share one broker, and the folder with their homes.

    Args:
        program: the embedded broker that their daemons run; None when `broker` names another one.
        broker: the broker setting of all; by default an embedded broker on a port of its own.
    """

    def __init__(self, program: str | None = BROKER_PROGRAM, broker: str | None = None) -> None:
        # A short path, for unix sockets take about a hundred bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="p2p-", dir=memory_disk() or "/tmp"))  # noqa: S108 - a private folder
        self.port = free_port()
        self.broker = broker or f"embedded:{self.port}"
        self.program = program
        self.environment = {"P2PFLOWS_EMBEDDED": program} if program else {}
        self.people: list[Person] = []

    def person(self, name: str, home: Path | None = None) -> Person:
        """Add a person, whose daemon does not run yet."""
        person = Person(name, home or self.folder / name, self.broker, self.environment)
        self.people.append(person)
        return person

    def pair(self, *, workers: bool = True) -> tuple[Person, Person]:
        """Add alice and bob, who know each other, and start their daemons; only bob's may have a worker."""
        alice, bob = self.person("alice").without_workers(), self.person("bob")
        if not workers:
            bob.without_workers()
        for person in (alice, bob):
            person.start(wait=False)
        Contacts(alice.home / "contacts.yaml").add("bob", bob.user_id)
        Contacts(bob.home / "contacts.yaml").add("alice", alice.user_id)
        return alice.ready(), bob.ready()

    @property
    def broker_folder(self) -> Path:
        """The folder of the embedded broker."""
        return Path(f"/var/tmp/p2pflows-{os.geteuid()}/broker-{self.port}")  # noqa: S108 - the daemon's choice

    @property
    def broker_pid(self) -> int | None:
        """The process id of the embedded broker, if it runs."""
        try:
            pid = int((self.broker_folder / "broker.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if f"{self.broker_folder}/" in command_line_of(pid) else None

    def kill_broker(self) -> None:
        """Kill -9 the embedded broker."""
        pid = self.broker_pid
        if pid is not None:
            kill_process(pid)

    def close(self) -> None:
        """End all daemons and the broker; fail if a daemon has reported a fault of its own."""
        for person in self.people:
            person.close()
        self.kill_broker()
        shutil.rmtree(self.broker_folder, ignore_errors=True)
        crashes = [report.read_text() for person in self.people if (report := person.home / "crash.log").exists()]
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not crashes, crashes[0]
