"""A small world: a broker, a few people with daemons and workers, and everything that can go wrong among them.

The same seed gives the same world, down to the last byte of every message id.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Self

from simulation.broker import SimulatedBroker, Weather
from simulation.history import Fact
from simulation.machine import Machine
from simulation.timeline import Timeline
from simulation.worker import POINT, Worker

from p2pflows.message import Type
from p2pflowsd.served import HUMAN_SCHEMA, Served

MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a fresh private folder is made there
NAMES = ("ann", "bob", "cyd")
ECHO, SPREAD, HUMAN = "echo", "spread", "User"
PROGRESS = 30.0
"""Seconds after the last fault in which everything that needs no human must have settled, but for what flows take."""
LONGEST = 600.0
"""No message in a simulation lives longer, in seconds."""


class World:
    """People who know one another, each with a daemon, a human, an echo flow in order and one in parallel.

    Args:
        seed: decides everything that chance decides.
        people: how many.
    """

    def __init__(self, seed: int, people: int = 2) -> None:
        self.random = Random(seed)  # noqa: S311 - a simulation, no secrets
        self.timeline = Timeline()
        self.broker = SimulatedBroker(self.timeline, self.random)
        self.facts: list[Fact] = []
        self.folder = Path(tempfile.mkdtemp(prefix="p2pflows-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
        self.machines = [
            Machine(
                timeline=self.timeline, broker=self.broker, folder=self.folder, name=name, random=self.random,
                serves=_served(), facts=self.facts,
            )
            for name in NAMES[:people]
        ]  # fmt: skip
        self.workers: dict[str, Worker] = {}
        for machine in self.machines:
            for other in self.machines:
                if other is not machine:
                    machine.contacts.add(other.name, other.user)
            machine.start()
            self.hire(machine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self, machine: Machine, slots: int = 2) -> Worker:
        """Start a machine's worker anew, if none runs."""
        worker = self.workers.get(machine.name)
        if worker is None or not worker.running:
            worker = self.workers[machine.name] = Worker(
                timeline=self.timeline,
                broker=self.broker,
                machine=machine,
                random=self.random,
                slots=slots,
                facts=self.facts,
            )
        return worker

    def dismiss(self, machine: Machine, *, noticed: bool) -> None:
        """Kill a machine's worker; a supervisor on the same machine notices at once, a broker later."""
        worker = self.workers[machine.name]
        worker.kill()
        if noticed:
            machine.ask(lambda node: node.dispatch.process_ended(POINT, worker.pid))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run(seconds)

    def settle(self) -> list[str]:
        """End all faults, let time pass until every deadline is over; gives what did not settle as it must."""
        self.broker.weather = Weather()
        for machine in self.machines:
            machine.faults.disarm()
            machine.cut(0.0)
            machine.start()
            if self.workers[machine.name].draining:
                self.workers[machine.name].kill()
            self.hire(machine).link.cut(0.0)
        self.run(1.0)
        self.run(PROGRESS + sum(machine.work() for machine in self.machines))
        stuck = [what for machine in self.machines for what in machine.unsettled()]
        for machine in self.machines:
            for prompt, kind in machine.open_prompts():
                if kind == "call":
                    machine.answer(prompt, f"late answer to {prompt}")
        self.run(PROGRESS)
        self._sleep(LONGEST)
        stuck += [f"at the very end: {what}" for machine in self.machines for what in machine.unsettled()]
        stuck += self.probe()
        for machine in self.machines:
            machine.collect()
        return stuck

    def probe(self) -> list[str]:
        """Let everybody call everybody once more; gives who got no answer, in words."""
        asked = [
            (one, other, one.send(Type.CALL, other, ECHO, {"probe": other.name}, PROGRESS))
            for one in self.machines
            for other in self.machines
        ]
        self.run(PROGRESS - 1.0)
        return [
            f"{one.name} gets no answer from {other.name}"
            for one, other, told in asked
            if one.state_of(told.result) != "done"
        ]

    def _sleep(self, seconds: float) -> None:
        """Let much time pass cheaply: everybody sleeps, and looks around now and then."""
        for _ in range(10):
            self.timeline.sleep(seconds / 10)
            self.run(1.0)

    def close(self) -> None:
        """End everything and remove the files."""
        for machine in self.machines:
            machine.close()
        shutil.rmtree(self.folder)

    def keep(self) -> Path:
        """Write the history beside the journals; gives the folder."""
        path = self.folder / "history.jsonl"
        path.write_text("".join(fact.to_json() + "\n" for fact in self.facts), encoding="utf-8")
        return self.folder


def _served() -> list[Served]:
    return [
        Served(endpoint=ECHO, kind="python", target="flows.py:echo", dispatch_point=POINT),
        Served(endpoint=SPREAD, kind="python", target="flows.py:spread", dispatch_point=POINT, parallel=True),
        Served(endpoint=HUMAN, kind="human", schema=HUMAN_SCHEMA),
    ]
